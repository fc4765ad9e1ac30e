//! The end of a mount: what waits is uploaded, the mount is taken away, and the folder given back. Whoever still has
//! files open keeps them, and the worker lives on for them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fuse::Unmounted;
use super::worker::Worker;
use super::{MountError, Mounter, fuse, mountpoint};
use crate::blocking::blocking;
use crate::observed::process::Process;
use crate::observed::record::{Phase, Record};

/// Between two attempts to unmount what is in use: soon enough to follow the last close.
const UNMOUNT_POLL: Duration = Duration::from_millis(100);

/// A worker with nothing open and nothing to upload ends at once; one with work is left to it.
const EXIT_PATIENCE: Duration = Duration::from_secs(2);
const EXIT_POLL: Duration = Duration::from_millis(10);

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
        let alive = record.as_ref().filter(|record| record.worker.is_alive()).cloned();
        if let Some(record) = &alive {
            let socket = self.runs.control_socket(uid);
            let worker = record.worker;
            let finish = blocking(move || finish_worker(&socket, worker, grace));
            tokio::select! {
                () = cancel.cancelled() => return Ok(Stopped::Interrupted), // cancel-safe: no state
                () = finish => {} // dropping it leaves the worker uploading, which is what is wanted
            }
        }
        loop {
            let forced = begun.elapsed() >= grace;
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

    /// Removes a run of which nothing is left. A cache folder with files in it stays: they may be someone's bytes.
    pub fn forget(&self, uid: Uuid) {
        let cache_of = self.runs.read(uid).map_or(uid, |record| record.cache_of());
        self.runs.remove(uid);
        let cache = self.cache_dir.join(cache_of.to_string());
        let _ = std::fs::remove_dir(cache.join("staging"));
        let _ = std::fs::remove_dir(cache);
    }
}

/// Uploads what waits; a worker that was never given a mount is ended instead. Errors do not stop the unmount: it was
/// ordered, and the worker goes on uploading after it.
fn finish_worker(socket: &Path, process: Process, grace: Duration) {
    match Worker::connect(socket) {
        Ok(worker) if worker.hello().serves.is_none() => process.kill(),
        Ok(worker) => match worker.stop(grace) {
            Ok(status) if status.activity.dirty_files > 0 => tracing::warn!(
                files = status.activity.dirty_files,
                "files are not in S3 yet at the end of the grace; the worker goes on uploading"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a worker does not confirm that everything is uploaded"),
        },
        Err(error) => tracing::warn!(%error, "a worker that is to stop does not answer"),
    }
}

async fn wait_for_exit(worker: Process) {
    let begun = Instant::now();
    while worker.is_alive() && begun.elapsed() < EXIT_PATIENCE {
        tokio::time::sleep(EXIT_POLL).await;
    }
}
