//! Seals and opens secrets. Root key (a 0600 file) → key epochs (in the database, wrapped) → one AES-256-GCM data key
//! for each sealed value, wrapped by the newest epoch. Knows bytes and a context, not connectors. There is no default key.
//!
//! Invariants: a value opens only in the context it was sealed in (format, secret uid, version, project). No type here
//! shows a key or a value in `Debug`.

use std::path::Path;

use mooring_identity::{SecretBytes, files};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;
use zeroize::Zeroizing;

/// Bytes of every key here.
const KEY_BYTES: usize = 32;
/// What is wrapped or sealed says in its associated data what it is, so none can take another's place.
const FORMAT: &str = "mooring keyring v1";

/// What can go wrong with keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file with the root key cannot be used.
    #[error("the root key cannot be used")]
    File(#[from] mooring_identity::Error),
    /// The root key is not the one that the database was written with.
    #[error(
        "{path} is not the root key of this database; put the right one back (secrets cannot be opened without it)"
    )]
    ForeignRootKey {
        /// Where the root key was read.
        path: String,
    },
    /// There is no root key, but a database that needs the one it was written with.
    #[error(
        "{path} is missing; put the root key of this database back (secrets cannot be opened without it)"
    )]
    Missing {
        /// Where the root key should be.
        path: String,
    },
    /// The file does not hold a key.
    #[error("{path} must hold 32 bytes in hexadecimal; put the right file back")]
    Malformed {
        /// Where the root key was read.
        path: String,
    },
    /// A sealed value does not open here: other context, other key, or damaged bytes.
    #[error("a sealed value does not open: it was damaged, or belongs elsewhere")]
    Sealed,
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

/// The key that wraps all others.
pub struct RootKey {
    key: LessSafeKey,
    fingerprints: hmac::Key,
    path: String,
}

impl RootKey {
    /// Reads the root key; makes it if there is none and `may_create` (there is no database that needs the old one).
    pub fn load(path: &Path, may_create: bool) -> Result<Self, KeyringError> {
        if may_create {
            let hex = Zeroizing::new(hex::encode(random::<KEY_BYTES>()?.as_slice()));
            files::write_new(path, hex.as_bytes(), files::PRIVATE)?;
        }
        let shown = path.display().to_string();
        let text = files::read_private(path)?.ok_or_else(|| KeyringError::Missing { path: shown.clone() })?;
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        hex::decode_to_slice(text.trim_ascii(), bytes.as_mut_slice())
            .map_err(|_| KeyringError::Malformed { path: shown.clone() })?;
        Ok(Self {
            key: aead(&bytes),
            // A key of its own for another purpose, derived so that it does not weaken the first.
            fingerprints: {
                let root = hmac::Key::new(hmac::HMAC_SHA256, bytes.as_slice());
                hmac::Key::new(
                    hmac::HMAC_SHA256,
                    hmac::sign(&root, b"mooring request fingerprints v1").as_ref(),
                )
            },
            path: shown,
        })
    }
}

/// A value at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The epoch that wraps the data key.
    pub epoch: i64,
    /// The data key, wrapped.
    pub wrapped_key: Vec<u8>,
    /// The value under the data key.
    pub ciphertext: Vec<u8>,
}

/// Where a sealed value belongs. It opens nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretContext {
    /// The secret.
    pub secret_uid: Uuid,
    /// The version's number.
    pub version: i64,
    /// The secret's project.
    pub project_uid: Uuid,
}

impl SecretContext {
    fn aad(&self, what: &str) -> Vec<u8> {
        format!(
            "{FORMAT}/{what}/{}/{}/{}",
            self.project_uid, self.secret_uid, self.version
        )
        .into_bytes()
    }
}

/// All keys that values are sealed with.
pub struct Keyring {
    epochs: Vec<(i64, LessSafeKey)>,
    fingerprints: hmac::Key,
}

impl Keyring {
    /// Makes the key of a new epoch, wrapped by the root key, for the database.
    pub fn new_epoch(root: &RootKey, epoch: i64) -> Result<Vec<u8>, KeyringError> {
        let key = random::<KEY_BYTES>()?;
        seal(&root.key, epoch_aad(epoch), key.as_slice())
    }

    /// Unwraps the epochs that the database holds. There must be one at least.
    pub fn open(root: RootKey, wrapped: &[(i64, Vec<u8>)]) -> Result<Self, KeyringError> {
        let epochs = wrapped
            .iter()
            .map(|(epoch, wrapped)| {
                let foreign = || KeyringError::ForeignRootKey {
                    path: root.path.clone(),
                };
                let key = open(&root.key, epoch_aad(*epoch), wrapped).map_err(|_| foreign())?;
                let key = key_of(&key).ok_or_else(foreign)?;
                Ok((*epoch, aead(&key)))
            })
            .collect::<Result<Vec<_>, KeyringError>>()?;
        Ok(Self {
            epochs,
            fingerprints: root.fingerprints,
        })
    }

    /// Seals a value under a new data key.
    pub fn seal(&self, context: SecretContext, value: &SecretBytes) -> Result<Sealed, KeyringError> {
        let (epoch, epoch_key) = self.epochs.last().ok_or(KeyringError::Sealed)?;
        let data_key = random::<KEY_BYTES>()?;
        Ok(Sealed {
            epoch: *epoch,
            wrapped_key: seal(epoch_key, context.aad("data-key"), data_key.as_slice())?,
            ciphertext: seal(&aead(&data_key), context.aad("value"), value.expose())?,
        })
    }

    /// Opens a value in the context it was sealed in.
    pub fn unseal(&self, context: SecretContext, sealed: &Sealed) -> Result<SecretBytes, KeyringError> {
        let Sealed {
            epoch,
            wrapped_key,
            ciphertext,
        } = sealed;
        let (_, epoch_key) = self
            .epochs
            .iter()
            .find(|(known, _)| known == epoch)
            .ok_or(KeyringError::Sealed)?;
        let data_key = open(epoch_key, context.aad("data-key"), wrapped_key)?;
        let data_key = key_of(&data_key).ok_or(KeyringError::Sealed)?;
        let value = open(&aead(&data_key), context.aad("value"), ciphertext)?;
        Ok(SecretBytes::new(value.to_vec()))
    }

    /// Recognises a repeated request. Keyed, because requests may carry secrets and the database must not help to
    /// guess them.
    pub fn fingerprint(&self, request: &[u8]) -> [u8; 32] {
        hmac::sign(&self.fingerprints, request)
            .as_ref()
            .try_into()
            .expect("HMAC-SHA-256 has 32 bytes")
    }
}

fn epoch_aad(epoch: i64) -> Vec<u8> {
    format!("{FORMAT}/epoch/{epoch}").into_bytes()
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyringError> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new()
        .fill(bytes.as_mut_slice())
        .map_err(|_| KeyringError::Random)?;
    Ok(bytes)
}

fn aead(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
}

fn key_of(bytes: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    bytes.try_into().ok().map(Zeroizing::new)
}

/// Nonce, ciphertext, tag. Nonces are random: a data key seals one value, an epoch key far fewer than 2³².
fn seal(key: &LessSafeKey, aad: Vec<u8>, value: &[u8]) -> Result<Vec<u8>, KeyringError> {
    let nonce = random::<NONCE_LEN>()?;
    let mut body = Zeroizing::new(value.to_vec());
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(aad),
            body.as_mut_slice(),
        )
        .map_err(|_| KeyringError::Sealed)?;
    Ok([nonce.as_slice(), body.as_slice(), tag.as_ref()].concat())
}

fn open(key: &LessSafeKey, aad: Vec<u8>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(KeyringError::Sealed)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyringError::Sealed)?;
    let mut body = Zeroizing::new(body.to_vec());
    let length = key
        .open_in_place(nonce, Aad::from(aad), &mut body)
        .map_err(|_| KeyringError::Sealed)?
        .len();
    body.truncate(length);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(dir: &Path) -> Keyring {
        let root = RootKey::load(&dir.join("root.key"), true).unwrap();
        let epoch = Keyring::new_epoch(&root, 1).unwrap();
        Keyring::open(root, &[(1, epoch)]).unwrap()
    }

    fn context() -> SecretContext {
        SecretContext {
            secret_uid: Uuid::from_u128(1),
            version: 1,
            project_uid: Uuid::from_u128(2),
        }
    }

    #[test]
    fn a_value_opens_in_its_context_and_in_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = keyring(dir.path());
        let value = SecretBytes::new(b"planted".to_vec());
        let sealed = keyring.seal(context(), &value).unwrap();
        assert_eq!(keyring.unseal(context(), &sealed).unwrap().expose(), b"planted");
        for other in [
            SecretContext {
                secret_uid: Uuid::from_u128(9),
                ..context()
            },
            SecretContext {
                version: 2,
                ..context()
            },
            SecretContext {
                project_uid: Uuid::from_u128(9),
                ..context()
            },
        ] {
            assert!(keyring.unseal(other, &sealed).is_err());
        }
        let mut damaged = sealed.clone();
        damaged.ciphertext[NONCE_LEN] ^= 1;
        assert!(keyring.unseal(context(), &damaged).is_err());
    }

    #[test]
    fn the_same_value_never_looks_the_same_and_never_shows() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = keyring(dir.path());
        let value = SecretBytes::new(b"planted".to_vec());
        let (one, two) = (
            keyring.seal(context(), &value).unwrap(),
            keyring.seal(context(), &value).unwrap(),
        );
        assert_ne!(one.ciphertext, two.ciphertext);
        assert!(!one.ciphertext.windows(7).any(|bytes| bytes == b"planted"));
    }

    #[test]
    fn another_root_key_is_recognised_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootKey::load(&dir.path().join("root.key"), true).unwrap();
        let epoch = Keyring::new_epoch(&root, 1).unwrap();
        let other = RootKey::load(&dir.path().join("other.key"), true).unwrap();
        let error = Keyring::open(other, &[(1, epoch)]).err().unwrap().to_string();
        assert!(error.contains("other.key"), "{error}");
    }

    #[test]
    fn a_lost_root_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let error = RootKey::load(&dir.path().join("root.key"), false)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("root.key is missing"), "{error}");
    }

    #[test]
    fn fingerprints_are_keyed() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (keyring(one.path()), keyring(two.path()));
        assert_eq!(one.fingerprint(b"x"), one.fingerprint(b"x"));
        assert_ne!(one.fingerprint(b"x"), two.fingerprint(b"x"));
    }
}
