//! What many hosts say at once is one change, and one that is refused keeps no other from being written.

use std::sync::Arc;
use std::time::Duration;

use mooring_proto::v1 as pb;
use tokio::task::JoinSet;

use crate::domain::Error;
use crate::domain::activation::MountState;
use crate::domain::mount::ReportedAt;
use crate::ops::Catalog;
use crate::testing::World;
use crate::testing::fleet::{TestHost, active_fleet, mount};

const HOSTS: usize = 20;

/// Has all hosts report that they have mounted, each in a task of its own.
async fn all_report(world: &World, hosts: &[TestHost]) -> JoinSet<(usize, Result<(), Error>)> {
    let mut reports = JoinSet::new();
    for (number, host) in hosts.iter().enumerate() {
        let catalog: Arc<Catalog> = world.catalog.clone();
        let identity = host.identity.clone();
        let assignment = host.assignment(world).await.assignment;
        let at = ReportedAt {
            ledger_revision: assignment.revision,
            settled_revision: assignment.revision,
            holds_still: false,
            ban_carried_out: false,
        };
        let mounts = vec![mount(&assignment, MountState::Mounted)];
        reports.spawn(async move { (number, catalog.observe(&identity, mounts, at).await) });
    }
    reports
}

async fn waiting(world: &World, count: usize) {
    let all = async {
        while world.catalog.intake.waiting.len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .expect("every report gets as far as the writers' queue");
}

#[tokio::test]
async fn what_many_hosts_say_at_once_is_one_change() {
    let (world, hosts) = active_fleet(HOSTS).await;
    let before = world.revision().await;
    let somebody_writes = world.catalog.write().await.unwrap();
    let mut reports = all_report(&world, &hosts).await;
    waiting(&world, HOSTS).await;
    drop(somebody_writes);
    while let Some(report) = reports.join_next().await {
        report.unwrap().1.unwrap();
    }
    assert_eq!(world.revision().await, before + 1);
    let activation = "projects/ml/activations/reports-gpu";
    let activation = world.activation(&world.operator, activation).await;
    assert_eq!(
        (activation.state(), activation.mounted_hosts),
        (pb::ActivationState::Active, HOSTS as i32)
    );
}

#[tokio::test]
async fn a_host_that_is_refused_keeps_no_other_from_being_written() {
    let (world, hosts) = active_fleet(HOSTS).await;
    let somebody_writes = world.catalog.write().await.unwrap();
    let mut reports = all_report(&world, &hosts).await;
    waiting(&world, HOSTS).await;
    crate::store::host::delete(&somebody_writes, hosts[7].uid)
        .await
        .unwrap();
    somebody_writes.commit_unrecorded().await.unwrap();
    while let Some(report) = reports.join_next().await {
        let (number, outcome) = report.unwrap();
        assert_eq!(outcome.is_err(), number == 7, "{number}: {outcome:?}");
    }
    let activation = "projects/ml/activations/reports-gpu";
    let activation = world.activation(&world.operator, activation).await;
    assert_eq!(activation.mounted_hosts, HOSTS as i32 - 1);
}
