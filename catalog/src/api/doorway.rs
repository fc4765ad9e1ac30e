//! Lets connections in more slowly while many calls are under way. When a whole fleet comes back at once, each connection
//! that is let in takes time from those that are: with all of them half served, none is served before its agent gives up
//! and dials again, and the work for it was in vain. Who is not let in yet waits
//! with its handshake done, or, behind the handshakes that there are places for, in the kernel's queue.
//!
//! Invariant: the door is never shut, so calls that do not end keep nobody out for long.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;

/// With so many calls under way the place is crowded: a quarter second of work on two cores.
const CALLS_CROWDED: usize = 256;
/// While it is, one connection in this time: 200 a second, more than a fleet makes that renews all its certificates within
/// minutes.
const PAUSE: Duration = Duration::from_millis(5);

/// Connections, at the pace at which their calls are answered.
pub(super) struct Doorway<I> {
    incoming: I,
    calls: Arc<Semaphore>,
    /// With fewer places than this the place is crowded.
    places_least: usize,
    pause: Pin<Box<Sleep>>,
}

impl<I> Doorway<I> {
    /// In front of calls that take places of `calls`.
    pub(super) fn new(incoming: I, calls: Arc<Semaphore>) -> Self {
        Self {
            incoming,
            places_least: calls.available_permits().saturating_sub(CALLS_CROWDED),
            calls,
            pause: Box::pin(sleep(Duration::ZERO)),
        }
    }
}

impl<I: Stream + Unpin> Stream for Doorway<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<I::Item>> {
        let crowded = self.calls.available_permits() < self.places_least;
        if crowded && self.pause.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let next = Pin::new(&mut self.incoming).poll_next(cx);
        if crowded && next.is_ready() {
            self.pause.as_mut().reset(Instant::now() + PAUSE);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    async fn seconds_for(connections: usize, busy: usize) -> f64 {
        let calls = Arc::new(Semaphore::new(1024));
        let _busy = calls.clone().try_acquire_many_owned(busy as u32).unwrap();
        let incoming = tokio_stream::iter(0..connections);
        let whole = Arc::new(Semaphore::new(1024));
        let mut doorway = Doorway::new(incoming, whole);
        doorway.calls = calls;
        let begun = Instant::now();
        while doorway.next().await.is_some() {}
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test]
    async fn the_door_is_open_and_while_it_is_crowded_never_shut() {
        let open = seconds_for(30, CALLS_CROWDED).await;
        let crowded = seconds_for(30, CALLS_CROWDED + 1).await;
        assert!(crowded >= 29.0 * PAUSE.as_secs_f64(), "{crowded}");
        assert!(open < crowded, "{open}");
    }
}
