//! What failed, why, and when to try again. A mount that stays up for a while has its failures forgotten; so has one
//! whose order has changed, since the change may be the remedy.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::backoff;
use crate::desired::DesiredSet;
use crate::mounter::MountError;
use crate::status::CrashLoop;

/// A mount that has served this long is not one that dies again and again. Twice the longest delay.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Serving this long tells a worker that is killed now and then from one that dies as soon as it begins: the latter is
/// given up after a few times.
const BEGUN_AFTER: Duration = Duration::from_millis(100);

/// What a worker dies of may also need a while to come: an answer of the store, or memory that fills up. So besides there
/// is a budget of deaths that are repaired at once on the same mount. This long of service gives one of them back,
/// 20 in a minute.
const FORGIVEN_BY: Duration = Duration::from_secs(3);
const BUDGET: f64 = 20.0;

/// Serving this long ends what is called a crash loop, while its failures still count for the delays.
const CALM_AFTER: Duration = Duration::from_secs(10);

/// Deaths in a row that are followed by a new worker at once: two may be chance, and everybody waits meanwhile.
const REPAIRED_AT_ONCE: u32 = 2;

/// Failures in a row that are called a crash loop.
const CRASH_LOOP_FROM: u32 = 3;

/// All troubles, by assignment.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Uuid, Trouble>);

#[derive(Debug)]
struct Trouble {
    failures: u32,
    /// Of the budget of deaths, how much is spent.
    spent: f64,
    error: Option<MountError>,
    /// What a worker that died has said last.
    words: Option<String>,
    retry_at: Instant,
    since: Instant,
    /// Since then it serves.
    serves: bool,
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
            spent: self.0.get(&uid).map_or(0.0, |trouble| trouble.spent),
            error: Some(error),
            words: None,
            retry_at: now + backoff::MOUNT.delay(failures, jitter),
            since: now,
            serves: false,
            order: Some(key(uid, desired)),
        };
        self.0.insert(uid, trouble);
    }

    /// A worker has died, saying `words`; answers how many failures in a row that makes. The first times it is replaced at
    /// once: nobody shall wait for a mount that may be good.
    ///
    /// `kept` says that another worker goes on with the same mount, so that its users notice nothing. Then a death counts
    /// only if it follows soon upon the one before it, or when there are too many of them. Otherwise each one costs somebody
    /// open files, and nothing but a long service forgives it.
    pub(super) fn died(&mut self, uid: Uuid, words: String, kept: bool, now: Instant, jitter: f64) -> u32 {
        let before = self.0.get(&uid);
        let (failures, spent) = before.map_or((0, 0.0), |trouble| (trouble.failures, trouble.spent));
        let served = before
            .filter(|trouble| trouble.serves)
            .map_or(Duration::ZERO, |trouble| {
                now.saturating_duration_since(trouble.since)
            });
        let spent = (spent - served.div_duration_f64(FORGIVEN_BY)).max(0.0) + 1.0;
        let failures = if kept {
            let forgiven = u32::try_from(served.as_millis() / BEGUN_AFTER.as_millis()).unwrap_or(u32::MAX);
            let beyond = (spent - BUDGET).ceil();
            let too_many = if beyond > 0.0 {
                REPAIRED_AT_ONCE + beyond as u32
            } else {
                0
            };
            (failures.saturating_sub(forgiven) + 1).max(too_many)
        } else if served > SETTLED_AFTER {
            1
        } else {
            failures + 1
        };
        let delay = match failures {
            ..=REPAIRED_AT_ONCE => Duration::ZERO,
            more => backoff::MOUNT.delay(more - REPAIRED_AT_ONCE, jitter),
        };
        let trouble = Trouble {
            failures,
            spent,
            error: None,
            words: Some(words),
            retry_at: now + delay,
            since: now,
            serves: false,
            order: None,
        };
        self.0.insert(uid, trouble);
        failures
    }

    /// A step has succeeded: no error any more, but its failures count until it has served for a while.
    pub(super) fn succeeded(&mut self, uid: Uuid, now: Instant) {
        if let Some(trouble) = self.0.get_mut(&uid) {
            trouble.error = None;
            trouble.retry_at = now;
            trouble.since = now;
            trouble.serves = true;
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

    /// Whether it fails again and again, and what was said last.
    pub(super) fn crash_loop(&self, uid: Uuid, now: Instant) -> Option<CrashLoop<'_>> {
        let trouble = self
            .0
            .get(&uid)
            .filter(|trouble| trouble.failures >= CRASH_LOOP_FROM)
            .filter(|trouble| !trouble.serves || now.duration_since(trouble.since) < CALM_AFTER)?;
        let words = trouble.words.as_deref();
        let crashed =
            words.is_some() || matches!(&trouble.error, Some(error) if error.reason() == "WorkerFailed");
        crashed.then_some(CrashLoop {
            failures: trouble.failures,
            words,
        })
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

    /// Deaths of workers that have each served for `served`; answers how many failures in a row each one makes.
    fn deaths(count: usize, served: Duration, kept: bool) -> (Troubles, Instant, Vec<u32>) {
        let (mut troubles, uid, mut now) = (Troubles::default(), Uuid::from_u128(1), Instant::now());
        let mut failures = Vec::new();
        for number in 0..count {
            failures.push(troubles.died(uid, format!("word {number}"), kept, now, 0.0));
            now = troubles.retry_at()[&uid];
            troubles.succeeded(uid, now);
            now += served;
            troubles.forget_settled(&desired(1), now);
        }
        (troubles, now, failures)
    }

    #[test]
    fn the_first_deaths_are_repaired_at_once_and_the_next_ones_more_and_more_slowly() {
        for kept in [true, false] {
            let (mut troubles, uid, now) = (Troubles::default(), Uuid::from_u128(1), Instant::now());
            let mut delays = Vec::new();
            for _ in 0..4 {
                troubles.died(uid, String::new(), kept, now, 0.0);
                delays.push(troubles.retry_at()[&uid].duration_since(now).as_millis());
                troubles.succeeded(uid, now);
            }
            assert_eq!(delays, [0, 0, 250, 500]);
        }
    }

    #[test]
    fn a_worker_that_dies_now_and_then_is_replaced_at_once_each_time() {
        for (count, served) in [(20, BEGUN_AFTER * 2), (200, FORGIVEN_BY)] {
            let (troubles, now, failures) = deaths(count, served, true);
            assert_eq!(failures, vec![1; count]);
            assert!(troubles.crash_loop(Uuid::from_u128(1), now).is_none());
        }
    }

    #[test]
    fn workers_that_die_of_a_request_that_comes_again_are_a_crash_loop_however_long_each_one_takes() {
        for served in [200, 500, 1000] {
            let (_, _, failures) = deaths(40, Duration::from_millis(served), true);
            let first = failures
                .iter()
                .position(|count| *count >= CRASH_LOOP_FROM)
                .unwrap();
            assert!((20..32).contains(&first), "{served} ms: after {first} deaths");
            assert!(failures[first..].is_sorted(), "{failures:?}");
            // By then it is made anew, as `deaths.rs` does.
            assert!(failures[first + 6] > 5, "{failures:?}");
        }
    }

    #[test]
    fn a_death_that_costs_open_files_is_forgiven_by_a_long_service_alone() {
        for served in [Duration::from_secs(1), Duration::from_secs(20)] {
            let (_, _, failures) = deaths(5, served, false);
            assert_eq!(failures, [1, 2, 3, 4, 5], "{served:?}");
        }
        assert_eq!(deaths(3, SETTLED_AFTER * 2, false).2, [1, 1, 1]);
    }

    #[test]
    fn three_quick_deaths_are_a_crash_loop_with_its_last_words() {
        let (troubles, now, _) = deaths(3, Duration::ZERO, true);
        let crash_loop = troubles.crash_loop(Uuid::from_u128(1), now).unwrap();
        assert_eq!((crash_loop.failures, crash_loop.words), (3, Some("word 2")));
        assert!(
            troubles
                .crash_loop(Uuid::from_u128(1), now + CALM_AFTER * 2)
                .is_none()
        );
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
