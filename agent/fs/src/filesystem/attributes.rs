//! Attributes: size and times that applications set, and the extended attributes that show what the
//! filesystem knows of a file.

use std::time::SystemTime;

use super::{Filesystem, Found};
use crate::error::FsError;
use crate::handle::HandleId;
use crate::namespace::inode::{Ino, Kind, Link, ROOT};
use crate::status;

/// What an application wants to change. Owner, group and permission bits are accepted and ignored, so they
/// are not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttributeChange {
    /// New size.
    pub size: Option<u64>,
    /// New modification time.
    pub mtime: Option<SystemTime>,
}

/// Where a file's bytes are: `clean`, `dirty` or `uploading`.
const STATE: &str = "user.mooring.state";
/// The object's key.
const KEY: &str = "user.mooring.key";
/// The object's version tag; of the version below, for a dirty file.
const ETAG: &str = "user.mooring.etag";
/// Keys directly in a folder that cannot be shown as files, one a line.
const HIDDEN_KEYS: &str = "user.mooring.hidden_keys";

const FILE_NAMES: [&str; 3] = [STATE, KEY, ETAG];
const FOLDER_NAMES: [&str; 2] = [KEY, HIDDEN_KEYS];

impl Filesystem {
    /// Changes attributes. A size set by path, while nobody has the file open for writing, is in S3 when
    /// this returns.
    pub async fn set_attributes(
        &self,
        ino: Ino,
        handle: Option<HandleId>,
        change: AttributeChange,
    ) -> Result<Found, FsError> {
        self.writable()?;
        let AttributeChange { size, mtime } = change;
        match (size, handle) {
            (Some(size), Some(handle)) => {
                let handle = self.handles.file(handle)?;
                if !handle.access.write {
                    return Err(FsError::BadHandle);
                }
                self.truncate(&handle, size)?;
                self.set_mtime(ino, mtime)?;
            }
            (Some(size), None) => self.truncate_by_path(ino, size, mtime).await?,
            (None, _) => self.set_mtime(ino, mtime)?,
        }
        self.found(ino)
    }

    async fn truncate_by_path(&self, ino: Ino, size: u64, mtime: Option<SystemTime>) -> Result<(), FsError> {
        self.namespace.refresh(ino).await?;
        let _held = self.hold(ino)?;
        let before = {
            let table = self.namespace.table();
            let file = table.file(ino)?;
            (file.mtime, file.mtime_set)
        };
        let edit = self.edit(ino)?;
        let was_dirty = edit.is_dirty();
        edit.truncate(size)?;
        let generation = edit.generation();
        self.written(ino)?;
        self.set_mtime(ino, mtime)?;
        if self.namespace.table().file(ino)?.writers > 0 {
            return Ok(());
        }
        let Err(error) = self.commit(ino).await else {
            return Ok(());
        };
        // Nobody has the file open who would try again or could be told later: it stays as it was. What was
        // waiting before, or came since, goes on waiting.
        let alone = self.namespace.table().file(ino)?.writers == 0;
        if alone && !was_dirty && edit.is_dirty() && edit.generation() == generation {
            self.give_up(ino);
            if let Ok(file) = self.namespace.table().file_mut(ino) {
                (file.mtime, file.mtime_set) = before;
            }
        }
        Err(error)
    }

    fn set_mtime(&self, ino: Ino, mtime: Option<SystemTime>) -> Result<(), FsError> {
        let Some(mtime) = mtime else { return Ok(()) };
        match &mut self.namespace.table().get_mut(ino)?.kind {
            Kind::Folder(folder) => folder.changed = mtime,
            Kind::File(file) => {
                file.mtime = mtime;
                file.mtime_set = true;
            }
        }
        Ok(())
    }

    /// The value of an extended attribute.
    pub fn extended_attribute(&self, ino: Ino, name: &str) -> Result<Vec<u8>, FsError> {
        if (ino, name) == (ROOT, status::ATTRIBUTE) {
            return Ok(serde_json::to_vec(&self.status()).unwrap_or_default());
        }
        let table = self.namespace.table();
        let inode = table.get(ino)?;
        let gone = inode.link == Link::Gone;
        let text = match (&inode.kind, name) {
            (_, KEY) if !gone => {
                let path = table.path(ino)?;
                let key = match &inode.kind {
                    Kind::Folder(_) => self.namespace.folder_key(&path)?,
                    Kind::File(_) => self.namespace.key(&path)?,
                };
                key.as_str().to_owned()
            }
            (Kind::File(file), STATE) => match &file.edit {
                Some(edit) if edit.is_uploading() => "uploading",
                Some(edit) if edit.is_dirty() => "dirty",
                Some(_) | None => "clean",
            }
            .to_owned(),
            (Kind::File(file), ETAG) => file
                .object
                .as_ref()
                .ok_or(FsError::NoAttribute)?
                .etag
                .0
                .trim_matches('"')
                .to_owned(),
            (Kind::Folder(folder), HIDDEN_KEYS) => folder.hidden().join("\n"),
            _ => return Err(FsError::NoAttribute),
        };
        Ok(text.into_bytes())
    }

    /// Names of the extended attributes, each ended by a NUL as the system call wants it.
    pub fn extended_attribute_names(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let names: &[&str] = match self.namespace.table().get(ino)?.kind {
            Kind::File(_) => &FILE_NAMES,
            Kind::Folder(_) => &FOLDER_NAMES,
        };
        Ok(names.iter().flat_map(|name| name.bytes().chain([0])).collect())
    }
}
