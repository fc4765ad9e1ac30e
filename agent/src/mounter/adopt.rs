//! What changes around a live mount without touching it: whether a mount anew would succeed, who may enter, and whose
//! it is. Nothing here unmounts.

use std::path::Path;

use mooring_control::WorkerStatus;
use uuid::Uuid;

use super::native::describe;
use super::through::{Touched, touch};
use super::worker::Worker;
use super::{MountError, Mounter, mountpoint};
use crate::desired::{About, Spec};
use crate::observed::record::{Phase, Record};

/// How long a mount that is to be taken over may take to answer.
const TOUCH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl Mounter {
    /// Tells what would make a start fail for certain: a live mount is not stopped for an order that cannot be carried
    /// out. `now_at` is where its mount is now, or what shall make room for it.
    pub fn preflight(&self, about: &About, spec: &Spec, now_at: &Path) -> Result<(), MountError> {
        let sealed = spec
            .credential
            .as_ref()
            .ok_or_else(super::native::no_credential)?;
        self.open(about.uid, spec, sealed)?;
        mountpoint::gid_of(about.unix_group.as_deref())?;
        match spec.foreign {
            Some(foreign) => drop(self.prepare_foreign(foreign, about, spec)?), // dropped, it has changed nothing
            None => drop(self.worker_program()?), // dropped, it is asked again when it is started
        }
        let wanted = spec.place.path(&self.mount_root);
        if wanted != now_at {
            mountpoint::check_free(&self.mount_root, &spec.place)?;
        }
        Ok(())
    }

    /// Makes a live mount that of a newer order which it serves as well: the project's folder is given to the ordered
    /// group at once. The files in the mount keep the group that they have until it is mounted next.
    pub fn relabel(&self, about: &About, spec: &Spec, record: &Record) -> Result<(), MountError> {
        mountpoint::admit(&self.mount_root, &spec.place, about.unix_group.as_deref())?;
        self.write(&relabelled(about, record.clone()))
    }

    /// Takes over the live mount of `orphan`, which serves what `about` orders. `None` when it does not answer; then
    /// nothing has changed.
    pub fn adopt(
        &self,
        about: &About,
        spec: &Spec,
        orphan: Uuid,
    ) -> Result<Option<WorkerStatus>, MountError> {
        let Some(record) = self.runs.read(orphan) else {
            return Ok(None);
        };
        let status = match record.foreign() {
            Some(_) => self.foreign_status(record.worker).ok(),
            None => Worker::connect(&self.runs.control_socket(orphan))
                .and_then(|worker| worker.status())
                .ok(),
        };
        let answers = record.phase == Phase::Mounted
            && record.worker.is_alive()
            && touch(&record.path, TOUCH_TIMEOUT, || {}) == Touched::Answers;
        let (true, Some(status)) = (answers, status) else {
            return Ok(None);
        };
        mountpoint::admit(&self.mount_root, &spec.place, about.unix_group.as_deref())?;
        let handed = self
            .runs
            .hand_over(&record, about.uid)
            .map_err(|error| MountError::host("HostError", describe(&error)))?;
        self.keeper.hand_over(orphan, about.uid);
        self.write(&relabelled(about, handed))?;
        Ok(Some(status))
    }
}

fn relabelled(about: &About, record: Record) -> Record {
    Record {
        generation: about.generation,
        spec_hash: about.spec_hash.clone(),
        activation: about.activation.clone(),
        connector: about.connector.clone(),
        ..record
    }
}
