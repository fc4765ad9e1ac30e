//! Proof that two keys belong to one host: the key of its certificate request signs its envelope key, so nobody can
//! enrol with a stranger's envelope key, or slip an own one under a stranger's request.

use rcgen::{PublicKeyData, SigningKey};

use crate::authority::parse_request;
use crate::{Error, PrivateKey};

impl PrivateKey {
    /// Signs `message`: ECDSA P-256 with SHA-256, ASN.1.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.sign(message).map_err(Error::Issue)
    }
}

/// Checks that the key in a certificate signing request (PEM) has signed `message`.
pub fn verify(request_pem: &str, message: &[u8], signature: &[u8]) -> Result<(), Error> {
    let request = parse_request(request_pem)?;
    if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(Error::Request {
            reason: "a key that signs must be ECDSA P-256".to_owned(),
        });
    }
    ring::signature::UnparsedPublicKey::new(
        &ring::signature::ECDSA_P256_SHA256_ASN1,
        request.public_key.der_bytes(),
    )
    .verify(message, signature)
    .map_err(|_| Error::Request {
        reason: "the key it names has not signed the other key".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::new_key_and_csr;

    #[test]
    fn a_signature_counts_for_its_key_and_its_message_only() {
        let (key, request) = new_key_and_csr().unwrap();
        let (_, foreign_request) = new_key_and_csr().unwrap();
        let signature = key.sign(b"envelope key").unwrap();
        verify(&request, b"envelope key", &signature).unwrap();
        assert!(verify(&request, b"another key", &signature).is_err());
        assert!(verify(&foreign_request, b"envelope key", &signature).is_err());
        assert!(verify(&request, b"envelope key", &[]).is_err());
    }
}
