//! Hosts that ask at once get what is theirs, and one that may ask no longer keeps no other from its answer.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::domain::activation::MountState;
use crate::domain::mount::ReportedAt;
use crate::testing::fleet::{active_fleet, mount};

const HOSTS: usize = 30;

#[tokio::test]
async fn hosts_that_ask_at_once_are_told_what_is_theirs() {
    let (world, mut hosts) = active_fleet(HOSTS).await;
    let newest = world.revision().await;
    // Of one the certificate has ended, another knows all but the newest, a third knows everything.
    hosts[3].identity.not_after = world.clock.now() - Duration::from_secs(1);
    let since = move |number: usize| match number {
        4 => newest - 1,
        5 => newest,
        _ => 0,
    };
    let mut asked = JoinSet::new();
    for (number, host) in hosts.iter().enumerate() {
        let (catalog, identity) = (world.catalog.clone(), host.identity.clone());
        asked.spawn(async move { (number, catalog.orders_since(&identity, since(number)).await) });
    }
    for (number, orders) in asked.join_all().await {
        if number == 3 {
            assert!(orders.is_err());
            continue;
        }
        let orders = orders.unwrap();
        assert_eq!((orders.revision, orders.removals.len()), (newest, 0));
        if number == 5 {
            assert!(orders.assignments.is_empty());
            continue;
        }
        let [sealed] = &orders.assignments[..] else {
            panic!("host {number} has one assignment")
        };
        assert_eq!(sealed.assignment.host_uid, hosts[number].uid);
        assert!(!hosts[number].open(sealed).secret_access_key.is_empty());
    }
}

#[tokio::test]
async fn what_is_known_already_is_not_written() {
    let (world, hosts) = active_fleet(HOSTS).await;
    let assignment = hosts[0].assignment(&world).await.assignment;
    let at = ReportedAt {
        ledger_revision: assignment.revision,
        settled_revision: assignment.revision,
        holds_still: false,
        ban_carried_out: false,
    };
    let report = || vec![mount(&assignment, MountState::Mounted)];
    let identity = &hosts[0].identity;
    let before = world.revision().await;
    for _ in 0..2 {
        let taken = world.catalog.observe_if_news(identity, report(), at).await;
        taken.unwrap();
        assert_eq!(world.revision().await, before + 1, "only the first is news");
    }
}
