//! Files: open, read, write, close. How what was written gets into S3 is in `commits.rs`.
//!
//! Handles of one inode share the kernel's pages, so only those of the line of versions that the pages are
//! of may fill them: opening a newer version drops the pages, and older handles answer that they are stale.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;

use super::{Filesystem, Found};
use crate::clock;
use crate::error::FsError;
use crate::handle::{Access, FileHandle, HandleId, Opening, Pinned};
use crate::namespace::directory::Known;
use crate::namespace::inode::{File, Ino, Kind};
use crate::namespace::names::FileName;
use crate::namespace::runs::Entry;
use crate::offload::leave_caller_thread;
use crate::reader::ReadError;
use crate::succession::{Attempt, Intent, Outcome};
use crate::writer::staging::Edit;
use crate::writer::uploader::SINGLE_PUT_BYTES_MAX;

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
    pub async fn open(
        &self,
        ino: Ino,
        access: Access,
        truncate: bool,
        attempt: &Attempt,
    ) -> Result<Opened, FsError> {
        if access.write || truncate {
            self.writable()?;
        }
        if let Some(opened) = self.opened_earlier(attempt) {
            let handle = self.handles.file(opened.handle)?;
            if truncate && !handle.wrote() {
                // Else it was done, and somebody else may have written since.
                self.truncate(&handle, 0)?;
            }
            return Ok(opened);
        }
        let opened = Instant::now();
        if !truncate {
            self.namespace.refresh(ino).await?;
        }
        let (id, keep_cache) = {
            let mut table = self.namespace.table();
            let file = table.file(ino)?;
            let lineage = file.lineage;
            let keep_cache = file.cached == Some(lineage);
            let id = self.handles.open_file(Opening {
                ino,
                access,
                lineage,
                opened,
                request: attempt.request(),
                keep_cache,
            })?;
            table.opened(ino);
            let file = table.file_mut(ino)?;
            file.writers += u32::from(access.write);
            file.cached = Some(lineage);
            (id, keep_cache)
        };
        let handle = self.handles.file(id)?;
        if truncate {
            if let Err(error) = self.truncate(&handle, 0) {
                self.release(id);
                return Err(error);
            }
        } else if access.read {
            // While its bytes are here there may be no object; that is found at the first read.
            let _ = self.pin(&handle);
        }
        Ok(Opened {
            handle: id,
            keep_cache,
        })
    }

    /// Makes a new file and opens it, or deals with the one that is there.
    pub async fn create_or_open(
        &self,
        parent: Ino,
        name: &FileName,
        access: Access,
        existing: Existing,
        attempt: &Attempt,
    ) -> Result<(Found, Opened), FsError> {
        if let Some(opened) = self.opened_earlier(attempt) {
            let handle = self.handles.file(opened.handle)?;
            if existing == Existing::Truncate && !handle.wrote() {
                self.truncate(&handle, 0)?;
            }
            return Ok((self.found(handle.ino)?, opened));
        }
        // What the earlier attempt had made is there, and is not somebody else's.
        let own = attempt.begun().is_some();
        match self.create(parent, name, access, attempt) {
            Err(FsError::Exists) if existing != Existing::Refuse || own => {}
            other => return other,
        }
        let found = self.lookup(parent, name).await?;
        let ino = found.attributes.ino;
        let truncate = existing == Existing::Truncate;
        match self.open(ino, access, truncate, attempt).await {
            Ok(opened) => Ok((self.found(ino)?, opened)),
            Err(error) => {
                self.forget(ino, 1);
                Err(error)
            }
        }
    }

    /// Makes a new file and opens it. It is in S3 when it is closed.
    pub fn create(
        &self,
        parent: Ino,
        name: &FileName,
        access: Access,
        attempt: &Attempt,
    ) -> Result<(Found, Opened), FsError> {
        self.create_for(attempt.request(), parent, name, access, attempt)
    }

    /// The same, opened for a request that is told of the handle, or for the moment only.
    fn create_for(
        &self,
        request: Option<u64>,
        parent: Ino,
        name: &FileName,
        access: Access,
        attempt: &Attempt,
    ) -> Result<(Found, Opened), FsError> {
        self.writable()?;
        let now = Instant::now();
        let wall = clock::wall();
        let edit = Arc::new(Edit::new_file(self.writer.staging(), clock::new_id(), now)?);
        let ino = {
            let mut table = self.namespace.table();
            self.namespace.key(&table.path_below(parent, name)?)?;
            if let Known::Is(..) = table.folder(parent)?.known(name, now, self.namespace.ttl()) {
                return Err(FsError::Exists);
            }
            attempt.begin(Intent::MakeFile);
            table.detach(parent, name);
            let ino = table.insert(parent, name, Kind::File(File::local(edit, wall, now)));
            let folder = table.folder_mut(parent)?;
            folder.change(name.clone(), Some(Entry::Local), None);
            folder.changed = wall;
            folder.tidy(now, self.namespace.ttl());
            table.opened(ino);
            table.remember(ino);
            let file = table.file_mut(ino)?;
            file.writers += u32::from(access.write);
            file.cached = Some(file.lineage);
            ino
        };
        let opening = Opening {
            ino,
            access,
            lineage: 0,
            opened: now,
            request,
            keep_cache: true,
        };
        let handle = match self.handles.open_file(opening) {
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
    pub async fn make_file(&self, parent: Ino, name: &FileName, attempt: &Attempt) -> Result<Found, FsError> {
        let access = Access {
            read: false,
            write: true,
            append: false,
        };
        if let Some(Outcome::Made { ino }) = attempt.outcome() {
            return self.found(Ino(*ino));
        }
        let (found, opened) = match self.create_for(None, parent, name, access, attempt) {
            // The earlier attempt has made it.
            Err(FsError::Exists) if attempt.begun().is_some() => {
                let found = self.lookup(parent, name).await?;
                self.commit(found.attributes.ino).await?;
                attempt.end(Outcome::Made {
                    ino: found.attributes.ino.0,
                });
                return Ok(found);
            }
            created => created?,
        };
        let made = self.commit(found.attributes.ino).await;
        if made.is_err() {
            self.unlink(parent, name)?;
            self.forget(found.attributes.ino, 1);
        }
        self.release(opened.handle);
        made?;
        attempt.end(Outcome::Made {
            ino: found.attributes.ino.0,
        });
        Ok(found)
    }

    /// What an earlier attempt had opened for a request that the kernel has sent again.
    fn opened_earlier(&self, attempt: &Attempt) -> Option<Opened> {
        let request = attempt.request().filter(|_| attempt.is_repeated())?;
        let (handle, file) = self.handles.file_of_request(request)?;
        Some(Opened {
            handle,
            keep_cache: file.keep_cache(),
        })
    }

    /// Reads up to `len` bytes at `offset`; fewer only at the end.
    pub async fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<Bytes, FsError> {
        let handle = self.handles.file(handle)?;
        if !handle.access.read {
            return Err(FsError::BadHandle);
        }
        let mut followed = false;
        loop {
            let edit = {
                let table = self.namespace.table();
                let file = table.file(handle.ino)?;
                match &file.edit {
                    Some(_) if file.lineage != handle.lineage => return Err(FsError::Changed),
                    edit => edit.clone(),
                }
            };
            if let Some(edit) = edit {
                return self.read_edit(handle.ino, &edit, offset, len).await;
            }
            let pinned = self.pin(&handle)?;
            let plan = pinned.reader.plan(offset, u64::from(len));
            if let Some(bytes) = plan.now() {
                self.counts.reads_from_memory.fetch_add(1, Ordering::Relaxed);
                return Ok(bytes);
            }
            self.counts.reads_waited.fetch_add(1, Ordering::Relaxed);
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
    pub fn write(
        &self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        attempt: &Attempt,
    ) -> Result<(), FsError> {
        let handle = self.handles.file(handle)?;
        if !handle.access.write {
            return Err(FsError::BadHandle);
        }
        let edit = self.edit_of(&handle)?;
        if handle.access.append {
            // The only kind of write that cannot be done twice.
            if attempt.outcome().is_some() {
                return Ok(());
            }
            edit.append(data, attempt)?;
        } else {
            edit.write(Some(offset), data)?;
        }
        handle.note_write();
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

    /// Sets an open file's size.
    pub(super) fn truncate(&self, handle: &FileHandle, size: u64) -> Result<(), FsError> {
        self.writable()?;
        self.edit_of(handle)?.truncate(size)?;
        handle.note_write();
        self.written(handle.ino)
    }

    /// Makes room as `fallocate` does: the file is at least `end` long.
    pub fn allocate(&self, handle: HandleId, end: u64) -> Result<(), FsError> {
        let handle = self.handles.file(handle)?;
        if !handle.access.write {
            return Err(FsError::BadHandle);
        }
        if self.edit_of(&handle)?.size() < end {
            self.truncate(&handle, end)
        } else {
            Ok(())
        }
    }

    /// A descriptor is closed: what was written through it is in S3 when this returns.
    pub async fn flush(&self, handle: HandleId) -> Result<(), FsError> {
        let handle = self.handles.file(handle)?;
        if handle.access.write {
            self.commit_of(&handle).await
        } else {
            Ok(())
        }
    }

    /// What was written to the file is in S3 when this returns.
    pub async fn sync(&self, handle: HandleId) -> Result<(), FsError> {
        let handle = self.handles.file(handle)?;
        self.commit_of(&handle).await
    }

    /// What was written through a handle is lost to its file once somebody else's version has won; whoever
    /// asks for it to be stored is told, however often.
    async fn commit_of(&self, handle: &FileHandle) -> Result<(), FsError> {
        let lineage = self.namespace.table().file(handle.ino)?.lineage;
        if handle.wrote() && handle.lineage != lineage {
            return Err(FsError::Changed);
        }
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
    fn pin(&self, handle: &FileHandle) -> Result<Pinned, FsError> {
        let mut pinned = handle.pinned.lock();
        let table = self.namespace.table();
        let file = table.file(handle.ino)?;
        if file.cached != Some(handle.lineage) {
            return Err(FsError::Changed);
        }
        let follows = file.lineage == handle.lineage;
        match pinned.as_ref() {
            Some(pinned) if pinned.epoch == file.epoch || !follows => return Ok(pinned.clone()),
            None if !follows => return Err(FsError::Changed),
            Some(_) | None => {}
        }
        let key = self.namespace.key(&table.path(handle.ino)?)?;
        let object = file.object.as_ref().ok_or(FsError::NotFound)?;
        handle.note_pinned(file.epoch, &key, &object.etag, object.size);
        let reader = Arc::new(self.reader.open(key, object.etag.clone(), object.size));
        Ok(pinned
            .insert(Pinned {
                epoch: file.epoch,
                reader,
            })
            .clone())
    }

    /// A file was changed just now.
    pub(super) fn written(&self, ino: Ino) -> Result<(), FsError> {
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
        let mut dropped = None;
        if let Ok(file) = table.file_mut(ino) {
            dropped = file.edit.take();
            file.writers = file.writers.saturating_sub(u32::from(access.write));
        }
        table.detach(parent, name);
        table.forget(ino, 1);
        table.closed(ino);
        // A disk may be slow to let go of it.
        drop(table);
        drop(dropped);
    }
}

fn read_failure(error: ReadError) -> FsError {
    match error {
        ReadError::Changed | ReadError::Gone => FsError::Changed,
        ReadError::Denied(error) | ReadError::Failed(error) => FsError::Store(error),
        ReadError::DeadlineExceeded => FsError::TimedOut,
    }
}
