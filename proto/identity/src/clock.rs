//! The one place where time, ids and randomness enter: everything else takes them as arguments.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use uuid::{NoContext, Timestamp, Uuid};

/// A source of time, ids and random bytes. Clones of a manual clock show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Tests turn the hands.
    Manual(Arc<Mutex<OffsetDateTime>>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that moves only by [`Clock::advance`] and [`Clock::set`].
    pub fn manual(start: OffsetDateTime) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new(start))))
    }

    /// The time, in UTC.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> OffsetDateTime {
        match &self.0 {
            Source::System => OffsetDateTime::now_utc(),
            Source::Manual(time) => *time.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a manual clock forward. The system's clock is not ours to move: nothing happens.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(time) = &self.0 {
            *time.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }

    /// Sets a manual clock. Nothing happens to the system's.
    pub fn set(&self, to: OffsetDateTime) {
        if let Source::Manual(time) = &self.0 {
            *time.lock().unwrap_or_else(PoisonError::into_inner) = to;
        }
    }

    /// A new UUIDv7: never given out again, and later ones sort after earlier ones.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new_uid(&self) -> Uuid {
        match &self.0 {
            Source::System => Uuid::now_v7(),
            Source::Manual(_) => {
                let now = self.now();
                let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
                Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, now.nanosecond()))
            }
        }
    }

    /// Random bytes from the operating system, fit for keys and tokens.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        SystemRandom::new()
            .fill(&mut bytes)
            .expect("getrandom(2) does not fail once the kernel has booted");
        bytes
    }

    /// A random number from 0 up to but not including 1, to spread retries and renewals.
    pub fn jitter(&self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        (u64::from_be_bytes(self.random()) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told_and_all_clones_see_it() {
        let clock = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let other = clock.clone();
        clock.advance(Duration::from_secs(5));
        assert_eq!(other.now().unix_timestamp(), 5);
    }

    #[test]
    fn ids_are_version_seven_and_ordered() {
        let clock = Clock::system();
        let ids: Vec<Uuid> = (0..1000).map(|_| clock.new_uid()).collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert!(ids.is_sorted());
    }

    #[test]
    fn jitter_stays_in_its_range() {
        let clock = Clock::system();
        assert!((0..1000).all(|_| (0.0..1.0).contains(&clock.jitter())));
    }
}
