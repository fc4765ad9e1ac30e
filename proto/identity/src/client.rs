//! The client's end: a tonic channel over our own TLS connector. Certificates can be replaced while the channel
//! lives and apply from its next connection on; a newcomer connects by the CA's pin alone. No request is made here.

mod pinned;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Uri};

use crate::client::pinned::PinnedVerifier;
use crate::credentials::{certificate_of, roots};
use crate::dial::{DialError, Target};
use crate::{Credentials, Error, KeyPin};

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
        Ok(self.channel_to(Target::parse(endpoint)?))
    }

    /// The same from one address of this machine, of which it has several: as a program has that plays many machines.
    pub fn channel_from(self: &Arc<Self>, source: IpAddr, endpoint: &str) -> Result<Channel, DialError> {
        Ok(self.channel_to(Target::parse(endpoint)?.dialled_from(source)))
    }

    /// A channel that has connected, for whoever must not wait at its first request.
    pub async fn connect(self: &Arc<Self>, endpoint: &str) -> Result<Channel, DialError> {
        connected(Target::parse(endpoint)?, Arc::clone(self)).await
    }

    /// The same from one address of this machine, as [`ClientTls::channel_from`].
    pub async fn connect_from(
        self: &Arc<Self>,
        source: IpAddr,
        endpoint: &str,
    ) -> Result<Channel, DialError> {
        let target = Target::parse(endpoint)?.dialled_from(source);
        connected(target, Arc::clone(self)).await
    }

    fn channel_to(self: &Arc<Self>, target: Target) -> Channel {
        let connector = Connector {
            target: target.clone(),
            tls: Arc::clone(self),
        };
        target.endpoint().connect_with_connector_lazy(connector)
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
    pinned_to(Target::parse(endpoint)?, pin).await
}

/// The same from one address of this machine, as [`ClientTls::channel_from`].
pub async fn connect_pinned_from(
    source: IpAddr,
    endpoint: &str,
    pin: KeyPin,
) -> Result<PinnedChannel, DialError> {
    pinned_to(Target::parse(endpoint)?.dialled_from(source), pin).await
}

async fn pinned_to(target: Target, pin: KeyPin) -> Result<PinnedChannel, DialError> {
    let verifier = Arc::new(PinnedVerifier::new(pin, provider()));
    let config = base()
        .dangerous() // The name is rustls's: the verifier below is stricter than the usual one, not laxer.
        .with_custom_certificate_verifier(Arc::<PinnedVerifier>::clone(&verifier))
        .with_no_client_auth();
    let tls = Arc::new(ClientTls(ArcSwap::from_pointee(finished(config))));
    let channel = connected(target.clone(), tls).await?;
    let ca = verifier.proved_ca().ok_or_else(|| DialError::Pin {
        authority: target.authority(),
    })?;
    Ok(PinnedChannel {
        channel,
        ca_pem: pem(ca),
    })
}

async fn connected(target: Target, tls: Arc<ClientTls>) -> Result<Channel, DialError> {
    let connector = Connector {
        target: target.clone(),
        tls,
    };
    let connected = target.endpoint().connect_with_connector(connector).await;
    connected.map_err(|error| {
        DialError::find(&error)
            .cloned()
            .unwrap_or_else(|| DialError::Protocol {
                authority: target.authority(),
            })
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
