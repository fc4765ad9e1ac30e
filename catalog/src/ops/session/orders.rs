//! What hosts shall have: rows for many hosts from one view, then for each host its keys, sealed for it alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{Binding, HpkePublicKey, SecretBytes, envelope};
use mooring_proto::agent::v1::{Credential, SignedBan};
use prost::Message;
use uuid::Uuid;
use zeroize::Zeroize;

use super::desk::Question;
use super::known::Hosts;
use super::queue::Want;
use crate::domain::Error;
use crate::domain::assignment::Assignment;
use crate::domain::connector::Connector;
use crate::domain::host::Host;
use crate::domain::names::SecretVersionName;
use crate::keyring::SecretContext;
use crate::ops::Catalog;
use crate::policy::Identity;
use crate::store::realm::Realm;
use crate::store::secret::UsableVersion;
use crate::store::{self, Snapshot};

/// What a host shall have, as of a revision.
pub struct Orders {
    /// The state of the catalog that they are of.
    pub revision: i64,
    /// What to have mounted.
    pub assignments: Vec<SealedAssignment>,
    /// What to unmount.
    pub removals: Vec<Assignment>,
    /// How long to start mounts without the catalog, if that is bounded.
    pub offline_max: Option<Duration>,
    /// The statement of the CA, if the host is banned: it gets nothing else then.
    pub ban: Option<SignedBan>,
}

/// An assignment with its key.
pub struct SealedAssignment {
    /// What to mount.
    pub assignment: Assignment,
    /// The key, sealed for the host; `None` while there is none that can be used.
    pub key: Option<SealedKey>,
}

/// A key that only one host can open, for one assignment only.
pub struct SealedKey {
    /// The secret version.
    pub version: SecretVersionName,
    /// The HPKE encapsulated key.
    pub encapsulated_key: Vec<u8>,
    /// The sealed key.
    pub ciphertext: Vec<u8>,
    /// SHA-256 of the host's key it is sealed for.
    pub recipient_key_sha256: [u8; 32],
    /// Tells the key from others, and nothing of it.
    pub fingerprint: [u8; 32],
}

/// What a host shall have that has changed since a revision; everything since 0.
pub(crate) struct Changed {
    pub(super) identity: Identity,
    pub(super) since: i64,
    /// How much it holds already: about as much as there is to be told to one that comes back.
    pub(super) held: usize,
}

/// The rows of it.
pub(crate) struct Brief {
    pub(super) host: Host,
    pub(super) realm: Realm,
    /// Assignments and removals.
    pub(super) changed: Vec<Assignment>,
    /// Of its pool.
    offline_max: Option<Duration>,
    keys: Arc<Keys>,
}

/// The connectors behind assignments, with the secret versions that they use.
struct Keys(BTreeMap<Uuid, (Connector, Option<UsableVersion>)>);

impl Want for Changed {
    fn host_uid(&self) -> Uuid {
        self.identity.uid
    }

    fn rows(&self) -> usize {
        self.held + 1
    }
}

impl Question for Changed {
    type Answer = Brief;

    async fn answer_all(
        snapshot: &Snapshot,
        questions: &[&Self],
    ) -> Result<Vec<Result<Brief, Error>>, Error> {
        let hosts = Hosts::of(snapshot, questions.iter().map(|asked| &asked.identity)).await?;
        let since = questions.iter().map(|asked| (asked.identity.uid, asked.since));
        let since: Vec<(Uuid, i64)> = since.collect();
        let mut changed = store::assignment::of_hosts_since(snapshot, &since).await?;
        let keys = Arc::new(Keys::of(snapshot, changed.values().flatten()).await?);
        let realm = store::realm::get(snapshot).await?;
        let offline_maxima = store::pool::offline_maxima(snapshot).await?;
        let mut brief = |asked: &&Self| {
            let host = hosts.behind(&asked.identity, snapshot)?;
            let changed = changed.remove(&asked.identity.uid).unwrap_or_default();
            Ok(Brief {
                host: host.clone(),
                realm,
                changed,
                offline_max: offline_maxima.get(&host.pool_uid).copied(),
                keys: Arc::clone(&keys),
            })
        };
        Ok(questions.iter().map(&mut brief).collect())
    }
}

impl Keys {
    async fn of(snapshot: &Snapshot, changed: impl Iterator<Item = &Assignment>) -> Result<Self, Error> {
        let uids: BTreeSet<Uuid> = changed
            .filter(|assignment| assignment.removal.is_none())
            .map(|assignment| assignment.connector_uid)
            .collect();
        // Most looks find nothing.
        if uids.is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        let uids: Vec<Uuid> = uids.into_iter().collect();
        let mut keys = BTreeMap::new();
        for connector in store::connector::by_uids(snapshot, &uids).await? {
            let usable = match &connector.spec.secret {
                Some(secret) => {
                    let pinned = connector.spec.secret_version;
                    store::secret::usable_version(snapshot, secret.uid, pinned).await?
                }
                None => None,
            };
            keys.insert(connector.meta.uid, (connector, usable));
        }
        Ok(Self(keys))
    }
}

impl Catalog {
    /// What has changed for a host since a revision; everything since 0.
    pub async fn orders_since(&self, identity: &Identity, revision: i64) -> Result<Orders, Error> {
        let brief = self.brief(identity, revision, 0).await?;
        self.orders_of(brief, revision).await
    }

    pub(super) async fn brief(&self, identity: &Identity, since: i64, held: usize) -> Result<Brief, Error> {
        let identity = identity.clone();
        self.desks
            .orders
            .ask(Changed {
                identity,
                since,
                held,
            })
            .await
    }

    pub(super) async fn orders_of(&self, brief: Brief, since: i64) -> Result<Orders, Error> {
        /// Of a tenth of a millisecond each: others go on in between.
        const SEALED_AT_ONCE: usize = 16;
        let Brief {
            host,
            realm,
            changed,
            offline_max,
            keys,
        } = brief;
        if let Some(ban) = self.ban_statement(&host)? {
            return Ok(Orders {
                revision: since,
                assignments: Vec::new(),
                removals: Vec::new(),
                offline_max,
                ban: Some(ban),
            });
        }
        let (removals, wanted): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|assignment| assignment.removal.is_some());
        let mut assignments = Vec::with_capacity(wanted.len());
        for (number, assignment) in wanted.into_iter().enumerate() {
            if number > 0 && number % SEALED_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let key = match keys.0.get(&assignment.connector_uid) {
                Some((connector, Some(usable))) => self.sealed_key(&host, &assignment, connector, usable)?,
                Some((_, None)) | None => None,
            };
            assignments.push(SealedAssignment { assignment, key });
        }
        Ok(Orders {
            revision: realm.revision,
            assignments,
            removals,
            offline_max,
            ban: None,
        })
    }

    /// Seals the key of a connector for one host and one assignment: anew each time, so that no two envelopes are alike.
    fn sealed_key(
        &self,
        host: &Host,
        assignment: &Assignment,
        connector: &Connector,
        usable: &UsableVersion,
    ) -> Result<Option<SealedKey>, Error> {
        let Some(secret) = &connector.spec.secret else {
            return Ok(None);
        };
        let number = usable.version.number;
        let access_key_id = match usable.version.access_key_id.as_str() {
            "" => connector.spec.access_key_id.as_str(),
            own => own,
        };
        if access_key_id.is_empty() {
            return Ok(None);
        }
        let context = SecretContext {
            secret_uid: secret.uid,
            version: number,
            project_uid: connector.project_uid,
        };
        let value = self
            .keyring
            .unseal(context, &usable.sealed)
            .map_err(Error::internal)?;
        let version = SecretVersionName::new(secret.name.clone(), number);
        let binding = Binding {
            host_uid: host.meta.uid,
            assignment_uid: assignment.uid,
            secret_version: version.to_string(),
            endpoint: assignment.spec.endpoint.clone(),
            bucket: assignment.spec.bucket.clone(),
        };
        let recipient = HpkePublicKey::from_stored(&host.hpke_public_key).map_err(Error::internal)?;
        let plaintext = credential(access_key_id, &value)?;
        let mut encapsulated_key =
            envelope::seal(&recipient, &binding, &plaintext).map_err(Error::internal)?;
        let ciphertext = encapsulated_key.split_off(envelope::KEY_BYTES);
        let digest = ring::digest::digest(&ring::digest::SHA256, recipient.as_bytes());
        let recipient_key_sha256 = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        Ok(Some(SealedKey {
            version,
            encapsulated_key,
            ciphertext,
            recipient_key_sha256,
            fingerprint: fingerprint(secret.uid, number, access_key_id),
        }))
    }
}

/// A secret that was deleted and made again has another uid, and a connector's own access key id may change without a new
/// version; so the version's name alone does not tell one key from another.
fn fingerprint(secret_uid: Uuid, version: i64, access_key_id: &str) -> [u8; 32] {
    let mut bytes = b"mooring key 1".to_vec();
    bytes.extend_from_slice(secret_uid.as_bytes());
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(access_key_id.as_bytes());
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The contents of an envelope. A message of the agents' contract, encoded here, so that the value never leaves this file
/// in the clear.
fn credential(access_key_id: &str, value: &SecretBytes) -> Result<SecretBytes, Error> {
    let secret_access_key = std::str::from_utf8(value.expose())
        .map_err(Error::internal)?
        .to_owned();
    let mut message = Credential {
        access_key_id: access_key_id.to_owned(),
        secret_access_key,
    };
    let bytes = SecretBytes::new(message.encode_to_vec());
    message.secret_access_key.zeroize();
    Ok(bytes)
}
