//! Bodies that go wrong on the way: cut, reset, stalled, corrupted.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use s3s::StdError;
use tokio::time::Sleep;

use crate::shaping::Connection;

/// Bytes that a corruption inverts.
const CORRUPT_BYTES: u64 = 16;

/// The client gets what was sent before a reset: the kernel needs a moment to take it from us.
const RESET_DELAY: Duration = Duration::from_millis(20);

/// What happens at a place in a body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    Reset,
    Truncate,
    Stall(Duration),
    Corrupt,
}

/// A body with one trouble at one byte. Its announced length stays the whole one.
pub(crate) struct TroubledBody {
    inner: s3s::Body,
    connection: Arc<Connection>,
    trouble: Trouble,
    /// Bytes until the trouble begins.
    until: u64,
    /// What was read beyond that place.
    held: Option<Bytes>,
    state: State,
}

enum State {
    Before,
    Waiting(Pin<Box<Sleep>>),
    Corrupting(u64),
    Past,
}

impl TroubledBody {
    pub(crate) fn new(inner: s3s::Body, connection: Arc<Connection>, trouble: Trouble, at_byte: u64) -> Self {
        Self {
            inner,
            connection,
            trouble,
            until: at_byte,
            held: None,
            state: State::Before,
        }
    }

    /// The next bytes, up to the trouble's place and not across it.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StdError>>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(Some(Ok(held)));
        }
        loop {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }
}

impl http_body::Body for TroubledBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Before if this.until > 0 => {
                    let Some(bytes) = ready!(this.poll_bytes(cx)).transpose()? else {
                        // Shorter than the trouble's place: what must end the connection still does.
                        this.until = 0;
                        continue;
                    };
                    let now = this.until.min(bytes.len() as u64);
                    this.until -= now;
                    if now < bytes.len() as u64 {
                        this.held = Some(bytes.slice(now as usize..));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes.slice(..now as usize)))));
                }
                State::Before => {
                    this.state = match this.trouble {
                        Trouble::Reset | Trouble::Truncate => {
                            State::Waiting(Box::pin(tokio::time::sleep(RESET_DELAY)))
                        }
                        Trouble::Stall(duration) => State::Waiting(Box::pin(tokio::time::sleep(duration))),
                        Trouble::Corrupt => State::Corrupting(CORRUPT_BYTES),
                    };
                }
                State::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    match this.trouble {
                        Trouble::Reset => {
                            this.connection.reset_on_close();
                            return Poll::Ready(Some(Err("scripted fault: reset".into())));
                        }
                        Trouble::Truncate => {
                            return Poll::Ready(Some(Err("scripted fault: truncated".into())));
                        }
                        Trouble::Stall(_) | Trouble::Corrupt => this.state = State::Past,
                    }
                }
                State::Corrupting(left) => {
                    let left = *left;
                    let Some(bytes) = ready!(this.poll_bytes(cx)).transpose()? else {
                        return Poll::Ready(None);
                    };
                    let wrong = left.min(bytes.len() as u64);
                    let mut bytes = bytes.to_vec();
                    for byte in &mut bytes[..wrong as usize] {
                        *byte = !*byte;
                    }
                    this.state = if wrong < left {
                        State::Corrupting(left - wrong)
                    } else {
                        State::Past
                    };
                    return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
                }
                State::Past => {
                    let bytes = ready!(this.poll_bytes(cx)).transpose()?;
                    return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, |held| held.len() as u64);
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + held);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }

    fn is_end_stream(&self) -> bool {
        // Never early: a trouble may wait behind the last byte.
        false
    }
}
