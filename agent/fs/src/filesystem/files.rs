//! Files: open, read, write, and how what was written gets into S3.
//!
//! Policy `uploaded`: close and fsync return when the bytes are in S3, and report it if they are not. A
//! file that could not be uploaded stays here, dirty, and is tried again until it can or the mount ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Filesystem, Found};
use crate::clock;
use crate::error::FsError;
use crate::handle::{Access, FileHandle, HandleId, Pinned};
use crate::namespace::directory::Known;
use crate::namespace::inode::{File, Ino, Kind, Link, METADATA_MTIME, Metadata, format_mtime};
use crate::namespace::names::FileName;
use crate::namespace::runs::{Entry, ObjectVersion};
use crate::offload::leave_caller_thread;
use crate::reader::ReadError;
use crate::writer::staging::Edit;
use crate::writer::uploader::SINGLE_PUT_BYTES_MAX;
use crate::writer::{Outcome, Stamp};

/// Pauses between attempts to upload a file that nobody has open any more.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// An open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its handle.
    pub handle: HandleId,
    /// Whether the kernel's cached pages are of the version that was opened.
    pub keep_cache: bool,
}

/// What creating a file does when the name is taken, which the kernel may not have known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// Fail.
    Refuse,
    /// Open the file that is there.
    Open,
    /// Open it, empty.
    Truncate,
}

impl Filesystem {
    /// Opens a file; with `truncate` it is empty from then on.
    pub async fn open(&self, ino: Ino, access: Access, truncate: bool) -> Result<Opened, FsError> {
        if access.write || truncate {
            self.writable()?;
        }
        if !truncate {
            self.namespace.refresh(ino).await?;
        }
        self.namespace.table().file(ino)?;
        let handle = self.handles.open_file(ino, access)?;
        let keep_cache = {
            let mut table = self.namespace.table();
            table.opened(ino);
            let file = table.file_mut(ino)?;
            file.writers += u32::from(access.write);
            let same = match (&file.cached, &file.object) {
                (Some(cached), Some(object)) => cached.etag == object.etag,
                (None, _) | (_, None) => false,
            };
            let keep_cache = file.edit.is_some() || same;
            file.cached = file.object.clone();
            keep_cache
        };
        if truncate && let Err(error) = self.truncate(ino, 0) {
            self.release(handle);
            return Err(error);
        }
        Ok(Opened { handle, keep_cache })
    }

    /// Makes a new file and opens it, or deals with the one that is there.
    pub async fn create_or_open(
        &self,
        parent: Ino,
        name: &FileName,
        access: Access,
        existing: Existing,
    ) -> Result<(Found, Opened), FsError> {
        match self.create(parent, name, access) {
            Err(FsError::Exists) if existing != Existing::Refuse => {}
            other => return other,
        }
        let found = self.lookup(parent, name).await?;
        let ino = found.attributes.ino;
        match self.open(ino, access, existing == Existing::Truncate).await {
            Ok(opened) => Ok((self.found(ino)?, opened)),
            Err(error) => {
                self.forget(ino, 1);
                Err(error)
            }
        }
    }

    /// Makes a new file and opens it. It is in S3 when it is closed.
    pub fn create(&self, parent: Ino, name: &FileName, access: Access) -> Result<(Found, Opened), FsError> {
        self.writable()?;
        let now = Instant::now();
        let wall = clock::wall();
        let edit = Arc::new(Edit::new_file(self.writer.folder(), wall)?);
        let ino = {
            let mut table = self.namespace.table();
            self.namespace.key(&table.path_below(parent, name)?)?;
            if let Known::Is(..) = table.folder(parent)?.known(name, now, self.namespace.ttl()) {
                return Err(FsError::Exists);
            }
            table.detach(parent, name);
            let ino = table.insert(parent, name, Kind::File(File::local(edit, wall, now)));
            let folder = table.folder_mut(parent)?;
            folder.change(name.clone(), Some(Entry::Local), None);
            folder.changed = wall;
            folder.tidy(now, self.namespace.ttl());
            table.opened(ino);
            table.remember(ino);
            table.file_mut(ino)?.writers += u32::from(access.write);
            ino
        };
        let handle = match self.handles.open_file(ino, access) {
            Ok(handle) => handle,
            Err(error) => {
                self.undo_create(parent, name, ino, access);
                return Err(error);
            }
        };
        Ok((
            self.found(ino)?,
            Opened {
                handle,
                keep_cache: true,
            },
        ))
    }

    /// Makes a new, empty file that is in S3 when this returns.
    pub async fn make_file(&self, parent: Ino, name: &FileName) -> Result<Found, FsError> {
        let access = Access {
            read: false,
            write: true,
            append: false,
        };
        let (found, opened) = self.create(parent, name, access)?;
        let made = self.commit(found.attributes.ino).await;
        if made.is_err() {
            self.unlink(parent, name)?;
            self.forget(found.attributes.ino, 1);
        }
        self.release(opened.handle);
        made.map(|()| found)
    }

    /// Reads up to `len` bytes at `offset`; fewer only at the end.
    pub async fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<Bytes, FsError> {
        let handle = self.handles.file(handle)?;
        if !handle.access.read {
            return Err(FsError::BadHandle);
        }
        let mut followed = false;
        loop {
            let (edit, epoch) = {
                let table = self.namespace.table();
                let file = table.file(handle.ino)?;
                (file.edit.clone(), file.epoch)
            };
            if let Some(edit) = edit {
                return self.read_edit(handle.ino, &edit, offset, len).await;
            }
            let pinned = self.pin(&handle, epoch)?;
            let plan = pinned.reader.plan(offset, u64::from(len));
            if let Some(bytes) = plan.now() {
                return Ok(bytes);
            }
            leave_caller_thread().await;
            let error = match plan.wait().await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            // The object may have moved, or its bytes come here, because of us: then once more, where they are.
            let moved = {
                let table = self.namespace.table();
                let file = table.file(handle.ino)?;
                file.epoch != pinned.epoch || file.edit.is_some()
            };
            if followed || !moved {
                return Err(read_failure(error));
            }
            followed = true;
        }
    }

    /// Writes all of `data` at `offset`, or at the end for handles that append.
    pub fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let handle = self.handles.file(handle)?;
        if !handle.access.write {
            return Err(FsError::BadHandle);
        }
        let edit = self.edit(handle.ino)?;
        edit.write((!handle.access.append).then_some(offset), data)?;
        if edit.generation() == 1 {
            self.fetch_ahead(handle.ino, &edit);
        }
        self.written(handle.ino)
    }

    /// After the first change of a small object: brings the rest of its bytes here. The upload will need
    /// them, and until they are here somebody else's change of the object would make ours impossible.
    fn fetch_ahead(&self, ino: Ino, edit: &Arc<Edit>) {
        let size = edit.size();
        if size > SINGLE_PUT_BYTES_MAX || edit.missing(0..size).is_empty() {
            return;
        }
        let Ok(key) = self.namespace.key_of(ino) else {
            return;
        };
        let (edit, store) = (Arc::clone(edit), Arc::clone(&self.store));
        let fetch = async move {
            // What does not come now is asked for again by the upload, which reports it.
            if let Err(error) = edit.fetch(&*store, &key, 0..size).await {
                tracing::debug!(key = key.as_str(), %error, "a changed object cannot be read yet");
            }
        };
        self.tasks.spawn_on(fetch, &self.runtime);
    }

    /// Sets a file's size.
    pub(super) fn truncate(&self, ino: Ino, size: u64) -> Result<(), FsError> {
        self.writable()?;
        let edit = self.edit(ino)?;
        edit.truncate(size)?;
        self.written(ino)
    }

    /// Makes room as `fallocate` does: the file is at least `end` long.
    pub fn allocate(&self, handle: HandleId, end: u64) -> Result<(), FsError> {
        let handle = self.handles.file(handle)?;
        if !handle.access.write {
            return Err(FsError::BadHandle);
        }
        if self.edit(handle.ino)?.size() < end {
            self.truncate(handle.ino, end)
        } else {
            Ok(())
        }
    }

    /// A descriptor is closed: what was written through it is in S3 when this returns.
    pub async fn flush(&self, handle: HandleId) -> Result<(), FsError> {
        let handle = self.handles.file(handle)?;
        if handle.access.write {
            self.commit(handle.ino).await
        } else {
            Ok(())
        }
    }

    /// What was written to the file is in S3 when this returns.
    pub async fn sync(&self, handle: HandleId) -> Result<(), FsError> {
        let handle = self.handles.file(handle)?;
        self.commit(handle.ino).await
    }

    /// The last descriptor of a handle is closed. What is still dirty (a mapping written after the close,
    /// or a failed upload) is uploaded in the background: answers the inode if there is such.
    pub fn release(&self, handle: HandleId) -> Option<Ino> {
        let handle = self.handles.close_file(handle)?;
        let ino = handle.ino;
        let mut table = self.namespace.table();
        if let Ok(file) = table.file_mut(ino) {
            file.writers = file.writers.saturating_sub(u32::from(handle.access.write));
        }
        table.closed(ino);
        drop(table);
        self.drop_edit(ino);
        let table = self.namespace.table();
        let file = table.file(ino).ok()?;
        (file.writers == 0 && file.edit.as_ref()?.is_dirty()).then_some(ino)
    }

    /// Uploads a file that nobody has open any more, however long the store takes to accept it.
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
            self.upload_until_done(ino).await;
            edit.end_settling();
            // Something may have come while nobody could claim the task.
            let more = edit.is_dirty() && !self.stopping.is_cancelled() && edit.begin_settling();
            if !more {
                break;
            }
        }
        self.drop_edit(ino);
    }

    /// Drops changes that can never become an object.
    pub(super) fn give_up(&self, ino: Ino) {
        let mut table = self.namespace.table();
        if let Ok(file) = table.file_mut(ino) {
            if let Some(edit) = file.edit.take() {
                edit.forget_object();
            }
            file.epoch += 1;
        }
        table.sweep(ino);
    }

    async fn upload_until_done(&self, ino: Ino) {
        let mut delay = RETRY_DELAY_MIN;
        while let Err(error) = self.commit(ino).await {
            if matches!(error, FsError::Conflict { .. }) {
                return;
            }
            if matches!(error, FsError::NotFound | FsError::Changed) {
                // No later attempt can put these bytes together with an object that is gone.
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
            return Ok(());
        }
        leave_caller_thread().await;
        let _claim = self.claim_file(ino).await?;
        let _turn = edit.turn.lock().await;
        if edit.is_committed(wanted) {
            return Ok(());
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
        // An edit keeps the object's metadata; a listing does not tell it. What replaces the whole object
        // begins afresh.
        let metadata = match known {
            Some(metadata) => metadata,
            None if had_object && edit.version().builds_on_base => self
                .store
                .head(&key)
                .await
                .map(|info| info.metadata)
                .unwrap_or_default(),
            None => Metadata::new(),
        };
        let metadata = self.with_mtime(ino, metadata)?;
        let stamp = Stamp {
            id: clock::new_id(),
            at: clock::wall(),
        };
        let outcome = self.writer.commit(&key, edit, metadata, stamp).await;
        self.note_write(outcome.as_ref().err());
        match outcome? {
            Outcome::Stored {
                version,
                etag,
                metadata,
            } => {
                let object = Arc::new(ObjectVersion {
                    size: version.size,
                    etag: etag.clone(),
                    modified: clock::wall(),
                });
                let mut table = self.namespace.table();
                let link = table.get(ino)?.link.clone();
                let file = table.file_mut(ino)?;
                file.object = Some(Arc::clone(&object));
                file.cached = Some(Arc::clone(&object));
                file.metadata = Some(metadata);
                file.verified = Instant::now();
                file.epoch += 1;
                if !edit.is_dirty() {
                    file.mtime_set = false;
                }
                edit.committed(&version, etag);
                if let Link::At(parent, name) = link {
                    table
                        .folder_mut(parent)?
                        .change(name, Some(Entry::File(object)), Some(Instant::now()));
                }
                Ok(())
            }
            Outcome::Lost { copy, remote } => {
                let object = Arc::new(ObjectVersion::of(&remote));
                edit.discard(object.etag.clone(), object.size)?;
                let mut table = self.namespace.table();
                let link = table.get(ino)?.link.clone();
                let file = table.file_mut(ino)?;
                file.mtime = remote.modified;
                file.mtime_set = false;
                file.object = Some(Arc::clone(&object));
                file.cached = None;
                file.metadata = Some(remote.metadata);
                file.verified = Instant::now();
                file.epoch += 1;
                if let Link::At(parent, name) = link {
                    let folder = table.folder_mut(parent)?;
                    folder.change(name, Some(Entry::File(object)), Some(Instant::now()));
                    // The copy is a new name in it.
                    folder.distrust();
                }
                Err(FsError::Conflict {
                    copy: copy.as_str().to_owned(),
                })
            }
        }
    }

    /// The bytes of a file that is being written, or is about to be.
    pub(super) fn edit(&self, ino: Ino) -> Result<Arc<Edit>, FsError> {
        loop {
            let object = {
                let table = self.namespace.table();
                let file = table.file(ino)?;
                if let Some(edit) = &file.edit {
                    return Ok(Arc::clone(edit));
                }
                file.object.clone().ok_or(FsError::NotFound)?
            };
            let folder = self.writer.folder();
            let made = Edit::of_object(folder, object.etag.clone(), object.size, clock::wall())?;
            let mut table = self.namespace.table();
            let file = table.file_mut(ino)?;
            let still = file.object.as_ref().is_some_and(|now| now.etag == object.etag);
            if still || file.edit.is_some() {
                return Ok(Arc::clone(file.edit.get_or_insert_with(|| Arc::new(made))));
            }
        }
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
                file.writers == 0 && !edit.is_dirty()
            }
        });
        if finished {
            file.edit = None;
            file.epoch += 1;
        }
        table.sweep(ino);
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

    async fn read_edit(&self, ino: Ino, edit: &Arc<Edit>, offset: u64, len: u32) -> Result<Bytes, FsError> {
        let range = offset..offset.saturating_add(u64::from(len));
        if !edit.missing(range.clone()).is_empty() {
            leave_caller_thread().await;
            let key = self.namespace.key_of(ino)?;
            match edit.fetch(&*self.store, &key, range.clone()).await {
                Err(FsError::Changed) => {
                    // An upload or a rename of our own may have replaced the object a moment ago; when its
                    // turn is over, the edit and the table know.
                    drop(edit.turn.lock().await);
                    let key = self.namespace.key_of(ino)?;
                    edit.fetch(&*self.store, &key, range).await?;
                }
                other => other?,
            }
        }
        edit.read_staged(offset, len as usize).map(Bytes::from)
    }

    /// The reader of the version that a handle is bound to.
    fn pin(&self, handle: &FileHandle, epoch: u64) -> Result<Pinned, FsError> {
        let mut pinned = handle.pinned.lock();
        if let Some(pinned) = pinned.as_ref().filter(|pinned| pinned.epoch == epoch) {
            return Ok(pinned.clone());
        }
        let table = self.namespace.table();
        let key = self.namespace.key(&table.path(handle.ino)?)?;
        let file = table.file(handle.ino)?;
        let object = file.object.as_ref().ok_or(FsError::NotFound)?;
        let reader = Arc::new(self.reader.open(key, object.etag.clone(), object.size));
        Ok(pinned
            .insert(Pinned {
                epoch: file.epoch,
                reader,
            })
            .clone())
    }

    /// A file was changed just now.
    fn written(&self, ino: Ino) -> Result<(), FsError> {
        let mut table = self.namespace.table();
        let file = table.file_mut(ino)?;
        file.mtime = clock::wall();
        file.mtime_set = false;
        Ok(())
    }

    fn undo_create(&self, parent: Ino, name: &FileName, ino: Ino, access: Access) {
        let mut table = self.namespace.table();
        if let Ok(folder) = table.folder_mut(parent) {
            folder.change(name.clone(), None, Some(Instant::now()));
        }
        if let Ok(file) = table.file_mut(ino) {
            file.edit = None;
            file.writers = file.writers.saturating_sub(u32::from(access.write));
        }
        table.detach(parent, name);
        table.forget(ino, 1);
        table.closed(ino);
    }
}

fn read_failure(error: ReadError) -> FsError {
    match error {
        ReadError::Changed | ReadError::Gone => FsError::Changed,
        ReadError::Denied(error) | ReadError::Failed(error) => FsError::Store(error),
        ReadError::DeadlineExceeded => FsError::TimedOut,
    }
}
