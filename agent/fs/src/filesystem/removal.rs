//! Removing files. One that is still open goes on working: if somebody may read it, its bytes are brought here
//! before the object is deleted.

use std::time::Instant;

use super::Filesystem;
use super::commits::Held;
use crate::clock;
use crate::error::FsError;
use crate::namespace::inode::{Ino, Kind};
use crate::namespace::names::FileName;
use crate::namespace::runs::Entry;
use crate::offload::leave_caller_thread;
use crate::store::{Key, StoreError};
use crate::succession::{Attempt, Intent, Outcome};

impl Filesystem {
    /// Removes a file.
    pub async fn remove_file(&self, parent: Ino, name: &FileName, attempt: &Attempt) -> Result<(), FsError> {
        self.writable()?;
        if attempt.outcome().is_some() {
            return Ok(());
        }
        match self.namespace.resolve(parent, name).await {
            Ok(resolved) if resolved.entry == Entry::Folder => return Err(FsError::IsFolder),
            Ok(_) => {}
            // The earlier attempt has removed it from the store, and perhaps here.
            Err(FsError::NotFound) if attempt.begun().is_some() => {
                let claim = self.claim_entry(parent, name).await?;
                self.unlink(parent, name)?;
                drop(claim);
                self.keep_folder(parent, name).await;
                attempt.end(Outcome::Done);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        // Before the path is looked at: a folder that is being moved is at the end of it afterwards.
        let claim = self.claim_entry(parent, name).await?;
        let ino = self.known_ino(parent, name);
        let (_kept, edit) = match ino {
            Some(ino) => {
                let kept = self.keep_bytes_of_open(ino).await?;
                (Some(kept), self.namespace.table().file(ino)?.edit.clone())
            }
            None => (None, None),
        };
        // An upload on its way ends first, or it would bring the object back.
        let turn = match &edit {
            Some(edit) => {
                if edit.turn.try_lock().is_err() {
                    leave_caller_thread().await;
                }
                Some(edit.turn.lock().await)
            }
            None => None,
        };
        let in_store = {
            let table = self.namespace.table();
            match ino {
                // Or an upload that answered an error may have had its effect.
                Some(ino) => {
                    let file = table.file(ino)?;
                    file.object.is_some() || file.edit.as_ref().is_some_and(|edit| edit.may_be_stored())
                }
                None => true,
            }
        };
        attempt.begin(Intent::Remove);
        if in_store {
            leave_caller_thread().await;
            // Also that the bytes of those who have it open are here.
            self.write_down();
            let path = self.namespace.table().path_below(parent, name)?;
            let deleted = self.delete_one(self.namespace.key(&path)?).await;
            self.note_write(deleted.as_ref().err());
            deleted?;
        }
        self.unlink(parent, name)?;
        drop((turn, claim));
        if in_store {
            self.keep_folder(parent, name).await;
        }
        attempt.end(Outcome::Done);
        Ok(())
    }

    /// Takes a file's name away here; in S3 it is gone already.
    pub(super) fn unlink(&self, parent: Ino, name: &FileName) -> Result<(), FsError> {
        let ino = self.known_ino(parent, name);
        {
            let mut table = self.namespace.table();
            if let Some(ino) = ino
                && let Kind::File(file) = &mut table.get_mut(ino)?.kind
            {
                if let Some(edit) = &file.edit {
                    edit.forget_object();
                }
                file.object = None;
                file.epoch += 1;
            }
            table.detach(parent, name);
            let folder = table.folder_mut(parent)?;
            folder.change(name.clone(), None, Some(Instant::now()));
            folder.changed = clock::wall();
            folder.tidy(Instant::now(), self.namespace.ttl());
        }
        if let Some(ino) = ino {
            self.drop_edit(ino);
        }
        Ok(())
    }

    /// Before an object is deleted or replaced: brings all its bytes here if somebody has it open. They stay as
    /// long as the guard lives: a release that comes meanwhile, such as that of who wrote the file, would take
    /// them for bytes that are in the store.
    pub(super) async fn keep_bytes_of_open(&self, ino: Ino) -> Result<Held<'_>, FsError> {
        let held = self.hold(ino)?;
        self.fetch_bytes_of_open(ino).await?;
        Ok(held)
    }

    async fn fetch_bytes_of_open(&self, ino: Ino) -> Result<(), FsError> {
        let key = {
            let table = self.namespace.table();
            let inode = table.get(ino)?;
            let Kind::File(file) = &inode.kind else {
                return Ok(());
            };
            if inode.open_count() == 0 || file.object.is_none() {
                return Ok(());
            }
            self.namespace.key(&table.path(ino)?)?
        };
        let edit = self.edit(ino)?;
        // Who only writes will never ask for bytes that are not here, and nobody uploads them any more.
        if !self.handles.is_read(ino) {
            return Ok(());
        }
        if edit.missing(0..u64::MAX).is_empty() {
            return Ok(());
        }
        leave_caller_thread().await;
        match edit.fetch(&*self.store, &key, 0..u64::MAX).await {
            Ok(()) => Ok(()),
            // Somebody else has replaced or removed it: its readers have lost it already.
            Err(FsError::Changed) => Ok(()),
            // No room here for what others still read: their loss, but what was asked must be possible.
            Err(error @ FsError::Staging(_)) if !edit.is_dirty() => {
                tracing::warn!(key = key.as_str(), %error, "an open file is removed; its readers lose it");
                let mut table = self.namespace.table();
                let dropped = table.file_mut(ino).ok().and_then(|file| file.edit.take());
                drop(table);
                drop(dropped);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes one key.
    pub(super) async fn delete_one(&self, key: Key) -> Result<(), FsError> {
        match self
            .store
            .delete(std::slice::from_ref(&key))
            .await?
            .into_iter()
            .next()
        {
            None | Some(Ok(()) | Err(StoreError::NotFound)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }
}
