//! What many hosts want at the same time, taken in batches. Who adds the first has to begin the work; what is added
//! while a batch is worked on goes into the next, so batches grow with the load and one host alone waits for nobody.
//!
//! Invariants: one worker at a time; a host has one place in a batch, so that what it wants is done in its order; a
//! worker that ends badly does not leave the others waiting for it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

/// The most hosts in a batch: of some 50 microseconds each, so that nobody waits much longer for it than for one.
const HOSTS_MAX: usize = 256;
/// The most rows in a batch, as far as they are known before: of a KiB each.
const ROWS_MAX: usize = 4096;

/// The most that is passed over in search of a batch.
const SKIPPED_MAX: usize = 3 * HOSTS_MAX;

/// Something that a host wants.
pub(super) trait Want {
    /// The host.
    fn host_uid(&self) -> Uuid;

    /// About how many rows it will take.
    fn rows(&self) -> usize;
}

/// What waits.
pub(super) struct Queue<T>(Mutex<Waiting<T>>);

struct Waiting<T> {
    wants: VecDeque<T>,
    /// Whether there is a worker. It looks for more before it ends.
    busy: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(Mutex::new(Waiting {
            wants: VecDeque::new(),
            busy: false,
        }))
    }
}

impl<T: Want> Queue<T> {
    /// Adds something. Answers the work, if nobody does it yet.
    pub(super) fn add(self: &Arc<Self>, want: T) -> Option<Work<T>> {
        let mut waiting = self.0.lock();
        waiting.wants.push_back(want);
        let begins = !std::mem::replace(&mut waiting.busy, true);
        begins.then(|| Work {
            queue: Arc::clone(self),
            ended: false,
        })
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().wants.len()
    }
}

/// The right to take batches. There is one for each queue at a time.
pub(super) struct Work<T> {
    queue: Arc<Queue<T>>,
    ended: bool,
}

impl<T: Want> Work<T> {
    /// Whether anything waits. If nothing does, the work has ended.
    pub(super) fn goes_on(&mut self) -> bool {
        let mut waiting = self.queue.0.lock();
        waiting.busy = !waiting.wants.is_empty();
        self.ended = !waiting.busy;
        waiting.busy
    }

    /// As much as is done at once, from the front. What a host that is in the batch already wants besides waits for the
    /// next one, and stops nobody behind it.
    pub(super) fn next_batch(&mut self) -> Vec<T> {
        let mut waiting = self.queue.0.lock();
        let mut hosts = BTreeSet::new();
        let mut rows = 0;
        let (mut batch, mut skipped) = (Vec::new(), Vec::new());
        while skipped.len() < SKIPPED_MAX
            && hosts.len() < HOSTS_MAX
            && let Some(want) = waiting.wants.pop_front()
        {
            if hosts.contains(&want.host_uid()) {
                skipped.push(want);
                continue;
            }
            rows += want.rows();
            if !batch.is_empty() && rows > ROWS_MAX {
                skipped.push(want);
                break;
            }
            hosts.insert(want.host_uid());
            batch.push(want);
        }
        // In their order, before all that was not looked at.
        skipped
            .into_iter()
            .rev()
            .for_each(|want| waiting.wants.push_front(want));
        batch
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        if !self.ended {
            // The next that is added begins anew, and finds what is left.
            self.queue.0.lock().busy = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Some(u128, usize);

    impl Want for Some {
        fn host_uid(&self) -> Uuid {
            Uuid::from_u128(self.0)
        }

        fn rows(&self) -> usize {
            self.1
        }
    }

    fn work(wants: Vec<Some>) -> Work<Some> {
        let queue: Arc<Queue<Some>> = Arc::default();
        let mut works: Vec<_> = wants.into_iter().filter_map(|want| queue.add(want)).collect();
        assert_eq!(works.len(), 1, "who comes first works, and nobody else");
        works.remove(0)
    }

    #[test]
    fn a_host_that_wants_much_has_it_done_in_its_order_and_stops_nobody() {
        let mut work = work(vec![
            Some(1, 1),
            Some(1, 2),
            Some(2, 1),
            Some(1, 3),
            Some(2, 2),
            Some(3, 1),
        ]);
        assert_eq!(work.next_batch(), [Some(1, 1), Some(2, 1), Some(3, 1)]);
        assert_eq!(work.next_batch(), [Some(1, 2), Some(2, 2)]);
        assert_eq!(work.next_batch(), [Some(1, 3)]);
        assert!(!work.goes_on());
    }

    #[test]
    fn a_batch_is_bounded_in_hosts_and_in_rows_and_one_host_always_fits() {
        let mut many = work((0..300).map(|host| Some(host, 1)).collect());
        assert_eq!(many.next_batch().len(), HOSTS_MAX);
        let mut large = work(vec![Some(1, 10 * ROWS_MAX), Some(2, 1), Some(3, ROWS_MAX)]);
        assert_eq!(large.next_batch().len(), 1);
        assert_eq!(large.next_batch(), [Some(2, 1)]);
        assert_eq!(large.next_batch(), [Some(3, ROWS_MAX)]);
    }

    #[test]
    fn work_that_ended_badly_is_begun_again() {
        let ended_badly = work(vec![Some(1, 1)]);
        let queue = Arc::clone(&ended_badly.queue);
        drop(ended_badly);
        let mut again = queue.add(Some(2, 1)).expect("somebody has to do it");
        assert_eq!(again.next_batch().len(), 2);
        assert!(!again.goes_on());
        drop(again);
        assert!(queue.add(Some(3, 1)).is_some());
    }
}
