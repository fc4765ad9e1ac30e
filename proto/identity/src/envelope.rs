//! Sealed envelopes: how the key of an S3 account reaches one host and no one else. HPKE (RFC 9180) with
//! X25519-HKDF-SHA256 and AES-256-GCM, inside mTLS, so that a log of messages, a proxy or a ledger on a disk never
//! holds plaintext. The envelope opens only for the host, assignment, secret version, endpoint and bucket it was made for.

use std::path::Path;

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, X25519HkdfSha256};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{Error, files};

/// Bytes of an X25519 key, public or private.
pub const KEY_BYTES: usize = 32;
/// Bytes that an envelope adds: the encapsulated key and the tag.
pub const OVERHEAD_BYTES: usize = KEY_BYTES + 16;

/// Domain separation: no other protocol's HPKE message opens as one of ours.
const INFO: &[u8] = b"mooring credential envelope v1";

/// Bytes that wipe themselves. There is no `Debug`, `Clone` or `Serialize` on purpose.
#[derive(ZeroizeOnDrop)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves; do not keep or print them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

/// What an envelope is for. Sealed with one binding, it does not open with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The host that may open it.
    pub host_uid: Uuid,
    /// The assignment it serves.
    pub assignment_uid: Uuid,
    /// Resource name of the secret version inside.
    pub secret_version: String,
    /// The only endpoint where the key may be used.
    pub endpoint: String,
    /// The only bucket where the key may be used.
    pub bucket: String,
}

impl Binding {
    /// Each part with its length in front, so that no two bindings have the same bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let Self {
            host_uid,
            assignment_uid,
            secret_version,
            endpoint,
            bucket,
        } = self;
        let parts: [&[u8]; 5] = [
            host_uid.as_bytes(),
            assignment_uid.as_bytes(),
            secret_version.as_bytes(),
            endpoint.as_bytes(),
            bucket.as_bytes(),
        ];
        parts.iter().fold(Vec::new(), |mut bytes, part| {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
            bytes
        })
    }
}

/// The public half of a host's envelope key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HpkePublicKey([u8; KEY_BYTES]);

impl HpkePublicKey {
    /// Reads the 32 bytes that an agent sends at enrolment.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let key = Self::from_stored(bytes)?;
        // Points of low order would make the shared secret guessable; sealing to one fails.
        key.seal(&[], &[])
            .map_err(|_| Error::malformed("the HPKE public key", "it is a point of low order"))?;
        Ok(key)
    }

    /// Reads the 32 bytes of a key that was looked at when it came. That costs as much as an envelope, and sealing to a bad
    /// key fails all the same.
    pub fn from_stored(bytes: &[u8]) -> Result<Self, Error> {
        let key: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| {
            Error::malformed("the HPKE public key", format!("it must have {KEY_BYTES} bytes"))
        })?;
        Ok(Self(key))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let recipient =
            <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.0).map_err(|_| Error::Envelope)?;
        let (encapsulated, ciphertext) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &recipient,
            INFO,
            plaintext,
            aad,
        )
        .map_err(|_| Error::Envelope)?;
        let mut envelope = encapsulated.to_bytes().to_vec();
        envelope.extend_from_slice(&ciphertext);
        Ok(envelope)
    }
}

/// Seals `plaintext` for one host and one use.
pub fn seal(recipient: &HpkePublicKey, binding: &Binding, plaintext: &SecretBytes) -> Result<Vec<u8>, Error> {
    recipient.seal(&binding.to_bytes(), plaintext.expose())
}

/// A host's envelope key pair.
pub struct HpkeKeyPair {
    private: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: HpkePublicKey,
}

impl HpkeKeyPair {
    /// Makes a new pair.
    pub fn generate() -> Self {
        let (private, _) = X25519HkdfSha256::gen_keypair();
        Self::of(private)
    }

    /// Reads the pair from `path`, or makes one and writes it there with mode 0600.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        if let Some(pair) = Self::load(path)? {
            return Ok(pair);
        }
        let pair = Self::generate();
        let mut bytes = pair.private.to_bytes();
        let made = files::write_new(path, &bytes, files::PRIVATE);
        bytes.as_mut_slice().zeroize();
        if made? {
            return Ok(pair);
        }
        Self::load(path)?.ok_or_else(|| Error::malformed("the HPKE key", "it was removed while it was read"))
    }

    /// Reads the pair; `None` when there is no file.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let Some(bytes) = files::read_private(path)? else {
            return Ok(None);
        };
        <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&bytes)
            .map(|private| Some(Self::of(private)))
            .map_err(|_| {
                Error::malformed(
                    "the HPKE key",
                    format!("{} must hold {KEY_BYTES} bytes", path.display()),
                )
            })
    }

    /// What the catalog seals for.
    pub fn public_key(&self) -> HpkePublicKey {
        self.public
    }

    /// Opens an envelope that was sealed for this key and this binding.
    pub fn open(&self, binding: &Binding, envelope: &[u8]) -> Result<SecretBytes, Error> {
        let (encapsulated, ciphertext) = envelope.split_at_checked(KEY_BYTES).ok_or(Error::Envelope)?;
        let encapsulated =
            <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| Error::Envelope)?;
        hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.private,
            &encapsulated,
            INFO,
            ciphertext,
            &binding.to_bytes(),
        )
        .map(SecretBytes::new)
        .map_err(|_| Error::Envelope)
    }

    fn of(private: <X25519HkdfSha256 as Kem>::PrivateKey) -> Self {
        let bytes = X25519HkdfSha256::sk_to_pk(&private).to_bytes();
        let public = HpkePublicKey(bytes.into());
        Self { private, public }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Binding {
        Binding {
            host_uid: Uuid::from_u128(1),
            assignment_uid: Uuid::from_u128(2),
            secret_version: "projects/ml/secrets/s/versions/1".into(),
            endpoint: "https://s3.example".into(),
            bucket: "data".into(),
        }
    }

    #[test]
    fn an_envelope_opens_for_its_host_and_binding() {
        let pair = HpkeKeyPair::generate();
        let envelope = seal(&pair.public_key(), &binding(), &b"key".to_vec().into()).unwrap();
        assert_eq!(envelope.len(), OVERHEAD_BYTES + 3);
        assert_eq!(pair.open(&binding(), &envelope).unwrap().expose(), b"key");
    }

    #[test]
    fn an_envelope_stays_shut_for_any_other_binding_host_or_bytes() {
        let pair = HpkeKeyPair::generate();
        let envelope = seal(&pair.public_key(), &binding(), &b"key".to_vec().into()).unwrap();
        let others = [
            Binding {
                host_uid: Uuid::from_u128(9),
                ..binding()
            },
            Binding {
                assignment_uid: Uuid::from_u128(9),
                ..binding()
            },
            Binding {
                secret_version: "projects/ml/secrets/s/versions/2".into(),
                ..binding()
            },
            // The same bytes in a row, cut elsewhere.
            Binding {
                endpoint: "https://s3.exampled".into(),
                bucket: "ata".into(),
                ..binding()
            },
            Binding {
                bucket: "other".into(),
                ..binding()
            },
        ];
        for other in others {
            assert!(pair.open(&other, &envelope).is_err());
        }
        assert!(HpkeKeyPair::generate().open(&binding(), &envelope).is_err());
        for at in [0, 40, envelope.len() - 1] {
            let mut damaged = envelope.clone();
            damaged[at] ^= 1;
            assert!(pair.open(&binding(), &damaged).is_err());
        }
        assert!(pair.open(&binding(), &envelope[..10]).is_err());
    }

    #[test]
    fn the_key_on_disk_is_private_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hpke.key");
        let first = HpkeKeyPair::load_or_create(&path).unwrap();
        let again = HpkeKeyPair::load_or_create(&path).unwrap();
        assert_eq!(first.public_key(), again.public_key());
        let envelope = seal(&first.public_key(), &binding(), &b"key".to_vec().into()).unwrap();
        assert_eq!(again.open(&binding(), &envelope).unwrap().expose(), b"key");
    }

    #[test]
    fn a_public_key_of_the_wrong_size_or_of_low_order_is_refused() {
        assert!(HpkePublicKey::from_bytes(&[1; 31]).is_err());
        assert!(HpkePublicKey::from_bytes(&[0; 32]).is_err());
        assert!(HpkePublicKey::from_stored(&[1; 31]).is_err());
        let stored = HpkePublicKey::from_stored(&[0; 32]).unwrap();
        assert!(stored.seal(&[], &[]).is_err(), "nothing is ever sealed to it");
    }
}
