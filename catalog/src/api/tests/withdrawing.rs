//! Taking an offer back, and what it does to what is active.

use std::time::Duration;

use mooring_proto::v1 as pb;
use pb::activation_service_server::ActivationService as _;
use pb::community_service_server::CommunityService as _;
use pb::connector_service_server::ConnectorService as _;
use pb::publication_service_server::PublicationService as _;
use tonic::{Code, Status};

use crate::domain::Error;
use crate::domain::activation::MountState;
use crate::domain::names::PublicationName;
use crate::domain::publication::{PublicationChange, Withdrawal};
use crate::policy::Caller;
use crate::testing::fleet::mount;
use crate::testing::sharing::{import_as, missing, publish, shared_world, withdraw};
use crate::testing::{World, new_connector, request};

#[tokio::test]
async fn a_withdrawal_blocks_while_imports_are_active_and_names_only_what_the_caller_may_see() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    let publication = publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap()
        .name;
    import_as(&world, &operator, "web", &publication, "reports")
        .await
        .unwrap();
    world
        .activate(&operator, "projects/web/imports/reports", "gpu")
        .await
        .unwrap();

    let refused = withdraw(&world, &operator, &publication, pb::WithdrawalMode::Unspecified)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("projects/web/imports/reports"),
        "{}",
        refused.message()
    );

    let owner = world
        .user_with("owner", pb::Role::Editor, "projects/ml", &operator)
        .await;
    let refused = withdraw(&world, &owner, &publication, pb::WithdrawalMode::Block)
        .await
        .unwrap_err();
    assert!(
        refused.message().contains("1 that you may not see"),
        "{}",
        refused.message()
    );
    assert!(!refused.message().contains("web"), "{}", refused.message());

    world
        .deactivate(&operator, "projects/web/activations/reports-gpu")
        .await;
    let gone = withdraw(&world, &owner, &publication, pb::WithdrawalMode::Block)
        .await
        .unwrap();
    assert_eq!(gone.state(), pb::PublicationState::Withdrawn);
    let refused = world
        .activate(&operator, "projects/web/imports/reports", "gpu")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("withdrawn"), "{}", refused.message());

    // Taken up again by the same connector, the import works again.
    publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap();
    world
        .activate(&operator, "projects/web/imports/reports", "gpu")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_drain_lets_what_is_active_go_on_for_its_grace_and_survives_a_restart() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    let publication = publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap()
        .name;
    import_as(&world, &operator, "web", &publication, "reports")
        .await
        .unwrap();
    let host = world.host("h", "gpu").await;
    let name = world
        .activate(&operator, "projects/web/imports/reports", "gpu")
        .await
        .unwrap()
        .name;
    let assignment = host.assignment(&world).await.assignment;
    host.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;

    let drained = withdraw(&world, &operator, &publication, pb::WithdrawalMode::Drain)
        .await
        .unwrap();
    assert_eq!(drained.state(), pb::PublicationState::Withdrawing);
    let until = drained.withdraw_time.unwrap();
    assert_eq!(until.seconds, world.clock.now().unix_timestamp() + 60);
    let told = world.activation(&operator, &name).await;
    assert_eq!(
        (told.state(), told.mounted_hosts),
        (pb::ActivationState::Degraded, 1)
    );
    assert_eq!(
        told.message,
        "communities/research/publications/reports is being withdrawn, so this is unmounted at 2027-01-15 08:01:00 \
         UTC; copy what you need before, or ask the publisher to offer it again"
    );
    assert_eq!(
        import_state(&world, &operator).await,
        pb::PublicationState::Withdrawing
    );
    world.pool("cpu").await;
    assert!(
        world
            .activate(&operator, "projects/web/imports/reports", "cpu")
            .await
            .is_err(),
        "no new activations"
    );
    assert!(
        import_as(&world, &operator, "ml", &publication, "again")
            .await
            .is_err(),
        "no new imports"
    );

    world.clock.advance(Duration::from_secs(59));
    assert_eq!(world.catalog.end_drains().await.unwrap(), 0);
    world.clock.advance(Duration::from_secs(1));
    // What is left of the drain is in the database only: any server ends it.
    assert_eq!(world.catalog.end_drains().await.unwrap(), 1);
    let orders = host.orders_since(&world, 0).await;
    assert_eq!(
        orders.removals[0].removal.as_ref().unwrap().reason,
        "PublicationWithdrawn"
    );
    assert_eq!(world.catalog.end_drains().await.unwrap(), 0);
    host.report(&world, &[]).await;
    host.report(&world, &[]).await;
    let told = world.activation(&operator, &name).await;
    assert_eq!(told.state(), pb::ActivationState::Inactive);
    assert!(
        told.message
            .contains("is withdrawn, so this cannot be activated again"),
        "{}",
        told.message
    );
    assert_eq!(
        import_state(&world, &operator).await,
        pb::PublicationState::Withdrawn
    );
}

async fn import_state(world: &World, caller: &Caller) -> pb::PublicationState {
    let body = pb::GetImportRequest {
        name: "projects/web/imports/reports".into(),
    };
    let import = world.api.get_import(request(caller, body)).await.unwrap();
    import.into_inner().publication_state()
}

#[tokio::test]
async fn what_is_offered_again_is_no_wider_than_before_unless_asked_for() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    let mut writable = new_connector("rw", "ml");
    writable.connector.as_mut().unwrap().mode = pb::Mode::ReadWrite.into();
    world
        .api
        .create_connector(request(&operator, writable))
        .await
        .unwrap();
    let offer = async |max_mode: pb::Mode| {
        let body = pb::PublishConnectorRequest {
            connector: "projects/ml/connectors/rw".into(),
            community: "communities/research".into(),
            publication: Some(pb::Publication {
                max_mode: max_mode.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let offered = world.api.publish_connector(request(&operator, body)).await;
        offered.unwrap().into_inner()
    };
    let name = offer(pb::Mode::ReadOnly).await.name;
    import_as(&world, &operator, "web", &name, "rw").await.unwrap();
    let host = world.host("h", "gpu").await;
    world
        .activate(&operator, "projects/web/imports/rw", "gpu")
        .await
        .unwrap();
    // Taken up again in the middle of a drain: what is mounted stays, and stays narrow.
    withdraw(&world, &operator, &name, pb::WithdrawalMode::Drain)
        .await
        .unwrap();
    let again = offer(pb::Mode::Unspecified).await;
    assert_eq!(
        (again.state(), again.max_mode(), again.withdraw_time),
        (pb::PublicationState::Published, pb::Mode::ReadOnly, None)
    );
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(world.catalog.end_drains().await.unwrap(), 0);
    let mode = host.assignment(&world).await.assignment.spec.mode;
    assert_eq!(mode, crate::domain::Mode::ReadOnly);

    withdraw(&world, &operator, &name, pb::WithdrawalMode::Force)
        .await
        .unwrap();
    assert_eq!(offer(pb::Mode::Unspecified).await.max_mode(), pb::Mode::ReadOnly);
    withdraw(&world, &operator, &name, pb::WithdrawalMode::Force)
        .await
        .unwrap();
    assert_eq!(offer(pb::Mode::ReadWrite).await.max_mode(), pb::Mode::ReadWrite);
}

#[tokio::test]
async fn force_unmounts_at_once() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    let publication = publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap()
        .name;
    import_as(&world, &operator, "web", &publication, "reports")
        .await
        .unwrap();
    let host = world.host("h", "gpu").await;
    let name = world
        .activate(&operator, "projects/web/imports/reports", "gpu")
        .await
        .unwrap()
        .name;
    let before = world.revision().await;
    let gone = withdraw(&world, &operator, &publication, pb::WithdrawalMode::Force)
        .await
        .unwrap();
    assert_eq!(gone.state(), pb::PublicationState::Withdrawn);
    assert_eq!(world.revision().await, before + 1, "one mutation, one revision");
    let orders = host.orders_since(&world, before).await;
    assert_eq!(orders.removals[0].removal.as_ref().unwrap().grace, Duration::ZERO);
    assert_eq!(orders.removals[0].revision, before + 1);
    assert_eq!(
        world.activation(&operator, &name).await.state(),
        pb::ActivationState::Deactivating
    );
}

#[tokio::test]
async fn a_stranger_learns_nothing_from_withdrawing_or_changing_a_publication() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap();
    let stranger = world.user("stranger").await;
    let told = |status: Status| {
        let details = String::from_utf8_lossy(status.details()).replace("reports", "absents");
        (
            status.code(),
            status.message().replace("reports", "absents"),
            details,
        )
    };
    let hidden = "communities/research/publications/reports";
    let absent = "communities/research/publications/absents";
    let one = withdraw(&world, &stranger, hidden, pb::WithdrawalMode::Force)
        .await
        .unwrap_err();
    let two = withdraw(&world, &stranger, absent, pb::WithdrawalMode::Force)
        .await
        .unwrap_err();
    assert_eq!(told(one), told(two));
    let update = |name: &str| pb::UpdatePublicationRequest {
        publication: Some(pb::Publication {
            name: name.into(),
            ..Default::default()
        }),
        update_mask: None,
    };
    let one = world
        .api
        .update_publication(request(&stranger, update(hidden)))
        .await
        .unwrap_err();
    let two = world
        .api
        .update_publication(request(&stranger, update(absent)))
        .await
        .unwrap_err();
    assert_eq!(told(one), told(two));

    // Who sees the community but does not edit the owner project is told which role it takes.
    let viewer = world
        .user_with("viewer", pb::Role::Viewer, "communities/research", &operator)
        .await;
    let denied = world
        .api
        .update_publication(request(&viewer, update(hidden)))
        .await
        .unwrap_err();
    assert_eq!(missing(&denied).1, "EDITOR on projects/ml");
    let absent = world
        .api
        .update_publication(request(&viewer, update(absent)))
        .await
        .unwrap_err();
    assert_eq!(
        absent.code(),
        Code::NotFound,
        "who may list the community may know what is not in it"
    );
}

#[tokio::test]
async fn what_is_published_or_active_cannot_be_deleted() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    let publication = publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap()
        .name;
    import_as(&world, &operator, "web", &publication, "reports")
        .await
        .unwrap();
    let name = world
        .activate(&operator, "projects/web/imports/reports", "gpu")
        .await
        .unwrap()
        .name;
    let delete_connector = || async {
        let body = pb::DeleteConnectorRequest {
            name: "projects/ml/connectors/reports".into(),
            etag: String::new(),
        };
        world.api.delete_connector(request(&operator, body)).await
    };
    let delete_import = || async {
        let body = pb::DeleteImportRequest {
            name: "projects/web/imports/reports".into(),
            etag: String::new(),
        };
        world.api.delete_import(request(&operator, body)).await
    };
    assert_eq!(
        delete_connector().await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(
        delete_import().await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    withdraw(&world, &operator, &publication, pb::WithdrawalMode::Force)
        .await
        .unwrap();
    delete_import().await.unwrap();
    delete_connector().await.unwrap();
    let gone = pb::GetActivationRequest { name };
    let gone = world
        .api
        .get_activation(request(&operator, gone))
        .await
        .unwrap_err();
    assert_eq!(
        gone.code(),
        Code::NotFound,
        "an ended activation goes with its target"
    );
}

#[tokio::test]
async fn a_community_in_which_something_is_offered_cannot_be_deleted_and_goes_with_what_was() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    world.community("guests").await;
    let publication = publish(&world, &operator, "projects/ml/connectors/reports", "guests")
        .await
        .unwrap()
        .name;
    let delete = || async {
        let body = pb::DeleteCommunityRequest {
            name: "communities/guests".into(),
            etag: String::new(),
        };
        world.api.delete_community(request(&operator, body)).await
    };
    let refused = delete().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(&publication), "{}", refused.message());
    withdraw(&world, &operator, &publication, pb::WithdrawalMode::Block)
        .await
        .unwrap();
    delete().await.unwrap();
}

#[tokio::test]
async fn a_name_that_another_project_has_by_now_is_judged_for_that_project() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    world.connector("reports", "web", &operator).await;
    let anna = world
        .user_with("anna", pb::Role::Editor, "projects/ml", &operator)
        .await;
    world
        .grant("anna", pb::Role::Viewer, "communities/research", &operator)
        .await
        .unwrap();
    let name = publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap()
        .name;
    withdraw(&world, &operator, &name, pb::WithdrawalMode::Block)
        .await
        .unwrap();

    // Both calls looked while the name was still ml's, and waited behind the one that gave it to web.
    let parsed: PublicationName = name.parse().unwrap();
    let catalog = &world.catalog;
    let action = catalog.withdraw_publication_action(parsed.clone()).await.unwrap();
    let withdrawal = catalog.permit(&anna, action).await.unwrap();
    let action = catalog
        .update_publication_action(&anna, parsed.clone())
        .await
        .unwrap();
    let update = catalog.permit(&anna, action).await.unwrap();
    publish(&world, &operator, "projects/web/connectors/reports", "research")
        .await
        .unwrap();

    let denied = catalog.withdraw_publication(withdrawal, Withdrawal::Force).await;
    assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    let denied = catalog
        .update_publication(update, PublicationChange::default())
        .await;
    assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    let body = pb::GetPublicationRequest { name };
    let kept = world
        .api
        .get_publication(request(&operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(kept.state(), pb::PublicationState::Published);
    assert_eq!(kept.connector, "projects/web/connectors/reports");
}
