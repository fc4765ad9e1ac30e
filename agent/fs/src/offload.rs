//! Where the work of an operation happens: in the FUSE thread as long as memory has the answer, on the
//! runtime as soon as it does not.
//!
//! Every operation is one future. The FUSE thread polls it once; what answers from memory is ready then
//! and costs no hop to another thread. [`leave_caller_thread`] marks the point after which a future works
//! for longer than that: it is pending once, so that the rest runs on the runtime.

use std::future::poll_fn;
use std::task::Poll;

/// Moves the rest of the future to the runtime, if it is still in the thread of its caller.
pub async fn leave_caller_thread() {
    let mut left = false;
    poll_fn(|context| {
        if left {
            return Poll::Ready(());
        }
        left = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
