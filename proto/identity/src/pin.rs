//! The pin of the CA: what a newcomer knows of the catalog before it has met it. A pin names the key and not the
//! certificate, so a CA certificate that is renewed with the same key keeps every join string valid.

use std::fmt;
use std::str::FromStr;

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;

/// SHA-256 of a SubjectPublicKeyInfo; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyPin([u8; 32]);

impl KeyPin {
    /// The pin of a certificate's key.
    pub fn of_certificate(der: &[u8]) -> Result<Self, Error> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| Error::malformed("the certificate", error))?;
        Ok(Self::of_public_key(certificate.public_key().raw))
    }

    /// The pin of a DER-encoded SubjectPublicKeyInfo.
    pub fn of_public_key(spki: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, spki);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl FromStr for KeyPin {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut pin = [0; 32];
        hex::decode_to_slice(text, &mut pin)
            .map_err(|_| Error::malformed("the key pin", "it must be 64 hexadecimal digits"))?;
        Ok(Self(pin))
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPin({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_back_what_it_writes() {
        let pin = KeyPin::of_public_key(b"any");
        assert_eq!(pin.to_string().parse::<KeyPin>().unwrap(), pin);
    }

    #[test]
    fn a_short_pin_is_refused() {
        assert!("abcd".parse::<KeyPin>().is_err());
    }
}
