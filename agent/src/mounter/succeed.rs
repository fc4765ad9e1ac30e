//! The succession of a worker on a live mount: another process is given the kept descriptor, the mount stays, open files
//! go on, and requests that the old worker did not answer are sent again to the new one.
//!
//! A worker that has died and one that is replaced by another program take the same way; the latter is killed once its
//! successor waits and has said that it can read what it must know. The successor listens at `next.sock`, which is renamed
//! when it serves, so that `control.sock` is always the one that serves. Wherever an agent is killed on this way, the next
//! one finds out which of the two it is.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use mooring_control::{WorkerConfig, WorkerStatus};
use tokio_util::sync::CancellationToken;

use super::native::{EXIT_PATIENCE, Share, TOUCH_TIMEOUT, describe, no_credential, with_key, worker_failed};
use super::through::{Touched, touch};
use super::worker::{Begun, Worker};
use super::{MountError, Mounter, mountpoint};
use crate::desired::Spec;
use crate::observed::process::Process;
use crate::observed::record::{Phase, Record};

/// One failure may be the death of the successor; a second one is taken for a rule, and the mount is made anew.
const TRIES: u32 = 2;

/// Why a worker is succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It has died.
    Death,
    /// Another program is installed; it lives, and serves until its successor waits.
    Upgrade,
}

impl Mounter {
    /// Gives the mount of `record` to another worker. After a failure the mount either goes on with the worker that it
    /// has, or nothing is kept of it any more and every access fails until it is mounted anew.
    pub fn succeed(
        &self,
        spec: &Spec,
        record: &Record,
        cause: Cause,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        let uid = record.assignment_uid;
        if let Some(status) = self.find_successor(record)? {
            return Ok(status);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.try_succeed(spec, record, cause, cancel) {
                Ok(status) => return Ok(status),
                Err(error) => error,
            };
            // One that serves and is not noted is found at the next try.
            let is_final = matches!(error, MountError::NotNoted { .. } | MountError::CalledOff);
            if record.worker.is_alive() || cancel.is_cancelled() || is_final {
                return Err(error);
            }
            if tries >= TRIES {
                tracing::warn!(assignment = %uid, %error, "no worker succeeds the dead one; the mount is made anew");
                self.keeper.forget(uid);
                return Err(error);
            }
            tracing::warn!(assignment = %uid, %error, "a successor has failed; another one tries");
        }
    }

    /// Takes a successor for the mount's worker that an agent before us has made, but not noted. One that does not serve
    /// yet never will, without the agent that it waits for.
    pub(super) fn find_successor(&self, record: &Record) -> Result<Option<WorkerStatus>, MountError> {
        let uid = record.assignment_uid;
        if record.phase != Phase::Mounted || record.worker.is_alive() {
            return Ok(None);
        }
        for socket in [self.runs.next_socket(uid), self.runs.control_socket(uid)] {
            let Ok(worker) = Worker::connect(&socket) else {
                continue;
            };
            let Some(process) = Process::of_pid(worker.hello().pid) else {
                continue;
            };
            // The worker knows the name for which it was started, if another assignment has taken it over since.
            let serves = worker.hello().serves;
            if serves != Some(uid) && serves != Some(record.cache_of()) {
                process.end(EXIT_PATIENCE);
                continue;
            }
            let begun = worker.hello().begun();
            if let Some(number) = begun.kept_number() {
                self.keeper.retrieve(uid, &record.path, process, number);
            }
            return self
                .install(record, Cause::Death, &worker, process, &socket, begun)
                .map(Some);
        }
        Ok(None)
    }

    fn try_succeed(
        &self,
        spec: &Spec,
        record: &Record,
        cause: Cause,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        let uid = record.assignment_uid;
        let sealed = spec.credential.as_ref().ok_or_else(no_credential)?;
        let descriptor = self.keeper.duplicate(uid).ok_or_else(|| {
            MountError::host(
                "NotKept",
                "the descriptor of its mount is not at hand; it is mounted anew",
            )
        })?;
        let config = || self.config_of(spec, record);
        // At a second try it is dead: then there is nobody left to ask, and nothing to be lost by trying.
        let serves_still = cause == Cause::Upgrade && record.worker.is_alive();
        if serves_still {
            self.may_be_ended(record)?;
        }
        let order = config()?;
        let socket = self.runs.next_socket(uid);
        // Whatever goes wrong with the installed program, before or after the old worker's end.
        let refused = |error: MountError| match (cause, error) {
            (Cause::Upgrade, MountError::Host { message, .. }) => MountError::UpgradeRefused { message },
            (Cause::Death | Cause::Upgrade, error) => error,
        };
        let process = self.launch_worker(uid, &socket, cancel).map_err(refused)?;
        let outcome = self
            .greet(uid, process, &socket)
            .map_err(refused)
            .and_then(|worker| {
                if serves_still {
                    // As long as nobody is ended, nothing is lost.
                    worker
                        .prepare(config()?)
                        .map_err(|error| refused(self.ended(uid, &worker_failed(&error).to_string())))?;
                }
                // Two that serve one connection would steal each other's requests.
                if !record.worker.end(EXIT_PATIENCE) {
                    return Err(MountError::host(
                        "WorkerStuck",
                        format!(
                            "its worker (process {}) was killed and does not end; see: cat /proc/{0}/stack",
                            record.worker.pid
                        ),
                    ));
                }
                // A ban ends what it finds; one that was not given a mount yet must not come after that.
                if self.over.load(Ordering::Acquire) {
                    return Err(MountError::CalledOff);
                }
                let begun = worker
                    .succeed(order, descriptor.as_fd())
                    .map_err(|error| refused(self.ended(uid, &worker_failed(&error).to_string())))?;
                let noted = with_key(record, sealed);
                let installed = self.install(&noted, cause, &worker, process, &socket, begun);
                installed.map_err(refused)
            });
        if !matches!(outcome, Ok(_) | Err(MountError::NotNoted { .. })) {
            process.end(EXIT_PATIENCE);
        }
        outcome
    }

    /// What a successor is told to serve: the same as the worker before it.
    fn config_of(&self, spec: &Spec, record: &Record) -> Result<WorkerConfig, MountError> {
        let uid = record.assignment_uid;
        let sealed = spec.credential.as_ref().ok_or_else(no_credential)?;
        let serving = record.serves.as_ref().ok_or_else(|| {
            MountError::host(
                "NotKept",
                "its record does not say what it serves; it is mounted anew",
            )
        })?;
        self.config(Share {
            uid,
            cache_of: record.cache_of(),
            serving,
            // As the files of the mount have been all the time, whoever may enter by now.
            group: record.unix_group.as_deref(),
            gid: mountpoint::gid_of(record.unix_group.as_deref())?,
            succession: record.succession.clone(),
            credential: self.open(uid, spec, sealed)?,
        })
    }

    /// Whether a worker that serves may be ended for another program: it must be one that can be succeeded, at this moment,
    /// and its successor must find room to be noted.
    fn may_be_ended(&self, record: &Record) -> Result<(), MountError> {
        let uid = record.assignment_uid;
        let worker =
            Worker::connect(&self.runs.control_socket(uid)).map_err(|error| worker_failed(&error))?;
        if worker.hello().pid != record.worker.pid || !worker.hello().resend {
            self.keeper.forget(uid);
            // Nobody fetches again what is of no use.
            self.write(&Record {
                fuse_descriptor: None,
                ..record.clone()
            })?;
            return Err(MountError::host(
                "NotKept",
                "its worker has given its succession up, as its log says; it goes on as it is until it is mounted again",
            ));
        }
        self.write(record)
    }

    /// Notes a successor that serves as the mount's worker.
    fn install(
        &self,
        record: &Record,
        cause: Cause,
        worker: &Worker,
        process: Process,
        socket: &Path,
        begun: Begun,
    ) -> Result<WorkerStatus, MountError> {
        let uid = record.assignment_uid;
        match touch(&record.path, TOUCH_TIMEOUT, || {}) {
            Touched::Answers => {}
            Touched::Fails(_) | Touched::Disconnected | Touched::Silent => {
                return Err(self.ended(
                    uid,
                    "its new worker says that it serves, but the mount does not answer",
                ));
            }
        }
        let status = worker.status().map_err(|error| worker_failed(&error))?;
        self.serves_at(uid, socket)?;
        let mut successions = record.successions;
        match cause {
            Cause::Death => successions.deaths += 1,
            Cause::Upgrade => successions.upgrades += 1,
        }
        successions.last = Some(self.clock.now());
        if !begun.resend {
            self.keeper.forget(uid);
        }
        let noted = self.runs.write(&Record {
            worker: process,
            fuse_descriptor: begun.kept_number(),
            successions,
            ..record.clone()
        });
        match noted {
            Ok(()) => Ok(status),
            Err(error) => Err(MountError::NotNoted {
                message: format!(
                    "another worker serves it and cannot be noted: {}; free some space there",
                    describe(&error)
                ),
            }),
        }
    }
}
