//! What the catalog has last told this host, on disk before it is acted on: a host starts its mounts from here
//! without the catalog. Keys lie in it only as the sealed envelopes they came in.
//!
//! Invariants: the file is replaced by rename after fsync, so after a crash the old or the new content is there,
//! whole; a change that cannot be written has not happened; what is held leaves the ledger only by a removal that
//! was carried out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mooring_identity::files;
use mooring_proto::agent::v1 as pb;
use prost::Message;
use tokio::sync::watch;

/// What the catalog has last told.
#[derive(Clone, PartialEq, Message)]
pub struct Held {
    /// The installation that gave the orders; empty while there are none.
    #[prost(string, tag = "1")]
    pub realm_uid: String,
    /// Its epoch.
    #[prost(int64, tag = "2")]
    pub epoch: i64,
    /// Its revision.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// What to have mounted, what is being removed, and the orphans.
    #[prost(message, repeated, tag = "4")]
    pub assignments: Vec<pb::Assignment>,
    /// Uids of assignments that the catalog no longer lists, without having removed them.
    #[prost(string, repeated, tag = "5")]
    pub orphans: Vec<String>,
    /// Removals that have not been carried out yet.
    #[prost(message, repeated, tag = "6")]
    pub removals: Vec<pb::Removal>,
    /// The revision to which the catalog was seen to have gone back within this epoch. It goes on from there and passes
    /// ours one day, and is still not the state that this host knows: only a higher epoch makes it count.
    #[prost(int64, optional, tag = "7")]
    pub set_back_to: Option<i64>,
    /// How long this host may start mounts without the catalog; none means without end.
    #[prost(message, optional, tag = "8")]
    pub offline_max: Option<prost_types::Duration>,
}

/// The reason of removals that follow from a ban.
pub const BANNED: &str = "HostBanned";

/// Whether the catalog that has answered may be obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Follow,
    /// It may not; the text says why, and what an operator can do.
    HoldStill(String),
}

/// A delta does not begin where the ledger ends; a snapshot is needed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change begins at revision {from}, but this host is at {held}")]
pub struct Gap {
    /// Where the delta begins.
    pub from: i64,
    /// Where the ledger is.
    pub held: i64,
}

impl Held {
    /// Judges a catalog by its answer: one that has forgotten, or was never ours, must not make this host unmount.
    pub fn judge(&self, own_realm_uid: &str, welcome: &pb::Welcome) -> Standing {
        let known = if self.realm_uid.is_empty() {
            own_realm_uid
        } else {
            &self.realm_uid
        };
        if welcome.realm_uid != known {
            return Standing::HoldStill(format!(
                "the catalog that answers is another installation (realm {}, not {known}); all mounts stay as they are; \
                 point the endpoint back, or enrol this host anew",
                welcome.realm_uid
            ));
        }
        if welcome.epoch < self.epoch {
            return Standing::HoldStill(format!(
                "the catalog has gone back from epoch {} to {}: a database was restored; all mounts stay as they are; \
                 run `mooring-catalog raise-epoch` if the restored state shall count",
                self.epoch, welcome.epoch
            ));
        }
        if let Some(revision) = self.set_back_by(welcome) {
            return Standing::HoldStill(format!(
                "the catalog has gone back from revision {} to {revision}: a database was restored; all mounts stay as they are; \
                 run `mooring-catalog raise-epoch` if the restored state shall count",
                self.revision
            ));
        }
        Standing::Follow
    }

    /// The revision to which this catalog has gone back within our epoch, now or when it was met before.
    fn set_back_by(&self, welcome: &pb::Welcome) -> Option<i64> {
        if welcome.epoch != self.epoch {
            return None;
        }
        let now = (welcome.revision < self.revision).then_some(welcome.revision);
        self.set_back_to.or(now)
    }

    /// What is held once a catalog was met that has gone back: the same, and that it has. `None` when that is known, or
    /// when it has not.
    pub fn after_set_back(&self, welcome: &pb::Welcome) -> Option<Held> {
        let same_realm = welcome.realm_uid == self.realm_uid;
        let revision = self.set_back_by(welcome).filter(|_| same_realm)?;
        self.set_back_to.is_none().then(|| Held {
            set_back_to: Some(revision),
            ..self.clone()
        })
    }

    /// What is held after a snapshot. What it neither lists nor removes is an orphan from now on, and kept.
    pub fn after_snapshot(&self, welcome: &pb::Welcome, snapshot: &pb::Snapshot) -> Held {
        let listed: BTreeSet<&str> = snapshot
            .assignments
            .iter()
            .map(|listed| listed.uid.as_str())
            .collect();
        let mut next = Held {
            realm_uid: welcome.realm_uid.clone(),
            epoch: welcome.epoch,
            revision: snapshot.revision,
            assignments: snapshot.assignments.clone(),
            orphans: Vec::new(),
            removals: self.removals.clone(),
            set_back_to: None,
            offline_max: snapshot.offline_max,
        };
        let unlisted = self
            .assignments
            .iter()
            .filter(|held| !listed.contains(held.uid.as_str()));
        next.assignments.extend(unlisted.cloned());
        next.upserted(&snapshot.assignments);
        next.remove(&snapshot.removals);
        let removing: BTreeSet<&str> = next
            .removals
            .iter()
            .map(|removal| removal.assignment_uid.as_str())
            .collect();
        let orphans: Vec<String> = next
            .assignments
            .iter()
            .map(|held| held.uid.as_str())
            .filter(|uid| !listed.contains(uid) && !removing.contains(uid))
            .map(str::to_owned)
            .collect();
        next.orphans = orphans;
        next
    }

    /// What is held after a delta.
    pub fn after_delta(&self, delta: &pb::Delta) -> Result<Held, Gap> {
        if delta.from_revision != self.revision {
            return Err(Gap {
                from: delta.from_revision,
                held: self.revision,
            });
        }
        let mut next = self.clone();
        next.revision = delta.to_revision;
        next.offline_max = delta.offline_max;
        next.upserted(&delta.upserts);
        for upsert in &delta.upserts {
            match next.assignments.iter_mut().find(|held| held.uid == upsert.uid) {
                Some(held) => *held = upsert.clone(),
                None => next.assignments.push(upsert.clone()),
            }
        }
        next.remove(&delta.removals);
        Ok(next)
    }

    /// What is held once this host was banned: everything that is held, and the assignments with these uids, is to be
    /// unmounted now. `None` when that is so already.
    pub fn after_ban(&self, seen: &[String]) -> Option<Held> {
        let removed: BTreeSet<&str> = self
            .removals
            .iter()
            .filter(|removal| removal.reason == BANNED)
            .map(|removal| removal.assignment_uid.as_str())
            .collect();
        let held = self.assignments.iter().map(|assignment| assignment.uid.as_str());
        let all: BTreeSet<&str> = held.chain(seen.iter().map(String::as_str)).collect();
        let removals: Vec<pb::Removal> = all
            .difference(&removed)
            .map(|uid| pb::Removal {
                assignment_uid: (*uid).to_owned(),
                revision: self.revision,
                reason: BANNED.to_owned(),
                grace: None,
            })
            .collect();
        (!removals.is_empty()).then(|| {
            let mut next = self.clone();
            next.remove(&removals);
            next
        })
    }

    /// How long this host may start mounts without the catalog, if that is bounded.
    pub fn offline_bound(&self) -> Option<Duration> {
        let bound = self.offline_max.and_then(|max| Duration::try_from(max).ok());
        bound.filter(|bound| !bound.is_zero())
    }

    /// What is held once a removal was carried out, or an orphan was unmounted. One that the catalog has ordered anew while
    /// this was under way stays, to be mounted again.
    pub fn after_removal(&self, uid: &str) -> Held {
        let mut next = self.clone();
        let removed = next.removals.iter().any(|removal| removal.assignment_uid == uid);
        if !removed && !next.orphans.iter().any(|orphan| orphan == uid) {
            return next;
        }
        next.assignments.retain(|held| held.uid != uid);
        next.removals.retain(|removal| removal.assignment_uid != uid);
        next.orphans.retain(|orphan| orphan != uid);
        next
    }

    /// What is ordered anew is neither an orphan nor to be removed any more.
    fn upserted(&mut self, upserts: &[pb::Assignment]) {
        let listed: BTreeSet<&str> = upserts.iter().map(|upsert| upsert.uid.as_str()).collect();
        self.orphans.retain(|orphan| !listed.contains(orphan.as_str()));
        self.removals
            .retain(|removal| !listed.contains(removal.assignment_uid.as_str()));
    }

    fn remove(&mut self, removals: &[pb::Removal]) {
        for removal in removals {
            self.orphans.retain(|orphan| *orphan != removal.assignment_uid);
            self.removals
                .retain(|known| known.assignment_uid != removal.assignment_uid);
            self.removals.push(removal.clone());
        }
    }
}

/// The ledger on disk, and a watch on what it holds.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// Held while the file is written, so that two changes never overtake each other. Whether it may still be written.
    writing: Mutex<Writable>,
    held: watch::Sender<Arc<Held>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Writable {
    Yes,
    Closed,
}

/// The ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system refuses.
    #[error(transparent)]
    File(#[from] mooring_identity::Error),
    /// The file is not what was written: torn, or changed by someone.
    #[error("{path} is damaged ({reason})")]
    Damaged {
        /// The file.
        path: String,
        /// What does not fit.
        reason: &'static str,
    },
    /// It is about to be wiped.
    #[error("this host is banned, and its ledger is wiped")]
    Closed,
}

impl Ledger {
    /// Reads the ledger, or begins an empty one. A damaged file is moved aside for inspection and does not stop the
    /// agent: an empty ledger unmounts nothing, since only removals do, and the catalog tells everything again.
    pub fn open(state_dir: &Path) -> Result<Ledger, LedgerError> {
        let path = state_dir.join("ledger");
        let held = match read(&path) {
            Ok(held) => held,
            Err(LedgerError::Damaged {
                path: damaged,
                reason,
            }) => {
                let aside = state_dir.join("ledger.damaged");
                tracing::error!(path = damaged, reason, aside = %aside.display(),
                    "the ledger is damaged and set aside; mounts stay, the catalog will tell again what to have");
                std::fs::rename(&path, &aside).map_err(|source| mooring_identity::Error::File {
                    action: "set aside",
                    path: path.clone(),
                    source,
                })?;
                Held::default()
            }
            Err(error @ (LedgerError::File(_) | LedgerError::Closed)) => return Err(error),
        };
        Ok(Ledger {
            path,
            writing: Mutex::new(Writable::Yes),
            held: watch::Sender::new(Arc::new(held)),
        })
    }

    /// After an enrolment: sets the ledger of another installation aside, whose orders must not count for this one.
    /// Its mounts stay, and are known from their records. Answers where it was put.
    pub fn set_aside_unless_of(state_dir: &Path, realm_uid: &str) -> Result<Option<PathBuf>, LedgerError> {
        let ledger = Ledger::open(state_dir)?;
        let held = ledger.held();
        if held.realm_uid.is_empty() || held.realm_uid == realm_uid {
            return Ok(None);
        }
        let aside = state_dir.join("ledger.other-realm");
        std::fs::rename(&ledger.path, &aside).map_err(|source| mooring_identity::Error::File {
            action: "set aside",
            path: ledger.path.clone(),
            source,
        })?;
        Ok(Some(aside))
    }

    /// What is held now.
    pub fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.borrow())
    }

    /// Follows what is held.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Held>> {
        self.held.subscribe()
    }

    /// Lets nobody write any more, from the end of a change that is under way.
    pub fn close(&self) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = Writable::Closed;
    }

    /// Replaces what is held: on disk first, then for all who watch. Blocks for the time of an fsync. An error leaves
    /// everything as it was, and the change's own error is passed through.
    pub fn change<E: From<LedgerError>>(
        &self,
        change: impl FnOnce(&Held) -> Result<Held, E>,
    ) -> Result<(), E> {
        let turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if *turn == Writable::Closed {
            return Err(LedgerError::Closed.into());
        }
        let next = change(&self.held())?;
        files::write_atomic(&self.path, &encode(&next), files::PRIVATE).map_err(LedgerError::from)?;
        self.held.send_replace(Arc::new(next));
        Ok(())
    }
}

/// File format: magic, CRC-32C of the body, length of the body, body. Numbers are little-endian.
const MAGIC: &[u8; 8] = b"MOORLED1";
const HEAD_BYTES: usize = 8 + 4 + 8;

fn encode(held: &Held) -> Vec<u8> {
    let body = held.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

fn read(path: &Path) -> Result<Held, LedgerError> {
    let Some(bytes) = files::read_private(path)? else {
        return Ok(Held::default());
    };
    decode(&bytes).map_err(|reason| LedgerError::Damaged {
        path: path.display().to_string(),
        reason,
    })
}

fn decode(bytes: &[u8]) -> Result<Held, &'static str> {
    let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or("it is too short")?;
    let (magic, head) = head.split_at(8);
    let (crc, length) = head.split_at(4);
    if magic != MAGIC {
        return Err("it is no ledger");
    }
    if length != (body.len() as u64).to_le_bytes() {
        return Err("it is cut off");
    }
    if crc != crc32c::crc32c(body).to_le_bytes() {
        return Err("its checksum does not fit");
    }
    Held::decode(body).map_err(|_| "its content is no message of this version")
}

#[cfg(test)]
mod tests;
