//! Who is at the other end of a connection: the names in certificates, read from them and carried to every request.
//! What a principal may do is decided elsewhere, and so is whether an expired identity counts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use time::OffsetDateTime;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use uuid::Uuid;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Error, KeyPin};

/// The name of one installation, the first part of every identity in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = Error;

    /// SPIFFE's own alphabet: lower case letters, digits, `.`, `-` and `_`, at most 255 of them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        if text.is_empty() || text.len() > 255 || !text.chars().all(good) {
            let reason = "it must be 1 to 255 lower case letters, digits, dots, dashes or underscores";
            return Err(Error::malformed("the trust domain", reason));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host or a person, by uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Principal {
    /// A machine with an agent.
    Host(Uuid),
    /// A person or a program that calls the API.
    User(Uuid),
}

impl Principal {
    /// The URI that stands in a certificate's subject alternative name.
    pub fn to_uri(self, trust_domain: &TrustDomain) -> String {
        match self {
            Self::Host(uid) => format!("spiffe://{trust_domain}/host/{uid}"),
            Self::User(uid) => format!("spiffe://{trust_domain}/user/{uid}"),
        }
    }

    /// Reads such a URI back. Only the exact form that [`Principal::to_uri`] writes is accepted.
    pub fn from_uri(uri: &str) -> Result<(TrustDomain, Self), Error> {
        let malformed = || {
            Error::malformed(
                "the identity",
                "it must be spiffe://<trust domain>/host|user/<uuid>",
            )
        };
        let path = uri.strip_prefix("spiffe://").ok_or_else(malformed)?;
        let mut parts = path.split('/');
        let (Some(domain), Some(kind), Some(uid), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let trust_domain: TrustDomain = domain.parse()?;
        let uid = Uuid::try_parse(uid).map_err(|_| malformed())?;
        let principal = match kind {
            "host" => Self::Host(uid),
            "user" => Self::User(uid),
            _ => return Err(malformed()),
        };
        if principal.to_uri(&trust_domain) != uri {
            return Err(malformed());
        }
        Ok((trust_domain, principal))
    }

    /// The uid alone.
    pub fn uid(self) -> Uuid {
        match self {
            Self::Host(uid) | Self::User(uid) => uid,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(uid) => write!(f, "host/{uid}"),
            Self::User(uid) => write!(f, "user/{uid}"),
        }
    }
}

/// What a client certificate says, once its chain and signature are proved by the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is.
    pub principal: Principal,
    /// In which installation.
    pub trust_domain: TrustDomain,
    /// The certificate's serial number, lower case hexadecimal.
    pub serial: String,
    /// The first moment of validity.
    pub not_before: OffsetDateTime,
    /// The last moment of validity.
    pub not_after: OffsetDateTime,
    /// SHA-256 of the certificate's public key; stays the same when a certificate is renewed with its key.
    pub key_sha256: KeyPin,
}

impl PeerIdentity {
    /// Reads a DER certificate. Proves nothing: the handshake has done that.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let malformed = |reason: &str| Error::malformed("the certificate", reason);
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| malformed("it is not X.509 DER"))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| malformed("its alternative names cannot be read"))?
            .ok_or_else(|| malformed("it names nobody"))?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(malformed("it must carry exactly one identity"));
        };
        let (trust_domain, principal) = Principal::from_uri(uri)?;
        let validity = certificate.validity();
        Ok(Self {
            principal,
            trust_domain,
            serial: hex::encode(certificate.raw_serial()),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            key_sha256: KeyPin::of_public_key(certificate.public_key().raw),
        })
    }

    /// Whether the certificate counts at `now`. To be asked at every request.
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// Who sent a request: an extension that [`PeerLayer`] puts into every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// No client certificate: only enrolment, login and health may answer.
    Anonymous,
    /// A client certificate that our CA has signed; it may be expired.
    Identified(Arc<PeerIdentity>),
}

impl Peer {
    /// The identity, if there is one.
    pub fn identity(&self) -> Option<&PeerIdentity> {
        match self {
            Self::Anonymous => None,
            Self::Identified(identity) => Some(identity),
        }
    }

    /// Reads the extension; a request that never passed [`PeerLayer`] is anonymous.
    pub fn of(extensions: &http::Extensions) -> Self {
        extensions.get().cloned().unwrap_or(Self::Anonymous)
    }
}

/// A tower layer for the gRPC server: puts a [`Peer`] into the extensions of each request.
#[derive(Clone, Debug)]
pub struct PeerLayer {
    trust_domain: TrustDomain,
}

impl PeerLayer {
    /// Identities of any other trust domain count as nobody.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain }
    }
}

impl<S> tower::Layer<S> for PeerLayer {
    type Service = PeerService<S>;

    fn layer(&self, inner: S) -> PeerService<S> {
        PeerService {
            inner,
            trust_domain: self.trust_domain.clone(),
        }
    }
}

/// What [`PeerLayer`] wraps around a service.
#[derive(Clone, Debug)]
pub struct PeerService<S> {
    inner: S,
    trust_domain: TrustDomain,
}

impl<S, B> tower::Service<http::Request<B>> for PeerService<S>
where
    S: tower::Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        let peer = peer_of_connection(request.extensions(), &self.trust_domain);
        request.extensions_mut().insert(peer);
        self.inner.call(request)
    }
}

fn peer_of_connection(extensions: &http::Extensions, trust_domain: &TrustDomain) -> Peer {
    let certificates = extensions
        .get::<TlsConnectInfo<TcpConnectInfo>>()
        .and_then(TlsConnectInfo::peer_certs);
    let Some(leaf) = certificates.as_ref().and_then(|chain| chain.first()) else {
        return Peer::Anonymous;
    };
    match PeerIdentity::from_der(leaf) {
        Ok(identity) if identity.trust_domain == *trust_domain => Peer::Identified(Arc::new(identity)),
        Ok(identity) => {
            tracing::warn!(theirs = %identity.trust_domain, ours = %trust_domain, "certificate of another trust domain");
            Peer::Anonymous
        }
        Err(error) => {
            tracing::warn!(%error, "client certificate of our own CA without a usable identity");
            Peer::Anonymous
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_reads_back_what_it_writes() {
        let domain: TrustDomain = "mooring".parse().unwrap();
        for principal in [
            Principal::Host(Uuid::from_u128(7)),
            Principal::User(Uuid::from_u128(8)),
        ] {
            assert_eq!(
                Principal::from_uri(&principal.to_uri(&domain)).unwrap(),
                (domain.clone(), principal)
            );
        }
    }

    #[test]
    fn any_other_form_of_an_identity_is_refused() {
        let uid = "018f0000-0000-7000-8000-0000000000ab";
        for uri in [
            format!("https://mooring/host/{uid}"),
            format!("spiffe://mooring/host/{uid}/more"),
            format!("spiffe://mooring/agent/{uid}"),
            format!("spiffe://Mooring/host/{uid}"),
            format!("spiffe:///host/{uid}"),
            format!("spiffe://mooring/host/{}", uid.to_uppercase()),
            format!("spiffe://mooring/host/{}", uid.replace('-', "")),
            "spiffe://mooring/host/".to_owned(),
        ] {
            assert!(Principal::from_uri(&uri).is_err(), "{uri}");
        }
    }
}
