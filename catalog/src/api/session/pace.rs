//! How much a host may say: enough for everything that happens to its mounts, and no more. From one that goes on, nothing
//! is read for a while, so its messages wait on its own side of the connection. Pure: the time comes in.

use std::time::Duration;

use tokio::time::Instant;

/// Messages that may come at once: acknowledgements and reports of a burst of changes.
const BURST: u32 = 100;
/// Beyond that a message in this time. A heartbeat is one in ten seconds. Some hundred hosts that talk without end cost a
/// few percent of a core, and a message that waits is heard long before its sender gives up (15 s).
const EACH: Duration = Duration::from_millis(100);

/// How far a host is ahead of its pace.
pub(super) struct Pace {
    /// When all that was heard would have come at the pace; in the past for a host that says little.
    paid_until: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid_until: now }
    }

    /// Notes a message.
    pub(super) fn heard(&mut self, now: Instant) {
        self.paid_until = self.paid_until.max(now) + EACH;
    }

    /// Until when nothing is read; `None` for a host within its pace.
    pub(super) fn rests_until(&self, now: Instant) -> Option<Instant> {
        let ahead = self.paid_until.saturating_duration_since(now);
        let rest = ahead.checked_sub(EACH * BURST)?;
        (!rest.is_zero()).then(|| now + rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_heard_at_once_and_talk_without_end_at_its_pace() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        for _ in 0..BURST {
            assert_eq!(pace.rests_until(begun), None);
            pace.heard(begun);
        }
        assert_eq!(pace.rests_until(begun), None);
        pace.heard(begun);
        assert_eq!(pace.rests_until(begun), Some(begun + EACH));
        let later = begun + EACH;
        assert_eq!(pace.rests_until(later), None);
        pace.heard(later);
        assert_eq!(pace.rests_until(later), Some(later + EACH));
    }

    #[test]
    fn heartbeats_never_wait() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..1000 {
            now += Duration::from_secs(1);
            assert_eq!(pace.rests_until(now), None);
            pace.heard(now);
        }
    }
}
