//! Trust by the pin alone: how a newcomer knows the catalog before it has any certificate.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::KeyPin;
use crate::credentials::roots;

/// Believes a server whose chain holds a CA certificate with the pinned key, if that CA has signed the server's
/// certificate for the name we dialled. Everything else of the usual verification stays.
#[derive(Debug)]
pub(super) struct PinnedVerifier {
    pin: KeyPin,
    ca: OnceLock<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl PinnedVerifier {
    pub(super) fn new(pin: KeyPin, provider: Arc<CryptoProvider>) -> Self {
        Self {
            pin,
            ca: OnceLock::new(),
            provider,
        }
    }

    /// The CA certificate with the pinned key, once a server has proved to be of that CA.
    pub(super) fn proved_ca(&self) -> Option<&CertificateDer<'static>> {
        self.ca.get()
    }
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
