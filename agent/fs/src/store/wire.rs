//! One connection's bytes: TCP with quick acknowledgements, plain or under TLS.
//!
//! The kernel forgets `TCP_QUICKACK` when it likes, so it is set again after each short read: a long
//! one is the middle of a body, where acknowledgements flow by themselves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::breaker::Pulse;
use super::http::{ConnectError, TlsStream};

/// Reads below this may end a burst of the server: its Nagle then waits for our acknowledgement.
const SHORT_READ_BYTES: usize = 64 * 1024;

/// A connection, plain or TLS.
pub(super) enum Wire {
    /// http.
    Plain(QuickAck),
    /// https. Boxed: the TLS state is ten times the size of a plain stream.
    Tls(Box<TlsStream>),
}

/// A TCP stream that acknowledges at once.
pub(super) struct QuickAck {
    stream: TcpStream,
    /// Told of each byte that comes.
    pulse: Pulse,
    /// Of a connection without TLS on which nothing has come yet: whom it goes to.
    unheard: Option<String>,
}

/// How records of TLS begin: an alert or a handshake message, and the version's first byte. No answer in HTTP does.
const TLS_BEGINNINGS: [[u8; 2]; 2] = [[0x15, 0x03], [0x16, 0x03]];

impl Wire {
    /// `server` is what a person would know it by.
    pub(super) fn plain(stream: TcpStream, pulse: Pulse, server: String) -> Wire {
        Wire::Plain(QuickAck {
            stream,
            pulse,
            unheard: Some(server),
        })
    }

    pub(super) fn tls(stream: TlsStream) -> Wire {
        Wire::Tls(Box::new(stream))
    }

    /// The TCP layer, to put TLS upon.
    pub(super) fn quick(stream: TcpStream, pulse: Pulse) -> QuickAck {
        QuickAck {
            stream,
            pulse,
            unheard: None,
        }
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for QuickAck {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = outcome {
            let read = buffer.filled().len() - before;
            if read > 0 {
                self.pulse.heard();
            }
            if read > 0 && read < SHORT_READ_BYTES {
                // Only a hint to the kernel: a refusal costs latency, never correctness.
                let _ = rustix::net::sockopt::set_tcp_quickack(&self.stream, true);
            }
            if let Some(server) = self.unheard.take()
                && TLS_BEGINNINGS
                    .iter()
                    .any(|beginning| buffer.filled()[before..].starts_with(beginning))
            {
                return Poll::Ready(Err(io::Error::other(ConnectError::OtherScheme {
                    server,
                    speaks_tls: true,
                })));
            }
        }
        outcome
    }
}

impl AsyncWrite for QuickAck {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
