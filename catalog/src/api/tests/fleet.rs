//! From a wish to mounts on hosts and back, and what hosts say in between.

use std::time::Duration;

use mooring_proto::v1 as pb;
use pb::activation_service_server::ActivationService as _;
use pb::connector_service_server::ConnectorService as _;
use pb::host_service_server::HostService as _;
use pb::secret_service_server::SecretService as _;
use tonic::Code;

use crate::domain::activation::MountState;
use crate::domain::mount::{Condition, ConditionStatus, ConditionType};
use crate::testing::fleet::mount;
use crate::testing::{World, request};

const CONNECTOR: &str = "projects/ml/connectors/reports";
const ACTIVATION: &str = "projects/ml/activations/reports-gpu";

async fn world() -> World {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world.connector("reports", "ml", &world.operator).await;
    world.pool("gpu").await;
    world
}

#[tokio::test]
async fn an_activation_goes_from_pending_over_active_to_inactive_with_its_hosts() {
    let world = world().await;
    let operator = world.operator.clone();
    let pending = world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    assert_eq!(
        (pending.name.as_str(), pending.state()),
        (ACTIVATION, pb::ActivationState::Pending)
    );
    assert!(
        pending.message.contains("mooring join-tokens create --pool gpu"),
        "{}",
        pending.message
    );

    // A host that joins later gets it too, with a key that only it can open.
    let host = world.host("gpu-1", "gpu").await;
    let sealed = host.assignment(&world).await;
    assert_eq!(sealed.assignment.spec.mount_name, "reports");
    let credential = host.open(&sealed);
    assert_eq!(
        (
            credential.access_key_id.as_str(),
            credential.secret_access_key.as_str()
        ),
        ("AKID", "planted-secret-value")
    );
    let pending = world.activation(&operator, ACTIVATION).await;
    assert_eq!(
        (pending.state(), pending.desired_hosts, pending.mounted_hosts),
        (pb::ActivationState::Pending, 1, 0)
    );

    host.report(&world, &[mount(&sealed.assignment, MountState::Mounted)])
        .await;
    let active = world.activation(&operator, ACTIVATION).await;
    assert_eq!(
        (active.state(), active.mounted_hosts),
        (pb::ActivationState::Active, 1)
    );
    assert_eq!(active.message, "");
    let body = pb::GetConnectorRequest {
        name: CONNECTOR.into(),
    };
    let connector = world
        .api
        .get_connector(request(&operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(connector.mounted_hosts, 1);
    assert_eq!(connector.mounts[0].path, "/mnt/mooring/ml/reports");
    assert_eq!(
        connector.mounts[0].activation, ACTIVATION,
        "what the host calls it does not count"
    );

    let before = world.revision().await;
    let ending = world.deactivate(&operator, ACTIVATION).await;
    assert_eq!(ending.state(), pb::ActivationState::Deactivating);
    assert!(ending.message.contains("hosts/gpu-1"), "{}", ending.message);
    let orders = host.orders_since(&world, before).await;
    let removal = orders.removals[0].removal.as_ref().unwrap();
    assert_eq!(
        (removal.reason, removal.grace),
        ("Deactivated", Duration::from_secs(30))
    );
    assert!(orders.assignments.is_empty());

    // The tombstone stays through every reconnection, until the host has none of it.
    host.report(&world, &[mount(&sealed.assignment, MountState::Unmounting)])
        .await;
    assert_eq!(host.orders_since(&world, 0).await.removals.len(), 1);
    host.report(&world, &[mount(&sealed.assignment, MountState::Unmounted)])
        .await;
    assert!(host.orders_since(&world, 0).await.removals.is_empty());
    let inactive = world.activation(&operator, ACTIVATION).await;
    assert_eq!(
        (inactive.state(), inactive.message.as_str()),
        (pb::ActivationState::Inactive, "")
    );

    // The name is free again, and what comes is another activation.
    let again = world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    assert_eq!(again.name, ACTIVATION);
    assert_ne!(again.uid, active.uid);
}

#[tokio::test]
async fn a_target_is_active_once_on_a_pool() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let twice = world.activate(&operator, CONNECTOR, "gpu").await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);
    assert!(twice.message().contains(ACTIVATION), "{}", twice.message());
    let assignment = host.assignment(&world).await.assignment;
    host.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;
    world.deactivate(&operator, ACTIVATION).await;
    let early = world.activate(&operator, CONNECTOR, "gpu").await.unwrap_err();
    assert!(
        early.message().contains("still being unmounted"),
        "{}",
        early.message()
    );
    world.deactivate(&operator, ACTIVATION).await;
}

#[tokio::test]
async fn a_failure_is_told_with_the_host_and_the_reason() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let assignment = host.assignment(&world).await.assignment;
    let mut failed = mount(&assignment, MountState::Failed);
    failed.conditions.push(Condition {
        kind: ConditionType::EndpointReachable,
        status: ConditionStatus::False,
        reason: "ConnectionRefused".into(),
        message: "s3.example.com refuses connections; see that it runs".into(),
        since: None,
    });
    host.report(&world, &[failed]).await;
    let activation = world.activation(&operator, ACTIVATION).await;
    assert_eq!(activation.state(), pb::ActivationState::Failed);
    assert_eq!(
        activation.message,
        "hosts/gpu-1: s3.example.com refuses connections; see that it runs"
    );
    let mounts = world.mounts(&operator, "hosts/gpu-1").await;
    assert_eq!(mounts[0].state(), pb::MountState::Failed);
    assert_eq!(mounts[0].conditions[0].reason, "ConnectionRefused");
    assert_eq!(mounts[0].connector, CONNECTOR);
}

#[tokio::test]
async fn heartbeats_take_no_revision_and_changes_of_state_do() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let assignment = host.assignment(&world).await.assignment;
    let mut seen = vec![world.revision().await];
    host.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;
    seen.push(world.revision().await);
    for _ in 0..5 {
        world.clock.advance(Duration::from_secs(10));
        host.report(&world, &[mount(&assignment, MountState::Mounted)])
            .await;
    }
    seen.push(world.revision().await);
    assert_eq!(seen, [seen[0], seen[0] + 1, seen[0] + 1]);
    let body = pb::GetHostRequest {
        name: "hosts/gpu-1".into(),
    };
    let shown = world
        .api
        .get_host(request(&operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.state(), pb::HostState::Ready);
    assert_eq!(
        shown.seen_time.unwrap().seconds,
        world.clock.now().unix_timestamp()
    );
}

#[tokio::test]
async fn a_lost_host_holds_nothing_up_and_unmounts_when_it_returns() {
    let world = world().await;
    let operator = world.operator.clone();
    let (one, two) = (world.host("gpu-1", "gpu").await, world.host("gpu-2", "gpu").await);
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    for host in [&one, &two] {
        let assignment = host.assignment(&world).await.assignment;
        host.report(&world, &[mount(&assignment, MountState::Mounted)])
            .await;
    }
    let held = two.assignment(&world).await.assignment;
    world.clock.advance(Duration::from_secs(61));
    let kept = one.assignment(&world).await.assignment;
    one.report(&world, &[mount(&kept, MountState::Mounted)]).await;
    let degraded = world.activation(&operator, ACTIVATION).await;
    assert_eq!(degraded.state(), pb::ActivationState::Degraded);
    assert!(degraded.message.contains("hosts/gpu-2"), "{}", degraded.message);

    world.deactivate(&operator, ACTIVATION).await;
    one.report(&world, &[]).await;
    let ended = world.activation(&operator, ACTIVATION).await;
    assert_eq!(ended.state(), pb::ActivationState::Inactive);
    assert!(ended.message.contains("hosts/gpu-2 is lost"), "{}", ended.message);
    // It still finds its order.
    let orders = two.orders_since(&world, 0).await;
    assert_eq!(orders.removals[0].uid, held.uid);
    two.report(&world, &[mount(&held, MountState::Mounted)]).await;
    assert_eq!(
        world.activation(&operator, ACTIVATION).await.state(),
        pb::ActivationState::Deactivating
    );
    two.report(&world, &[]).await;
    assert_eq!(world.activation(&operator, ACTIVATION).await.message, "");
}

#[tokio::test]
async fn a_new_key_reaches_hosts_without_a_remount_and_a_missing_one_is_told() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let first = host.orders_since(&world, 0).await;
    let body = pb::AddSecretVersionRequest {
        parent: "projects/ml/secrets/reports".into(),
        secret_access_key: "the-second-key".into(),
        access_key_id: "AKID2".into(),
        ..Default::default()
    };
    world
        .api
        .add_secret_version(request(&operator, body))
        .await
        .unwrap();
    let delta = host.orders_since(&world, first.revision).await;
    assert_eq!(delta.assignments.len(), 1);
    let sealed = &delta.assignments[0];
    assert_eq!(
        sealed.assignment.generation,
        first.assignments[0].assignment.generation
    );
    let credential = host.open(sealed);
    assert_eq!(
        (
            credential.access_key_id.as_str(),
            credential.secret_access_key.as_str()
        ),
        ("AKID2", "the-second-key")
    );

    for version in 1..=2 {
        let name = format!("projects/ml/secrets/reports/versions/{version}");
        world
            .api
            .disable_secret_version(request(&operator, pb::DisableSecretVersionRequest { name }))
            .await
            .unwrap();
    }
    assert!(host.assignment(&world).await.key.is_none());
    let pending = world.activation(&operator, ACTIVATION).await;
    assert!(
        pending.message.contains("no enabled version"),
        "{}",
        pending.message
    );
}

#[tokio::test]
async fn what_is_mounted_changes_only_when_a_restart_is_asked_for() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let before = host.assignment(&world).await.assignment;
    let change = |restart_mounts| pb::UpdateConnectorRequest {
        connector: Some(pb::Connector {
            name: CONNECTOR.into(),
            prefix: "2024/".into(),
            ..Default::default()
        }),
        update_mask: None,
        restart_mounts,
    };
    let refused = world
        .api
        .update_connector(request(&operator, change(false)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let revision = world.revision().await;
    world
        .api
        .update_connector(request(&operator, change(true)))
        .await
        .unwrap();
    assert_eq!(world.revision().await, revision + 1);
    let after = host
        .orders_since(&world, revision)
        .await
        .assignments
        .remove(0)
        .assignment;
    assert_eq!((after.uid, after.generation), (before.uid, before.generation + 1));
    assert_eq!(after.spec.prefix, "2024/");
    assert_ne!(after.spec_hash, before.spec_hash);
}

#[tokio::test]
async fn a_host_that_takes_no_new_mounts_keeps_what_it_has() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    let set = |unschedulable: bool| {
        let host = pb::Host {
            name: "hosts/gpu-1".into(),
            unschedulable,
            ..Default::default()
        };
        let mask = prost_types::FieldMask {
            paths: vec!["unschedulable".into()],
        };
        request(
            &operator,
            pb::UpdateHostRequest {
                host: Some(host),
                update_mask: Some(mask),
            },
        )
    };
    world.api.update_host(set(true)).await.unwrap();
    let activation = world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    assert_eq!(activation.desired_hosts, 0);
    assert!(host.orders_since(&world, 0).await.assignments.is_empty());
    world.api.update_host(set(false)).await.unwrap();
    assert_eq!(host.orders_since(&world, 0).await.assignments.len(), 1);
    world.api.update_host(set(true)).await.unwrap();
    assert_eq!(host.orders_since(&world, 0).await.assignments.len(), 1);
}

#[tokio::test]
async fn a_pool_admits_projects_and_maps_their_groups() {
    let world = world().await;
    let operator = world.operator.clone();
    world.project("other", "research", &operator).await;
    world.pool_for("private", &["projects/other"]).await;
    let dev = world
        .user_with("dev", pb::Role::Developer, "projects/ml", &operator)
        .await;
    let hidden = world.activate(&dev, CONNECTOR, "private").await.unwrap_err();
    let absent = world.activate(&dev, CONNECTOR, "absents").await.unwrap_err();
    assert_eq!(hidden.code(), Code::FailedPrecondition);
    assert_eq!(hidden.message().replace("private", "absents"), absent.message());

    assert_eq!(world.pools(&operator).await, ["pools/gpu", "pools/private"]);
    assert_eq!(world.pools(&dev).await, ["pools/gpu"]);
    let nobody = world.user("nobody").await;
    assert!(world.pools(&nobody).await.is_empty());
    let get = |name: &str| request(&dev, pb::GetPoolRequest { name: name.into() });
    let hidden = world.api.get_pool(get("pools/private")).await.unwrap_err();
    let absent = world.api.get_pool(get("pools/absents")).await.unwrap_err();
    assert_eq!(
        (hidden.code(), hidden.message()),
        (absent.code(), absent.message())
    );

    let host = world.host("gpu-1", "gpu").await;
    world.activate(&dev, CONNECTOR, "gpu").await.unwrap();
    let before = host.assignment(&world).await.assignment;
    assert_eq!(before.spec.unix_group, None);
    let pool = pb::Pool {
        name: "pools/gpu".into(),
        project_groups: [("projects/ml".to_owned(), "ml-team".to_owned())].into(),
        ..Default::default()
    };
    let body = pb::UpdatePoolRequest {
        pool: Some(pool),
        ..Default::default()
    };
    world.api.update_pool(request(&operator, body)).await.unwrap();
    let after = host.assignment(&world).await.assignment;
    assert_eq!(after.spec.unix_group.as_deref(), Some("ml-team"));
    assert_eq!(after.generation, before.generation + 1);
    let busy = pb::DeletePoolRequest {
        name: "pools/gpu".into(),
        etag: String::new(),
    };
    assert_eq!(
        world
            .api
            .delete_pool(request(&operator, busy))
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn what_a_host_holds_beyond_its_orders_is_an_orphan_and_stays() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    let stray = uuid::Uuid::from_u128(77);
    world
        .catalog
        .note_held(&host.identity, &[(stray, 3)])
        .await
        .unwrap();
    let list = || world.mounts(&operator, "hosts/gpu-1");
    assert_eq!(list().await[0].state(), pb::MountState::Orphaned);
    assert!(
        host.orders_since(&world, 0).await.removals.is_empty(),
        "nobody orders it away"
    );
    let mut held = crate::domain::mount::ObservedMount {
        assignment_uid: stray,
        activation: "projects/old/activations/a".into(),
        generation: 3,
        state: MountState::Mounted,
        path: "/mnt/mooring/old/a".into(),
        conditions: Vec::new(),
        mount_time: None,
    };
    host.report(&world, std::slice::from_ref(&held)).await;
    let orphan = list().await.remove(0);
    assert_eq!(
        (orphan.state(), orphan.path.as_str()),
        (pb::MountState::Orphaned, "/mnt/mooring/old/a")
    );
    assert_eq!(orphan.activation, "projects/old/activations/a");
    held.state = MountState::Unmounted;
    host.report(&world, &[held]).await;
    assert!(list().await.is_empty());
}

#[tokio::test]
async fn mounts_are_shown_to_those_who_may_see_them() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let assignment = host.assignment(&world).await.assignment;
    host.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;
    let viewer = world
        .user_with("viewer", pb::Role::Viewer, "projects/ml", &operator)
        .await;
    for parent in ["projects/ml", ACTIVATION, CONNECTOR] {
        let mounts = world.mounts(&viewer, parent).await;
        assert_eq!(mounts.len(), 1, "{parent}");
        assert_eq!(mounts[0].name, format!("hosts/gpu-1/mounts/{}", assignment.uid));
    }
    let body = pb::ListMountsRequest {
        parent: "hosts/gpu-1".into(),
        ..Default::default()
    };
    let denied = world.api.list_mounts(request(&viewer, body)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_host_that_is_removed_from_the_fleet_is_waited_for_no_longer() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let assignment = host.assignment(&world).await.assignment;
    host.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;
    let ending = world.deactivate(&operator, ACTIVATION).await;
    assert_eq!(ending.state(), pb::ActivationState::Deactivating);
    let body = pb::DeleteHostRequest {
        name: host.name.clone(),
        etag: String::new(),
        force: true,
    };
    world.api.delete_host(request(&operator, body)).await.unwrap();
    assert_eq!(
        world.activation(&operator, ACTIVATION).await.state(),
        pb::ActivationState::Inactive
    );
}

#[tokio::test]
async fn a_project_goes_with_its_ended_activations() {
    use pb::project_service_server::ProjectService as _;
    let world = world().await;
    let operator = world.operator.clone();
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let delete = || async {
        let body = pb::DeleteProjectRequest {
            name: "projects/ml".into(),
            etag: String::new(),
        };
        world.api.delete_project(request(&operator, body)).await
    };
    assert_eq!(delete().await.unwrap_err().code(), Code::FailedPrecondition);
    world.deactivate(&operator, ACTIVATION).await;
    let body = pb::DeleteConnectorRequest {
        name: CONNECTOR.into(),
        etag: String::new(),
    };
    world
        .api
        .delete_connector(request(&operator, body))
        .await
        .unwrap();
    let body = pb::DeleteSecretRequest {
        name: "projects/ml/secrets/reports".into(),
        etag: String::new(),
    };
    world.api.delete_secret(request(&operator, body)).await.unwrap();
    delete().await.unwrap();
}

#[tokio::test]
async fn what_is_over_is_listed_only_if_asked_for_and_is_forgotten_in_the_end() {
    let world = world().await;
    let operator = world.operator.clone();
    let host = world.host("gpu-1", "gpu").await;
    world.activate(&operator, CONNECTOR, "gpu").await.unwrap();
    let assignment = host.assignment(&world).await.assignment;
    host.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;
    world.deactivate(&operator, ACTIVATION).await;
    assert_eq!(
        world.activations(&operator, "ml", false).await,
        [ACTIVATION],
        "the host still has it"
    );
    host.report(&world, &[]).await;
    host.report(&world, &[]).await;
    assert!(world.activations(&operator, "ml", false).await.is_empty());
    assert_eq!(world.activations(&operator, "ml", true).await, [ACTIVATION]);
    assert!(world.mounts(&operator, "projects/ml").await.is_empty());

    for pool in ["b", "c"] {
        world.pool(pool).await;
        let name = world.activate(&operator, CONNECTOR, pool).await.unwrap().name;
        world.clock.advance(Duration::from_secs(1));
        world.deactivate(&operator, &name).await;
    }
    let writing = world.catalog.write().await.unwrap();
    let name = "projects/ml".parse().unwrap();
    let project = crate::store::project::get(&writing, &name).await.unwrap();
    crate::store::activation::delete_ended_beyond(&writing, project.meta.uid, 2)
        .await
        .unwrap();
    writing.commit_unrecorded().await.unwrap();
    assert_eq!(
        world.activations(&operator, "ml", true).await,
        [
            "projects/ml/activations/reports-b",
            "projects/ml/activations/reports-c"
        ],
        "the oldest goes"
    );
}
