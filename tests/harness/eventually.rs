//! Waiting for something to become true, with a deadline instead of a sleep.

use std::time::{Duration, Instant};

/// How often a condition is looked at. Short, because most things come true within a few milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Calls `look` until it answers, and returns how long that took and the answer.
///
/// # Panics
/// When `deadline` passes first, with `what` and the last refusal.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> (Duration, T) {
    let start = Instant::now();
    loop {
        match look() {
            Ok(answer) => return (start.elapsed(), answer),
            Err(refusal) => {
                assert!(
                    start.elapsed() < deadline,
                    "not within {deadline:?}: {what}: {refusal}"
                );
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

/// A condition that says nothing about itself.
pub fn is_true(condition: bool) -> Result<(), String> {
    if condition {
        Ok(())
    } else {
        Err("not yet".to_owned())
    }
}
