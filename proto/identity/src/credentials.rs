//! A private key, its certificate and the CA that issued it, in memory and in three files. Knows when to renew; does
//! not renew by itself. A renewal keeps the key, so that one rename of the certificate is the whole change and a
//! crash can never leave a key and a certificate that do not belong together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::{Error, KeyPin, PeerIdentity, Principal, files};

/// An ECDSA P-256 key. Made where it is used; leaves the machine never.
pub struct PrivateKey(pub(crate) rcgen::KeyPair);

impl PrivateKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, Error> {
        rcgen::KeyPair::generate().map(Self).map_err(Error::Issue)
    }

    /// Reads PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        // The parser's own error could quote its input, so it is not passed on.
        rcgen::KeyPair::from_pem(pem).map(Self).map_err(|_| {
            Error::malformed(
                "the private key",
                "it is not a PKCS#8 PEM key that can be used here",
            )
        })
    }

    /// Reads the key from `path`, or makes one and writes it there with mode 0600. Of two processes that start at
    /// once, both get the same key.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let key = Self::generate()?;
        if files::write_new(path, key.to_pem().as_bytes(), files::PRIVATE)? {
            return Ok(key);
        }
        Self::load(path)?
            .ok_or_else(|| Error::malformed("the private key", "it was removed while it was read"))
    }

    /// Reads the key; `None` when there is no file.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let Some(bytes) = files::read_private(path)? else {
            return Ok(None);
        };
        let pem =
            std::str::from_utf8(&bytes).map_err(|_| Error::malformed("the private key", "it is not text"))?;
        Self::from_pem(pem).map(Some)
    }

    /// PKCS#8 PEM; for a 0600 file only.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// A certificate signing request in PEM, signed with this key. It asks for no name: the authority decides that.
    pub fn certificate_request(&self) -> Result<String, Error> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .serialize_request(&self.0)
            .and_then(|request| request.pem())
            .map_err(Error::Issue)
    }

    /// SHA-256 of the public key, the same value as [`PeerIdentity::key_sha256`].
    pub fn pin(&self) -> KeyPin {
        use rcgen::PublicKeyData;
        KeyPin::of_public_key(&self.0.subject_public_key_info())
    }

    fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}

/// Makes a key and the request that goes with it, as enrolment and login need them.
pub fn new_key_and_csr() -> Result<(PrivateKey, String), Error> {
    let key = PrivateKey::generate()?;
    let request = key.certificate_request()?;
    Ok((key, request))
}

/// Where a key, its certificate and the CA lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialPaths {
    /// The private key, 0600.
    pub key: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// The CA's certificate.
    pub ca: PathBuf,
}

impl CredentialPaths {
    /// `<stem>.key`, `<stem>.crt` and `ca.crt` in one directory, as the catalog and the agent have them.
    pub fn in_directory(directory: &Path, stem: &str) -> Self {
        Self {
            key: directory.join(format!("{stem}.key")),
            certificate: directory.join(format!("{stem}.crt")),
            ca: directory.join("ca.crt"),
        }
    }
}

/// A key that matches its certificate, which the CA beside it has issued. Holding the value is the proof.
pub struct Credentials {
    key: PrivateKey,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    ca_pem: String,
    ca: CertificateDer<'static>,
    serial: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Credentials {
    /// Puts the three together, and checks that they belong together. Expired certificates are accepted: their
    /// owner may still renew them.
    pub fn new(
        key: PrivateKey,
        certificate_pem: impl Into<String>,
        ca_pem: impl Into<String>,
    ) -> Result<Self, Error> {
        let (certificate_pem, ca_pem) = (certificate_pem.into(), ca_pem.into());
        let certificate = certificate_of(&certificate_pem, "the certificate")?;
        let ca = certificate_of(&ca_pem, "the CA certificate")?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| Error::malformed("the certificate", error))?;
        if KeyPin::of_public_key(parsed.public_key().raw) != key.pin() {
            return Err(Error::KeyMismatch);
        }
        let (_, issuer) =
            X509Certificate::from_der(&ca).map_err(|error| Error::malformed("the CA certificate", error))?;
        parsed
            .verify_signature(Some(issuer.public_key()))
            .map_err(|error| Error::ForeignCertificate {
                reason: error.to_string(),
            })?;
        let serial = hex::encode(parsed.raw_serial());
        let validity = parsed.validity();
        let (not_before, not_after) = (
            validity.not_before.to_datetime(),
            validity.not_after.to_datetime(),
        );
        Ok(Self {
            key,
            serial,
            not_before,
            not_after,
            certificate,
            certificate_pem,
            ca,
            ca_pem,
        })
    }

    /// Reads the three files; `None` when there is no certificate or no key yet.
    pub fn load(paths: &CredentialPaths) -> Result<Option<Self>, Error> {
        let (Some(key), Some(certificate), Some(ca)) = (
            PrivateKey::load(&paths.key)?,
            files::read_public(&paths.certificate)?,
            files::read_public(&paths.ca)?,
        ) else {
            return Ok(None);
        };
        Self::new(key, certificate, ca).map(Some)
    }

    /// Writes the three files, the certificate last: it is what [`Credentials::load`] takes as the sign of completeness.
    pub fn save(&self, paths: &CredentialPaths) -> Result<(), Error> {
        files::write_atomic(&paths.key, self.key.to_pem().as_bytes(), files::PRIVATE)?;
        files::write_atomic(&paths.ca, self.ca_pem.as_bytes(), files::PUBLIC)?;
        files::write_atomic(&paths.certificate, self.certificate_pem.as_bytes(), files::PUBLIC)
    }

    /// The same key with a newer certificate.
    pub fn renewed(&self, certificate_pem: impl Into<String>) -> Result<Self, Error> {
        let key = PrivateKey::from_pem(&self.key.to_pem())?;
        Self::new(key, certificate_pem, self.ca_pem.clone())
    }

    /// The private key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA's certificate in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The certificate's serial number, lower case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The first moment of validity.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// The last moment of validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Whose certificate it is; `None` for a server's.
    pub fn principal(&self) -> Option<Principal> {
        PeerIdentity::from_der(&self.certificate)
            .ok()
            .map(|identity| identity.principal)
    }

    /// Whether the certificate counts at `now`.
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// When to renew: half-life, moved by up to 10 % of the life either way, so that hosts that enrolled together
    /// do not renew together. `jitter` is a number from 0 to 1, see [`crate::Clock::jitter`]; draw it once per certificate.
    pub fn renew_at(&self, jitter: f64) -> OffsetDateTime {
        let life: Duration = self.not_after - self.not_before;
        self.not_before + life * (0.4 + 0.2 * jitter.clamp(0.0, 1.0))
    }

    /// Whether a server with this certificate would be believed under `name` at `now`.
    pub fn is_server_for(&self, name: &str, now: OffsetDateTime) -> bool {
        use rustls::client::danger::ServerCertVerifier;
        let Ok(name) = rustls_pki_types::ServerName::try_from(name) else {
            return false;
        };
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let verifier = roots(&self.ca).ok().and_then(|roots| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crate::client::provider())
                .build()
                .ok()
        });
        verifier.is_some_and(|verifier| {
            verifier
                .verify_server_cert(&self.certificate, &[], &name, &[], now)
                .is_ok()
        })
    }

    /// Leaf and CA: the CA travels along so that a newcomer can compare its pin.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.ca.clone()]
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        self.key.to_der()
    }

    pub(crate) fn roots(&self) -> Result<RootCertStore, Error> {
        roots(&self.ca)
    }
}

pub(crate) fn certificate_of(pem: &str, what: &'static str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| Error::malformed(what, error))
}

pub(crate) fn roots(ca: &CertificateDer<'_>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned()).map_err(Error::Tls)?;
    Ok(roots)
}

#[cfg(test)]
mod tests;
