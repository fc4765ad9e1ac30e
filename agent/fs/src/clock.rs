//! The only place that reads the wall clock and makes ids. Everything else takes them as arguments, or,
//! for how long something may be remembered, uses the monotonic clock.

use std::time::SystemTime;

use uuid::Uuid;

/// Now, on the wall.
#[expect(
    clippy::disallowed_methods,
    reason = "the crate's one place that reads the clock"
)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// A new id for one upload.
#[expect(clippy::disallowed_methods, reason = "the crate's one place that makes ids")]
pub fn new_id() -> Uuid {
    Uuid::new_v4()
}
