//! Publishing, importing and taking back: who may, and what it does to what is active.

use std::time::Duration;

use mooring_proto::v1 as pb;
use pb::activation_service_server::ActivationService as _;
use pb::community_service_server::CommunityService as _;
use pb::connector_service_server::ConnectorService as _;
use pb::publication_service_server::PublicationService as _;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::domain::activation::MountState;
use crate::policy::Caller;
use crate::testing::fleet::mount;
use crate::testing::{World, new_connector, request, wrong_fields};

async fn publish(
    world: &World,
    by: &Caller,
    connector: &str,
    community: &str,
) -> Result<pb::Publication, Status> {
    let body = pb::PublishConnectorRequest {
        connector: connector.into(),
        community: format!("communities/{community}"),
        ..Default::default()
    };
    world
        .api
        .publish_connector(request(by, body))
        .await
        .map(tonic::Response::into_inner)
}

async fn import_as(
    world: &World,
    by: &Caller,
    project: &str,
    publication: &str,
    id: &str,
) -> Result<pb::Import, Status> {
    let body = pb::ImportPublicationRequest {
        parent: format!("projects/{project}"),
        import_id: id.into(),
        import: Some(pb::Import {
            publication: publication.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    world
        .api
        .import_publication(request(by, body))
        .await
        .map(tonic::Response::into_inner)
}

async fn withdraw(
    world: &World,
    by: &Caller,
    name: &str,
    how: pb::WithdrawalMode,
) -> Result<pb::Publication, Status> {
    let body = pb::WithdrawPublicationRequest {
        name: name.into(),
        withdrawal: how.into(),
        grace: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
    };
    world
        .api
        .withdraw_publication(request(by, body))
        .await
        .map(tonic::Response::into_inner)
}

fn missing(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let info = status.get_error_details().error_info().unwrap().clone();
    (
        info.metadata["permission"].clone(),
        info.metadata["role_needed"].clone(),
    )
}

/// Community `research` with project `ml`, its connector `reports` and consumer project `web`; pool `gpu`.
async fn shared_world() -> World {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world.project("web", "research", &world.operator).await;
    world.connector("reports", "ml", &world.operator).await;
    world.pool("gpu").await;
    world
}

#[tokio::test]
async fn publishing_needs_editor_in_the_project_and_developer_in_the_community() {
    let world = shared_world().await;
    let (connector, operator) = ("projects/ml/connectors/reports", world.operator.clone());
    let anna = world
        .user_with("anna", pb::Role::Editor, "projects/ml", &operator)
        .await;
    let denied = publish(&world, &anna, connector, "research").await.unwrap_err();
    assert_eq!(
        missing(&denied),
        (
            "publications.create".into(),
            "DEVELOPER on communities/research".into()
        )
    );

    let bob = world
        .user_with("bob", pb::Role::Developer, "communities/research", &operator)
        .await;
    let denied = publish(&world, &bob, connector, "research").await.unwrap_err();
    assert_eq!(
        missing(&denied),
        ("connectors.publish".into(), "EDITOR on projects/ml".into())
    );
    world
        .grant("bob", pb::Role::Developer, "projects/ml", &operator)
        .await
        .unwrap();
    assert!(
        publish(&world, &bob, connector, "research").await.is_err(),
        "Developer is not Editor"
    );

    world
        .grant("anna", pb::Role::Viewer, "communities/research", &operator)
        .await
        .unwrap();
    assert!(
        publish(&world, &anna, connector, "research").await.is_err(),
        "Viewer is not Developer"
    );
    world
        .grant("anna", pb::Role::Developer, "communities/research", &operator)
        .await
        .unwrap();
    let publication = publish(&world, &anna, connector, "research").await.unwrap();
    assert_eq!(publication.name, "communities/research/publications/reports");
    assert_eq!(publication.state(), pb::PublicationState::Published);
}

#[tokio::test]
async fn the_acceptance_story_of_the_roles_holds() {
    let world = World::new().await;
    let operator = world.operator.clone();
    for community in ["a", "b", "c"] {
        world.community(community).await;
    }
    world.project("pa", "a", &operator).await;
    world.connector("k", "pa", &operator).await;
    world.project("pc", "c", &operator).await;
    world.connector("k", "pc", &operator).await;

    // An Admin of A who is Developer of B publishes any connector of A's projects in A and in B.
    let anna = world
        .user_with("anna", pb::Role::Admin, "communities/a", &operator)
        .await;
    world
        .grant("anna", pb::Role::Developer, "communities/b", &operator)
        .await
        .unwrap();
    publish(&world, &anna, "projects/pa/connectors/k", "a")
        .await
        .unwrap();
    publish(&world, &anna, "projects/pa/connectors/k", "b")
        .await
        .unwrap();
    assert!(
        publish(&world, &anna, "projects/pa/connectors/k", "c")
            .await
            .is_err()
    );

    // A Viewer of C who is Editor of one project of C publishes its connectors in A and B, where they are Developer,
    // but not in C.
    let carl = world
        .user_with("carl", pb::Role::Viewer, "communities/c", &operator)
        .await;
    world
        .grant("carl", pb::Role::Editor, "projects/pc", &operator)
        .await
        .unwrap();
    world
        .grant("carl", pb::Role::Developer, "communities/a", &operator)
        .await
        .unwrap();
    world
        .grant("carl", pb::Role::Developer, "communities/b", &operator)
        .await
        .unwrap();
    let body = |community: &str| pb::PublishConnectorRequest {
        connector: "projects/pc/connectors/k".into(),
        community: format!("communities/{community}"),
        publication_id: "carls".into(),
        ..Default::default()
    };
    world
        .api
        .publish_connector(request(&carl, body("a")))
        .await
        .unwrap();
    world
        .api
        .publish_connector(request(&carl, body("b")))
        .await
        .unwrap();
    let denied = world
        .api
        .publish_connector(request(&carl, body("c")))
        .await
        .unwrap_err();
    assert_eq!(missing(&denied).1, "DEVELOPER on communities/c");
}

#[tokio::test]
async fn an_import_is_made_by_editors_in_a_project_of_the_same_community_under_a_free_folder() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    world.community("other").await;
    world.project("far", "other", &operator).await;
    let publication = publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap()
        .name;

    let dora = world
        .user_with("dora", pb::Role::Editor, "projects/web", &operator)
        .await;
    let denied = import_as(&world, &dora, "web", &publication, "reports")
        .await
        .unwrap_err();
    assert_eq!(
        missing(&denied),
        ("publications.get".into(), "VIEWER on communities/research".into())
    );
    world
        .grant("dora", pb::Role::Viewer, "communities/research", &operator)
        .await
        .unwrap();
    let import = import_as(&world, &dora, "web", &publication, "reports")
        .await
        .unwrap();
    assert_eq!(
        (import.mount_name.as_str(), import.effective_mode()),
        ("reports", pb::Mode::ReadOnly)
    );

    let elsewhere = import_as(&world, &operator, "far", &publication, "reports")
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&elsewhere)[0].0, "import.publication");
    // The folder is unique among connectors and imports, in both directions.
    let taken = import_as(&world, &operator, "ml", &publication, "reports")
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&taken)[0].0, "import.mount_name");
    let taken = world
        .api
        .create_connector(request(&operator, new_connector("reports", "web")))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&taken)[0].0, "connector.mount_name");
}

#[tokio::test]
async fn no_mode_is_wider_than_what_bounds_it() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    let mut writable = new_connector("rw", "ml");
    writable.connector.as_mut().unwrap().mode = pb::Mode::ReadWrite.into();
    world
        .api
        .create_connector(request(&operator, writable))
        .await
        .unwrap();
    let offer = |connector: &str, max_mode: pb::Mode| pb::PublishConnectorRequest {
        connector: format!("projects/ml/connectors/{connector}"),
        community: "communities/research".into(),
        publication: Some(pb::Publication {
            max_mode: max_mode.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let wide = world
        .api
        .publish_connector(request(&operator, offer("reports", pb::Mode::ReadWrite)))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&wide)[0].0, "publication.max_mode");
    world
        .api
        .publish_connector(request(&operator, offer("rw", pb::Mode::ReadOnly)))
        .await
        .unwrap();
    let wide = pb::ImportPublicationRequest {
        parent: "projects/web".into(),
        import_id: "rw".into(),
        import: Some(pb::Import {
            publication: "communities/research/publications/rw".into(),
            mode: pb::Mode::ReadWrite.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let wide = world
        .api
        .import_publication(request(&operator, wide))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&wide)[0].0, "import.mode");

    import_as(
        &world,
        &operator,
        "web",
        "communities/research/publications/rw",
        "rw",
    )
    .await
    .unwrap();
    let host = world.host("h", "gpu").await;
    let activation = world
        .activate(&operator, "projects/web/imports/rw", "gpu")
        .await
        .unwrap();
    assert_eq!(activation.mode(), pb::Mode::ReadOnly);
    assert_eq!(activation.mount_path, "web/rw");
    let before = host.assignment(&world).await.assignment;
    assert_eq!(before.spec.mode, crate::domain::Mode::ReadOnly);

    // The owner widens the ceiling: the mount follows, with a new generation.
    let body = pb::UpdatePublicationRequest {
        publication: Some(pb::Publication {
            name: "communities/research/publications/rw".into(),
            max_mode: pb::Mode::ReadWrite.into(),
            ..Default::default()
        }),
        update_mask: None,
    };
    world
        .api
        .update_publication(request(&operator, body))
        .await
        .unwrap();
    let after = host.assignment(&world).await.assignment;
    assert_eq!((after.uid, after.generation), (before.uid, before.generation + 1));
    assert_eq!(after.spec.mode, crate::domain::Mode::ReadWrite);
}

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
    assert_eq!(
        world.activation(&operator, &name).await.state(),
        pb::ActivationState::Active
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
