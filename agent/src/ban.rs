//! The end of a membership: a statement that the CA has signed bans this host. Then everything is unmounted at once, the
//! programs that serve mounts are ended, and every key on this machine is wiped. Files that were staged and not uploaded
//! yet stay where they are.
//!
//! Invariants: nothing but such a statement, for this very host, does any of this, whoever says what on the network; it is
//! on disk before the first step, so a restart goes on with it; keys are wiped last, and then a machine joins again only
//! when a person enrols it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
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
use crate::enroll::HPKE_KEY;
use crate::host::credential_paths;
use crate::ledger::{Ledger, LedgerError};
use crate::mounter::Mounter;
use crate::status::HostStatus;

/// The statement, in the state folder.
const FILE: &str = "ban";

/// What cannot be unmounted within this time loses its program all the same.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(30);

/// For the last report to leave.
const FAREWELL: Duration = Duration::from_secs(1);

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
}

impl BanDesk {
    /// For the host with this uid, which trusts this CA.
    pub fn new(ca_pem: &str, host_uid: Uuid) -> BanDesk {
        BanDesk {
            ca_pem: ca_pem.to_owned(),
            host_uid,
            told: watch::Sender::new(None),
        }
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

    fn read(&self, signed: &pb::SignedBan) -> Result<Ban, String> {
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

    /// The ban that lies in a state folder, as it was verified when it came.
    pub fn load(state_dir: &Path) -> Result<Option<Ban>, mooring_identity::Error> {
        let Some(signed) = load(state_dir)? else {
            return Ok(None);
        };
        Ok(read(&signed.statement).ok().map(Ban::of))
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
}

impl Execution {
    /// Waits for a ban, carries it out, and ends the agent by `shutdown`.
    pub async fn run(
        mut self,
        mut told: watch::Receiver<Option<pb::SignedBan>>,
        shutdown: CancellationToken,
    ) {
        let signed = tokio::select! {
            () = shutdown.cancelled() => return, // cancel-safe: no state
            told = told.wait_for(Option::is_some) => match told { // cancel-safe per tokio's docs
                Ok(signed) => signed.clone().unwrap_or_default(),
                Err(_) => return,
            },
        };
        if let Err(error) = files::write_atomic(
            &self.state_dir.join(FILE),
            &signed.encode_to_vec(),
            files::PRIVATE,
        ) {
            tracing::error!(%error, "the ban cannot be written down; it is carried out all the same");
        }
        tokio::select! {
            () = shutdown.cancelled() => return, // the next agent goes on with it
            () = self.unmount_all() => {}
        }
        self.end_programs().await;
        wipe(&self.state_dir);
        tracing::info!("everything is unmounted and all keys are wiped; the agent ends");
        tokio::time::sleep(FAREWELL).await;
        shutdown.cancel();
    }

    /// Orders removals of all that is held or seen, and waits until it is done.
    async fn unmount_all(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < UNMOUNT_PATIENCE {
            let seen: Vec<String> = self.there().iter().map(Uuid::to_string).collect();
            let held = self.ledger.held();
            // Before the first look at the mounts nothing is known of those that are in no ledger.
            let ready = self.status.borrow().ready;
            if ready && seen.is_empty() && held.assignments.is_empty() && held.removals.is_empty() {
                return;
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

    /// Programs that live on for files that are still open hold keys in memory.
    async fn end_programs(&self) {
        let mounter = Arc::clone(&self.mounter);
        let ended = blocking(move || {
            for (uid, record) in mounter.runs.read_all()? {
                mounter.give_up(&record);
                mounter.forget(uid);
            }
            Ok::<_, std::io::Error>(())
        });
        if let Err(error) = ended.await {
            tracing::error!(%error, "the records of programs cannot be read; end what still runs by hand");
        }
    }
}

/// Removes every key, and every file with envelopes in it. Each is overwritten first, for file systems that leave bytes
/// where they are.
fn wipe(state_dir: &Path) {
    let paths = credential_paths(state_dir);
    let mut files: Vec<PathBuf> = ["ledger", "ledger.damaged", "ledger.other-realm", HPKE_KEY]
        .map(|name| state_dir.join(name))
        .into();
    files.push(paths.key);
    files.push(paths.certificate);
    // Copies that a killed agent was about to rename.
    let copies = std::fs::read_dir(state_dir).into_iter().flatten().flatten();
    files.extend(
        copies
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "tmp")),
    );
    for path in files {
        if let Err(error) = wipe_file(&path) {
            tracing::error!(path = %path.display(), %error, "a key cannot be wiped; remove the file by hand");
        }
    }
}

fn wipe_file(path: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = match std::fs::File::options().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    file.write_all(&vec![0; length])?;
    file.sync_all()?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use mooring_identity::Authority;
    use time::OffsetDateTime;

    use super::*;

    const HOST: Uuid = Uuid::from_u128(7);

    fn authority(dir: &Path) -> Authority {
        Authority::load_or_create(dir, &"test".parse().unwrap(), OffsetDateTime::UNIX_EPOCH).unwrap()
    }

    fn ban(authority: &Authority, host: Uuid) -> pb::SignedBan {
        let statement = pb::Ban {
            host_uid: host.to_string(),
            ban_time: None,
            reason: "stolen".into(),
        }
        .encode_to_vec();
        let signature = authority.sign_statement(StatementKind::Ban, &statement).unwrap();
        pb::SignedBan { statement, signature }
    }

    #[test]
    fn only_the_cas_own_word_about_this_host_bans_it() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (own, other) = (authority(own.path()), authority(other.path()));
        let desk = BanDesk::new(own.ca_pem(), HOST);
        let told = desk.subscribe();
        assert!(!desk.hear(ban(&other, HOST)), "another CA's");
        assert!(!desk.hear(ban(&own, Uuid::from_u128(8))), "another host's");
        assert!(!desk.hear(pb::SignedBan::default()), "nobody's");
        let mut changed = ban(&own, HOST);
        changed.statement.push(0);
        assert!(!desk.hear(changed));
        assert!(told.borrow().is_none());
        assert!(desk.hear(ban(&own, HOST)));
        assert!(told.borrow().is_some());
    }

    #[test]
    fn all_keys_are_wiped_and_the_ban_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let names = ["host.key", "host.crt", HPKE_KEY, "ledger", ".ledger.00ff.tmp"];
        for name in names {
            files::write_atomic(&at(name), b"secret", files::PRIVATE).unwrap();
        }
        let signed = ban(&authority(&at("ca")), HOST);
        files::write_atomic(&at(FILE), &signed.encode_to_vec(), files::PRIVATE).unwrap();
        files::write_atomic(&at("host.toml"), b"name", files::PUBLIC).unwrap();
        wipe(dir.path());
        for name in names {
            assert!(!at(name).exists(), "{name}");
        }
        assert!(at("host.toml").exists());
        assert_eq!(Ban::load(dir.path()).unwrap().unwrap().reason, "stolen");
        Ban::forget(dir.path());
        assert_eq!(Ban::load(dir.path()).unwrap(), None);
    }
}
