//! The only place that reads the wall clock and makes ids. Everything else takes them as arguments, or,
//! for how long something may be remembered, uses the monotonic clock.

use std::time::{Duration, Instant, SystemTime};

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

/// A moment in nanoseconds of the clock that all processes of this machine share.
pub fn nanos_of(moment: Instant) -> u64 {
    let (shared, own) = (shared_nanos(), Instant::now());
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    match moment.checked_duration_since(own) {
        Some(ahead) => shared.saturating_add(nanos(ahead)),
        None => shared.saturating_sub(nanos(own.duration_since(moment))),
    }
}

/// The moment that another process has called so.
pub fn moment_of(nanos: u64) -> Instant {
    let (shared, own) = (shared_nanos(), Instant::now());
    let moment = match nanos.checked_sub(shared) {
        Some(ahead) => own.checked_add(Duration::from_nanos(ahead)),
        None => own.checked_sub(Duration::from_nanos(shared - nanos)),
    };
    moment.unwrap_or(own)
}

fn shared_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
