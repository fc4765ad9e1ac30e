//! A connection after its handshake, as tonic serves it. One without a client certificate holds a place and has a
//! short life: who has nothing to show has nothing to do here but to enrol, to log in or to ask for health.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use super::places::Place;

/// A proved connection.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// `None` with a client certificate.
    anonymous: Option<Anonymous>,
}

#[derive(Debug)]
struct Anonymous {
    end: Pin<Box<Sleep>>,
    _place: Place,
}

impl Connection {
    /// Of a client that has shown a certificate.
    pub(super) fn identified(stream: TlsStream<TcpStream>) -> Self {
        Self {
            stream,
            anonymous: None,
        }
    }

    /// Of a client that has shown none.
    pub(super) fn anonymous(stream: TlsStream<TcpStream>, place: Place, life: Duration) -> Self {
        let end = Box::pin(tokio::time::sleep(life));
        Self {
            stream,
            anonymous: Some(Anonymous { end, _place: place }),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // HTTP/2 reads all the time, so here the end is noticed whatever the client does or does not.
        if let Some(Anonymous { end, _place }) = &mut self.anonymous
            && end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
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
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
