//! Mounts of programs that are not ours: GeeseFS and s3fs. They mount by themselves and hold their connection alone, so
//! what dies with one is its handles and what nobody has closed yet; the agent sees that, and mounts anew.
//!
//! Invariants: what they are told is a fixed list of arguments, into which only proved values go, so nothing that a user
//! has written can become an option; the key goes through [`keys`]; a mount counts only once the right kind of file
//! system lies at its place and the program has answered through it. Whatever a failed start has made is taken away.

mod endpoint;
mod geesefs;
pub(super) mod keys;
mod order;
mod s3fs;

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mooring_control::{Credential, WorkerStatus};
use rustix::fs::{Dir, Mode as FileMode, OFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fuse::Unmounted;
use super::launch::{self, Duty, Launch, LaunchError};
use super::native::{EXIT_PATIENCE, describe, no_credential, with_key};
use super::{MountError, Mounter, fuse, mountpoint, words};
use crate::backends::Foreign;
use crate::desired::{About, Spec};
use crate::observed::mountinfo::{MountTable, Top};
use crate::observed::process::Process;
use crate::observed::record::{Phase, Record, Serving};
use keys::{KeyFiles, Keys};
use order::Order;

/// How long a program may take to mount: it asks the store first, or soon after.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(20);
const MOUNT_POLL: Duration = Duration::from_millis(5);

/// How long a program may take to end after its mount has failed or was taken away in an orderly way.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a program whose mount has failed may take to end and say why.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// As much of a program's output as is searched for the cause of a failed start.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;

/// What these programs do with names, sizes and listings: another host's change is seen within this time. GeeseFS's own
/// default; s3fs's would be 15 minutes.
const METADATA_TTL_SECONDS: u32 = 60;

/// Why a program has not mounted, as far as it or the mount tell.
#[derive(Debug)]
enum Failed {
    /// The store refuses the key.
    KeyRefused,
    /// The store has no such bucket.
    BucketMissing,
    /// The store does not answer.
    StoreAway,
    /// Something else.
    Other(&'static str),
}

/// All that a mount needs, looked up and proved; nothing has changed for it yet.
pub(super) struct Prepared {
    program: Foreign,
    executable: PathBuf,
    arguments: Vec<OsString>,
    serving: Serving,
    path: PathBuf,
    cache_dir: PathBuf,
    /// The name of its folder of keys.
    keys: Uuid,
    key_files: KeyFiles,
}

impl Mounter {
    /// Looks up and proves what a mount by a program that is not ours needs. Changes nothing, so that whoever must end a
    /// live mount for it can know first that the next one is not bound to fail. Blocks for the name service.
    pub(super) fn prepare_foreign(
        &self,
        program: Foreign,
        about: &About,
        spec: &Spec,
    ) -> Result<Prepared, MountError> {
        let executable = self.find(program)?;
        let path = spec.place.path(&self.mount_root);
        let sealed = spec.credential.as_ref().ok_or_else(no_credential)?;
        let credential = self.open(about.uid, spec, sealed)?;
        let serving = spec.serving(about.mode);
        endpoint::check(&serving)?;
        let gid = mountpoint::gid_of(about.unix_group.as_deref())?;
        let cache_dir = self.cache_dir.join(about.uid.to_string());
        let (keys, mount) = (self.keys(), self.clock.new_uid());
        let order = Order::of(&serving, about, gid, &path, &cache_dir, mount)?;
        let arguments = match program {
            Foreign::Geesefs => geesefs::arguments(&order, &keys)?,
            Foreign::S3fs => s3fs::arguments(&order, &keys)?,
        };
        Ok(Prepared {
            program,
            executable,
            arguments,
            key_files: key_files(program, &keys, mount, &credential)?,
            serving,
            path,
            cache_dir,
            keys: mount,
        })
    }

    /// Mounts with a program that is not ours, after clearing away what `leftover` describes. Blocks until the mount
    /// answers or has failed.
    pub(super) fn start_foreign(
        &self,
        program: Foreign,
        about: &About,
        spec: &Spec,
        leftover: Option<&Record>,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        let path = spec.place.path(&self.mount_root);
        // First: a dead mount does not stay because its store or a name service is away, too.
        if let Some(status) = self.clear(about, &path, leftover)? {
            return Ok(status);
        }
        let prepared = self.prepare_foreign(program, about, spec)?;
        self.start_prepared(about, spec, &prepared, cancel)
    }

    fn start_prepared(
        &self,
        about: &About,
        spec: &Spec,
        prepared: &Prepared,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        let sealed = spec.credential.as_ref().ok_or_else(no_credential)?;
        self.keeper.forget(about.uid);
        mountpoint::prepare(&self.mount_root, &spec.place, about.unix_group.as_deref())?;
        for folder in [&prepared.cache_dir, &self.runs.folder(about.uid)] {
            mooring_identity::files::create_private_directory(folder)
                .map_err(|error| MountError::host("HostError", describe(&error)))?;
        }
        let record = |worker, unit: Option<&str>| Record {
            unit: unit.map(str::to_owned),
            keys: Some(prepared.keys),
            ..self.launching(about, sealed, &prepared.serving, &prepared.path, None, worker)
        };
        let outcome = self.run_foreign(about.uid, prepared, record, cancel);
        if outcome.is_err() {
            self.keys().remove(prepared.keys);
        }
        self.sweep_keys();
        outcome
    }

    /// Gives a live mount another key, as far as its program can take one.
    pub(super) fn set_foreign_credential(
        &self,
        program: Foreign,
        about: &About,
        record: &Record,
        spec: &Spec,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        let sealed = spec.credential.as_ref().ok_or_else(no_credential)?;
        match program {
            Foreign::Geesefs => {
                let credential = self.open(record.assignment_uid, spec, sealed)?;
                let (keys, mount) = (self.keys(), record.keys_of());
                super::go_on(cancel)?;
                keys.write(mount, &key_files(program, &keys, mount, &credential)?)?;
                self.write(&with_key(record, sealed))?;
                Ok(status())
            }
            Foreign::S3fs => {
                // Before the mount that works is taken away.
                let prepared = self.prepare_foreign(program, about, spec)?;
                self.end_idle(record, &sealed.secret_version)?;
                self.start_prepared(about, spec, &prepared, cancel)
            }
        }
    }

    /// Unmounts for another key, unless somebody uses the mount.
    fn end_idle(&self, record: &Record, secret_version: &str) -> Result<(), MountError> {
        if fuse::unmount(&record.path)? == Unmounted::Busy {
            let program = record.foreign().map_or("its program", Foreign::name);
            return Err(MountError::Credential {
                reason: "RemountPending",
                message: format!(
                    "{program} takes another key only when it is mounted anew, and somebody uses this mount now: it goes on \
                     with the key of {}, and is mounted anew with {secret_version} as soon as nobody does; let the old key \
                     live until then. Who uses it: fuser -vm {}",
                    record.secret_version,
                    record.path.display()
                ),
            });
        }
        let begun = Instant::now();
        // Nothing is open in it, so it ends soon.
        while record.worker.is_alive() && begun.elapsed() < END_TIMEOUT {
            std::thread::sleep(MOUNT_POLL);
        }
        // From here on the missing mount is our own doing, and no person's.
        self.write(&Record {
            phase: Phase::Launching,
            ..record.clone()
        })
    }

    /// Ends a program that mounts by itself, if one was started for a record in which nobody is noted.
    pub(super) fn end_unnoted(&self, record: &Record) -> Result<(), MountError> {
        if record.foreign().is_none() || record.worker != Process::NOBODY {
            return Ok(());
        }
        if let Some(unit) = &record.unit {
            self.launcher
                .end_unit(unit)
                .map_err(|error| MountError::host("BackendStuck", error.to_string()))?;
        }
        let are_programs = |program: &Path| self.programs.are_named(program);
        match self.keys().end_readers(record.keys_of(), are_programs) {
            true => Ok(()),
            false => Err(MountError::host(
                "BackendStuck",
                "a program that an earlier agent has started does not end; see: systemctl list-units 'mooring-mount-*'",
            )),
        }
    }

    /// Removes keys that no record names and no program reads: those of programs that went on for open files after their
    /// assignment had been mounted anew.
    pub fn sweep_keys(&self) {
        let keys = self.keys();
        // Listed first: who is about to start has his record written before his key.
        let found = keys.mounts().collect();
        if let Ok(records) = self.runs.read_all() {
            let named = records.values().map(Record::keys_of).collect();
            keys.sweep(&found, &named, |program| self.programs.are_named(program));
        }
    }

    /// What can be said of a live mount: that its program runs. More it does not tell.
    pub fn foreign_status(&self, process: Process) -> Result<WorkerStatus, String> {
        match process.is_alive() {
            true => Ok(status()),
            false => Err("its program has ended".to_owned()),
        }
    }

    /// Where foreign programs find their keys.
    pub(super) fn keys(&self) -> Keys {
        Keys::below(self.runs.run_dir())
    }

    /// Where the program of a backend is, if this host has it.
    pub(super) fn find(&self, program: Foreign) -> Result<PathBuf, MountError> {
        match self.programs.find(program) {
            Ok(path) => Ok(path.to_owned()),
            Err(missing) => Err(MountError::host("BackendMissing", missing.to_string())),
        }
    }

    fn run_foreign(
        &self,
        uid: Uuid,
        prepared: &Prepared,
        record: impl Fn(Process, Option<&str>) -> Record,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        let (program, path) = (prepared.program, &prepared.path);
        self.runs.bound_log(uid);
        let log = self.runs.log(uid);
        let said_before = std::fs::metadata(&log).map_or(0, |found| found.len());
        let launch = Launch {
            unit: &launch::unit_name(uid),
            program: &prepared.executable,
            arguments: &prepared.arguments,
            log: &log,
            duty: Duty::Mounts,
        };
        // Noted first: it mounts by itself, perhaps after this agent has ended, and the next one must know.
        let noted = RefCell::new(None);
        let ready = |unit: Option<&str>| {
            super::go_on(cancel)?;
            self.write(&record(Process::NOBODY, unit))?;
            self.keys().write(prepared.keys, &prepared.key_files)?;
            noted.replace(unit.map(str::to_owned));
            // What came meanwhile.
            super::go_on(cancel)
        };
        let process = self
            .launcher
            .start(&launch, &ready)
            .map_err(|error| match error {
                LaunchError::CalledOff(why) => why,
                error @ (LaunchError::Log(_)
                | LaunchError::Starter { .. }
                | LaunchError::Refused(_)
                | LaunchError::Ended) => MountError::host(
                    "BackendBroken",
                    format!("cannot start {}: {error}", prepared.executable.display()),
                ),
            })?;
        let unit = noted.take();
        let record = |process| record(process, unit.as_deref());
        self.write(&record(process))?;
        let output = Output {
            log: &log,
            from: said_before,
        };
        match await_mount(program, process, path, &output) {
            Ok(()) => {
                self.write(&Record {
                    phase: Phase::Mounted,
                    mount_time: Some(self.clock.now()),
                    ..record(process)
                })?;
                Ok(status())
            }
            Err(failed) => {
                // Nothing was announced, so nothing can be lost.
                process.end(EXIT_PATIENCE);
                if let Err(error) = fuse::detach(path) {
                    tracing::warn!(path = %path.display(), %error, "a failed mount cannot be taken away yet");
                }
                Err(failed.describe(program, &log))
            }
        }
    }
}

impl Failed {
    fn describe(self, program: Foreign, log: &Path) -> MountError {
        let said = format!(
            "{} last said: {}; its log is {}",
            program.name(),
            words::last(log),
            log.display()
        );
        match self {
            Failed::KeyRefused => MountError::Credential {
                reason: "KeyRefused",
                message: format!(
                    "the S3 service refuses the key; check the bucket's policy, or add a new version to the secret. {said}"
                ),
            },
            Failed::BucketMissing => MountError::Store {
                reason: "BucketMissing",
                message: format!(
                    "the S3 service has no such bucket, or hides it from this key; create it, or correct the connector. {said}"
                ),
            },
            Failed::StoreAway => MountError::Store {
                reason: "StoreUnavailable",
                message: format!(
                    "the S3 service does not answer; check the connector's endpoint and this host's network. {said}"
                ),
            },
            Failed::Other(what) => MountError::host("BackendFailed", format!("{what}. {said}")),
        }
    }
}

/// What a program has written since it was started.
struct Output<'a> {
    log: &'a Path,
    from: u64,
}

impl Output<'_> {
    fn text(&self) -> String {
        let read = || {
            let mut file = File::open(self.log)?;
            file.seek(SeekFrom::Start(self.from))?;
            let mut bytes = Vec::new();
            file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

fn status() -> WorkerStatus {
    WorkerStatus {
        started: true,
        ..WorkerStatus::default()
    }
}

fn key_files(
    program: Foreign,
    keys: &Keys,
    mount: Uuid,
    credential: &Credential,
) -> Result<KeyFiles, MountError> {
    match program {
        Foreign::Geesefs => geesefs::key_files(keys, mount, credential),
        Foreign::S3fs => s3fs::key_files(credential),
    }
}

/// Waits until the program's own mount lies at `path` and it has answered through it with something that the store has
/// told it.
fn await_mount(program: Foreign, process: Process, path: &Path, output: &Output<'_>) -> Result<(), Failed> {
    let begun = Instant::now();
    let said = |otherwise| match program {
        // It tells what is wrong with the store through the mount.
        Foreign::Geesefs => otherwise,
        Foreign::S3fs => s3fs::failure(&output.text()).unwrap_or(otherwise),
    };
    while !is_mounted(program, path) {
        if !process.is_alive() {
            process.reap();
            return Err(said(Failed::Other("it has ended instead of mounting")));
        }
        if begun.elapsed() > MOUNT_TIMEOUT {
            return Err(said(Failed::StoreAway));
        }
        std::thread::sleep(MOUNT_POLL);
    }
    let answer = look_into(program, path, MOUNT_TIMEOUT.saturating_sub(begun.elapsed()));
    if program == Foreign::S3fs && answer != Some(Ok(())) {
        // What is wrong it writes when it ends, which it does by itself if the store has refused something.
        let asked = Instant::now();
        while process.is_alive() && asked.elapsed() < LAST_WORDS_TIMEOUT {
            std::thread::sleep(MOUNT_POLL);
        }
    }
    if let Some(failed) = s3fs::failure(&output.text()).filter(|_| program == Foreign::S3fs) {
        return Err(failed);
    }
    match answer {
        Some(Ok(())) if process.is_alive() && is_mounted(program, path) => Ok(()),
        Some(Ok(())) => Err(Failed::Other("it has ended soon after it had mounted")),
        Some(Err(Errno::ACCESS | Errno::PERM)) => Err(Failed::KeyRefused),
        Some(Err(Errno::NXIO)) => Err(Failed::BucketMissing),
        Some(Err(_)) | None => Err(Failed::StoreAway),
    }
}

fn is_mounted(program: Foreign, path: &Path) -> bool {
    let table = MountTable::read();
    table.is_ok_and(
        |table| matches!(table.top(path), Top::Ours(entry) if entry.file_system == program.file_system()),
    )
}

/// Asks a mount what it cannot answer before it has asked the store. `None` when it does not answer in time: the asking
/// thread ends with the mount.
///
/// s3fs answers nothing before it has looked into the bucket; a listing it would make whole, for minutes in large
/// folders. GeeseFS asks for nothing before it must; of a listing it asks for a page.
fn look_into(program: Foreign, path: &Path, deadline: Duration) -> Option<Result<(), Errno>> {
    let (answer, answered) = mpsc::sync_channel(1);
    let path = path.to_owned();
    let thread = std::thread::Builder::new().name("look-into-mount".to_owned());
    let looked = move || {
        rustix::fs::statfs(&path)?;
        rustix::fs::stat(&path)?;
        if program == Foreign::S3fs {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, FileMode::empty())?;
        let mut names = Dir::new(folder)?;
        // `.` and `..` may come from the program's memory.
        for name in (&mut names).take(3) {
            name?;
        }
        Ok(())
    };
    thread
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = answer.send(looked());
        })
        .ok()?;
    answered.recv_timeout(deadline).ok()
}

#[cfg(test)]
mod tests;
