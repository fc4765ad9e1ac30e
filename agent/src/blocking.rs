//! Work that blocks, run beside the async threads; and waiting for descriptors without a thread.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Runs `work` on a thread of its own and waits for it. A panic in it goes on here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends before the work has begun; so does whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

/// For waiting until `descriptor` is readable.
///
/// The deprecated way is unsound only for types whose descriptor can change behind their back; an [`OwnedFd`]'s cannot,
/// and the new way is an `unsafe fn`, which this workspace forbids.
#[expect(deprecated, reason = "see above")]
pub fn readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
