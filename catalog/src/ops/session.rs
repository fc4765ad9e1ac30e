//! What hosts are told and what they say. The stream itself is `api/session.rs`; here is each of its steps as a use case.
//! The host's certificate stands in the place of a permit, and is judged at every step: it may have ended, or the host
//! may have been deleted, since the stream began.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use mooring_identity::{Binding, HpkePublicKey, SecretBytes, envelope};
use mooring_proto::agent::v1::{Credential, SignedBan};
use prost::Message;
use tokio::sync::SemaphorePermit;
use uuid::Uuid;
use zeroize::Zeroize;

use super::Catalog;
use super::enrollment::host_of;
use crate::domain::Error;
use crate::domain::activation::MountState;
use crate::domain::assignment::Assignment;
use crate::domain::connector::Connector;
use crate::domain::host::{Host, HostFacts, heartbeat_interval};
use crate::domain::mount::{ObservedMount, Ordered, ReportedAt, digest_report};
use crate::domain::names::{ActivationName, SecretVersionName};
use crate::keyring::SecretContext;
use crate::policy::Identity;
use crate::store::realm::Realm;
use crate::store::{self, Snapshot};

pub(super) mod intake;
pub mod streams;

use intake::Words;

/// How a host is welcomed.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The installation, its epoch and newest revision.
    pub realm: Realm,
    /// How often the host reports when nothing changes.
    pub heartbeat_interval: Duration,
}

/// What a host shall have, as of a revision.
pub struct Orders {
    /// The state of the catalog that they are of.
    pub revision: i64,
    /// What to have mounted.
    pub assignments: Vec<SealedAssignment>,
    /// What to unmount.
    pub removals: Vec<Assignment>,
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

impl Catalog {
    /// Welcomes a host, and notes what its machine is.
    pub async fn greet(&self, identity: &Identity, facts: HostFacts) -> Result<Greeting, Error> {
        let look = self.look().await?;
        let host = host_of(&look, identity).await?;
        let mut realm = store::realm::get(&look).await?;
        drop(look);
        if host.facts != facts {
            self.intake.take(identity, Words::Facts(facts)).await?;
            realm = store::realm::get(&*self.look().await?).await?;
        }
        self.streams.heard(host.meta.uid, self.clock.now());
        Ok(Greeting {
            realm,
            heartbeat_interval: heartbeat_interval(self.settings.host_lost_after),
        })
    }

    /// What has changed for a host since a revision; everything since 0.
    pub async fn orders_since(&self, identity: &Identity, revision: i64) -> Result<Orders, Error> {
        let look = self.look().await?;
        let snapshot = &*look;
        let host = host_of(snapshot, identity).await?;
        if let Some(ban) = self.ban_statement(&host)? {
            return Ok(Orders {
                revision,
                assignments: Vec::new(),
                removals: Vec::new(),
                ban: Some(ban),
            });
        }
        let changed = store::assignment::of_host_since(snapshot, host.meta.uid, revision).await?;
        let (removals, wanted): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .partition(|assignment| assignment.removal.is_some());
        let uids: Vec<Uuid> = wanted.iter().map(|assignment| assignment.connector_uid).collect();
        // Most looks find nothing.
        let connectors = match uids.is_empty() {
            true => Vec::new(),
            false => store::connector::by_uids(snapshot, &uids).await?,
        };
        let connectors: BTreeMap<Uuid, Connector> = connectors
            .into_iter()
            .map(|connector| (connector.meta.uid, connector))
            .collect();
        let mut assignments = Vec::with_capacity(wanted.len());
        for assignment in wanted {
            let key = match connectors.get(&assignment.connector_uid) {
                Some(connector) => self.sealed_key(snapshot, &host, &assignment, connector).await?,
                None => None,
            };
            assignments.push(SealedAssignment { assignment, key });
        }
        Ok(Orders {
            revision: store::realm::get(snapshot).await?.revision,
            assignments,
            removals,
            ban: None,
        })
    }

    /// Notes that a copy of a host was refused, and answers what the copy is told.
    pub async fn refuse_copy(&self, identity: &Identity, copy: streams::Copy) -> Error {
        /// A copy tries again every few seconds; once a minute is news enough.
        const REST: time::Duration = time::Duration::minutes(1);
        let noted = async {
            let host = host_of(&*self.look().await?, identity).await?;
            let now = self.clock.now();
            if host.clone_time.is_some_and(|noted| now - noted < REST) {
                return Ok(());
            }
            let writing = self.write().await?;
            let mut host = host_of(&writing, identity).await?;
            host.clone_time = Some(writing.now());
            store::host::update(&writing, &host).await?;
            tracing::error!(host = %host.name, ?copy, "two machines use the state folder of one host, and one is refused");
            writing.commit_observed().await?;
            Ok(())
        };
        if let Err(error) = noted.await {
            return error;
        }
        Error::Precondition {
            reason: "HostCloned",
            subject: format!("hosts with uid {}", identity.uid),
            problem: "another machine is connected with the state folder of this host: one of the two is a copy. On the copy, \
                      stop the agent, remove its state_dir, and enrol it as a host of its own: mooring-agent enroll \
                      --join-file FILE"
                .into(),
        }
    }

    /// Notes what a host holds beyond what is listed, before its first report tells more of it.
    pub async fn note_held(&self, identity: &Identity, held: &[(Uuid, i64)]) -> Result<(), Error> {
        if held.is_empty() {
            return Ok(());
        }
        let look = self.look().await?;
        let host = host_of(&look, identity).await?;
        let listed = store::assignment::by_uids(&look, held.iter().map(|(uid, _)| *uid)).await?;
        let known = store::mount::of_host(&look, host.meta.uid).await?;
        drop(look);
        let orphans: Vec<ObservedMount> = held
            .iter()
            .filter(|(uid, _)| !listed.contains_key(uid) && !known.contains_key(uid))
            .map(|(uid, generation)| ObservedMount {
                assignment_uid: *uid,
                activation: String::new(),
                generation: *generation,
                state: MountState::Orphaned,
                path: String::new(),
                conditions: Vec::new(),
                mount_time: None,
            })
            .collect();
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::warn!(host = %host.name, count = orphans.len(), "a host holds what this catalog does not list");
        self.intake.take(identity, Words::Orphans(orphans)).await
    }

    /// Takes a host's report: writes what is new in it, and nothing if nothing is.
    pub async fn observe(
        &self,
        identity: &Identity,
        reported: Vec<ObservedMount>,
        at: ReportedAt,
    ) -> Result<(), Error> {
        self.streams.heard(identity.uid, self.clock.now());
        // After a restart each host tells what is known: a look decides, without the writers' queue.
        let look = self.look().await?;
        let host = host_of(&look, identity).await?;
        let digest = news_in(&look, &host, reported.clone(), at).await?;
        drop(look);
        if digest.is_empty() {
            return Ok(());
        }
        let carried_out = !digest.carried_out.is_empty();
        self.intake.take(identity, Words::Report(reported, at)).await?;
        if carried_out && !host.unschedulable {
            self.catch_up(host.meta.uid).await?;
        }
        Ok(())
    }

    /// A consistent view for one host. Only so many at a time: when all hosts look at once, people still find connections
    /// to the database that are free.
    async fn look(&self) -> Result<Look<'_>, Error> {
        let place = self.streams.looks.acquire().await.map_err(Error::internal)?;
        Ok(Look {
            snapshot: self.read().await?,
            _place: place,
        })
    }

    /// Seals the key of a connector for one host and one assignment: anew each time, so that no two envelopes are alike.
    async fn sealed_key(
        &self,
        snapshot: &Snapshot,
        host: &Host,
        assignment: &Assignment,
        connector: &Connector,
    ) -> Result<Option<SealedKey>, Error> {
        let Some(secret) = &connector.spec.secret else {
            return Ok(None);
        };
        let usable =
            store::secret::usable_version(snapshot, secret.uid, connector.spec.secret_version).await?;
        let Some(usable) = usable else {
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
        let recipient = HpkePublicKey::from_bytes(&host.hpke_public_key).map_err(Error::internal)?;
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

/// A view, and its place among those of all hosts. The view ends first.
struct Look<'a> {
    snapshot: Snapshot,
    _place: SemaphorePermit<'a>,
}

impl Deref for Look<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
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

async fn news_in(
    snapshot: &Snapshot,
    host: &Host,
    mut reported: Vec<ObservedMount>,
    at: ReportedAt,
) -> Result<crate::domain::mount::Digest, Error> {
    let stored = store::mount::of_host(snapshot, host.meta.uid).await?;
    let assignments = store::assignment::of_host(snapshot, host.meta.uid).await?;
    let names: BTreeMap<Uuid, &str> = assignments
        .iter()
        .map(|assignment| (assignment.uid, assignment.spec.activation.as_str()))
        .collect();
    for mount in &mut reported {
        // What a host calls an activation counts for orphans only, and only if it is a name at all.
        match names.get(&mount.assignment_uid) {
            Some(name) => mount.activation = (*name).to_owned(),
            None if mount.activation.parse::<ActivationName>().is_ok() => {}
            None => mount.activation.clear(),
        }
    }
    let ordered = assignments
        .iter()
        .map(|assignment| {
            let order = match assignment.removal {
                Some(_) => Ordered::Removed {
                    revision: assignment.revision,
                },
                None => Ordered::Mounted,
            };
            (assignment.uid, order)
        })
        .collect();
    Ok(digest_report(&stored, &ordered, reported, at))
}
