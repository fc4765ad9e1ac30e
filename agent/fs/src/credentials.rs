//! Whose key signs the requests. Standalone mounts use what every AWS tool uses; a supervised mount's
//! key comes from the agent and can be replaced while requests run: each one is signed with the key of
//! the moment it starts.
//!
//! Nothing here prints a secret: [`AccessKey`] has no `Debug` of its values and is wiped when dropped, as
//! is the SDK's own copy.

use std::fmt;
use std::sync::Arc;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::HttpClient;
use parking_lot::RwLock;
use zeroize::Zeroizing;

/// A key of an S3 account.
pub struct AccessKey {
    /// The public half.
    pub id: String,
    /// The secret half.
    pub secret: Zeroizing<String>,
    /// Of temporary keys.
    pub session_token: Option<Zeroizing<String>>,
}

/// Where the store takes the key for its signatures from.
#[derive(Clone)]
pub struct Credential(pub(crate) Source);

#[derive(Clone)]
pub(crate) enum Source {
    /// Requests are not signed: for public buckets.
    Anonymous,
    /// Cached by the SDK until it expires.
    Environment(SharedCredentialsProvider),
    /// Asked for at each request, so that a new key works at once.
    Live(Arc<LiveCredential>),
}

/// What the usual AWS sources of the environment say.
pub struct EnvironmentDefaults {
    /// Environment variables, then the shared files (of `profile`, `AWS_PROFILE` or `default`), then a
    /// credential process, web identity or the machine's role, whichever comes first.
    pub credential: Credential,
    /// The region that goes with it, if one is set.
    pub region: Option<String>,
}

/// A key that the agent may replace at any time.
pub struct LiveCredential(RwLock<Credentials>);

impl Credential {
    /// No key at all.
    pub fn anonymous() -> Credential {
        Credential(Source::Anonymous)
    }

    /// A key that can be replaced through `live`, which the caller keeps.
    pub fn live(live: Arc<LiveCredential>) -> Credential {
        Credential(Source::Live(live))
    }

    /// The usual AWS sources. Reads nothing but settings yet: a missing key shows at the first request,
    /// as [`crate::store::StoreError::Denied`]. `http` is for sources that are services themselves.
    pub async fn from_environment(
        profile: Option<&str>,
        http: impl HttpClient + 'static,
    ) -> EnvironmentDefaults {
        // Not the SDK's default chain, which asks the network for the machine's region: off a cloud that
        // takes seconds and fails.
        let mut in_files = ProfileFileRegionProvider::builder();
        if let Some(profile) = profile {
            in_files = in_files.profile_name(profile);
        }
        let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(in_files.build())
            // Without any, the credentials' own chain would ask the network after all.
            .or_else(Region::new("us-east-1"));
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(region);
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        let config = loader.load().await;
        let credential = match config.credentials_provider() {
            Some(provider) => Credential(Source::Environment(provider)),
            None => Credential::anonymous(),
        };
        EnvironmentDefaults {
            credential,
            region: config.region().map(ToString::to_string),
        }
    }
}

impl LiveCredential {
    /// Begins with this key.
    pub fn new(key: AccessKey) -> Arc<LiveCredential> {
        Arc::new(LiveCredential(RwLock::new(sdk_credentials(key))))
    }

    /// Requests that start from now on are signed with this key.
    pub fn replace(&self, key: AccessKey) {
        *self.0.write() = sdk_credentials(key);
    }
}

impl ProvideCredentials for LiveCredential {
    fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        provider::future::ProvideCredentials::ready(Ok(self.0.read().clone()))
    }
}

impl fmt::Debug for LiveCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LiveCredential(…)")
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Source::Anonymous => "Credential(anonymous)",
            Source::Environment(_) => "Credential(environment)",
            Source::Live(_) => "Credential(live)",
        })
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(…)")
    }
}

fn sdk_credentials(key: AccessKey) -> Credentials {
    let AccessKey {
        id,
        secret,
        session_token,
    } = key;
    // The SDK keeps its copies in zeroizing strings of its own.
    Credentials::new(
        id,
        secret.as_str(),
        session_token.map(|token| token.to_string()),
        None,
        "mooring",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> AccessKey {
        AccessKey {
            id: "id".to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            session_token: None,
        }
    }

    #[tokio::test]
    async fn a_replaced_key_is_used_at_once_and_never_printed() {
        let live = LiveCredential::new(key("planted-one"));
        live.replace(key("planted-two"));
        assert_eq!(
            live.provide_credentials().await.unwrap().secret_access_key(),
            "planted-two"
        );
        let printed = format!(
            "{live:?} {:?} {:?}",
            Credential::live(Arc::clone(&live)),
            key("planted-three")
        );
        assert!(!printed.contains("planted"), "{printed}");
    }
}
