//! How long to wait before trying again: exponential, bounded, spread at random. Pure: randomness comes in.

use std::time::Duration;

/// Delays that double from `min` to `max`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The delay after the first failure.
    pub min: Duration,
    /// No delay is longer.
    pub max: Duration,
}

/// For connections to the catalog: quick after a blink, and 10,000 hosts at 30 s are 333 handshakes a second,
/// which two cores do.
pub const CATALOG: Backoff = Backoff {
    min: Duration::from_millis(50),
    max: Duration::from_secs(30),
};

/// For a mount that cannot be made, or whose worker dies: the first retry is felt by nobody, and a wrong key is
/// not offered to the store more than twice a minute.
pub const MOUNT: Backoff = Backoff {
    min: Duration::from_millis(250),
    max: Duration::from_secs(30),
};

impl Backoff {
    /// The delay after `failures` failures in a row (at least one). `jitter` is from 0 to 1 and takes away up to
    /// half, so that hosts which fell together do not come back together.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.min.saturating_mul(1 << doublings).min(self.max);
        full.mul_f64(1.0 - 0.5 * jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound() {
        let delays: Vec<u128> = [1, 2, 3, 11, u32::MAX]
            .iter()
            .map(|failures| CATALOG.delay(*failures, 0.0).as_millis())
            .collect();
        assert_eq!(delays, [50, 100, 200, 30_000, 30_000]);
    }

    #[test]
    fn jitter_takes_away_up_to_half() {
        assert_eq!(CATALOG.delay(2, 1.0), Duration::from_millis(50));
    }
}
