//! Work that blocks, run beside the async threads.

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
