//! How slow the server is: latency per class of operation, bandwidth per connection, entries per page. And the one
//! way to end a connection badly.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::operation::Class;

/// Most that a capped connection moves at once: 0.7 ms at 90 MB/s, below the timer's step, so the flow is even.
const STEP_BYTES: usize = 64 << 10;

/// How far a capped connection may catch up after it was idle or the timer was late.
const CREDIT: Duration = Duration::from_millis(5);

/// Time to first byte, per class of operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// GetObject.
    #[serde(rename = "get_millis", with = "millis")]
    pub get: Duration,
    /// PutObject, parts, copies, creating and completing uploads.
    #[serde(rename = "put_millis", with = "millis")]
    pub put: Duration,
    /// Listings of every kind.
    #[serde(rename = "list_millis", with = "millis")]
    pub list: Duration,
    /// DeleteObject, DeleteObjects, aborted uploads.
    #[serde(rename = "delete_millis", with = "millis")]
    pub delete: Duration,
    /// HeadObject and HeadBucket.
    #[serde(rename = "head_millis", with = "millis")]
    pub head: Duration,
}

/// All that can be set while the server runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Time to first byte.
    pub latency: Latency,
    /// Bytes per second of each connection, in each direction; without it, or with 0, as fast as can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_bytes_per_second: Option<u64>,
    /// Entries on a page of a listing; S3's limit of 1000 holds in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_entries_max: Option<usize>,
}

/// The settings in force.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    settings: RwLock<Settings>,
}

impl Shape {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings: RwLock::new(settings),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        *self.settings.read()
    }

    pub(crate) fn set(&self, settings: Settings) {
        *self.settings.write() = settings;
    }

    pub(crate) fn latency(&self, class: Class) -> Duration {
        let latency = self.settings.read().latency;
        match class {
            Class::Get => latency.get,
            Class::Put => latency.put,
            Class::List => latency.list,
            Class::Delete => latency.delete,
            Class::Head => latency.head,
        }
    }

    pub(crate) fn page_entries_max(&self) -> usize {
        self.settings.read().page_entries_max.unwrap_or(usize::MAX)
    }

    fn rate(&self) -> Option<u64> {
        self.settings
            .read()
            .connection_bytes_per_second
            .filter(|rate| *rate > 0)
    }
}

/// What the requests of a connection may do to it.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    reset: AtomicBool,
}

impl Connection {
    /// Lets the connection end with a TCP reset instead of a FIN.
    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Release);
    }
}

/// A TCP stream that keeps to a rate.
pub(crate) struct ShapedStream {
    stream: TcpStream,
    connection: Arc<Connection>,
    shape: Arc<Shape>,
    reads: Pace,
    writes: Pace,
}

impl ShapedStream {
    pub(crate) fn new(stream: TcpStream, connection: Arc<Connection>, shape: Arc<Shape>) -> Self {
        Self {
            stream,
            connection,
            shape,
            reads: Pace::default(),
            writes: Pace::default(),
        }
    }
}

impl Drop for ShapedStream {
    fn drop(&mut self) {
        if self.connection.reset.load(Ordering::Acquire) {
            // A failure means that the connection is gone already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for ShapedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(rate) = this.shape.rate() else {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        };
        ready!(this.reads.poll_ready(cx));
        let step = buf.remaining().min(STEP_BYTES);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(step));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        this.reads.spend(read, rate);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ShapedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(rate) = this.shape.rate() else {
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        };
        ready!(this.writes.poll_ready(cx));
        let step = &buf[..buf.len().min(STEP_BYTES)];
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, step))?;
        this.writes.spend(written, rate);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.shape.rate().is_none() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs
            .iter()
            .find(|buf| !buf.is_empty())
            .map_or(&[][..], |buf| &**buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.reset.load(Ordering::Acquire) {
            // No FIN: it would tell the client of an end in good order before the reset does not.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Spreads bytes over time: each byte moves the moment of the next step on. Lateness of the timer is caught up, so
/// the rate holds over time.
#[derive(Default)]
struct Pace {
    next: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(next) = self.next
            && next > Instant::now()
        {
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if sleep.deadline() != next {
                sleep.as_mut().reset(next);
            }
            return sleep.as_mut().poll(cx);
        }
        Poll::Ready(())
    }

    fn spend(&mut self, bytes: usize, rate: u64) {
        let now = Instant::now();
        let from = self
            .next
            .unwrap_or(now)
            .max(now.checked_sub(CREDIT).unwrap_or(now));
        self.next = Some(from + Duration::from_secs_f64(bytes as f64 / rate as f64));
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_millis() as u64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
