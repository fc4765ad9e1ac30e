//! Statements: short messages that carry their proof with them. The CA signs a ban, a host's key signs its recovery.
//! Each kind has a head of its own, so that a signature made for one is good for no other.

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;
use crate::credentials::certificate_of;

/// What a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// The CA bans a host: an encoded `mooring.agent.v1.Ban`.
    Ban,
    /// A host with an ended certificate proves its key: its uid and a nonce.
    Recovery,
}

impl StatementKind {
    fn head(self) -> &'static [u8] {
        match self {
            Self::Ban => b"mooring ban v1",
            Self::Recovery => b"mooring recovery v1",
        }
    }

    /// What is signed for a statement of this kind.
    pub fn signed_bytes(self, statement: &[u8]) -> Vec<u8> {
        [self.head(), statement].concat()
    }
}

/// Checks that the CA with this certificate (PEM) has signed a statement.
pub fn verify_by_ca(
    ca_pem: &str,
    kind: StatementKind,
    statement: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    let der = certificate_of(ca_pem, "the CA certificate")?;
    let (_, ca) =
        X509Certificate::from_der(&der).map_err(|error| Error::malformed("the CA certificate", error))?;
    ring::signature::UnparsedPublicKey::new(
        &ring::signature::ECDSA_P256_SHA256_ASN1,
        &ca.public_key().subject_public_key.data,
    )
    .verify(&kind.signed_bytes(statement), signature)
    .map_err(|_| {
        Error::malformed(
            "the statement",
            "the CA that this machine trusts has not signed it",
        )
    })
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::Authority;

    #[test]
    fn a_statement_counts_for_its_ca_its_kind_and_its_words_only() {
        let authority =
            || Authority::in_memory(&"test".parse().unwrap(), OffsetDateTime::UNIX_EPOCH).unwrap();
        let (own, other) = (authority(), authority());
        let signature = own.sign_statement(StatementKind::Ban, b"host 7").unwrap();
        let verify = |ca: &Authority, kind, statement: &[u8], signature: &[u8]| {
            verify_by_ca(ca.ca_pem(), kind, statement, signature).is_ok()
        };
        assert!(verify(&own, StatementKind::Ban, b"host 7", &signature));
        assert!(!verify(&other, StatementKind::Ban, b"host 7", &signature));
        assert!(!verify(&own, StatementKind::Recovery, b"host 7", &signature));
        assert!(!verify(&own, StatementKind::Ban, b"host 8", &signature));
        assert!(!verify(&own, StatementKind::Ban, b"host 7", &[]));
    }
}
