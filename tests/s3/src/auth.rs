//! Who may ask: access keys with their secrets, exchangeable while the server runs, so that a rotation can be
//! played. Signatures are verified by s3s; this file knows keys only.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use crate::operation::Target;

/// What a key may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rights {
    /// Everything.
    #[default]
    ReadWrite,
    /// Everything that changes nothing.
    ReadOnly,
}

/// The keys that the server accepts.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    keys: Arc<RwLock<HashMap<String, (SecretKey, Rights)>>>,
}

impl Keys {
    /// Adds a key, or gives a known one another secret or other rights.
    pub fn set(&self, access_key: &str, secret_key: &str, rights: Rights) {
        self.keys
            .write()
            .insert(access_key.to_owned(), (SecretKey::from(secret_key), rights));
    }

    /// From now on the key is refused. Tells whether it was known.
    pub fn remove(&self, access_key: &str) -> bool {
        self.keys.write().remove(access_key).is_some()
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = self.keys.read();
        let (secret, _) = keys.get(access_key).ok_or_else(|| {
            s3_error!(
                InvalidAccessKeyId,
                "the access key {access_key:?} does not exist here"
            )
        })?;
        Ok(secret.clone())
    }
}

#[async_trait::async_trait]
impl S3Access for Keys {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = cx.credentials() else {
            return Err(s3_error!(
                AccessDenied,
                "anonymous access is not allowed: sign the request"
            ));
        };
        let rights = self
            .keys
            .read()
            .get(&credentials.access_key)
            .map(|(_, rights)| *rights);
        let writes = Target::of(cx.method(), cx.uri(), cx.headers()).operation.writes();
        match rights {
            Some(Rights::ReadWrite) => Ok(()),
            Some(Rights::ReadOnly) if !writes => Ok(()),
            Some(Rights::ReadOnly) => Err(s3_error!(AccessDenied, "this key may only read")),
            None => Err(s3_error!(InvalidAccessKeyId, "the key was removed")),
        }
    }
}
