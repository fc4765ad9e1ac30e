//! Folders: opening, listing, making and removing them.
//!
//! A folder exists in S3 while a key begins with its name and a slash. `mkdir` makes an object of no bytes
//! with just that key, the marker; a folder that becomes empty here gets one too, since on a disk it would
//! stay.

use std::time::Instant;

use uuid::Uuid;

use super::{Filesystem, Found, Purpose};
use crate::clock;
use crate::error::FsError;
use crate::handle::{Batch, HandleId};
use crate::namespace::directory::Directory;
use crate::namespace::inode::{Ino, Kind, Link, Metadata, ROOT};
use crate::namespace::names::FileName;
use crate::namespace::runs::Entry;
use crate::offload::leave_caller_thread;
use crate::store::{Key, StoreError, UploadBody, WriteCondition};
use crate::succession::{Attempt, Intent, Outcome};
use crate::writer::staging::METADATA_COMMIT;

/// Entries given out at once: what fits into the largest reply that kernels ask for.
const BATCH_ENTRIES: usize = 1024;

impl Filesystem {
    /// Opens a folder, and begins to list it if the last listing is too old.
    pub fn open_folder(&self, ino: Ino, attempt: &Attempt) -> Result<HandleId, FsError> {
        let earlier = attempt.request().filter(|_| attempt.is_repeated());
        if let Some(handle) = earlier.and_then(|request| self.handles.folder_of_request(request)) {
            return Ok(handle);
        }
        self.namespace.table().folder(ino)?;
        let handle = self.handles.open_folder(ino, attempt.request())?;
        self.namespace.table().opened(ino);
        // Begin now: the kernel asks for the first entries in a moment.
        let begun = self.handles.folder(handle)?.begin(&self.namespace);
        if let Err(error) = begun {
            self.release_folder(handle);
            return Err(error);
        }
        Ok(handle)
    }

    /// Entries of an open folder from `position` on, waiting for at least one; empty at the end.
    pub async fn list(&self, handle: HandleId, position: u64) -> Result<Batch, FsError> {
        let handle = self.handles.folder(handle)?;
        let view = handle.view(&self.namespace, position).await?;
        let mut position = position;
        loop {
            let mut batch = view.entries(position, BATCH_ENTRIES).await?;
            let Some((_, _, last)) = batch.entries.last() else {
                return Ok(batch);
            };
            position = *last;
            {
                let table = self.namespace.table();
                let folder = table.folder(handle.ino)?;
                let asked = batch.asked;
                batch
                    .entries
                    .retain(|(name, _, _)| folder.changed_since(name, asked) != Some(None));
            }
            // An empty batch would be taken for the end.
            if !batch.entries.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// Entries of an open folder are about to be given out, each with the position after it.
    pub fn note_listed(&self, handle: HandleId, entries: Vec<(FileName, u64)>) {
        if self.recorder.is_on()
            && let Ok(handle) = self.handles.folder(handle)
        {
            handle.note_listed(entries);
        }
    }

    /// Inode of the folder above; the mount's own folder is its own.
    pub fn parent(&self, ino: Ino) -> Ino {
        match self.namespace.table().get(ino).map(|inode| inode.link.clone()) {
            Ok(Link::At(parent, _)) => parent,
            Ok(Link::Root | Link::Gone) | Err(_) => ROOT,
        }
    }

    /// Inode number of an entry, if the kernel already knows it.
    pub fn known_ino(&self, parent: Ino, name: &FileName) -> Option<Ino> {
        self.namespace
            .table()
            .folder(parent)
            .ok()?
            .children
            .get(name)
            .copied()
    }

    /// Closes a folder.
    pub fn release_folder(&self, handle: HandleId) {
        if let Some(handle) = self.handles.close_folder(handle) {
            self.namespace.table().closed(handle.ino);
        }
    }

    /// Makes a folder.
    pub async fn make_folder(
        &self,
        parent: Ino,
        name: &FileName,
        attempt: &Attempt,
    ) -> Result<Found, FsError> {
        self.writable()?;
        if let Some(Outcome::Made { ino }) = attempt.outcome() {
            return self.found(Ino(*ino));
        }
        // Before the path is looked at: a folder that is being moved is at the end of it afterwards.
        let _claim = self.claim_entry(parent, name).await?;
        let marker = {
            let table = self.namespace.table();
            self.namespace.folder_key(&table.path_below(parent, name)?)?
        };
        let stamp = if let Some(Intent::MakeFolder { stamp }) = attempt.begun() {
            // What is there may be our own; the marker tells.
            Uuid::from_u128(*stamp)
        } else {
            match self.namespace.resolve(parent, name).await {
                Ok(_) => return Err(FsError::Exists),
                Err(FsError::NotFound) => {}
                Err(error) => return Err(error),
            }
            clock::new_id()
        };
        leave_caller_thread().await;
        attempt.begin(Intent::MakeFolder {
            stamp: stamp.as_u128(),
        });
        self.write_down();
        let made = self.put_marker(&marker, WriteCondition::Absent, stamp).await;
        self.note_write(made.as_ref().err());
        match made {
            Err(FsError::Store(StoreError::PreconditionFailed)) => return Err(FsError::Exists),
            other => other?,
        }
        let (now, wall) = (Instant::now(), clock::wall());
        let ino = {
            let mut table = self.namespace.table();
            table.detach(parent, name);
            let ino = table.insert(parent, name, Kind::Folder(Directory::created(wall, now)));
            let folder = table.folder_mut(parent)?;
            folder.change(name.clone(), Some(Entry::Folder), Some(now));
            folder.changed = wall;
            table.remember(ino);
            ino
        };
        attempt.end(Outcome::Made { ino: ino.0 });
        self.found(ino)
    }

    /// Removes an empty folder.
    pub async fn remove_folder(
        &self,
        parent: Ino,
        name: &FileName,
        attempt: &Attempt,
    ) -> Result<(), FsError> {
        self.writable()?;
        if attempt.outcome().is_some() {
            return Ok(());
        }
        match self.namespace.resolve(parent, name).await {
            Ok(resolved) if resolved.entry != Entry::Folder => return Err(FsError::NotFolder),
            Ok(_) => {}
            // The earlier attempt has removed it.
            Err(FsError::NotFound) if attempt.begun().is_some() => {}
            Err(error) => return Err(error),
        }
        leave_caller_thread().await;
        let claim = self.claim_entry(parent, name).await?;
        let path = self.namespace.table().path_below(parent, name)?;
        let marker = self.require_empty(parent, name, &path).await?;
        attempt.begin(Intent::Remove);
        if marker {
            self.write_down();
            self.delete_one(self.namespace.folder_key(&path)?).await?;
        }
        {
            let mut table = self.namespace.table();
            table.detach(parent, name);
            let folder = table.folder_mut(parent)?;
            folder.change(name.clone(), None, Some(Instant::now()));
            folder.changed = clock::wall();
        }
        drop(claim);
        self.keep_folder(parent, name).await;
        attempt.end(Outcome::Done);
        Ok(())
    }

    /// Fails unless nothing is in a folder, here or in S3. Answers whether it has a marker.
    pub(super) async fn require_empty(
        &self,
        parent: Ino,
        name: &FileName,
        path: &str,
    ) -> Result<bool, FsError> {
        let local = {
            let table = self.namespace.table();
            match table.folder(parent)?.children.get(name) {
                Some(ino) => table.folder(*ino)?.has_local_entries(),
                None => false,
            }
        };
        if local {
            return Err(FsError::NotEmpty);
        }
        match self.namespace.is_empty(path).await? {
            (true, marker) => Ok(marker),
            (false, _) => Err(FsError::NotEmpty),
        }
    }

    /// After `gone` left a folder: gives the folder a marker if nothing else keeps it in existence. That it
    /// could not is only logged, for what was asked has been done. The caller holds no claim.
    pub(super) async fn keep_folder(&self, folder: Ino, gone: &FileName) {
        if folder == ROOT {
            return;
        }
        let keeps = match self.namespace.table().folder(folder) {
            Ok(directory) => directory.certainly_keeps_without(gone, Instant::now(), self.namespace.ttl()),
            Err(_) => return,
        };
        if keeps {
            return;
        }
        let paths = || Ok(vec![self.namespace.table().path(folder)?]);
        // A folder without a name needs nothing.
        let Ok(_claim) = self.subtrees.claim(Purpose::Change, paths).await else {
            return;
        };
        let Ok(path) = self.namespace.table().path(folder) else {
            return;
        };
        let result = async {
            if let (true, false) = self.namespace.is_empty(&path).await? {
                self.put_marker(
                    &self.namespace.folder_key(&path)?,
                    WriteCondition::None,
                    clock::new_id(),
                )
                .await?;
                if let Ok(directory) = self.namespace.table().folder_mut(folder) {
                    directory.set_marker(true);
                }
            }
            Ok::<(), FsError>(())
        };
        if let Err(error) = result.await {
            tracing::warn!(folder = path, %error, "an empty folder may disappear: its marker cannot be written");
        }
    }

    /// Writes a folder's marker. The stamp is how an attempt knows its own, if it must not replace another's.
    pub(super) async fn put_marker(
        &self,
        key: &Key,
        condition: WriteCondition,
        stamp: Uuid,
    ) -> Result<(), FsError> {
        let nothing = || UploadBody::Bytes(bytes::Bytes::new());
        let mut metadata = Metadata::new();
        let stamp = stamp.to_string();
        if condition != WriteCondition::None {
            metadata.insert(METADATA_COMMIT.to_owned(), stamp.clone());
        }
        match self.store.put(key, nothing(), &metadata, condition.clone()).await {
            Err(StoreError::Unsupported) if condition != WriteCondition::None => {
                self.store
                    .put(key, nothing(), &metadata, WriteCondition::None)
                    .await?;
            }
            Err(StoreError::PreconditionFailed) => {
                // The reply to an attempt may have been lost: then what is there is this very marker.
                let there = self.store.head(key).await?.metadata;
                if there.get(METADATA_COMMIT) != Some(&stamp) {
                    return Err(StoreError::PreconditionFailed.into());
                }
            }
            other => {
                other?;
            }
        }
        Ok(())
    }
}
