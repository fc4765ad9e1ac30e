//! How what was written gets into S3.
//!
//! Policy `uploaded`: close and fsync return when the bytes are in S3, and report it if they are not. A
//! file that could not be uploaded stays here, dirty, and is tried again until it can or the mount ends.
//!
//! An edit that lost a race leaves its file: what was written is in the copy beside it, and the handles
//! that were open then are stale until they are closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Filesystem;
use crate::clock;
use crate::error::FsError;
use crate::handle::FileHandle;
use crate::namespace::inode::{Ino, Kind, Link, METADATA_MTIME, Metadata, format_mtime};
use crate::namespace::runs::{Entry, ObjectVersion};
use crate::offload::leave_caller_thread;
use crate::store::{ETag, Key, ObjectInfo, StoreError};
use crate::writer::Outcome;
use crate::writer::staging::{Edit, Version};

/// Pauses between attempts to upload a file that nobody has open any more.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// Keeps the bytes of a file here while an operation on its path needs them.
pub(super) struct Held<'a> {
    filesystem: &'a Filesystem,
    ino: Ino,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Ok(file) = self.filesystem.namespace.table().file_mut(self.ino) {
            file.holds = file.holds.saturating_sub(1);
        }
        self.filesystem.drop_edit(self.ino);
    }
}

impl Filesystem {
    /// Uploads a file that nobody has open for writing any more, however long the store takes to accept it. Once somebody
    /// writes to it again, their close does: what is half written is nothing that others should see.
    pub async fn settle(&self, ino: Ino) {
        let edit = self
            .namespace
            .table()
            .file(ino)
            .ok()
            .and_then(|file| file.edit.clone());
        let Some(edit) = edit.filter(|edit| edit.begin_settling()) else {
            return;
        };
        loop {
            self.upload_until_done(ino, &edit).await;
            edit.end_settling();
            // Something may have come while nobody could claim the task.
            let more = self.is_left_dirty(ino, &edit) && !self.stopping.is_cancelled();
            if !more || !edit.begin_settling() {
                break;
            }
        }
        self.drop_edit(ino);
        // Nobody may ask for anything for a long time.
        self.write_down();
    }

    /// Drops changes that can never become an object.
    pub(super) fn give_up(&self, ino: Ino) {
        let mut table = self.namespace.table();
        let mut dropped = None;
        if let Ok(file) = table.file_mut(ino) {
            dropped = file.edit.take();
            if let Some(edit) = &dropped {
                edit.forget_object();
            }
            file.epoch += 1;
        }
        table.sweep(ino);
        drop(table);
        drop(dropped);
    }

    fn is_left_dirty(&self, ino: Ino, edit: &Edit) -> bool {
        let nobody_writes = self
            .namespace
            .table()
            .file(ino)
            .is_ok_and(|file| file.writers == 0);
        nobody_writes && edit.is_dirty()
    }

    async fn upload_until_done(&self, ino: Ino, edit: &Edit) {
        let mut delay = RETRY_DELAY_MIN;
        while self.is_left_dirty(ino, edit) {
            let Err(error) = self.commit(ino).await else {
                return;
            };
            // It is kept as a copy, or the file was removed.
            if !edit.is_dirty() {
                return;
            }
            if matches!(error, FsError::NotFound) {
                // The folder was replaced by somebody else: there is no key for it any more.
                tracing::error!(ino = ino.0, %error, "changes to a file are given up");
                self.give_up(ino);
                return;
            }
            let path = self.namespace.table().path(ino).unwrap_or_default();
            tracing::warn!(path, %error, ?delay, "a closed file is not in the store yet; trying again");
            tokio::select! {
                // Both arms are cancel-safe: they hold no state.
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    /// Everything that was written to a file so far is in S3 when this returns.
    pub(super) async fn commit(&self, ino: Ino) -> Result<(), FsError> {
        let Some(edit) = self.namespace.table().file(ino)?.edit.clone() else {
            return Ok(());
        };
        let wanted = edit.generation();
        if edit.is_committed(wanted) {
            return kept(&edit);
        }
        leave_caller_thread().await;
        let _claim = self.claim_file(ino).await?;
        let _turn = edit.turn.lock().await;
        if edit.is_committed(wanted) {
            return kept(&edit);
        }
        self.commit_in_turn(ino, &edit).await
    }

    /// [`Filesystem::commit`] for a caller that holds a claim on the file and the edit's turn.
    pub(super) async fn commit_in_turn(&self, ino: Ino, edit: &Arc<Edit>) -> Result<(), FsError> {
        let (key, known, had_object) = {
            let table = self.namespace.table();
            if table.get(ino)?.link == Link::Gone {
                return Ok(());
            }
            let file = table.file(ino)?;
            (
                self.namespace.key(&table.path(ino)?)?,
                file.metadata.clone(),
                file.object.is_some(),
            )
        };
        // A file keeps what its object carries, also when all of its bytes are replaced; a listing does not tell it.
        let metadata = match known {
            Some(metadata) => metadata,
            None if had_object => match self.store.head(&key).await {
                Ok(info) => info.metadata,
                Err(StoreError::NotFound) => Metadata::new(),
                Err(error) => return Err(error.into()),
            },
            None => Metadata::new(),
        };
        let metadata = self.with_mtime(ino, metadata)?;
        // So that a repetition knows what it finds in the store for its own.
        self.write_down();
        let outcome = self.writer.commit(&key, edit, metadata, clock::wall()).await;
        self.note_write(outcome.as_ref().err());
        match outcome? {
            Outcome::Stored {
                version,
                etag,
                metadata,
            } => self.stored(ino, edit, &version, etag, metadata),
            Outcome::Lost { copy, remote } => {
                self.lost(ino, edit, remote);
                Err(lost_to(copy))
            }
        }
    }

    /// An edit has become the object.
    fn stored(
        &self,
        ino: Ino,
        edit: &Edit,
        version: &Version,
        etag: ETag,
        metadata: Metadata,
    ) -> Result<(), FsError> {
        let object = Arc::new(ObjectVersion {
            size: version.size,
            etag: etag.clone(),
            modified: clock::wall(),
        });
        let mut table = self.namespace.table();
        let link = table.get(ino)?.link.clone();
        let file = table.file_mut(ino)?;
        file.object = Some(Arc::clone(&object));
        file.metadata = Some(metadata);
        file.verified = Instant::now();
        file.epoch += 1;
        // Under the table's lock, or the edit could be dropped before the object is known.
        edit.committed(version.generation, etag);
        if !edit.is_dirty() {
            file.mtime_set = false;
        }
        if let Link::At(parent, name) = link {
            table
                .folder_mut(parent)?
                .change(name, Some(Entry::File(object)), Some(Instant::now()));
        }
        Ok(())
    }

    /// Somebody else's version stays, or none.
    fn lost(&self, ino: Ino, edit: &Arc<Edit>, remote: Option<ObjectInfo>) {
        let now = Instant::now();
        let mut table = self.namespace.table();
        let object = remote.as_ref().map(|remote| Arc::new(ObjectVersion::of(remote)));
        if let Ok(file) = table.file_mut(ino) {
            file.edit = file.edit.take().filter(|other| !Arc::ptr_eq(other, edit));
            file.mtime_set = false;
            file.object = object.clone();
            file.verified = now;
            file.epoch += 1;
            file.lineage += 1;
            // No handle that is open now may mix the object's bytes into those of the edit.
            file.cached = None;
            if let Some(remote) = remote {
                file.mtime = remote.modified;
                file.metadata = Some(remote.metadata);
            }
        }
        if let Ok(Link::At(parent, name)) = table.get(ino).map(|inode| inode.link.clone()) {
            if object.is_none() {
                table.detach(parent, &name);
            }
            if let Ok(folder) = table.folder_mut(parent) {
                // The copy is a new name in it.
                folder.distrust();
                folder.change(name, object.map(Entry::File), Some(now));
            }
        }
        table.sweep(ino);
    }

    /// The bytes of a file that is being written, or is about to be.
    pub(super) fn edit(&self, ino: Ino) -> Result<Arc<Edit>, FsError> {
        self.edit_from(ino, None)
    }

    /// The same for what a handle writes: only of the line of versions that it was opened in.
    pub(super) fn edit_of(&self, handle: &FileHandle) -> Result<Arc<Edit>, FsError> {
        self.edit_from(handle.ino, Some(handle))
    }

    fn edit_from(&self, ino: Ino, handle: Option<&FileHandle>) -> Result<Arc<Edit>, FsError> {
        let opened = handle.map_or_else(Instant::now, |handle| handle.opened);
        loop {
            let object = {
                let table = self.namespace.table();
                let file = table.file(ino)?;
                if handle.is_some_and(|handle| handle.lineage != file.lineage) {
                    return Err(FsError::Changed);
                }
                if let Some(edit) = &file.edit {
                    edit.joined(opened);
                    return Ok(Arc::clone(edit));
                }
                file.object.clone().ok_or(FsError::NotFound)?
            };
            let base = (object.etag.clone(), object.size);
            let made = Arc::new(Edit::of_object(
                self.writer.staging(),
                base,
                clock::new_id(),
                opened,
            )?);
            let mut table = self.namespace.table();
            let file = table.file_mut(ino)?;
            let still = file.object.as_ref().is_some_and(|now| now.etag == object.etag);
            if file.edit.is_none() && still {
                file.edit = Some(Arc::clone(&made));
                return Ok(made);
            }
        }
    }

    /// Keeps a file's bytes here until the guard is dropped, if they are here.
    pub(super) fn hold(&self, ino: Ino) -> Result<Held<'_>, FsError> {
        self.namespace.table().file_mut(ino)?.holds += 1;
        Ok(Held {
            filesystem: self,
            ino,
        })
    }

    /// Lets go of staged bytes that are in S3 and that nobody writes to any more.
    pub(super) fn drop_edit(&self, ino: Ino) {
        let mut table = self.namespace.table();
        let Ok(inode) = table.get_mut(ino) else { return };
        let unused = inode.open_count() == 0;
        let gone = inode.link == Link::Gone;
        let Kind::File(file) = &mut inode.kind else { return };
        let finished = file.edit.as_ref().is_some_and(|edit| {
            // A file without a name has its bytes nowhere else.
            if gone {
                unused
            } else {
                file.writers == 0 && file.holds == 0 && !edit.is_dirty()
            }
        });
        let mut dropped = None;
        if finished {
            dropped = file.edit.take();
            file.epoch += 1;
        }
        table.sweep(ino);
        drop(table);
        // Closing a large file without a name takes as long as the disk needs to free it.
        drop(dropped);
    }

    /// Metadata with the modification time, if an application has set one.
    pub(super) fn with_mtime(&self, ino: Ino, mut metadata: Metadata) -> Result<Metadata, FsError> {
        let table = self.namespace.table();
        let file = table.file(ino)?;
        if file.mtime_set {
            metadata.insert(METADATA_MTIME.to_owned(), format_mtime(file.mtime));
        } else if file.edit.as_ref().is_some_and(|edit| edit.is_dirty()) {
            metadata.remove(METADATA_MTIME);
        }
        Ok(metadata)
    }

    /// Notes how the store took a write.
    pub(super) fn note_write(&self, error: Option<&FsError>) {
        self.note_answer(error.map_or(Ok(()), Err));
        let mut health = self.health.lock();
        match error {
            None => health.writable = Some(true),
            Some(FsError::Store(_)) => health.writable = Some(false),
            Some(_) => {}
        }
    }
}

/// What has been uploaded is in the object, or in a copy beside it.
fn kept(edit: &Edit) -> Result<(), FsError> {
    if edit.is_frozen() {
        Err(lost_to(edit.copy()))
    } else {
        Ok(())
    }
}

/// What a writer is told whose edit has lost.
fn lost_to(copy: Option<Key>) -> FsError {
    match copy {
        Some(copy) => FsError::Conflict {
            copy: copy.as_str().to_owned(),
        },
        None => FsError::Changed,
    }
}
