//! The client's end: a tonic channel over our own TLS connector. Certificates can be replaced while the channel
//! lives and apply from its next connection on; a newcomer connects by the CA's pin alone. No request is made here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::credentials::{certificate_of, roots};
use crate::{Credentials, Error, KeyPin};

/// Name, TCP and TLS together. Long enough for a lost SYN and its repetition at 1 and 3 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that says nothing for this long is asked whether it is alive. Below the 60 s at which many
/// firewalls forget a connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a connection to the catalog could not be made; the text names cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The endpoint's text is wrong.
    #[error("{endpoint} is not an endpoint; write it as https://host:port")]
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
        source: io::Error,
    },
    /// Nobody answers at the address.
    #[error("{authority} cannot be reached; is the catalog running, and may this machine connect to it?")]
    Connect {
        /// Host and port.
        authority: String,
        /// The system's answer.
        #[source]
        source: io::Error,
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
    /// TLS failed in another way.
    #[error("no TLS connection to {authority}")]
    Tls {
        /// Host and port.
        authority: String,
        /// The TLS library's answer.
        #[source]
        source: io::Error,
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

/// What the client shows and believes, replaceable while channels use it.
pub struct ClientTls(ArcSwap<ClientConfig>);

impl ClientTls {
    /// Shows the certificate of `credentials` and believes their CA.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(config(credentials)?))))
    }

    /// Shows one installation's certificate to another installation's server.
    #[cfg(test)]
    pub(crate) fn showing(credentials: &Credentials, ca_pem: &str) -> Result<Arc<Self>, Error> {
        let config = base()
            .with_root_certificates(roots(&certificate_of(ca_pem, "the CA certificate")?)?)
            .with_client_auth_cert(credentials.chain(), credentials.key_der())
            .map_err(Error::Tls)?;
        Ok(Arc::new(Self(ArcSwap::from_pointee(finished(config)))))
    }

    /// Believes a CA and shows no certificate.
    pub fn without_certificate(ca_pem: &str) -> Result<Arc<Self>, Error> {
        let roots = roots(&certificate_of(ca_pem, "the CA certificate")?)?;
        let config = base().with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::new(Self(ArcSwap::from_pointee(finished(config)))))
    }

    /// From the next connection on, shows the certificate of `credentials`.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), Error> {
        self.0.store(Arc::new(config(credentials)?));
        Ok(())
    }

    /// A channel that connects at its first request and again whenever it must.
    pub fn channel(self: &Arc<Self>, endpoint: &str) -> Result<Channel, DialError> {
        let target = Target::parse(endpoint)?;
        let connector = Connector {
            target: target.clone(),
            tls: Arc::clone(self),
        };
        Ok(target.endpoint().connect_with_connector_lazy(connector))
    }
}

/// A channel to a catalog that is known by its pin only.
pub struct PinnedChannel {
    /// The channel. It holds on to the CA of its first connection's pin.
    pub channel: Channel,
    /// The CA's certificate in PEM, proved by the pin: keep it, it is what later connections believe.
    pub ca_pem: String,
}

/// Connects to a catalog by the pin of its CA key, without a client certificate: for enrolment and login.
pub async fn connect_pinned(endpoint: &str, pin: KeyPin) -> Result<PinnedChannel, DialError> {
    let target = Target::parse(endpoint)?;
    let verifier = Arc::new(PinnedVerifier {
        pin,
        ca: OnceLock::new(),
        provider: provider(),
    });
    let config = base()
        .dangerous() // The name is rustls's: the verifier below is stricter than the usual one, not laxer.
        .with_custom_certificate_verifier(Arc::<PinnedVerifier>::clone(&verifier))
        .with_no_client_auth();
    let tls = Arc::new(ClientTls(ArcSwap::from_pointee(finished(config))));
    let connector = Connector {
        target: target.clone(),
        tls,
    };
    let channel = target
        .endpoint()
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            take_dial_error(error).unwrap_or_else(|| DialError::Protocol {
                authority: target.authority(),
            })
        })?;
    let ca = verifier.ca.get().ok_or_else(|| DialError::Pin {
        authority: target.authority(),
    })?;
    Ok(PinnedChannel {
        channel,
        ca_pem: pem(ca),
    })
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn base() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring supports TLS 1.3")
}

fn config(credentials: &Credentials) -> Result<ClientConfig, Error> {
    base()
        .with_root_certificates(credentials.roots()?)
        .with_client_auth_cert(credentials.chain(), credentials.key_der())
        .map(finished)
        .map_err(Error::Tls)
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would go on with the certificate it began with.
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// Where to connect, and the name that the server must prove.
#[derive(Clone)]
struct Target {
    host: String,
    port: u16,
    name: ServerName<'static>,
    origin: Uri,
    plain: Uri,
}

impl Target {
    fn parse(endpoint: &str) -> Result<Self, DialError> {
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
        })
    }

    fn authority(&self) -> String {
        self.origin
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.plain.clone())
            .origin(self.origin.clone())
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
    }

    async fn dial(
        &self,
        config: Arc<ClientConfig>,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, DialError> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.dial_unhurried(config))
            .await
            .unwrap_or_else(|_| {
                Err(DialError::Timeout {
                    authority: self.authority(),
                })
            })
    }

    async fn dial_unhurried(
        &self,
        config: Arc<ClientConfig>,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, DialError> {
        let addresses: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|source| DialError::Resolve {
                host: self.host.clone(),
                source,
            })?
            .collect();
        let connected = TcpStream::connect(addresses.as_slice()).await;
        let stream = connected.map_err(|source| DialError::Connect {
            authority: self.authority(),
            source,
        })?;
        // Requests are small: waiting to fill a packet only adds latency.
        let _ = stream.set_nodelay(true);
        TlsConnector::from(config)
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| tls_error(self.authority(), error))
    }
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
        _ => DialError::Tls {
            authority,
            source: error,
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

/// tonic boxes the connector's error; this takes it out again, so that its owner can be matched on.
fn take_dial_error(error: tonic::transport::Error) -> Option<DialError> {
    let authority_of = DialError::find(&error)?;
    Some(match authority_of {
        DialError::Endpoint { endpoint } => DialError::Endpoint {
            endpoint: endpoint.clone(),
        },
        DialError::Resolve { host, source } => DialError::Resolve {
            host: host.clone(),
            source: copy(source),
        },
        DialError::Connect { authority, source } => DialError::Connect {
            authority: authority.clone(),
            source: copy(source),
        },
        DialError::Timeout { authority } => DialError::Timeout {
            authority: authority.clone(),
        },
        DialError::Pin { authority } => DialError::Pin {
            authority: authority.clone(),
        },
        DialError::Server { authority, reason } => DialError::Server {
            authority: authority.clone(),
            reason: reason.clone(),
        },
        DialError::Tls { authority, source } => DialError::Tls {
            authority: authority.clone(),
            source: copy(source),
        },
        DialError::Protocol { authority } => DialError::Protocol {
            authority: authority.clone(),
        },
    })
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// What tonic calls whenever it needs a connection.
#[derive(Clone)]
struct Connector {
    target: Target,
    tls: Arc<ClientTls>,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let target = self.target.clone();
        let config = self.tls.0.load_full();
        Box::pin(async move { target.dial(config).await.map(TokioIo::new) })
    }
}

/// Believes a server whose chain holds a CA certificate with the pinned key, if that CA has signed the server's
/// certificate for the name we dialled. Everything else of the usual verification stays.
#[derive(Debug)]
struct PinnedVerifier {
    pin: KeyPin,
    ca: OnceLock<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| KeyPin::of_certificate(certificate).is_ok_and(|pin| pin == self.pin))
            // This code means «the pin» here; the webpki verifier below never answers it.
            .ok_or(CertificateError::ApplicationVerificationFailure)?;
        let roots = roots(ca).map_err(|_| CertificateError::BadEncoding)?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        let _ = self.ca.set(ca.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
