//! The end of a mount: what waits is uploaded, the mount is taken away, and the folder given back. Whoever still has
//! files open keeps them, and the worker lives on for them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fuse::Unmounted;
use super::native::EXIT_PATIENCE;
use super::worker::{ANSWER_TIMEOUT, Worker, WorkerError};
use super::{MountError, Mounter, fuse, mountpoint};
use crate::blocking::{blocking, readable};
use crate::observed::process::Process;
use crate::observed::record::{Phase, Record};

/// Between two attempts to unmount what is in use: soon enough to follow the last close.
const UNMOUNT_POLL: Duration = Duration::from_millis(100);

/// A worker with nothing open and nothing to upload ends at once; one with work is left to it.
const LEAVING_PATIENCE: Duration = Duration::from_secs(2);
const LEAVING_POLL: Duration = Duration::from_millis(10);

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The mount is gone.
    Done,
    /// The agent ends first; the next one goes on with it.
    Interrupted,
}

impl Mounter {
    /// Has the worker upload what waits, then unmounts: within `grace` only once no file is open, after it in any
    /// case, and then open files live on until they are closed. `keep_place` leaves the guarded mount point for the next mount.
    pub async fn stop(
        self: Arc<Self>,
        uid: Uuid,
        path: &Path,
        record: Option<Record>,
        grace: Duration,
        keep_place: bool,
        cancel: CancellationToken,
    ) -> Result<Stopped, MountError> {
        let begun = Instant::now();
        let detached = record
            .as_ref()
            .is_some_and(|record| record.phase == Phase::Detached);
        let anothers = self.is_anothers_now(uid, path).await?;
        if detached || anothers {
            // It has no mount any more, or never had one: what lies there is another assignment's, and so is the folder.
            let path = path.to_owned();
            return blocking(move || self.tidy(uid, &path, record.as_ref(), keep_place || anothers)).await;
        }
        if record.as_ref().is_none_or(|record| !record.worker.is_alive()) {
            self.keeper.forget(uid);
        }
        if let Some(unnoted) = record.clone() {
            let mounter = Arc::clone(&self);
            blocking(move || mounter.end_unnoted(&unnoted)).await?;
        }
        let alive = record.as_ref().filter(|record| record.worker.is_alive()).cloned();
        // Programs of others upload what is open when they are unmounted, and end then.
        if let Some(record) = alive.as_ref().filter(|record| record.foreign().is_none()) {
            let finish = finish_worker(Arc::clone(&self), record.clone(), grace);
            tokio::select! {
                () = cancel.cancelled() => return Ok(Stopped::Interrupted), // cancel-safe: no state
                () = finish => {} // dropping it leaves the worker uploading, which is what is wanted
            }
        }
        loop {
            let forced = begun.elapsed() >= grace;
            if alive.as_ref().is_some_and(|record| !record.worker.is_alive()) {
                // Nobody will serve it any more; who waits for an answer shall not wait for the end of the grace.
                self.keeper.forget(uid);
            }
            let at = path.to_owned();
            let taken = blocking(move || {
                if forced {
                    fuse::detach(&at)
                } else {
                    fuse::unmount(&at)
                }
            })
            .await?;
            if taken == Unmounted::Done {
                break;
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(Stopped::Interrupted), // cancel-safe: no state
                () = tokio::time::sleep(UNMOUNT_POLL) => {} // cancel-safe: no state
            }
        }
        // Open files go on as long as their worker; nobody succeeds it.
        self.keeper.forget(uid);
        if let Some(record) = alive {
            self.write(&Record {
                phase: Phase::Detached,
                ..record.clone()
            })?;
            wait_for_exit(record.worker).await;
        }
        let path = path.to_owned();
        blocking(move || self.tidy(uid, &path, record.as_ref(), keep_place)).await
    }

    async fn is_anothers_now(self: &Arc<Self>, uid: Uuid, path: &Path) -> Result<bool, MountError> {
        let (mounter, path) = (Arc::clone(self), path.to_owned());
        blocking(move || mounter.is_anothers(uid, &path)).await
    }

    /// After the unmount: forget the run unless its worker is still busy, and give the folder back.
    fn tidy(
        &self,
        uid: Uuid,
        path: &Path,
        record: Option<&Record>,
        keep_place: bool,
    ) -> Result<Stopped, MountError> {
        if !record.is_some_and(|record| record.worker.is_alive()) {
            self.forget(uid);
        }
        if !keep_place {
            mountpoint::release(&self.mount_root, path)?;
        }
        Ok(Stopped::Done)
    }

    /// Ends a run whoever uses it: files that are open fail from now on, and no mount without a program stays behind.
    pub fn give_up(&self, record: &Record) {
        self.keeper.forget(record.assignment_uid);
        if let Err(error) = self.end_unnoted(record) {
            tracing::error!(%error, "a program cannot be ended; end it by hand");
        }
        if record.phase != Phase::Detached
            && let Err(error) = fuse::detach(&record.path)
        {
            tracing::error!(path = %record.path.display(), %error, "a mount cannot be taken away; unmount it by hand");
        }
        record.worker.kill();
    }

    /// Ends all programs that serve mounts, also those that no record names any more, since their assignment was mounted
    /// anew while files were open; and removes the keys of all.
    pub fn end_all(&self) {
        // What is about to start finds no key.
        self.over.store(true, Ordering::Release);
        self.launcher.kill_all_units();
        let are_programs = |program: &Path| self.programs.are_named(program);
        for process in Process::naming(self.runs.run_dir(), are_programs) {
            process.end(EXIT_PATIENCE);
        }
        self.keys().remove_all();
    }

    /// Removes a run of which nothing is left. A cache folder with files in it stays: they may be someone's bytes.
    pub fn forget(&self, uid: Uuid) {
        let record = self.runs.read(uid);
        if let Some(Err(error)) = record.as_ref().map(|record| self.end_unnoted(record)) {
            tracing::warn!(assignment = %uid, %error, "a run is not forgotten yet");
            return;
        }
        let cache_of = record.as_ref().map_or(uid, Record::cache_of);
        self.keeper.forget(uid);
        self.tidy_staging(cache_of, Some(uid));
        if let Some(record) = &record {
            self.keys().remove(record.keys_of());
        }
        self.runs.remove(uid);
        self.sweep_keys();
    }
}

/// Uploads what waits; a worker that was never given a mount is ended instead. Errors do not stop the unmount: it was
/// ordered, and the worker goes on uploading after it. A grace may be a day, so no thread waits for the answer.
async fn finish_worker(mounter: Arc<Mounter>, record: Record, grace: Duration) {
    let asked = blocking(move || {
        let worker = match mounter.reach(&record) {
            Some((worker, _)) => worker,
            // It says why it does not answer.
            None => Worker::connect(&mounter.runs.control_socket(record.assignment_uid))?,
        };
        let serves = worker.hello().serves.is_some();
        match serves {
            true => worker.begin_stop(grace)?,
            false => record.worker.kill(),
        }
        Ok::<_, WorkerError>(serves.then_some(worker))
    });
    let worker = match asked.await {
        Ok(Some(worker)) => worker,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "a worker that is to stop does not answer");
            return;
        }
    };
    match worker.answer_signal().and_then(readable) {
        Ok(signal) => {
            // After the deadline the answer is looked for once more, and then given up.
            let _ = tokio::time::timeout(grace + ANSWER_TIMEOUT, signal.readable()).await;
        }
        Err(error) => tracing::warn!(%error, "a worker's answer cannot be waited for"),
    }
    match blocking(move || worker.stopped()).await {
        Ok(status) if status.activity.dirty_files > 0 => tracing::warn!(
            files = status.activity.dirty_files,
            "files are not in S3 yet at the end of the grace; the worker goes on uploading"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "a worker does not confirm that everything is uploaded"),
    }
}

async fn wait_for_exit(worker: Process) {
    let begun = Instant::now();
    while worker.is_alive() && begun.elapsed() < LEAVING_PATIENCE {
        tokio::time::sleep(LEAVING_POLL).await;
    }
}
