//! What failed, why, and when to try again. A mount that stays up for a while has its failures forgotten; so has one
//! whose order has changed, since the change may be the remedy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::backoff;
use crate::desired::DesiredSet;
use crate::mounter::MountError;

/// A mount that has served this long is not one that dies again and again. Twice the longest delay.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// All troubles, by assignment.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Uuid, Trouble>);

#[derive(Debug)]
struct Trouble {
    failures: u32,
    error: Option<MountError>,
    retry_at: Instant,
    since: Instant,
    /// What was ordered when it failed.
    order: Option<OrderKey>,
}

/// What must differ for a new order to be worth a new try at once: generation, key, and whether it is to be removed.
type OrderKey = (i64, Option<Vec<u8>>, bool);

impl Troubles {
    /// A step has failed.
    pub(super) fn failed(
        &mut self,
        uid: Uuid,
        error: MountError,
        desired: &DesiredSet,
        now: Instant,
        jitter: f64,
    ) {
        let failures = self.failures(uid) + 1;
        let trouble = Trouble {
            failures,
            error: Some(error),
            retry_at: now + backoff::MOUNT.delay(failures, jitter),
            since: now,
            order: Some(key(uid, desired)),
        };
        self.0.insert(uid, trouble);
    }

    /// A worker has died. The first time it is replaced at once: nobody shall wait for a mount that may be good.
    pub(super) fn died(&mut self, uid: Uuid, now: Instant, jitter: f64) {
        let failures = self.failures(uid) + 1;
        let delay = match failures {
            1 => Duration::ZERO,
            more => backoff::MOUNT.delay(more - 1, jitter),
        };
        let trouble = Trouble {
            failures,
            error: None,
            retry_at: now + delay,
            since: now,
            order: None,
        };
        self.0.insert(uid, trouble);
    }

    /// A step has succeeded: no error any more, but its failures count until it has served for a while.
    pub(super) fn succeeded(&mut self, uid: Uuid, now: Instant) {
        if let Some(trouble) = self.0.get_mut(&uid) {
            trouble.error = None;
            trouble.retry_at = now;
            trouble.since = now;
        }
    }

    /// Nothing is known against it any more.
    pub(super) fn forget(&mut self, uid: Uuid) {
        self.0.remove(&uid);
    }

    /// Forgets what is over: what is ordered no longer or otherwise, and what has served for a while.
    pub(super) fn forget_settled(&mut self, desired: &DesiredSet, now: Instant) {
        self.0.retain(|uid, trouble| {
            let known = desired.orders.contains_key(uid) || desired.removals.contains_key(uid);
            let changed = trouble
                .order
                .as_ref()
                .is_some_and(|order| *order != key(*uid, desired));
            let settled = trouble.error.is_none() && now.duration_since(trouble.since) > SETTLED_AFTER;
            known && !changed && !settled
        });
    }

    /// Why the last step failed.
    pub(super) fn error(&self, uid: Uuid) -> Option<&MountError> {
        self.0.get(&uid)?.error.as_ref()
    }

    /// When each may be tried again.
    pub(super) fn retry_at(&self) -> BTreeMap<Uuid, Instant> {
        self.0
            .iter()
            .map(|(uid, trouble)| (*uid, trouble.retry_at))
            .collect()
    }

    fn failures(&self, uid: Uuid) -> u32 {
        self.0.get(&uid).map_or(0, |trouble| trouble.failures)
    }
}

fn key(uid: Uuid, desired: &DesiredSet) -> OrderKey {
    let order = desired.orders.get(&uid);
    let sealed = order
        .and_then(|order| order.spec.as_ref().ok())
        .and_then(|spec| spec.credential.as_ref());
    (
        order.map_or(0, |order| order.about.generation),
        sealed.map(|sealed| sealed.envelope.clone()),
        desired.removals.contains_key(&uid),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> MountError {
        MountError::Host {
            reason: "HostError",
            message: "no".to_owned(),
        }
    }

    fn desired(generation: i64) -> DesiredSet {
        let assignment = mooring_proto::agent::v1::Assignment {
            uid: Uuid::from_u128(1).to_string(),
            generation,
            ..Default::default()
        };
        DesiredSet::of(&crate::ledger::Held {
            assignments: vec![assignment],
            ..Default::default()
        })
    }

    #[test]
    fn the_first_death_is_repaired_at_once_and_the_next_ones_more_and_more_slowly() {
        let (mut troubles, uid, now) = (Troubles::default(), Uuid::from_u128(1), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..4 {
            troubles.died(uid, now, 0.0);
            delays.push(troubles.retry_at()[&uid].duration_since(now).as_millis());
            troubles.succeeded(uid, now);
        }
        assert_eq!(delays, [0, 250, 500, 1000]);
    }

    #[test]
    fn failures_are_forgotten_when_the_mount_has_served_for_a_while() {
        let (mut troubles, uid, now) = (Troubles::default(), Uuid::from_u128(1), Instant::now());
        troubles.failed(uid, error(), &desired(1), now, 0.0);
        assert!(troubles.error(uid).is_some());
        troubles.succeeded(uid, now);
        assert!(troubles.error(uid).is_none());
        troubles.forget_settled(&desired(1), now + SETTLED_AFTER * 2);
        assert!(troubles.retry_at().is_empty());
    }

    #[test]
    fn a_removal_does_not_wait_for_what_failed_before_it() {
        let (mut troubles, uid, now) = (Troubles::default(), Uuid::from_u128(1), Instant::now());
        troubles.failed(uid, error(), &desired(1), now, 0.0);
        let mut removing = desired(1);
        let removal = crate::desired::Removal {
            reason: String::new(),
            grace: Duration::ZERO,
        };
        removing.removals.insert(uid, removal);
        troubles.forget_settled(&removing, now);
        assert!(troubles.retry_at().is_empty());
    }

    #[test]
    fn a_changed_order_is_tried_at_once() {
        let (mut troubles, uid, now) = (Troubles::default(), Uuid::from_u128(1), Instant::now());
        troubles.failed(uid, error(), &desired(1), now, 0.0);
        troubles.forget_settled(&desired(1), now);
        assert!(troubles.error(uid).is_some());
        troubles.forget_settled(&desired(2), now);
        assert!(troubles.error(uid).is_none());
    }
}
