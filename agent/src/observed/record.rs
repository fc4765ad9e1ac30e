//! What an agent notes of each mount for the agent after it, in the run folder: which process serves it and what was
//! ordered when it was made. A record is a hint for adoption; whether it is true, the kernel and the worker say.
//!
//! The run folder has one folder per assignment, 0700: `record.json`, `control.sock`, `worker.log`, and while a worker is
//! started `next.sock`. Beside them, `succession` has a folder per mount for what a successor must know; it is not in
//! the assignment's folder because that is renamed when another assignment takes the mount over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mooring_identity::files;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::backends::Foreign;
use crate::facts;
use crate::observed::process::Process;

/// What a worker was told to serve. Two orders with the same value need no new mount, whatever else differs in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// URL of the S3 service.
    pub endpoint: String,
    /// Region for the signature.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin with this.
    pub prefix: String,
    /// The bucket stands in the path, not in the host name.
    pub path_style: bool,
    /// Memory for what is read, in MiB; zero leaves it to the program.
    #[serde(default)]
    pub cache_size_mib: u32,
    /// Nothing can be written.
    pub read_only: bool,
    /// Which addresses the worker may connect to.
    pub endpoint_rules: mooring_control::EndpointRules,
    /// Whose program serves, unless it is our own.
    #[serde(default)]
    pub foreign: Option<Foreign>,
}

/// What is noted of one mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The assignment.
    pub assignment_uid: Uuid,
    /// Its generation when the mount was made.
    pub generation: i64,
    /// Its hash when the mount was made.
    pub spec_hash: String,
    /// The kernel's boot id when it was made: a record of an earlier boot tells of nothing that could still be.
    pub boot_id: String,
    /// How far the mount has come.
    pub phase: Phase,
    /// Where it is.
    pub path: PathBuf,
    /// Who serves it; [`Process::NOBODY`] while a program that mounts by itself is about to be started.
    pub worker: Process,
    /// Which key the worker has.
    pub secret_version: String,
    /// The fingerprint of that key; empty in records of agents that did not note it.
    #[serde(default)]
    pub key_fingerprint: Vec<u8>,
    /// The activation's name.
    pub activation: String,
    /// The connector's name.
    pub connector: String,
    /// Whether it was mounted read-only.
    pub read_only: bool,
    /// The Unix group that the files of the mount have. The project's folder may have got another one since.
    pub unix_group: Option<String>,
    /// What the worker serves; unknown in records of agents that did not note it.
    #[serde(default)]
    pub serves: Option<Serving>,
    /// The assignment for which the worker was started, if this one has taken the mount over from it: the worker's
    /// cache folder has that name.
    #[serde(default)]
    pub started_for: Option<Uuid>,
    /// The assignment that is about to take this mount over: the folder of the record is renamed next.
    #[serde(default)]
    pub taken_over_by: Option<Uuid>,
    /// Where the worker keeps what a successor must know, unless it was started without.
    #[serde(default)]
    pub succession: Option<PathBuf>,
    /// Number of the FUSE descriptor in the worker's process, if the worker can be succeeded: an agent that starts while
    /// the worker hangs cannot ask it.
    #[serde(default)]
    pub fuse_descriptor: Option<i32>,
    /// The unit in which a program that mounts by itself runs, noted before it is started: whoever finds nobody in
    /// `worker` ends that, for it may have been started all the same.
    #[serde(default)]
    pub unit: Option<String>,
    /// The folder in which such a program finds its key: one for each mount, since one that was mounted before may still
    /// need its own.
    #[serde(default)]
    pub keys: Option<Uuid>,
    /// How often a worker of this mount was succeeded by another.
    #[serde(default)]
    pub successions: Successions,
    /// Since when it is mounted.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub mount_time: Option<OffsetDateTime>,
}

/// How often workers of one mount were succeeded, and when the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Successions {
    /// Because they had died.
    pub deaths: u32,
    /// Because another program was installed.
    pub upgrades: u32,
    /// The last one of either kind.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last: Option<OffsetDateTime>,
}

impl Record {
    /// Whose program serves it, unless it is our own.
    pub fn foreign(&self) -> Option<Foreign> {
        self.serves.as_ref().and_then(|serving| serving.foreign)
    }

    /// The assignment whose name the worker's cache folder has.
    pub fn cache_of(&self) -> Uuid {
        self.started_for.unwrap_or(self.assignment_uid)
    }

    /// The name of the folder in which the program finds its key, if it is not our own.
    pub fn keys_of(&self) -> Uuid {
        // Agents that did not note it gave the folder the assignment's name.
        self.keys.unwrap_or_else(|| self.cache_of())
    }

    /// The record in the hands of the assignment that takes the mount over.
    fn taken_over(self) -> Record {
        Record {
            started_for: Some(self.cache_of()),
            assignment_uid: self.taken_over_by.unwrap_or(self.assignment_uid),
            taken_over_by: None,
            ..self
        }
    }
}

/// How far a mount has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The worker was started; it may or may not have its descriptor yet.
    Launching,
    /// The worker has answered through the mount.
    Mounted,
    /// The mount is detached; the worker ends when files are closed and uploads are done.
    Detached,
}

/// The run folder.
#[derive(Clone, Debug)]
pub struct Runs {
    folder: PathBuf,
    boot_id: String,
    /// Records that could not be read, so that it is said once of each.
    damaged: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Runs {
    /// Makes the folder. It may be entered by all, for the local socket; what is in it is private.
    ///
    /// Which boot this is is asked once, and for certain: records of another one are removed.
    pub fn open(folder: &Path) -> io::Result<Runs> {
        let boot_id = facts::boot_id();
        if boot_id.is_empty() {
            return Err(io::Error::other(
                "/proc/sys/kernel/random/boot_id cannot be read, so nobody knows what is of this boot; is /proc mounted?",
            ));
        }
        make(folder)?;
        Ok(Runs {
            folder: folder.to_owned(),
            boot_id,
            damaged: Arc::default(),
        })
    }

    /// The kernel's id of this boot.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Below it lies everything that is of this boot alone.
    pub fn run_dir(&self) -> &Path {
        &self.folder
    }

    /// The folder of one assignment.
    pub fn folder(&self, uid: Uuid) -> PathBuf {
        self.folder.join(uid.to_string())
    }

    /// Where the worker listens that serves.
    pub fn control_socket(&self, uid: Uuid) -> PathBuf {
        self.folder(uid).join("control.sock")
    }

    /// Where a worker listens that does not serve yet, the first one of a mount or a successor.
    pub fn next_socket(&self, uid: Uuid) -> PathBuf {
        self.folder(uid).join("next.sock")
    }

    /// Below the run folder, where mounts have what their successors must know.
    pub const SUCCESSION: &'static str = "succession";

    /// Makes the folder `id` for what the successors of one mount must know.
    pub fn make_succession(&self, id: Uuid) -> Result<PathBuf, mooring_identity::Error> {
        let folder = self.folder.join(Runs::SUCCESSION).join(id.to_string());
        files::create_private_directory(&self.folder.join(Runs::SUCCESSION))?;
        files::create_private_directory(&folder)?;
        Ok(folder)
    }

    /// Removes the files that workers have left in such a folder, and the folder.
    pub fn remove_succession(&self, folder: &Path) {
        // A record is a file; only what was made by `make_succession` is removed for it.
        let ours = folder.parent() == Some(&self.folder.join(Runs::SUCCESSION));
        let entries = ours.then(|| std::fs::read_dir(folder).ok()).flatten();
        for entry in entries.into_iter().flatten().flatten() {
            remove_file(&entry.path());
        }
        let _ = std::fs::remove_dir(folder);
    }

    /// Where its worker's log goes.
    pub fn log(&self, uid: Uuid) -> PathBuf {
        self.folder(uid).join("worker.log")
    }

    /// Writes a record, whole.
    pub fn write(&self, record: &Record) -> Result<(), mooring_identity::Error> {
        let folder = self.folder(record.assignment_uid);
        files::create_private_directory(&folder)?;
        let json = serde_json::to_vec_pretty(record).expect("a record has only texts and numbers");
        files::write_atomic(&folder.join(RECORD), &json, files::PRIVATE)
    }

    /// All records. One that cannot be read is reported and skipped; its mount is then known from the kernel alone.
    pub fn read_all(&self) -> io::Result<BTreeMap<Uuid, Record>> {
        let mut records = BTreeMap::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Someone has tidied up too well. The mounts go on; their workers cannot be asked any more.
                make(&self.folder)?;
                return Ok(records);
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            let folder = entry?;
            let Some(uid) = folder
                .file_name()
                .to_str()
                .and_then(|name| Uuid::try_parse(name).ok())
            else {
                continue;
            };
            if let Some(record) = self.read(uid) {
                records.insert(uid, record);
            }
        }
        Ok(records)
    }

    /// The record of one assignment, if there is one that can be read.
    pub fn read(&self, uid: Uuid) -> Option<Record> {
        let path = self.folder(uid).join(RECORD);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.damaged(path, &format!("cannot be read ({error})"));
                return None;
            }
        };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if record.assignment_uid == uid => {
                self.lock_damaged().remove(&path);
                Some(record)
            }
            // An agent was killed between the two halves of a take-over.
            Ok(record) if record.taken_over_by == Some(uid) => Some(record.taken_over()),
            Ok(_) => {
                self.damaged(path, "lies in another assignment's folder");
                None
            }
            Err(error) => {
                self.damaged(path, &format!("cannot be understood ({error})"));
                None
            }
        }
    }

    fn lock_damaged(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        // Nothing panics while it is held, and a set is whole at any moment.
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says so once: it is looked for at every round.
    fn damaged(&self, path: PathBuf, what: &str) {
        if self.lock_damaged().insert(path.clone()) {
            tracing::warn!(path = %path.display(),
                "a record {what}; its mount is known from the kernel alone until it is made anew");
        }
    }

    /// Gives the run of `from` to `to`: record, socket and log move together, since the worker goes on listening and
    /// writing in the renamed folder. Whenever an agent is killed in between, the next one finds one record, whole.
    pub fn hand_over(&self, from: &Record, to: Uuid) -> Result<Record, mooring_identity::Error> {
        let leaving = Record {
            taken_over_by: Some(to),
            ..from.clone()
        };
        self.write(&leaving)?;
        self.remove(to);
        let (old, new) = (self.folder(from.assignment_uid), self.folder(to));
        std::fs::rename(&old, &new).map_err(|source| mooring_identity::Error::File {
            action: "rename the run folder to",
            path: new,
            source,
        })?;
        Ok(leaving.taken_over())
    }

    /// Removes what is known to lie in an assignment's folder, and the folder if it is empty then.
    pub fn remove(&self, uid: Uuid) {
        for path in [
            self.folder(uid).join(RECORD),
            self.control_socket(uid),
            self.next_socket(uid),
            self.log(uid),
            old_log(&self.log(uid)),
        ] {
            remove_file(&path);
        }
        for path in unfinished(&self.folder(uid)) {
            remove_file(&path);
        }
        // Whatever else lies there was not made by an agent and is not ours to delete.
        let _ = std::fs::remove_dir(self.folder(uid));
    }

    /// Keeps a worker's log below its bound: the last part goes aside, and the worker, which appends, goes on in an
    /// empty file. Without room for that part it is given up, for it is what takes the room.
    pub fn bound_log(&self, uid: Uuid) {
        let path = self.log(uid);
        if std::fs::metadata(&path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
            if let Err(error) = keep_last_part(&path, &old_log(&path)) {
                remove_file(&old_log(&path));
                tracing::warn!(path = %path.display(), %error, "there is no room for the last part of a worker's log");
            }
            let file = std::fs::File::options().write(true).open(&path);
            if let Err(error) = file.and_then(|file| file.set_len(0)) {
                tracing::warn!(path = %path.display(), %error, "a worker's log cannot be bounded");
            }
        }
    }
}

/// However large a log has grown without anybody to bound it.
fn keep_last_part(log: &Path, aside: &Path) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let mut log = std::fs::File::open(log)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
    let mut options = std::fs::File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut aside = options.write(true).create(true).truncate(true).open(aside)?;
    io::copy(&mut log, &mut aside).map(drop)
}

fn make(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))
}

const RECORD: &str = "record.json";

/// The run folder is memory where it is tmpfs; 4 MiB twice are some ten thousand lines for each mount.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

fn old_log(log: &Path) -> PathBuf {
    log.with_extension("log.old")
}

/// Copies of the record that an agent was killed over before they could be renamed.
fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(".record.json.") && name.ends_with(".tmp"))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(ours)
        .collect()
}

fn remove_file(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a file in the run folder cannot be removed")
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record() -> Record {
        Record {
            assignment_uid: Uuid::from_u128(1),
            generation: 2,
            boot_id: "boot".into(),
            spec_hash: "h".into(),
            phase: Phase::Mounted,
            path: "/mnt/mooring/ml/a".into(),
            worker: Process {
                pid: 7,
                start_time: 8,
            },
            secret_version: "projects/ml/secrets/s/versions/1".into(),
            key_fingerprint: Vec::new(),
            activation: "projects/ml/activations/a".into(),
            connector: "projects/ml/connectors/c".into(),
            read_only: false,
            unix_group: None,
            serves: None,
            started_for: None,
            taken_over_by: None,
            succession: None,
            fuse_descriptor: None,
            unit: None,
            keys: None,
            successions: Successions::default(),
            mount_time: Some(OffsetDateTime::UNIX_EPOCH),
        }
    }

    #[test]
    fn a_run_that_is_handed_over_is_found_whole_even_if_the_agent_dies_half_way() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::open(dir.path()).unwrap();
        let (from, to) = (Uuid::from_u128(1), Uuid::from_u128(2));
        runs.write(&record()).unwrap();
        std::fs::write(runs.log(from), "said").unwrap();
        let handed = runs.hand_over(&record(), to).unwrap();
        // Nothing was written after the rename, as if the agent had died there.
        assert_eq!(runs.read_all().unwrap(), BTreeMap::from([(to, handed.clone())]));
        assert_eq!((handed.assignment_uid, handed.cache_of()), (to, from));
        assert_eq!(std::fs::read_to_string(runs.log(to)).unwrap(), "said");
        assert!(!runs.folder(from).exists());
    }

    #[test]
    fn a_record_of_an_older_agent_is_understood() {
        let mut json = serde_json::to_value(record()).unwrap();
        for field in [
            "key_fingerprint",
            "serves",
            "started_for",
            "taken_over_by",
            "succession",
            "unit",
            "keys",
            "successions",
        ] {
            json.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record());
    }

    #[test]
    fn a_record_is_found_again_and_removed_without_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::open(dir.path()).unwrap();
        runs.write(&record()).unwrap();
        std::fs::write(
            runs.folder(Uuid::from_u128(1)).join(".record.json.0a.tmp"),
            "torn",
        )
        .unwrap();
        assert_eq!(runs.read_all().unwrap()[&Uuid::from_u128(1)], record());
        runs.remove(Uuid::from_u128(1));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_record_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::open(dir.path()).unwrap();
        runs.write(&record()).unwrap();
        let damaged = runs.folder(Uuid::from_u128(2));
        std::fs::create_dir(&damaged).unwrap();
        std::fs::write(damaged.join(RECORD), "{").unwrap();
        for _ in 0..3 {
            assert_eq!(runs.read_all().unwrap().len(), 1);
            // It is looked for every few seconds, and said once.
            assert_eq!(runs.damaged.lock().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_log_that_grows_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::open(dir.path()).unwrap();
        let uid = Uuid::from_u128(1);
        std::fs::create_dir(runs.folder(uid)).unwrap();
        std::fs::File::create(runs.log(uid))
            .unwrap()
            .set_len(LOG_BYTES_MAX * 3)
            .unwrap();
        runs.bound_log(uid);
        assert_eq!(std::fs::metadata(runs.log(uid)).unwrap().len(), 0);
        let kept = std::fs::metadata(old_log(&runs.log(uid))).unwrap();
        assert_eq!(kept.len(), LOG_BYTES_MAX, "its last part");
        // Also where its last part finds no room: a folder stands in for that.
        std::fs::remove_file(old_log(&runs.log(uid))).unwrap();
        std::fs::create_dir(old_log(&runs.log(uid))).unwrap();
        let log = std::fs::File::options().write(true).open(runs.log(uid));
        log.unwrap().set_len(LOG_BYTES_MAX + 1).unwrap();
        runs.bound_log(uid);
        assert_eq!(std::fs::metadata(runs.log(uid)).unwrap().len(), 0);
        std::fs::remove_dir(old_log(&runs.log(uid))).unwrap();
        runs.remove(uid);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
