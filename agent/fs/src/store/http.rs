//! The HTTP client under the S3 SDK: a pool of HTTP/1.1 connections made by our own connector.
//!
//! The SDK's built-in client cannot take a connector of ours, which we need for three things: the
//! endpoint rules are judged on every resolved address at the moment of connecting, `TCP_NODELAY` and
//! `TCP_QUICKACK` are set (small GETs from servers that leave Nagle on take 43 ms otherwise), and time
//! limits follow progress instead of totals. It follows no redirect and uses no proxy.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::Uri;
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Deadlines;
use super::address::{AddressError, AddressRules};
use super::breaker::{PROBE_DEADLINE, Probe, Pulse};
use super::wire::{QuickAck, Wire};

/// Idle connections kept per endpoint: more than the requests that one mount has in flight.
const IDLE_CONNECTIONS_MAX: usize = 128;

/// Shorter than the keep-alive of the usual servers (20 s on AWS), so that we seldom write into a
/// connection that the other side is closing.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);

/// Frames of a body, of up to 1 MiB, that hyper and the kernel's socket (up to 4 MiB by default) take without anybody
/// at the other end.
const BUFFERED_FRAMES: u64 = 6;

/// TLS over our TCP stream; named here because only this file knows the TLS library.
pub(super) type TlsStream = tokio_rustls::client::TlsStream<QuickAck>;

/// How to reach the endpoint.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Which addresses may be connected to.
    pub rules: AddressRules,
    /// A PEM file with authorities to trust besides the machine's own.
    pub extra_ca_file: Option<PathBuf>,
    /// Time limits.
    pub deadlines: Deadlines,
}

/// The HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpSetupError {
    /// The file with extra authorities is unreadable, no PEM or empty.
    #[error("cannot read certificates from {}: give a PEM file with at least one certificate", path.display())]
    ExtraCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The TLS library refuses its configuration.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// A connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint rules forbid it; trying again cannot help.
    #[error(transparent)]
    Forbidden(#[from] AddressError),
    /// The endpoint has no host name.
    #[error("the endpoint {0} has no host name")]
    NoHost(String),
    /// The name does not resolve.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// Nobody answers, or the answer is a refusal.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake fails, for instance because the certificate is not trusted.
    #[error("cannot agree on TLS with {host}")]
    Handshake {
        /// The server's name.
        host: String,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// The server speaks the other of http and https.
    #[error("{server} speaks {}", if *speaks_tls { "TLS" } else { "no TLS" })]
    OtherScheme {
        /// Whom a person knows it as.
        server: String,
        /// What it speaks.
        speaks_tls: bool,
    },
    /// Name, connection and handshake took longer than the deadline.
    #[error("connecting took longer than {0:?}")]
    Deadline(Duration),
}

/// Nothing of a request or of its answer has moved for so long.
#[derive(Debug, thiserror::Error)]
#[error("no answer and no progress within {0:?}")]
pub struct NoProgress(pub Duration);

/// The client: clones share one pool.
#[derive(Clone)]
pub struct PooledClient {
    pool: legacy::Client<EndpointConnector, SentBody>,
    connector: EndpointConnector,
    first_byte: Duration,
    clock: ServerClock,
    /// Where the last request went: scheme and authority.
    last_asked: Arc<Mutex<Option<Uri>>>,
}

/// What the last answer's `Date` said, and when it came; clones share it.
#[derive(Clone, Default, Debug)]
pub(super) struct ServerClock(Arc<Mutex<Option<(SystemTime, Instant)>>>);

impl ServerClock {
    /// The last answer's.
    pub(super) fn last(&self) -> Option<(SystemTime, Instant)> {
        *self.0.lock()
    }

    fn note(&self, headers: &http::HeaderMap) {
        let date = headers
            .get(http::header::DATE)
            .and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        if let Some(date) = date.and_then(|date| SystemTime::try_from(date).ok()) {
            *self.0.lock() = Some((date, Instant::now()));
        }
    }
}

impl PooledClient {
    /// Makes the pool; connects to nothing yet.
    pub fn new(options: HttpOptions) -> Result<PooledClient, HttpSetupError> {
        let HttpOptions {
            rules,
            extra_ca_file,
            deadlines,
        } = options;
        let connector = EndpointConnector {
            rules: Arc::new(rules),
            tls: TlsConnector::from(Arc::new(tls_config(extra_ca_file.as_deref())?)),
            deadline: deadlines.connect,
            pulse: Pulse::new(),
        };
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector.clone());
        Ok(PooledClient {
            pool,
            connector,
            first_byte: deadlines.first_byte,
            clock: ServerClock::default(),
            last_asked: Arc::default(),
        })
    }

    /// The endpoint's life, as all connections of this client show it.
    pub(super) fn pulse(&self) -> Pulse {
        self.connector.pulse.clone()
    }

    /// Asks for nothing, unsigned and on a fresh connection, whoever was asked last: any answer will do. One from the
    /// pool could be dead itself.
    pub(super) fn probe(&self) -> Probe {
        let (connector, last_asked) = (self.connector.clone(), Arc::clone(&self.last_asked));
        Arc::new(move || {
            let (connector, last_asked) = (connector.clone(), Arc::clone(&last_asked));
            Box::pin(async move {
                let Some(endpoint) = last_asked.lock().clone() else {
                    return true;
                };
                let pool = legacy::Client::builder(TokioExecutor::new())
                    .pool_max_idle_per_host(0)
                    .build(connector);
                let question = http::Request::head(endpoint).body(http_body_util::Empty::<Bytes>::new());
                let Ok(question) = question else { return true };
                let answer = tokio::time::timeout(PROBE_DEADLINE, pool.request(question)).await;
                matches!(answer, Ok(Ok(_)))
            })
        })
    }

    /// The server's clock, which follows the answers.
    pub(super) fn clock(&self) -> ServerClock {
        self.clock.clone()
    }
}

impl std::fmt::Debug for PooledClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PooledClient")
    }
}

impl HttpClient for PooledClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let patience = settings.read_timeout().unwrap_or(self.first_byte);
        SharedHttpConnector::new(Lane {
            client: self.clone(),
            patience,
        })
    }
}

/// The pool with the patience of one kind of request.
#[derive(Debug)]
struct Lane {
    client: PooledClient,
    patience: Duration,
}

impl HttpConnector for Lane {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (pool, patience) = (self.client.pool.clone(), self.patience);
        let clock = self.client.clock.clone();
        let pulse = self.client.pulse();
        let last_asked = Arc::clone(&self.client.last_asked);
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            if let Some(endpoint) = root_of(request.uri()) {
                *last_asked.lock() = Some(endpoint);
            }
            let sent = Arc::new(AtomicU64::new(0));
            let request = request.map(|inner| SentBody {
                inner,
                sent: Arc::clone(&sent),
                pulse,
            });
            let response = while_it_moves(pool.request(request), &sent, patience).await?;
            clock.note(response.headers());
            let response = response.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// `scheme://authority/` of an address.
fn root_of(uri: &Uri) -> Option<Uri> {
    let mut root = http::uri::Parts::default();
    root.scheme = uri.scheme().cloned();
    root.authority = uri.authority().cloned();
    root.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    Uri::from_parts(root).ok()
}

/// Looks at the progress of a request per patience: the more, the less it waits beyond it.
const LOOKS: u32 = 10;

/// Waits for a response's head as long as the request's body moves, and `patience` after its last byte.
async fn while_it_moves<T>(
    response: impl Future<Output = Result<T, legacy::Error>>,
    sent: &AtomicU64,
    patience: Duration,
) -> Result<T, ConnectorError> {
    let mut response = pin!(response);
    let mut sent_before = 0;
    let mut moved = Instant::now();
    loop {
        match tokio::time::timeout(patience / LOOKS, &mut response).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => return Err(ConnectorError::io(error.into())),
            Err(_) => {
                let sent_now = sent.load(Ordering::Relaxed);
                if sent_now != sent_before {
                    sent_before = sent_now;
                    moved = Instant::now();
                } else if moved.elapsed() >= patience {
                    return Err(ConnectorError::timeout(NoProgress(patience).into()));
                }
            }
        }
    }
}

/// A request's body that counts what the connection has taken of it.
struct SentBody {
    inner: SdkBody,
    sent: Arc<AtomicU64>,
    /// A body that moves beyond what buffers hold shows that somebody takes it.
    pulse: Pulse,
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = <SdkBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = frame {
            // The first frames only fill buffers here.
            if self.sent.fetch_add(1, Ordering::Relaxed) >= BUFFERED_FRAMES {
                self.pulse.heard();
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.inner)
    }
}

/// Makes connections: rules, name, TCP, TLS.
#[derive(Clone)]
struct EndpointConnector {
    rules: Arc<AddressRules>,
    tls: TlsConnector,
    deadline: Duration,
    pulse: Pulse,
}

impl tower::Service<Uri> for EndpointConnector {
    type Response = TokioIo<Wire>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<TokioIo<Wire>, ConnectError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, endpoint: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let deadline = connector.deadline;
            match tokio::time::timeout(deadline, connector.connect(endpoint)).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(ConnectError::Deadline(deadline)),
            }
        })
    }
}

impl EndpointConnector {
    async fn connect(self, endpoint: Uri) -> Result<Wire, ConnectError> {
        let https = endpoint.scheme() == Some(&http::uri::Scheme::HTTPS);
        self.rules.check_scheme(https)?;
        let host = endpoint
            .host()
            .ok_or_else(|| ConnectError::NoHost(endpoint.to_string()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = endpoint.port_u16().unwrap_or(if https { 443 } else { 80 });
        let stream = self.connect_any(host, port).await?;
        let server = format!("{host}:{port}");
        if !https {
            return Ok(Wire::plain(stream, self.pulse.clone(), server));
        }
        let handshake = |source: io::Error| match source.get_ref().and_then(|inner| inner.downcast_ref()) {
            // What came instead of a TLS record is an answer in another protocol.
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
                ConnectError::OtherScheme {
                    server: server.clone(),
                    speaks_tls: false,
                }
            }
            _ => ConnectError::Handshake {
                host: host.to_owned(),
                source,
            },
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| handshake(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = self
            .tls
            .connect(name, Wire::quick(stream, self.pulse.clone()))
            .await
            .map_err(handshake)?;
        Ok(Wire::tls(stream))
    }

    /// Tries the resolved addresses in turn. Each is judged; a forbidden one is never connected to, and
    /// names the failure if no other address answers.
    async fn connect_any(&self, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let resolve = |source| ConnectError::Resolve {
            host: host.to_owned(),
            source,
        };
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(resolve)?
            .collect();
        let share = self.deadline / u32::try_from(addresses.len().clamp(1, 8)).unwrap_or(1);
        let mut failure = resolve(io::Error::new(io::ErrorKind::NotFound, "no address"));
        for address in addresses {
            if let Err(error) = self.rules.check_address(address.ip()) {
                failure = error.into();
                continue;
            }
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream
                        .set_nodelay(true)
                        .map_err(|source| ConnectError::Connect { address, source })?;
                    return Ok(stream);
                }
                Ok(Err(source)) => failure = ConnectError::Connect { address, source },
                Err(elapsed) => {
                    failure = ConnectError::Connect {
                        address,
                        source: elapsed.into(),
                    }
                }
            }
        }
        Err(failure)
    }
}

/// The machine's authorities plus the extra ones. Authorities that do not parse are skipped, as every
/// TLS client does; with none at all each https connection fails with its own clear error.
fn tls_config(extra_ca_file: Option<&Path>) -> Result<rustls::ClientConfig, HttpSetupError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = extra_ca_file {
        for certificate in extra_certificates(path)? {
            roots.add(certificate)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn extra_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpSetupError> {
    let refuse = |source| HttpSetupError::ExtraCa {
        path: path.to_owned(),
        source,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refuse(error.into()))?;
    if certificates.is_empty() {
        return Err(refuse("the file holds no certificate".into()));
    }
    Ok(certificates)
}
