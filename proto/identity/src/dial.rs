//! Dialling: from an endpoint's text to a TLS connection, and what a person is told when there is none.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Endpoint, Uri};

/// Name, TCP and TLS together. Long enough for a lost SYN and its repetition at 1 and 3 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that says nothing for this long is asked whether it is alive. Below the 60 s at which many
/// firewalls forget a connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection to the catalog could not be made; the text names cause and remedy.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// The endpoint's text is wrong.
    #[error(
        "{endpoint} is not an endpoint; write it as https://host:port, since the catalog speaks TLS only"
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The host's name has no address.
    #[error("the name {host} cannot be resolved; check the endpoint and this machine's DNS")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// Nobody answers at the address.
    #[error("{authority} cannot be reached; is the catalog running, and may this machine connect to it?")]
    Connect {
        /// Host and port.
        authority: String,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// No connection in time.
    #[error("{authority} did not answer within {} s; a firewall may drop the packets", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Host and port.
        authority: String,
    },
    /// The server showed no CA certificate with the expected key.
    #[error(
        "{authority} is not the catalog that this join string is for: its CA key has another pin; ask for a new join string"
    )]
    Pin {
        /// Host and port.
        authority: String,
    },
    /// The server's certificate is not to be believed.
    #[error("{authority} did not prove that it is the catalog: {reason}")]
    Server {
        /// Host and port.
        authority: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// What answers is no TLS.
    #[error("{authority} does not speak TLS; is it the catalog's port, or one for plain http?")]
    Plain {
        /// Host and port.
        authority: String,
    },
    /// TLS failed in another way.
    #[error("no TLS connection to {authority}")]
    Tls {
        /// Host and port.
        authority: String,
        /// The TLS library's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// TLS is up but HTTP/2 is not.
    #[error("{authority} speaks TLS but not HTTP/2; is it the catalog's gRPC port?")]
    Protocol {
        /// Host and port.
        authority: String,
    },
}

impl DialError {
    /// Finds the dialler's own error in a status or a transport error, below whatever tonic wrapped around it.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
    }
}

/// Where to connect, and the name that the server must prove.
#[derive(Clone)]
pub(crate) struct Target {
    host: String,
    port: u16,
    name: ServerName<'static>,
    origin: Uri,
    plain: Uri,
    source: Option<IpAddr>,
}

impl Target {
    /// Reads `https://host:port`; nothing may follow.
    pub(crate) fn parse(endpoint: &str) -> Result<Self, DialError> {
        let wrong = || DialError::Endpoint {
            endpoint: endpoint.to_owned(),
        };
        let origin: Uri = endpoint.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let (Some("https"), Some(host)) = (origin.scheme_str(), origin.host()) else {
            return Err(wrong());
        };
        if !matches!(
            origin.path_and_query().map(|path| path.as_str()),
            None | Some("" | "/")
        ) || origin
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(wrong());
        }
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        let port = origin.port_u16().unwrap_or(443);
        // tonic insists on doing TLS itself for https, so it is told http and our connector does TLS.
        let plain = format!("http://{}", origin.authority().ok_or_else(wrong)?)
            .parse()
            .map_err(|_| wrong())?;
        Ok(Self {
            host,
            port,
            name,
            origin,
            plain,
            source: None,
        })
    }

    /// The same, dialled from this address of the machine instead of the one that the system chooses.
    pub(crate) fn dialled_from(self, source: IpAddr) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// Host and port, for texts.
    pub(crate) fn authority(&self) -> String {
        self.origin
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// What tonic needs to know.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.plain.clone())
            .origin(self.origin.clone())
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
    }

    /// Name, TCP and TLS, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn dial(&self, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, DialError> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.dial_unhurried(config))
            .await
            .unwrap_or_else(|_| {
                Err(DialError::Timeout {
                    authority: self.authority(),
                })
            })
    }

    async fn dial_unhurried(&self, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, DialError> {
        let addresses: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|source| DialError::Resolve {
                host: self.host.clone(),
                source: Arc::new(source),
            })?
            .collect();
        let connected = match self.source {
            None => TcpStream::connect(addresses.as_slice()).await,
            Some(source) => connect_from(source, &addresses).await,
        };
        let stream = connected.map_err(|source| DialError::Connect {
            authority: self.authority(),
            source: Arc::new(source),
        })?;
        // Requests are small: waiting to fill a packet only adds latency.
        let _ = stream.set_nodelay(true);
        TlsConnector::from(config)
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| tls_error(self.authority(), error))
    }
}

/// Connects to the first address of the source's family: there is no route from one family to the other.
async fn connect_from(source: IpAddr, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let fitting = addresses
        .iter()
        .find(|address| address.is_ipv4() == source.is_ipv4());
    let address = fitting.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = match source {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(*address).await
}

fn tls_error(authority: String, error: io::Error) -> DialError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            DialError::Pin { authority }
        }
        Some(rustls::Error::InvalidCertificate(reason)) => DialError::Server {
            authority,
            reason: server_reason(reason),
        },
        Some(rustls::Error::InvalidMessage(_)) => DialError::Plain { authority },
        // A server that waits for a line of text hangs up on what TLS sends first.
        None if error.kind() == io::ErrorKind::UnexpectedEof => DialError::Plain { authority },
        _ => DialError::Tls {
            authority,
            source: Arc::new(error),
        },
    }
}

fn server_reason(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate comes from another CA than the one this machine enrolled with".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is not for this name; use a name of it as the endpoint, or add this one to the catalog's server_names".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired; compare the clocks of both machines".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; compare the clocks of both machines".to_owned()
        }
        other => other.to_string(),
    }
}
