//! Whose key signs the requests. Standalone mounts use what every AWS tool uses; a supervised mount's
//! key comes from the agent and can be replaced while requests run: each one is signed with the key of
//! the moment it starts.
//!
//! Nothing here prints a secret: [`AccessKey`] has no `Debug` of its values and is wiped when dropped, as
//! is the SDK's own copy.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::HttpClient;
use parking_lot::RwLock;
use tokio::sync::watch;
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
///
/// A store may refuse the old key before the new one is here, and takes a moment to know the new one everywhere. Once a key
/// has worked, refusals are therefore waited out for a while, so that whoever exchanges keys interrupts nobody; where
/// none has worked yet, the key is plainly wrong.
pub struct LiveCredential {
    key: RwLock<Credentials>,
    state: watch::Sender<KeyState>,
    patience: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct KeyState {
    /// Counts the replacements.
    generation: u64,
    /// The store has accepted this key or one before it.
    has_worked: bool,
    /// When the store first refused this key after that.
    refused: Option<Instant>,
}

/// So long refusals are waited out: new keys reach the workers of hosts within this.
const REPLACEMENT_DEADLINE: Duration = Duration::from_secs(5);

/// So often in that time a key that is refused is tried, if no other one comes.
const REFUSALS_WAITED_OUT: u32 = 10;

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
        Arc::new(LiveCredential {
            key: RwLock::new(sdk_credentials(key)),
            state: watch::Sender::default(),
            patience: REPLACEMENT_DEADLINE,
        })
    }

    /// Requests that start from now on are signed with this key.
    pub fn replace(&self, key: AccessKey) {
        *self.key.write() = sdk_credentials(key);
        // After the key itself, so that whoever sees the new generation signs with it.
        self.state.send_modify(|state| {
            *state = KeyState {
                generation: state.generation + 1,
                refused: None,
                ..*state
            };
        });
    }

    /// Which key is in use.
    pub(crate) fn generation(&self) -> u64 {
        self.state.borrow().generation
    }

    /// The store has accepted the key of `generation`.
    pub(crate) fn accepted(&self, generation: u64) {
        let news = |state: &KeyState| {
            state.generation == generation && (!state.has_worked || state.refused.is_some())
        };
        if news(&self.state.borrow()) {
            self.state.send_if_modified(|state| {
                let news = news(state);
                if news {
                    (state.has_worked, state.refused) = (true, None);
                }
                // Nobody waits for this.
                false
            });
        }
    }

    /// The store refuses the key of `generation`: waits until asking again may help. False if it will not.
    pub(crate) async fn may_be_accepted_later(&self, generation: u64) -> bool {
        let mut states = self.state.subscribe();
        let now = Instant::now();
        let mut since = None;
        self.state.send_if_modified(|state| {
            if state.generation == generation && state.has_worked {
                since = Some(*state.refused.get_or_insert(now));
            }
            false
        });
        let left = since.map_or(Duration::ZERO, |since| {
            (since + self.patience).saturating_duration_since(now)
        });
        let other = states.wait_for(|state| state.generation != generation);
        match tokio::time::timeout(left.min(self.patience / REFUSALS_WAITED_OUT), other).await {
            Ok(replaced) => replaced.is_ok(),
            Err(_) => !left.is_zero(),
        }
    }
}

impl ProvideCredentials for LiveCredential {
    fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        provider::future::ProvideCredentials::ready(Ok(self.key.read().clone()))
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
    async fn refusals_are_waited_out_for_a_while_once_a_key_has_worked() {
        let patience = Duration::from_millis(300);
        let live = LiveCredential {
            patience,
            ..Arc::into_inner(LiveCredential::new(key("one"))).unwrap()
        };
        assert!(
            !live.may_be_accepted_later(0).await,
            "one that never worked is wrong"
        );
        live.accepted(0);
        let (again, ()) = tokio::join!(live.may_be_accepted_later(0), async { live.replace(key("two")) });
        assert!(again, "there is another one");
        assert!(live.may_be_accepted_later(0).await, "it is there already");
        // The new one may take a moment to be known everywhere, and then is wrong as well.
        let begun = Instant::now();
        while live.may_be_accepted_later(1).await {
            // The word of a request that was signed before says nothing of the new one.
            live.accepted(0);
        }
        assert!(begun.elapsed() >= patience, "{:?}", begun.elapsed());
        live.accepted(1);
        assert!(live.may_be_accepted_later(1).await);
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
