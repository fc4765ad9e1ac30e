//! The built-in certificate authority: one ECDSA P-256 key in a 0600 file. It gives names to keys and decides every
//! name itself; what a request asks for is ignored. Whom to give a name is decided by the caller.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;

use crate::credentials::certificate_of;
use crate::statement::StatementKind;
use crate::{Credentials, Error, KeyPin, PeerIdentity, Principal, PrivateKey, TrustDomain, files};

/// Life of the CA's certificate. Pins name the key, so it can be renewed without new join strings.
const CA_LIFE: time::Duration = time::Duration::days(3650);

/// How far a certificate is dated back, so that a peer whose clock runs late accepts it. Five minutes is what
/// Kerberos has long asked of clocks; a certificate with a shorter life is dated back by a tenth of it instead,
/// or it would be past its half-life when it is born.
pub const BACK_DATE_MAX: Duration = Duration::from_secs(300);

/// Longest request accepted: a P-256 request has 400 bytes, and one with a dozen names stays below this.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The authority, ready to sign.
pub struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    ca_pem: String,
    trust_domain: TrustDomain,
    pin: KeyPin,
    not_after: OffsetDateTime,
}

/// A certificate that was issued just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// Its serial number, lower case hexadecimal.
    pub serial: String,
    /// The first moment of validity, dated back.
    pub not_before: OffsetDateTime,
    /// The last moment of validity.
    pub not_after: OffsetDateTime,
    /// SHA-256 of the public key it names.
    pub key_sha256: KeyPin,
}

impl Authority {
    /// Reads `ca.key` and `ca.crt` from `directory`, or makes them: the key 0600, written by rename after fsync. A
    /// certificate that is missing or belongs to another key or trust domain is an error, except on the very first start.
    pub fn load_or_create(
        directory: &Path,
        trust_domain: &TrustDomain,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        files::create_private_directory(directory)?;
        let (key_path, path) = (directory.join("ca.key"), directory.join("ca.crt"));
        if files::read_private(&key_path)?.is_none() && files::read_public(&path)?.is_some() {
            // A new key would strand every host and person: all of them know the old one by its pin.
            let reason = format!(
                "{} is missing beside ca.crt; restore it from your backup",
                key_path.display()
            );
            return Err(Error::malformed("the CA", reason));
        }
        let key = PrivateKey::load_or_create(&key_path)?;
        if files::read_public(&path)?.is_none() {
            let certificate = ca_certificate(&key, trust_domain, now)?;
            files::write_new(&path, certificate.as_bytes(), files::PUBLIC)?;
        }
        let ca_pem = files::read_public(&path)?
            .ok_or_else(|| Error::malformed("the CA certificate", "it was removed while it was read"))?;
        Self::new(key, ca_pem, trust_domain)
    }

    /// An authority that lives in memory only, for tests.
    pub(crate) fn in_memory(trust_domain: &TrustDomain, now: OffsetDateTime) -> Result<Self, Error> {
        let key = PrivateKey::generate()?;
        let ca_pem = ca_certificate(&key, trust_domain, now)?;
        Self::new(key, ca_pem, trust_domain)
    }

    fn new(key: PrivateKey, ca_pem: String, trust_domain: &TrustDomain) -> Result<Self, Error> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let der = certificate_of(&ca_pem, "the CA certificate")?;
        let pin = KeyPin::of_certificate(&der)?;
        if pin != key.pin() {
            return Err(Error::KeyMismatch);
        }
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|error| Error::malformed("the CA certificate", error))?;
        let expected = common_name(trust_domain);
        if !parsed
            .subject()
            .iter_common_name()
            .any(|name| name.as_str().is_ok_and(|name| name == expected))
        {
            let reason =
                format!("it belongs to another trust domain than {trust_domain}; correct trust_domain");
            return Err(Error::malformed("the CA certificate", reason));
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&der, key.0).map_err(Error::Issue)?;
        Ok(Self {
            issuer,
            ca_pem,
            trust_domain: trust_domain.clone(),
            pin,
            not_after,
        })
    }

    /// Gives the key in a certificate signing request (PEM) the name of `principal`. The request must be signed with
    /// its own key; every name and usage that it asks for is ignored.
    pub fn issue(
        &self,
        request_pem: &str,
        principal: Principal,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, Error> {
        let request = parse_request(request_pem)?;
        let uri = principal.to_uri(&self.trust_domain);
        let name = SanType::URI(uri.try_into().map_err(Error::Issue)?);
        let mut params = self.leaf(vec![name], life, now)?;
        params
            .distinguished_name
            .push(DnType::CommonName, principal.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params, &request.public_key)
    }

    /// Makes a key and a server certificate for DNS names and IP addresses.
    pub fn issue_server(
        &self,
        names: &[String],
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Credentials, Error> {
        self.issue_server_for(PrivateKey::generate()?, names, life, now)
    }

    /// A server certificate for a key that is there already.
    pub fn issue_server_for(
        &self,
        key: PrivateKey,
        names: &[String],
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Credentials, Error> {
        let names = names
            .iter()
            .map(|name| server_name(name))
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err(Error::malformed(
                "the server's names",
                "there must be at least one",
            ));
        }
        let mut params = self.leaf(names, life, now)?;
        params.distinguished_name.push(
            DnType::CommonName,
            format!("Mooring catalog of {}", self.trust_domain),
        );
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issued = self.sign(&params, &key.0)?;
        Credentials::new(key, issued.certificate_pem, self.ca_pem.clone())
    }

    /// Signs a statement that others shall believe because they know the CA: ECDSA P-256 with SHA-256, ASN.1. What is
    /// signed begins with words that say what it is, so that it can be taken for nothing else, least of all a certificate.
    pub fn sign_statement(&self, kind: StatementKind, statement: &[u8]) -> Result<Vec<u8>, Error> {
        use rcgen::SigningKey as _;
        self.issuer
            .key()
            .sign(&kind.signed_bytes(statement))
            .map_err(Error::Issue)
    }

    /// The CA's certificate in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What join strings carry.
    pub fn key_pin(&self) -> KeyPin {
        self.pin
    }

    /// The installation whose names this authority gives out.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    fn leaf(
        &self,
        names: Vec<SanType>,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<CertificateParams, Error> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(random_serial()?);
        params.not_before = now - BACK_DATE_MAX.min(life / 10);
        params.not_after = (now + life).min(self.not_after);
        params.subject_alt_names = names;
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<Issued, Error> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let certificate = params.signed_by(key, &self.issuer).map_err(Error::Issue)?;
        // Read back, so that what the caller stores is what stands in the certificate, whole seconds and all.
        let (_, parsed) = X509Certificate::from_der(certificate.der())
            .map_err(|error| Error::malformed("the new certificate", error))?;
        Ok(Issued {
            serial: hex::encode(parsed.raw_serial()),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            key_sha256: KeyPin::of_public_key(parsed.public_key().raw),
            certificate_pem: certificate.pem(),
        })
    }
}

impl Issued {
    /// What a server will read from this certificate.
    pub fn identity(&self) -> Result<PeerIdentity, Error> {
        PeerIdentity::from_der(&certificate_of(&self.certificate_pem, "the certificate")?)
    }
}

/// The pin of the key in a certificate signing request (PEM), after its signature was checked: tells a repeated
/// enrolment with the same key from a second one.
pub fn request_key(request_pem: &str) -> Result<KeyPin, Error> {
    Ok(KeyPin::of_public_key(
        &parse_request(request_pem)?.public_key.subject_public_key_info(),
    ))
}

pub(crate) fn parse_request(pem: &str) -> Result<CertificateSigningRequestParams, Error> {
    let refused = |reason: &str| Error::Request {
        reason: reason.to_owned(),
    };
    if pem.len() > REQUEST_BYTES_MAX {
        return Err(refused("it is too long"));
    }
    let request = CertificateSigningRequestParams::from_pem(pem).map_err(|error| match error {
        rcgen::Error::InvalidCertificationRequestSignature => refused("it is not signed with its own key"),
        rcgen::Error::UnsupportedExtension => refused("it asks for an extension that is not known here"),
        _ => refused("it is not a PKCS#10 request in PEM"),
    })?;
    let algorithm = request.public_key.algorithm();
    let known = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    if !known.contains(&algorithm) {
        return Err(refused("its key must be ECDSA P-256, ECDSA P-384 or Ed25519"));
    }
    Ok(request)
}

fn ca_certificate(
    key: &PrivateKey,
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.serial_number = Some(random_serial()?);
    params.not_before = now - BACK_DATE_MAX;
    params.not_after = now + CA_LIFE;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name(trust_domain));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
        .self_signed(&key.0)
        .map(|certificate| certificate.pem())
        .map_err(Error::Issue)
}

fn common_name(trust_domain: &TrustDomain) -> String {
    format!("Mooring CA of {trust_domain}")
}

fn server_name(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.trim_matches(['[', ']']).parse() {
        return Ok(SanType::IpAddress(address));
    }
    rustls_pki_types::DnsName::try_from(name).map_err(|_| {
        Error::malformed(
            "the server's name",
            format!("{name} is neither a DNS name nor an IP address"),
        )
    })?;
    name.try_into().map(SanType::DnsName).map_err(Error::Issue)
}

/// 126 random bits, positive and without leading zeros, so that bytes and hexadecimal text agree everywhere.
fn random_serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests;
