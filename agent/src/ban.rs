//! The end of a membership: a statement that the CA has signed bans this host. Then everything is unmounted at once, the
//! programs that serve mounts are ended, and every key on this machine is wiped. Files that were staged and not uploaded
//! yet stay where they are.
//!
//! Invariants: nothing but such a statement, for this very host, does any of this, whoever says what on the network; it is
//! on disk before the first step, so a restart goes on with it; keys are wiped last, and then a machine joins again only
//! when a person enrols it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mooring_identity::{StatementKind, files, statement};
use mooring_proto::agent::v1 as pb;
use mooring_proto::v1::MountState;
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::blocking::blocking;
use crate::host::{Host, StateError, credential_paths};
use crate::ledger::{Ledger, LedgerError};
use crate::mounter::Mounter;
use crate::status::HostStatus;

mod wipe;

pub use wipe::go_on_wiping;
use wipe::wipe;

/// The statement, in the state folder.
const FILE: &str = "ban";

/// What cannot be unmounted within this time loses its program all the same.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(30);

/// For ending the programs that are left: each of them gets some seconds, and there may be many.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// For the notes of what was not uploaded, which a slow disk may hold up; the keys are gone by then.
const NOTES_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// For the last report to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Between two attempts to write the statement down on a disk that is full.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Between two looks at how far the unmounting is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why this machine is no host any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// When it was banned: seconds since 1970.
    pub since: i64,
    /// Why, in the operator's words.
    pub reason: String,
}

/// Hears of bans, believes those that the CA has signed for this host, and tells whoever carries them out.
#[derive(Clone, Debug)]
pub struct BanDesk {
    ca_pem: String,
    host_uid: Uuid,
    told: watch::Sender<Option<pb::SignedBan>>,
    carried_out: watch::Sender<bool>,
    /// Held while keys are written, and while they are wiped.
    keys: Arc<Mutex<()>>,
}

impl BanDesk {
    /// For the host with this uid, which trusts this CA.
    pub fn new(ca_pem: &str, host_uid: Uuid) -> BanDesk {
        BanDesk {
            ca_pem: ca_pem.to_owned(),
            host_uid,
            told: watch::Sender::new(None),
            carried_out: watch::Sender::new(false),
            keys: Arc::default(),
        }
    }

    /// For the host of a state folder; `None` if it does not say which one that is.
    fn of(state_dir: &Path) -> Result<Option<BanDesk>, StateError> {
        let ca_pem = files::read_public(&credential_paths(state_dir).ca)?;
        let host = match Host::load(state_dir) {
            Err(StateError::Damaged { .. }) => None,
            host => host?,
        };
        Ok(host
            .zip(ca_pem)
            .map(|(host, ca_pem)| BanDesk::new(&ca_pem, host.uid)))
    }

    /// Hears of a ban. Answers whether it is one.
    pub fn hear(&self, signed: pb::SignedBan) -> bool {
        match self.read(&signed) {
            Ok(Ban { reason, since }) => {
                self.told.send_if_modified(|told| {
                    let is_news = told.is_none();
                    if is_news {
                        tracing::error!(
                            reason,
                            since,
                            "this host is banned: everything is unmounted and all keys are wiped"
                        );
                        *told = Some(signed);
                    }
                    is_news
                });
                true
            }
            Err(error) => {
                tracing::error!(
                    error,
                    "somebody says that this host is banned, and cannot prove it; nothing is unmounted"
                );
                false
            }
        }
    }

    /// Told when this host is banned.
    pub fn subscribe(&self) -> watch::Receiver<Option<pb::SignedBan>> {
        self.told.subscribe()
    }

    /// Told when nothing is mounted any more and all keys are wiped, so that the catalog may forget this host.
    pub fn carried_out(&self) -> watch::Receiver<bool> {
        self.carried_out.subscribe()
    }

    /// The ban that was heard of.
    pub fn heard(&self) -> Option<Ban> {
        let told = self.told.borrow();
        told.as_ref().and_then(|signed| self.read(signed).ok())
    }

    /// Writes keys, unless a ban was heard of: an answer that comes late must not bring back what was wiped.
    pub fn unless_banned<T>(&self, write: impl FnOnce() -> T) -> Option<T> {
        let _turn = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let is_member = self.told.borrow().is_none();
        is_member.then(write)
    }

    fn wipe(&self, state_dir: &Path) {
        let _turn = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        wipe(state_dir);
    }

    /// Reads a ban, or says why it is none of this host.
    pub fn read(&self, signed: &pb::SignedBan) -> Result<Ban, String> {
        let pb::SignedBan { statement, signature } = signed;
        statement::verify_by_ca(&self.ca_pem, StatementKind::Ban, statement, signature)
            .map_err(|error| error.to_string())?;
        let ban = read(statement)?;
        match ban.host_uid == self.host_uid.to_string() {
            true => Ok(Ban::of(ban)),
            false => Err("it is about another host".to_owned()),
        }
    }
}

impl Ban {
    fn of(ban: pb::Ban) -> Ban {
        Ban {
            since: ban.ban_time.unwrap_or_default().seconds,
            reason: ban.reason,
        }
    }

    /// The ban that lies in a state folder, if it is about the host of that folder: a machine that has enrolled anew is
    /// another one. Where nothing says any more which host it was, the file counts as it stands.
    pub fn load(state_dir: &Path) -> Result<Option<Ban>, StateError> {
        let Some(signed) = load(state_dir)? else {
            return Ok(None);
        };
        Ok(match BanDesk::of(state_dir)? {
            Some(desk) => desk.read(&signed).ok(),
            None => read(&signed.statement).ok().map(Ban::of),
        })
    }

    /// Forgets a ban: somebody enrols this machine anew.
    pub fn forget(state_dir: &Path) {
        let _ = std::fs::remove_file(state_dir.join(FILE));
    }
}

/// The statement that lies in a state folder.
pub fn load(state_dir: &Path) -> Result<Option<pb::SignedBan>, mooring_identity::Error> {
    let bytes = files::read_private(&state_dir.join(FILE))?;
    Ok(bytes.and_then(|bytes| pb::SignedBan::decode(bytes.as_slice()).ok()))
}

/// Writes a statement down, so that a restart goes on with it.
pub fn write_down(state_dir: &Path, signed: &pb::SignedBan) -> Result<(), mooring_identity::Error> {
    files::write_atomic(&state_dir.join(FILE), &signed.encode_to_vec(), files::PRIVATE)
}

/// Writes a statement down, as often as it takes: without it the machine would join again by itself.
async fn write_down_at_last(state_dir: &Path, signed: &pb::SignedBan, shutdown: &CancellationToken) {
    let mut is_news = true;
    while let Err(error) = write_down(state_dir, signed) {
        if std::mem::take(&mut is_news) {
            tracing::error!(%error, "the ban cannot be written down; trying again; free some space");
        }
        tokio::select! {
            () = shutdown.cancelled() => return, // cancel-safe: no state
            () = tokio::time::sleep(WRITE_AGAIN) => {} // cancel-safe: no state
        }
    }
}

fn read(statement: &[u8]) -> Result<pb::Ban, String> {
    pb::Ban::decode(statement).map_err(|error| error.to_string())
}

/// Carries a ban out when there is one.
pub struct Execution {
    /// Where keys and ledger lie.
    pub state_dir: PathBuf,
    /// What is held.
    pub ledger: Arc<Ledger>,
    /// What is mounted.
    pub status: watch::Receiver<HostStatus>,
    /// Whose runs are ended.
    pub mounter: Arc<Mounter>,
    /// Where bans are heard of.
    pub bans: BanDesk,
}

impl Execution {
    /// Waits for a ban, carries it out, and ends the agent by `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut told = self.bans.subscribe();
        let signed = tokio::select! {
            () = shutdown.cancelled() => return, // cancel-safe: no state
            told = told.wait_for(Option::is_some) => match told { // cancel-safe per tokio's docs
                Ok(signed) => signed.clone().unwrap_or_default(),
                Err(_) => return,
            },
        };
        let (folder, ban) = (self.state_dir.clone(), signed.clone());
        let written = blocking(move || write_down(&folder, &ban)).await;
        if let Err(error) = &written {
            tracing::warn!(%error, "the ban cannot be written down yet; it is carried out all the same");
        }
        let is_unmounted = tokio::select! {
            () = shutdown.cancelled() => return, // the next agent goes on with it
            is_unmounted = self.unmount_all() => is_unmounted,
        };
        let mut ending = std::pin::pin!(self.end_programs());
        let mut ended = tokio::time::timeout(END_PATIENCE, &mut ending).await.ok();
        if ended.is_none() {
            tracing::error!(
                "the programs that serve mounts, and the notes of what they have not uploaded, take long; the keys are wiped meanwhile"
            );
        }
        // What comes late, from a session that begins anew, finds no ledger to write to.
        self.ledger.close();
        let (folder, bans) = (self.state_dir.clone(), self.bans.clone());
        blocking(move || bans.wipe(&folder)).await;
        if written.is_err() {
            // The keys and the ledger have made room.
            write_down_at_last(&self.state_dir, &signed, &shutdown).await;
        }
        if ended.is_none() {
            // A slow disk may have gigabytes to bring to rest.
            ended = tokio::select! {
                () = shutdown.cancelled() => None, // the thread ends with the process
                () = tokio::time::sleep(NOTES_PATIENCE) => None, // the same
                ended = &mut ending => Some(ended),
            };
        }
        let is_over = is_unmounted && ended.unwrap_or(false);
        self.bans.carried_out.send_replace(is_over);
        match is_over {
            true => tracing::info!("everything is unmounted and all keys are wiped; the agent ends"),
            false => tracing::error!(
                "all keys are wiped and the agent ends, but something may still be mounted or run; look at this machine"
            ),
        }
        tokio::time::sleep(FAREWELL).await;
        shutdown.cancel();
    }

    /// Orders removals of all that is held or seen, and waits until it is done. Answers whether it is.
    async fn unmount_all(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < UNMOUNT_PATIENCE {
            let seen: Vec<String> = self.there().iter().map(Uuid::to_string).collect();
            let held = self.ledger.held();
            // Before the first look at the mounts nothing is known of those that are in no ledger.
            let ready = self.status.borrow().ready;
            if ready && seen.is_empty() && held.assignments.is_empty() && held.removals.is_empty() {
                return true;
            }
            if held.after_ban(&seen).is_some() {
                let ledger = Arc::clone(&self.ledger);
                let changed = blocking(move || {
                    ledger.change(|held| {
                        Ok::<_, LedgerError>(held.after_ban(&seen).unwrap_or_else(|| held.clone()))
                    })
                });
                if let Err(error) = changed.await {
                    tracing::error!(%error, "the ledger cannot be written; free some space");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tracing::error!("not everything can be unmounted in time; what serves it is ended all the same");
        false
    }

    /// What is mounted, or may be.
    fn there(&self) -> Vec<Uuid> {
        let status = self.status.borrow();
        let there = status
            .mounts
            .iter()
            .filter(|(_, mount)| mount.state != MountState::Unmounted);
        there.map(|(uid, _)| *uid).collect()
    }

    /// Programs that live on for files that are still open hold keys in memory. Answers whether all were found.
    async fn end_programs(&self) -> bool {
        let mounter = Arc::clone(&self.mounter);
        blocking(move || {
            let records = mounter.runs.read_all().inspect_err(|error| {
                tracing::error!(%error, "the records of programs cannot be read; what is found without them is ended");
            });
            let is_known = records.is_ok();
            let records = records.unwrap_or_default();
            records.values().for_each(|record| mounter.give_up(record));
            mounter.end_all();
            // Now that they have ended, it is noted which of their bytes are in no store.
            records.keys().for_each(|uid| mounter.forget(*uid));
            mounter.tidy_all(true);
            is_known
        })
        .await
    }
}

#[cfg(test)]
mod tests;
