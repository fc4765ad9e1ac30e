//! Mounts of the DEFAULT backend: the agent mounts, `mooring-fs` serves. A mount counts only once the worker has
//! answered through it; whatever a failed start has made is taken away again.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mooring_control::{Credential, Secret, WorkerConfig, WorkerStatus};
use mooring_proto::agent::v1 as pb;
use prost::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::launch::{self, Duty, Launch, LaunchError};
use super::through::{Touched, touch};
use super::worker::{Worker, WorkerError};
use super::{MountError, Mounter, NO_KEY_SENT, fuse, mountpoint, words};
use crate::desired::{About, SealedCredential, Spec};
use crate::observed::mountinfo::{MountTable, Top};
use crate::observed::process::Process;
use crate::observed::record::{Phase, Record, Serving, Successions};

/// How long a worker may take to listen. A debug build on a busy machine needs half a second.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
const LISTEN_POLL: Duration = Duration::from_millis(2);

/// How long a fresh mount may take to answer: the worker answers for its root from memory.
pub(super) const TOUCH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a killed process may take to end.
pub(super) const EXIT_PATIENCE: Duration = Duration::from_secs(5);

/// How long names, sizes and listings may be remembered: another host sees a write within this time.
const METADATA_TTL: Duration = Duration::from_secs(5);

/// The reason of a start for which our own program is not there.
const WORKER_MISSING: &str = "WorkerMissing";

/// Of what a worker's configuration is made.
pub(super) struct Share<'a> {
    pub(super) uid: Uuid,
    /// The assignment whose name the cache folder has.
    pub(super) cache_of: Uuid,
    pub(super) serving: &'a Serving,
    pub(super) group: Option<&'a str>,
    pub(super) gid: u32,
    pub(super) succession: Option<PathBuf>,
    pub(super) credential: Credential,
}

impl Mounter {
    /// Mounts with our own worker, after clearing away what `leftover` describes. Blocks until the mount answers or has
    /// failed.
    pub(super) fn start_native(
        &self,
        about: &About,
        spec: &Spec,
        leftover: Option<&Record>,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        let path = spec.place.path(&self.mount_root);
        // First: a dead mount does not stay because its key cannot be used.
        if let Some(status) = self.clear(about, &path, leftover)? {
            return Ok(status);
        }
        let sealed = spec.credential.as_ref().ok_or_else(no_credential)?;
        let credential = self.open(about.uid, spec, sealed)?;
        // Whatever was kept is not of the mount that is made now.
        self.keeper.forget(about.uid);
        // Also what is left of mounts that no record tells of.
        self.tidy_staging(about.uid, Some(about.uid));
        let gid = mountpoint::prepare(&self.mount_root, &spec.place, about.unix_group.as_deref())?;
        let serving = spec.serving(about.mode);
        let succession = self
            .runs
            .make_succession(self.clock.new_uid())
            .map_err(|error| MountError::host("HostError", describe(&error)))?;
        let config = self.config(Share {
            uid: about.uid,
            cache_of: about.uid,
            serving: &serving,
            group: about.unix_group.as_deref(),
            gid,
            succession: Some(succession.clone()),
            credential,
        })?;
        let record =
            |worker| self.launching(about, sealed, &serving, &path, Some(succession.clone()), worker);
        let outcome = self.run_worker(about.uid, &path, config, record, cancel);
        if outcome.is_err() {
            // It may have been written to all the same, by a program that waited for it.
            self.tidy_staging(about.uid, Some(about.uid));
            self.drop_table(about.uid, &succession);
        }
        outcome
    }

    /// What a worker is told to serve, the first of a mount as well as its successors.
    pub(super) fn config(&self, share: Share<'_>) -> Result<WorkerConfig, MountError> {
        let cache_dir = self.cache_dir.join(share.cache_of.to_string());
        mooring_identity::files::create_private_directory(&cache_dir)
            .map_err(|error| MountError::host("HostError", describe(&error)))?;
        let (file_mode, dir_mode) = match (share.group.is_some(), share.serving.read_only) {
            (true, false) => (0o660, 0o770),
            (true, true) => (0o640, 0o750),
            (false, _) => (0o600, 0o700),
        };
        let serving = share.serving.clone();
        Ok(WorkerConfig {
            assignment_uid: share.uid.to_string(),
            endpoint: serving.endpoint,
            region: serving.region,
            bucket: serving.bucket,
            prefix: serving.prefix,
            path_style: serving.path_style,
            cache_size_mib: serving.cache_size_mib,
            read_only: serving.read_only,
            uid: 0,
            gid: share.gid,
            file_mode,
            dir_mode,
            metadata_ttl: METADATA_TTL,
            cache_dir,
            succession: share.succession,
            endpoint_rules: serving.endpoint_rules,
            credential: share.credential,
        })
    }

    /// Gives the worker of a live mount another key.
    pub(super) fn set_native_credential(
        &self,
        record: &Record,
        spec: &Spec,
    ) -> Result<WorkerStatus, MountError> {
        let sealed = spec.credential.as_ref().ok_or_else(no_credential)?;
        let credential = self.open(record.assignment_uid, spec, sealed)?;
        let status = Worker::connect(&self.runs.control_socket(record.assignment_uid))
            .and_then(|worker| worker.set_credential(credential))
            .map_err(|error| worker_failed(&error))?;
        self.write(&with_key(record, sealed))?;
        Ok(status)
    }

    /// Clears away what lies at the place of a mount that is to be made. Answers its status if, after all, it is
    /// there and serves what was ordered: the agent before us died between handing it over and noting so.
    pub(super) fn clear(
        &self,
        about: &About,
        path: &Path,
        leftover: Option<&Record>,
    ) -> Result<Option<WorkerStatus>, MountError> {
        let Some(record) = leftover else {
            // No record says who serves it. Somebody may: then it stays.
            if is_ours(path)? && touch(path, TOUCH_TIMEOUT, || {}) == Touched::Disconnected {
                fuse::detach(path)?;
            }
            return Ok(None);
        };
        if let Some(status) = self.find_successor(record)? {
            return Ok(Some(status));
        }
        self.end_unnoted(record)?;
        // A folder that waits for its mount answers as well as the mount would.
        let ours = is_ours(&record.path)?;
        let alive = record.worker.is_alive();
        if record.phase == Phase::Launching && alive {
            let worker = self
                .reach(record)
                .filter(|(worker, _)| worker.hello().serves == Some(about.uid));
            if let Some((_, socket)) = worker.as_ref().filter(|_| !ours) {
                self.serves_at(about.uid, socket)?;
                self.leave_alone(record)?;
            } else {
                let serving = worker
                    .filter(|_| touch(&record.path, TOUCH_TIMEOUT, || {}) == Touched::Answers)
                    .and_then(|(worker, socket)| {
                        Some((worker.status().ok()?, worker.hello().begun(), socket))
                    });
                match serving {
                    Some((status, begun, socket))
                        if record.generation == about.generation && record.path == path =>
                    {
                        self.serves_at(about.uid, &socket)?;
                        self.write(&Record {
                            phase: Phase::Mounted,
                            mount_time: Some(self.clock.now()),
                            fuse_descriptor: begun.kept_number(),
                            ..record.clone()
                        })?;
                        return Ok(Some(status));
                    }
                    // It was never announced as mounted, so nobody relies on it.
                    Some(_) | None => record.worker.kill(),
                }
            }
        }
        if record.phase == Phase::Mounted {
            if alive && !ours {
                self.leave_alone(record)?;
            } else {
                // Noted first: from here on the missing mount is our own doing, and no person's.
                self.write(&Record {
                    phase: Phase::Launching,
                    ..record.clone()
                })?;
            }
        }
        // Nobody goes on with it; who waits for an answer gets an error now.
        self.keeper.forget(about.uid);
        self.tidy_staging(record.cache_of(), Some(record.assignment_uid));
        // What a lingering worker has left behind is its own folder no more.
        if record.phase == Phase::Detached || self.is_anothers(about.uid, &record.path)? {
            return Ok(None);
        }
        fuse::detach(&record.path)?;
        if record.path != path {
            mountpoint::release(&self.mount_root, &record.path)?;
        }
        Ok(None)
    }

    /// Notes that a worker has lost its mount to somebody else, who unmounted it by hand: it goes on for those who have
    /// files open, and whatever fails from now on for the next mount, it is not ended for that.
    fn leave_alone(&self, record: &Record) -> Result<(), MountError> {
        self.write(&Record {
            phase: Phase::Detached,
            ..record.clone()
        })
    }

    /// Clears a dead mount away that cannot be made anew for now, so that whoever comes finds a guarded folder, and no
    /// error that never ends.
    pub fn clear_dead(&self, record: &Record) -> Result<(), MountError> {
        self.end_unnoted(record)?;
        if record.worker.is_alive() || self.is_anothers(record.assignment_uid, &record.path)? {
            return Ok(());
        }
        if record.phase == Phase::Mounted {
            self.write(&Record {
                phase: Phase::Launching,
                ..record.clone()
            })?;
        }
        self.keeper.forget(record.assignment_uid);
        fuse::detach(&record.path).map(drop)
    }

    /// Whether another assignment has its live mount at `path`, by its record: then nothing there is to be touched.
    pub(super) fn is_anothers(&self, uid: Uuid, path: &Path) -> Result<bool, MountError> {
        let records = self
            .runs
            .read_all()
            .map_err(|error| MountError::io("read the records in", path, error))?;
        Ok(records.values().any(|other| {
            other.assignment_uid != uid
                && other.path == path
                && other.phase != Phase::Detached
                && other.worker.is_alive()
        }))
    }

    /// Starts the worker and hands the mount over; on failure takes both away again.
    fn run_worker(
        &self,
        uid: Uuid,
        path: &Path,
        config: WorkerConfig,
        record: impl Fn(Process) -> Record,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        let process = self.launch_worker(uid, &self.runs.next_socket(uid), cancel)?;
        let outcome = self.hand_over(uid, path, config, process, &record, cancel);
        if outcome.is_err() {
            // It may have ended by itself; and nothing was announced, so nothing can be lost.
            process.end(EXIT_PATIENCE);
            if let Err(error) = fuse::detach(path) {
                tracing::warn!(path = %path.display(), %error, "a failed mount cannot be taken away yet");
            }
        }
        outcome
    }

    /// Starts a worker that listens at `socket`: the next one, until it serves. Whoever starts it again, as a person can do
    /// with its unit, does not take the place of the one that serves.
    pub(super) fn launch_worker(
        &self,
        uid: Uuid,
        socket: &Path,
        cancel: &CancellationToken,
    ) -> Result<Process, MountError> {
        let log = self.runs.log(uid);
        mooring_identity::files::create_private_directory(&self.runs.folder(uid))
            .map_err(|error| MountError::host("HostError", describe(&error)))?;
        self.runs.bound_log(uid);
        let arguments = ["serve".into(), "--control".into(), socket.into()];
        let launch = Launch {
            unit: &launch::unit_name(uid),
            program: self.worker_program()?,
            arguments: &arguments,
            log: &log,
            duty: Duty::Serves,
        };
        // Nothing needs to be noted before: one that is not given a mount ends by itself.
        let ready = |_: Option<&str>| super::go_on(cancel);
        self.launcher.start(&launch, &ready).map_err(|error| match error {
            LaunchError::CalledOff(why) => why,
            LaunchError::Ended => self.ended(uid, "its worker ended at once"),
            LaunchError::Log(_) | LaunchError::Starter { .. } | LaunchError::Refused(_) => MountError::host(
                WORKER_MISSING,
                format!("cannot start {}: {error}", self.programs.mooring_fs.display()),
            ),
        })
    }

    /// Our own program, if it can be run: whoever starts it would say something else of one that is missing.
    pub(super) fn worker_program(&self) -> Result<&Path, MountError> {
        let found = self.programs.worker();
        found.map_err(|missing| MountError::host(WORKER_MISSING, missing.to_string()))
    }

    fn hand_over(
        &self,
        uid: Uuid,
        path: &Path,
        config: WorkerConfig,
        process: Process,
        record: &impl Fn(Process) -> Record,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        use std::os::fd::AsFd;
        self.write(&record(process))?;
        let next = self.runs.next_socket(uid);
        let worker = self.greet(uid, process, &next)?;
        super::go_on(cancel)?;
        let device = fuse::mount(path, config.read_only)?;
        let begun = worker
            .start(config, device.as_fd())
            .map_err(|error| match error {
                WorkerError::Silent(_) => self.ended(uid, "its worker was lost while it was started"),
                error => worker_failed(&error),
            })?;
        // Without a successor the worker alone holds the connection: when it dies, every access fails at once and
        // nothing hangs.
        let device = begun.resend.then_some(device);
        match touch(path, TOUCH_TIMEOUT, || {}) {
            Touched::Answers => {}
            Touched::Fails(error) => {
                return Err(self.ended(uid, &format!("the fresh mount answers with an error: {error}")));
            }
            Touched::Disconnected | Touched::Silent => {
                return Err(self.ended(
                    uid,
                    "its worker says that it serves, but the mount does not answer",
                ));
            }
        }
        fuse::set_read_ahead(path);
        let status = worker.status().map_err(|error| worker_failed(&error))?;
        self.serves_at(uid, &next)?;
        self.write(&Record {
            phase: Phase::Mounted,
            mount_time: Some(self.clock.now()),
            fuse_descriptor: begun.kept_number(),
            ..record(process)
        })?;
        if let Some(device) = device {
            self.keeper.keep(uid, path, device);
        }
        Ok(status)
    }

    /// From now on the worker that listens at `socket` is the one that serves.
    pub(super) fn serves_at(&self, uid: Uuid, socket: &Path) -> Result<(), MountError> {
        let control = self.runs.control_socket(uid);
        if socket == control {
            return Ok(());
        }
        std::fs::rename(socket, &control)
            .map_err(|error| MountError::io("rename the socket to", &control, error))
    }

    /// The worker of a record, if it answers, and where: one that an agent before us has started may serve already, and
    /// not be noted yet.
    pub(super) fn reach(&self, record: &Record) -> Option<(Worker, PathBuf)> {
        let uid = record.assignment_uid;
        [self.runs.next_socket(uid), self.runs.control_socket(uid)]
            .into_iter()
            .filter_map(|socket| Some((Worker::connect(&socket).ok()?, socket)))
            .find(|(worker, _)| worker.hello().pid == record.worker.pid)
    }

    /// Connects to a worker that has just been started.
    pub(super) fn greet(&self, uid: Uuid, process: Process, socket: &Path) -> Result<Worker, MountError> {
        let begun = Instant::now();
        loop {
            let error = match Worker::connect(socket) {
                // Not the one before it, whose files are still open and which listens until they are closed, and not
                // one that an agent before us has started and lost.
                Ok(worker) if worker.hello().serves.is_none() && worker.hello().pid == process.pid => {
                    return Ok(worker);
                }
                Ok(_) => None,
                Err(error @ (WorkerError::Version { .. } | WorkerError::OutOfTurn)) => {
                    return Err(worker_failed(&error));
                }
                Err(error) => Some(error),
            };
            if !process.is_alive() {
                return Err(self.ended(uid, "its worker ended at once"));
            }
            if begun.elapsed() > LISTEN_TIMEOUT {
                let cause = error.map_or_else(String::new, |error| format!(": {error}"));
                return Err(self.ended(uid, &format!("its worker cannot be reached{cause}")));
            }
            std::thread::sleep(LISTEN_POLL);
        }
    }

    pub(super) fn ended(&self, uid: Uuid, what: &str) -> MountError {
        let log = self.runs.log(uid);
        MountError::host(
            "WorkerFailed",
            format!(
                "{what}; it last said: {}; its log is {}",
                words::last(&log),
                log.display()
            ),
        )
    }

    pub(super) fn open(
        &self,
        uid: Uuid,
        spec: &Spec,
        sealed: &SealedCredential,
    ) -> Result<Credential, MountError> {
        if self.over.load(Ordering::Acquire) {
            return Err(MountError::CalledOff);
        }
        let binding = spec.binding(self.host_uid, uid, sealed);
        let opened = self.hpke.open(&binding, &sealed.envelope).map_err(|_| MountError::Credential {
            reason: "CredentialUnreadable",
            message: format!(
                "this host cannot open the key {}: it was sealed for another host key, endpoint or bucket; \
                 activate again, or enrol this host anew if its hpke.key was replaced",
                sealed.secret_version
            ),
        })?;
        let pb::Credential {
            access_key_id,
            secret_access_key,
        } = pb::Credential::decode(opened.expose()).map_err(|_| MountError::Credential {
            reason: "CredentialUnreadable",
            message: format!(
                "what the envelope of {} holds is no key of this version; upgrade this agent",
                sealed.secret_version
            ),
        })?;
        Ok(Credential {
            access_key_id,
            secret_access_key: Secret::new(secret_access_key),
        })
    }

    /// What is noted of a mount whose program has just been started, whichever it is.
    pub(super) fn launching(
        &self,
        about: &About,
        sealed: &SealedCredential,
        serving: &Serving,
        path: &Path,
        succession: Option<PathBuf>,
        worker: Process,
    ) -> Record {
        Record {
            assignment_uid: about.uid,
            generation: about.generation,
            spec_hash: about.spec_hash.clone(),
            boot_id: self.runs.boot_id().to_owned(),
            phase: Phase::Launching,
            path: path.to_owned(),
            worker,
            secret_version: sealed.secret_version.clone(),
            key_fingerprint: sealed.fingerprint.clone(),
            activation: about.activation.clone(),
            connector: about.connector.clone(),
            read_only: serving.read_only,
            unix_group: about.unix_group.clone(),
            serves: Some(serving.clone()),
            started_for: None,
            taken_over_by: None,
            succession,
            fuse_descriptor: None,
            unit: None,
            keys: None,
            successions: Successions::default(),
            mount_time: None,
        }
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), MountError> {
        self.runs
            .write(record)
            .map_err(|error| MountError::host("HostError", describe(&error)))
    }
}

/// The record of a mount that has been given this key.
pub(super) fn with_key(record: &Record, sealed: &SealedCredential) -> Record {
    Record {
        secret_version: sealed.secret_version.clone(),
        key_fingerprint: sealed.fingerprint.clone(),
        ..record.clone()
    }
}

fn is_ours(path: &Path) -> Result<bool, MountError> {
    let table = MountTable::read()
        .map_err(|error| MountError::io("read", Path::new("/proc/self/mountinfo"), error))?;
    Ok(matches!(table.top(path), Top::Ours(_)))
}

pub(super) fn no_credential() -> MountError {
    MountError::Credential {
        reason: "NoCredential",
        message: NO_KEY_SENT.to_owned(),
    }
}

pub(super) fn worker_failed(error: &WorkerError) -> MountError {
    match error {
        WorkerError::Refused {
            key_refused: true, ..
        } => MountError::Credential {
            reason: "KeyRefused",
            message: error.to_string(),
        },
        WorkerError::Refused {
            key_refused: false, ..
        } => MountError::Store {
            reason: "StoreRefused",
            message: error.to_string(),
        },
        WorkerError::Silent(_) | WorkerError::Version { .. } | WorkerError::OutOfTurn => {
            MountError::host("WorkerFailed", error.to_string())
        }
    }
}

/// An error with its causes, in one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
