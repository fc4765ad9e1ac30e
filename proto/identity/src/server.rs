//! The server's end: accepts sockets, does the TLS handshakes beside each other, and yields what is proved as a
//! stream for tonic. Its certificate can be replaced without dropping the listener or a connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::client::provider;
use crate::{Credentials, Error};

mod connection;
mod places;

pub use connection::Connection;
use places::{Place, Places};

/// A client that does not finish its handshake in this time is dropped. The same as the dialler's patience.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Rest after a failed accept: it mostly means that there are no descriptors left, and asking at once again would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How much newcomers may take, so that clients with a certificate always find room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes at a time; further sockets wait in the kernel's queue.
    pub handshakes: usize,
    /// Handshakes of one address at a time; further sockets of it are closed.
    pub handshakes_of_one: usize,
    /// Connections without a client certificate; further ones are closed after their handshake.
    pub anonymous: usize,
    /// The same, of one address.
    pub anonymous_of_one: usize,
    /// How long a connection without a client certificate lives.
    pub anonymous_life: Duration,
}

impl Limits {
    /// For a process that may open so many files. Newcomers have a quarter for their handshakes and a quarter for
    /// their connections, so half of all is left for clients with a certificate and for the process's own files.
    pub fn of_open_files(open_files_max: usize) -> Self {
        /// Each costs about 40 KiB of buffers and half a millisecond of a core: 20 MiB and a quarter of a second.
        const HANDSHAKES_MAX: usize = 512;
        /// A rack behind one address that enrols; each of its machines is done in a second.
        const ANONYMOUS_OF_ONE_MAX: usize = 64;
        /// An enrolment or a login takes two round trips.
        const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
        let quarter = (open_files_max / 4).max(1);
        let handshakes = quarter.min(HANDSHAKES_MAX);
        Self {
            handshakes,
            handshakes_of_one: handshakes.div_ceil(4),
            anonymous: quarter,
            anonymous_of_one: quarter.min(ANONYMOUS_OF_ONE_MAX),
            anonymous_life: ANONYMOUS_LIFE,
        }
    }
}

/// The server's certificate and the CA whose clients it believes, replaceable while it listens.
pub struct ServerTls(ArcSwap<ServerConfig>);

impl ServerTls {
    /// Shows the certificate of `credentials` and believes clients of their CA.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(config(credentials)?))))
    }

    /// From the next connection on, shows the certificate of `credentials`. Open connections stay.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), Error> {
        self.0.store(Arc::new(config(credentials)?));
        Ok(())
    }
}

fn config(credentials: &Credentials) -> Result<ServerConfig, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(credentials.roots()?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::malformed("the CA certificate", error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring supports TLS 1.3")
        .with_client_cert_verifier(Arc::new(LenientVerifier(verifier)))
        .with_single_cert(credentials.chain(), credentials.key_der())
        .map_err(Error::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // No resumption: each connection shows its certificate anew.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// Accepted and proved connections, as a stream for tonic's `serve_with_incoming`. Whoever drops it ends the
/// handshakes under way with it.
pub struct Incoming {
    listener: TcpListener,
    tls: Arc<ServerTls>,
    limits: Limits,
    handshakes: JoinSet<Option<Connection>>,
    /// Of the handshakes; how many there are in all, the set knows.
    handshake_places: Arc<Places>,
    anonymous_places: Arc<Places>,
    rest: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Incoming {
    /// Listens. Port 0 asks the system for one: see [`Incoming::local_address`].
    pub async fn bind(address: SocketAddr, tls: Arc<ServerTls>, limits: Limits) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(address).await?, tls, limits))
    }

    /// Takes over a socket that listens already.
    pub fn new(listener: TcpListener, tls: Arc<ServerTls>, limits: Limits) -> Self {
        Self {
            listener,
            tls,
            limits,
            handshakes: JoinSet::new(),
            handshake_places: Places::new(limits.handshakes, limits.handshakes_of_one),
            anonymous_places: Places::new(limits.anonymous, limits.anonymous_of_one),
            rest: None,
        }
    }

    /// The address that clients can connect to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts what is there. Registers for waking unless the handshakes are at their limit: then one of them wakes us.
    fn accept(&mut self, cx: &mut Context<'_>) {
        if let Some(rest) = &mut self.rest {
            if rest.as_mut().poll(cx).is_pending() {
                return;
            }
            self.rest = None;
        }
        while self.handshakes.len() < self.limits.handshakes {
            match self.listener.poll_accept(cx) {
                Poll::Ready(Ok((socket, peer))) => {
                    let Some(place) = self.handshake_places.take(peer.ip()) else {
                        tracing::debug!(%peer, "too many TLS handshakes of this address under way");
                        continue;
                    };
                    let handshake = Handshake {
                        acceptor: TlsAcceptor::from(self.tls.0.load_full()),
                        peer,
                        anonymous_places: Arc::clone(&self.anonymous_places),
                        anonymous_life: self.limits.anonymous_life,
                        _place: place,
                    };
                    self.handshakes.spawn(handshake.run(socket));
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "a connection cannot be accepted; is the limit of open files too low?");
                    let mut rest = Box::pin(tokio::time::sleep(ACCEPT_RETRY));
                    let _ = rest.as_mut().poll(cx);
                    self.rest = Some(rest);
                    return;
                }
                Poll::Pending => return,
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            self.accept(cx);
            match self.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Some(stream)))) => return Poll::Ready(Some(Ok(stream))),
                // A failed handshake was told by its task. Another may be done, and a place is free: look again.
                Poll::Ready(Some(Ok(None))) => {}
                Poll::Ready(Some(Err(error))) => tracing::error!(%error, "a handshake task ended badly"),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// A handshake under way, and what becomes of it.
struct Handshake {
    acceptor: TlsAcceptor,
    peer: SocketAddr,
    anonymous_places: Arc<Places>,
    anonymous_life: Duration,
    _place: Place,
}

impl Handshake {
    async fn run(self, socket: TcpStream) -> Option<Connection> {
        let peer = self.peer;
        let _ = socket.set_nodelay(true);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(socket)).await {
            Ok(Ok(stream)) => self.admit(stream),
            // Scanners and port checks do this all day; nobody must act.
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake refused");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "TLS handshake took too long");
                None
            }
        }
    }

    fn admit(&self, stream: TlsStream<TcpStream>) -> Option<Connection> {
        if stream.get_ref().1.peer_certificates().is_some() {
            return Some(Connection::identified(stream));
        }
        let Some(place) = self.anonymous_places.take(self.peer.ip()) else {
            tracing::debug!(peer = %self.peer, "too many connections without a client certificate");
            return None;
        };
        Some(Connection::anonymous(stream, place, self.anonymous_life))
    }
}

/// Believes what webpki believes, and certificates whose only fault is that their time is over.
#[derive(Debug)]
struct LenientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for LenientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.0.verify_client_cert(end_entity, intermediates, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {
                // Judged at its last valid second, all other checks run again; so nothing but the time is forgiven.
                let last = last_second(end_entity).ok_or(CertificateError::BadEncoding)?;
                self.0.verify_client_cert(end_entity, intermediates, last)
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn last_second(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests;
