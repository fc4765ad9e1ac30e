//! Which failures are tried again, and when: a pure schedule and the loop around one request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::StoreError;

/// Five pauses of at most 0.1, 0.2, 0.4, 0.8 and 1.6 s (four times that when throttled, at most 5 s): a restart of
/// the server or a short throttle is bridged, and a dead endpoint is reported in about three seconds.
const ATTEMPTS_MAX: u32 = 6;
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Throttled means that the server is there and wants fewer requests: begin later.
const PAUSE_THROTTLED_MIN: Duration = Duration::from_millis(400);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// No further attempt when so much has been spent waiting for something to move: three attempts of a transfer, one of
/// what the store works on for minutes. A program that waits for the outcome cannot be interrupted.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// A failed attempt: what to tell the caller, and whether trying again may help.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    pub(super) again: Again,
}

/// What a failed attempt says about the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    /// The answer will be the same.
    Never,
    /// A passing fault.
    Soon,
    /// The store asks for fewer requests.
    Slower,
    /// Nothing has moved for so long; trying again bridges a lost connection.
    AfterSilence(Duration),
}

/// Randomness for pauses: many workers that failed together must not come back together. Not for secrets.
#[derive(Debug)]
pub(super) struct Jitter(AtomicU64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Jitter {
        Jitter(AtomicU64::new(seed))
    }

    /// A number in 0.5..1.0 (splitmix64).
    fn fraction(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        0.5 + unit / 2.0
    }
}

/// Runs `attempt` until it succeeds, fails for good or has been tried often enough.
pub(super) async fn retried<T, Attempt, Run>(jitter: &Jitter, attempt: Attempt) -> Result<T, StoreError>
where
    Attempt: Fn() -> Run,
    Run: Future<Output = Result<T, Failure>>,
{
    let mut tried = 0;
    let mut silent = Duration::ZERO;
    loop {
        let Failure { error, again } = match attempt().await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        tried += 1;
        if let Again::AfterSilence(waited) = again {
            silent += waited;
            if silent >= SILENCE_MAX {
                return Err(error);
            }
        }
        let Some(pause) = pause_after(tried, again) else {
            return Err(error);
        };
        let pause = pause.mul_f64(jitter.fraction());
        tracing::debug!(%error, tried, ?pause, "a request to the store fails, trying again");
        tokio::time::sleep(pause).await;
    }
}

/// The longest pause before the next attempt, or none when it was the last.
fn pause_after(tried: u32, again: Again) -> Option<Duration> {
    let least = match again {
        Again::Never => return None,
        Again::Soon | Again::AfterSilence(_) => PAUSE_MIN,
        Again::Slower => PAUSE_THROTTLED_MIN,
    };
    (tried < ATTEMPTS_MAX).then(|| (least * 2_u32.saturating_pow(tried - 1)).min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        let pauses: Vec<_> = (1..=ATTEMPTS_MAX)
            .map(|tried| pause_after(tried, Again::Soon))
            .collect();
        let millis = |n| Some(Duration::from_millis(n));
        assert_eq!(
            pauses,
            [
                millis(100),
                millis(200),
                millis(400),
                millis(800),
                millis(1600),
                None
            ]
        );
        assert_eq!(pause_after(5, Again::Slower), Some(PAUSE_MAX));
        assert_eq!(pause_after(1, Again::Never), None);
    }

    #[tokio::test]
    async fn silence_is_not_waited_for_again_and_again() {
        for (patience, attempts) in [(15, 3), (300, 1)] {
            let tried = AtomicU64::new(0);
            let outcome: Result<(), _> = retried(&Jitter::new(7), || async {
                tried.fetch_add(1, Ordering::Relaxed);
                Err(Failure {
                    error: StoreError::DeadlineExceeded,
                    again: Again::AfterSilence(Duration::from_secs(patience)),
                })
            })
            .await;
            assert!(outcome.is_err());
            assert_eq!(tried.into_inner(), attempts, "{patience} s each");
        }
    }

    #[test]
    fn jitter_spreads_within_its_bounds() {
        let jitter = Jitter::new(7);
        let drawn: Vec<f64> = (0..1000).map(|_| jitter.fraction()).collect();
        assert!(drawn.iter().all(|fraction| (0.5..1.0).contains(fraction)));
        assert!(
            drawn.iter().any(|fraction| *fraction < 0.55) && drawn.iter().any(|fraction| *fraction > 0.95)
        );
    }

    #[tokio::test]
    async fn what_fails_for_good_is_tried_once() {
        let tries = AtomicU64::new(0);
        let outcome: Result<(), _> = retried(&Jitter::new(1), || async {
            tries.fetch_add(1, Ordering::Relaxed);
            Err(Failure {
                error: StoreError::NotFound,
                again: Again::Never,
            })
        })
        .await;
        assert!(matches!(outcome, Err(StoreError::NotFound)));
        assert_eq!(tries.into_inner(), 1);
    }
}
