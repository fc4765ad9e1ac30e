//! Renaming files and folders. S3 has no rename: the objects are copied on the server's side, and only when
//! all copies are there are the old ones deleted. A failure before that leaves everything as it was. An object
//! that somebody else changes meanwhile is not deleted: it stays under its old name beside the copy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Claim, Filesystem, Purpose};
use crate::clock;
use crate::error::FsError;
use crate::namespace::inode::{Ino, Kind, Link, Table};
use crate::namespace::names::FileName;
use crate::namespace::runs::{Entry, ObjectVersion};
use crate::offload::leave_caller_thread;
use crate::store::{ETag, Key, StoreError, WriteCondition};
use crate::succession::{Attempt, Intent, Outcome};
use crate::writer::rename::{
    Deleted, Source, copy_below, copy_object, delete_copied, delete_moved, delete_version, keys_below,
};
use crate::writer::staging::Edit;

/// Beyond this an object that was copied is looked at once more before it is deleted: somebody else may have
/// replaced it during a long copy. After a short one the question would take as long as the copy did.
pub(super) const COPY_LONG: Duration = Duration::from_secs(1);

/// Where something is, or is to be.
pub(super) type Place<'a> = (Ino, &'a FileName);

impl Filesystem {
    /// Renames; what is at the target is replaced, unless `keep_target`.
    pub async fn rename(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        keep_target: bool,
        attempt: &Attempt,
    ) -> Result<(), FsError> {
        self.writable()?;
        if from == to || attempt.outcome().is_some() {
            return Ok(());
        }
        let begun = match attempt.begun() {
            Some(Intent::Rename { ino }) => Some((Ino(*ino), None)),
            Some(Intent::RenameOf { ino, etag }) => Some((Ino(*ino), Some(ETag(etag.clone())))),
            Some(Intent::MakeFile | Intent::MakeFolder { .. } | Intent::Remove) | None => None,
        };
        if let Some((ino, copied)) = begun {
            leave_caller_thread().await;
            if self.carry_on_renaming((ino, copied), from, to, attempt).await? {
                self.keep_folder(from.0, from.1).await;
                attempt.end(Outcome::Done);
                return Ok(());
            }
        }
        let source = self.namespace.resolve(from.0, from.1).await?;
        let target = match self.namespace.resolve(to.0, to.1).await {
            Ok(target) => Some(target.entry),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if target.is_some() && keep_target {
            return Err(FsError::Exists);
        }
        leave_caller_thread().await;
        let ino =
            self.namespace
                .table()
                .attach(from.0, from.1, &source.entry, source.metadata, source.verified)?;
        let moved = match (&source.entry, target) {
            (Entry::Folder, Some(Entry::File(_) | Entry::Local)) => return Err(FsError::NotFolder),
            (Entry::Folder, target) => self.rename_folder(ino, from, to, target.is_some(), attempt).await,
            (Entry::File(_) | Entry::Local, Some(Entry::Folder)) => return Err(FsError::IsFolder),
            (Entry::File(_) | Entry::Local, _) => self.rename_file(ino, from, to, attempt).await,
        };
        self.note_write(moved.as_ref().err());
        moved?;
        self.keep_folder(from.0, from.1).await;
        attempt.end(Outcome::Done);
        Ok(())
    }

    /// What a dead worker had begun: all of it was permitted then, and the target is its own. Which version of a file it
    /// copied may be known. False if there is nothing to carry on.
    async fn carry_on_renaming(
        &self,
        (ino, copied): (Ino, Option<ETag>),
        from: Place<'_>,
        to: Place<'_>,
        attempt: &Attempt,
    ) -> Result<bool, FsError> {
        let (link, folder) = match self.namespace.table().get(ino) {
            Ok(inode) => (inode.link.clone(), matches!(inode.kind, Kind::Folder(_))),
            Err(_) => return Ok(false),
        };
        let is_at = |(parent, name): Place<'_>| link == Link::At(parent, name.clone());
        if is_at(from) {
            match folder {
                true => self.rename_folder(ino, from, to, false, attempt).await?,
                false => self.rename_file(ino, from, to, attempt).await?,
            }
            return Ok(true);
        }
        if !is_at(to) {
            return Ok(false);
        }
        // It is known under its new name, so all copies are there; what is left is to delete the old ones.
        let _claim = self.claim_move(ino, from).await?;
        let (old, new) = {
            let table = self.namespace.table();
            let (old, new) = (table.path_below(from.0, from.1)?, table.path(ino)?);
            match folder {
                true => (self.namespace.folder_key(&old)?, self.namespace.folder_key(&new)?),
                false => (self.namespace.key(&old)?, self.namespace.key(&new)?),
            }
        };
        let kept = match copied.filter(|_| !folder) {
            Some(copied) => usize::from(!delete_version(&*self.store, &old, &copied).await?),
            None => delete_moved(&*self.store, &old, &new, folder).await?,
        };
        let now = Instant::now();
        let mut table = self.namespace.table();
        let left = folder.then_some(Entry::Folder).filter(|_| kept > 0);
        table.folder_mut(from.0)?.change(from.1.clone(), left, Some(now));
        if kept > 0 {
            tracing::warn!(
                from = old.as_str(),
                count = kept,
                "somebody else changed what was renamed; the changes are kept under the old name"
            );
            table.folder_mut(from.0)?.distrust();
        }
        Ok(true)
    }

    async fn rename_file(
        &self,
        ino: Ino,
        from: Place<'_>,
        to: Place<'_>,
        attempt: &Attempt,
    ) -> Result<(), FsError> {
        self.commit(ino).await?;
        // From here on nothing is uploaded to either name, and what is written to the target goes nowhere.
        let _claim = self.claim_move(ino, to).await?;
        let target_ino = self.known_ino(to.0, to.1);
        let _kept = match target_ino {
            Some(target) => Some(self.keep_bytes_of_open(target).await?),
            None => None,
        };
        let edit = self.edit_in_progress(ino);
        let _turn = match &edit {
            Some(edit) => Some(edit.turn.lock().await),
            None => None,
        };
        // Nobody who has a turn waits for another one: the claim keeps other renames of the two away.
        let target_edit = target_ino.and_then(|target| self.edit_in_progress(target));
        let _target_turn = match &target_edit {
            Some(edit) => Some(edit.turn.lock().await),
            None => None,
        };
        let (source_key, target_key, object, metadata) = {
            let table = self.namespace.table();
            let file = table.file(ino)?;
            (
                self.namespace.key(&table.path(ino)?)?,
                self.namespace.key(&table.path_below(to.0, to.1)?)?,
                file.object.clone().ok_or(FsError::NotFound)?,
                file.mtime_set.then(|| file.metadata.clone()),
            )
        };
        let metadata = match metadata {
            None => None,
            Some(Some(known)) => Some(self.with_mtime(ino, known)?),
            Some(None) => Some(self.with_mtime(ino, self.store.head(&source_key).await?.metadata)?),
        };
        let source = Source {
            key: source_key.clone(),
            etag: object.etag.clone(),
            size: object.size,
        };
        let moves = |etag: &ETag| Intent::RenameOf {
            ino: ino.0,
            etag: etag.0.clone(),
        };
        attempt.begin(moves(&object.etag));
        self.write_down();
        let copier = (&*self.store, &self.recorder);
        let mut copied_from = object.etag.clone();
        let begun = tokio::time::Instant::now();
        let copied = match copy_object(copier, &source, &target_key, metadata.as_ref()).await {
            // Somebody else has replaced it since it was looked up: what is there now is what is renamed.
            Err(FsError::Store(StoreError::PreconditionFailed)) => {
                let info = self.store.head(&source_key).await?;
                let newer = Source {
                    key: source_key.clone(),
                    etag: info.etag.clone(),
                    size: info.size,
                };
                attempt.begin(moves(&newer.etag));
                self.write_down();
                let etag = copy_object(copier, &newer, &target_key, None).await?;
                copied_from = info.etag;
                Arc::new(ObjectVersion {
                    size: info.size,
                    etag,
                    modified: info.modified,
                })
            }
            other => Arc::new(ObjectVersion {
                size: object.size,
                etag: other?,
                modified: clock::wall(),
            }),
        };
        let now = Instant::now();
        if target_ino.is_some() {
            self.unlink(to.0, to.1)?;
        }
        // First the table, then the deletion: who reads meanwhile finds the copy.
        let mut dropped = None;
        {
            let mut table = self.namespace.table();
            table.relink(from, to);
            let file = table.file_mut(ino)?;
            if let Some(edit) = file.edit.as_ref().filter(|_| copied_from == object.etag) {
                edit.rebase(copied.etag.clone());
            }
            if let Some(metadata) = metadata {
                file.metadata = Some(metadata);
                file.mtime_set = false;
            }
            if copied_from != object.etag {
                // Handles stay with the version that is gone; what is here of it, unchanged, is of no use.
                file.lineage += 1;
                dropped = file.edit.take_if(|edit| !edit.is_dirty());
            }
            file.object = Some(Arc::clone(&copied));
            file.verified = now;
            file.epoch += 1;
            self.renamed(&mut table, from, to, Entry::File(copied))?;
        }
        // Not under the table's lock: a disk may be slow to let go of it.
        drop(dropped);
        self.write_down();
        let replaced = match begun.elapsed() > COPY_LONG {
            true => self.store.head(&source_key).await.ok(),
            false => None,
        };
        let (still, deleted) = match replaced.filter(|there| there.etag != copied_from) {
            Some(newer) => {
                tracing::warn!(
                    key = source_key.as_str(),
                    "somebody else changed a file while it was renamed; the change is kept under the old name"
                );
                (Some(Arc::new(ObjectVersion::of(&newer))), Ok(()))
            }
            None => {
                let deleted = self.delete_one(source_key).await;
                (deleted.is_err().then_some(object), deleted)
            }
        };
        if let Some(still) = still {
            // Both exist now, and both are shown.
            let mut table = self.namespace.table();
            table
                .folder_mut(from.0)?
                .change(from.1.clone(), Some(Entry::File(still)), Some(Instant::now()));
        }
        deleted
    }

    /// Keeps everybody else away from an inode, from what is below it, and from where it goes.
    async fn claim_move(&self, ino: Ino, to: Place<'_>) -> Result<Claim<'_>, FsError> {
        let paths = || {
            let table = self.namespace.table();
            Ok(vec![table.path(ino)?, table.path_below(to.0, to.1)?])
        };
        self.subtrees.claim(Purpose::Move, paths).await
    }

    fn edit_in_progress(&self, ino: Ino) -> Option<Arc<Edit>> {
        self.namespace.table().file(ino).ok()?.edit.clone()
    }

    async fn rename_folder(
        &self,
        ino: Ino,
        from: Place<'_>,
        to: Place<'_>,
        target_exists: bool,
        attempt: &Attempt,
    ) -> Result<(), FsError> {
        let below = self.namespace.table().below(ino);
        for file in below {
            match self.commit(file).await {
                Ok(()) | Err(FsError::IsFolder | FsError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let _claim = self.claim_move(ino, to).await?;
        let (path, target_path) = {
            let table = self.namespace.table();
            (table.path(ino)?, table.path_below(to.0, to.1)?)
        };
        let target_marker = target_exists && self.require_empty(to.0, to.1, &target_path).await?;
        let old = self.namespace.folder_key(&path)?;
        let new = self.namespace.folder_key(&target_path)?;
        let sources = keys_below(&*self.store, &old).await?;
        attempt.begin(Intent::Rename { ino: ino.0 });
        self.write_down();
        let copied = match copy_below((&*self.store, &self.recorder), &sources, (&old, &new)).await {
            Ok(copied) => copied,
            Err(error) => {
                // The marker that was there went with the copies.
                if target_marker
                    && let Err(error) = self.put_marker(&new, WriteCondition::None, clock::new_id()).await
                {
                    tracing::warn!(folder = target_path, %error, "an empty folder may disappear");
                }
                return Err(error);
            }
        };
        if !copied.contains_key(&new) {
            // The folder existed only through its keys; it must also exist if all of them are removed.
            self.put_marker(&new, WriteCondition::None, clock::new_id())
                .await?;
        }
        // First the table, then the deletion: who reads meanwhile finds the copies.
        self.relink_folder(ino, from, to, &copied)?;
        self.write_down();
        let deleted = delete_copied(&*self.store, &old, &sources).await;
        if !matches!(&deleted, Ok(Deleted { kept }) if kept.is_empty()) {
            // Both exist now, the old one perhaps in part.
            let mut table = self.namespace.table();
            table
                .folder_mut(from.0)?
                .change(from.1.clone(), Some(Entry::Folder), Some(Instant::now()));
        }
        let Deleted { kept } = deleted?;
        if let Some(first) = kept.first() {
            tracing::warn!(
                folder = path,
                target = target_path,
                count = kept.len(),
                first = first.as_str(),
                "somebody else changed a folder while it was renamed; the changes are kept under the old name"
            );
        }
        Ok(())
    }

    fn relink_folder(
        &self,
        ino: Ino,
        from: Place<'_>,
        to: Place<'_>,
        copied: &BTreeMap<Key, ETag>,
    ) -> Result<(), FsError> {
        {
            let mut table = self.namespace.table();
            table.detach(to.0, to.1);
            table.relink(from, to);
            self.renamed(&mut table, from, to, Entry::Folder)?;
            for below in table.below(ino) {
                let key = self.namespace.key(&table.path(below)?)?;
                let Kind::File(file) = &mut table.get_mut(below)?.kind else {
                    continue;
                };
                file.epoch += 1;
                // Copies in parts get another tag than their source.
                if let (Some(object), Some(etag)) = (&file.object, copied.get(&key)) {
                    let object = ObjectVersion {
                        etag: etag.clone(),
                        ..(**object).clone()
                    };
                    if let Some(edit) = &file.edit {
                        edit.rebase(object.etag.clone());
                    }
                    file.object = Some(Arc::new(object));
                    file.verified = Instant::now();
                }
            }
        }
        self.namespace.moved(ino);
        if let Ok(folder) = self.namespace.table().folder_mut(ino) {
            folder.set_marker(true);
        }
        Ok(())
    }

    /// Notes a rename in both folders.
    fn renamed(
        &self,
        table: &mut Table,
        from: Place<'_>,
        to: Place<'_>,
        entry: Entry,
    ) -> Result<(), FsError> {
        let (now, wall, ttl) = (Instant::now(), clock::wall(), self.namespace.ttl());
        for (folder, name, entry) in [(from.0, from.1, None), (to.0, to.1, Some(entry))] {
            let folder = table.folder_mut(folder)?;
            folder.change(name.clone(), entry, Some(now));
            folder.changed = wall;
            folder.tidy(now, ttl);
        }
        Ok(())
    }
}
