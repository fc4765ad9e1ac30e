//! Wakes the streams of those hosts whose orders a commit has changed, and of no others: with a wake-up for every
//! stream at every commit, ten thousand hosts that report would each read the database ten thousand times. A hint to
//! look: what no wake-up came for is found from time to time by one look for all streams together.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

/// Who waits for orders.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<HashMap<Uuid, watch::Sender<i64>>>);

impl Orders {
    /// Tells of the revisions at which a host's orders changed.
    pub(super) fn of_host(&self, host_uid: Uuid) -> watch::Receiver<i64> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting
            .entry(host_uid)
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe()
    }

    /// Wakes the streams of those hosts that were not told of a revision or a later one. Answers how many.
    pub(super) fn missed(&self, hosts: impl IntoIterator<Item = (Uuid, i64)>) -> usize {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = hosts.into_iter().filter(|(host_uid, revision)| {
            waiting.get(host_uid).is_some_and(|orders| {
                orders.send_if_modified(|told| {
                    let missed = *told < *revision;
                    *told = (*told).max(*revision);
                    missed
                })
            })
        });
        missed.count()
    }

    /// Wakes the streams of these hosts, whatever they were told, and forgets those that nobody waits for any more.
    pub(super) fn look_again(&self, which: impl Fn(Uuid) -> bool) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, orders| !orders.is_closed());
        for (_, orders) in waiting.iter().filter(|(host_uid, _)| which(**host_uid)) {
            orders.send_modify(|_| {});
        }
    }

    /// Wakes the streams of these hosts, and forgets those that nobody waits for any more.
    pub(super) fn changed(&self, hosts: BTreeSet<Uuid>, revision: i64) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for host_uid in hosts {
            if let Some(orders) = waiting.get(&host_uid) {
                if orders.is_closed() {
                    waiting.remove(&host_uid);
                } else {
                    orders.send_modify(|told| *told = revision.max(*told));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_that_are_concerned_are_woken() {
        let orders = Orders::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (mut of_one, of_two) = (orders.of_host(one), orders.of_host(two));
        orders.changed(BTreeSet::from([one]), 7);
        assert!(of_one.has_changed().unwrap() && !of_two.has_changed().unwrap());
        assert_eq!(*of_one.borrow_and_update(), 7);
        assert_eq!(orders.missed([(one, 7), (two, 5)]), 1, "one knows of its own");
        assert!(!of_one.has_changed().unwrap() && of_two.has_changed().unwrap());
        assert_eq!(orders.missed([(one, 7), (two, 5)]), 0);
        orders.look_again(|host_uid| host_uid == one);
        assert!(of_one.has_changed().unwrap());
        drop(of_two);
        orders.changed(BTreeSet::from([two]), 8);
        assert_eq!(
            orders.0.lock().unwrap().len(),
            1,
            "who waits no longer is forgotten"
        );
    }
}
