//! Writing: staged files become objects, never at the cost of somebody else's version.
//!
//! A commit is conditional: a new file only where no object is, a changed one only over the version it
//! was made from. A lost race keeps the remote object and saves ours beside it. What counts as a race: the
//! remote version may be newer than the moment the file was opened here, or ours builds on the old one's
//! bytes. A whole file that replaces a version which was merely not known yet is written over it, as it
//! would be on any disk. Stores that ignore conditions (some do, answering success) have the last writer
//! win; stores that refuse them are noticed at the first refusal and asked without from then on.
//!
//! It knows keys and bytes, not names: which key a file has is its caller's business.

pub mod ranges;
pub mod rename;
pub mod staging;
pub mod uploader;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::Semaphore;

use self::staging::{Edit, Version};
use self::uploader::upload;
use crate::error::FsError;
use crate::namespace::inode::Metadata;
use crate::namespace::names::{KEY_BYTES_MAX, NAME_BYTES_MAX};
use crate::store::{ETag, Key, ObjectInfo, ObjectStore, StoreError, WriteCondition};

/// Metadata entry that says which upload made an object, so that a lost reply is recognised.
pub const METADATA_COMMIT: &str = "mooring-commit";

/// Uploading requests in flight over all files: four files at full speed, or 32 small ones. More only wait
/// in the store, and hold connections that readers need.
const TRANSFERS_MAX: usize = 32;

/// Stores tell the time of a modification in whole seconds, cut off: it happened before the next one.
const MODIFIED_GRAIN: Duration = Duration::from_secs(1);

/// Attempts at one commit: the first, and again after each race that may be won, each refusal of the
/// condition, and each file that shrank while it was read.
const ATTEMPTS_MAX: u32 = 5;

/// The writer of one mount.
pub struct Writer {
    store: Arc<dyn ObjectStore>,
    folder: PathBuf,
    /// Bounds requests that carry bytes, over all files.
    transfers: Semaphore,
    conditional: AtomicBool,
    conflicts: AtomicU64,
}

/// How a commit ended, if it did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// The file is the object now.
    Stored {
        /// What was uploaded.
        version: Version,
        /// The object's new version.
        etag: ETag,
        /// The object's metadata.
        metadata: Metadata,
    },
    /// Somebody else's version stays; ours is kept as `copy`.
    Lost {
        /// Where ours is.
        copy: Key,
        /// What is there.
        remote: ObjectInfo,
    },
}

/// What a commit is to be told from others by.
pub struct Stamp {
    /// Unique id of the commit.
    pub id: uuid::Uuid,
    /// When it began.
    pub at: SystemTime,
}

impl Writer {
    /// A writer that stages in `folder`, which must exist.
    pub fn new(store: Arc<dyn ObjectStore>, folder: PathBuf) -> Writer {
        Writer {
            store,
            folder,
            transfers: Semaphore::new(TRANSFERS_MAX),
            conditional: AtomicBool::new(true),
            conflicts: AtomicU64::new(0),
        }
    }

    /// Where files are staged.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Copies saved beside files so far.
    pub fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// Uploads the present state of a file to `key`. The caller holds the edit's turn.
    pub async fn commit(
        &self,
        key: &Key,
        edit: &Edit,
        mut metadata: Metadata,
        stamp: Stamp,
    ) -> Result<Outcome, FsError> {
        metadata.insert(METADATA_COMMIT.to_owned(), stamp.id.to_string());
        let _uploading = edit.uploading();
        let mut newer_base = None;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let version = edit.version();
            let base = newer_base.clone().or_else(|| version.base.clone());
            let condition = match (self.conditional.load(Ordering::Relaxed), base) {
                (false, _) => WriteCondition::None,
                (true, None) => WriteCondition::Absent,
                (true, Some(etag)) => WriteCondition::Matches(etag),
            };
            let again = attempts < ATTEMPTS_MAX;
            match upload(
                (&*self.store, &self.transfers),
                (key, key),
                edit,
                &version,
                &metadata,
                condition.clone(),
            )
            .await
            {
                Ok(etag) => {
                    return Ok(Outcome::Stored {
                        version,
                        etag,
                        metadata,
                    });
                }
                Err(FsError::Store(StoreError::Unsupported))
                    if condition != WriteCondition::None && again =>
                {
                    tracing::warn!("the store refuses conditional writes: the last writer wins");
                    self.conditional.store(false, Ordering::Relaxed);
                }
                Err(FsError::Store(StoreError::PreconditionFailed | StoreError::NotFound))
                    if condition != WriteCondition::None =>
                {
                    match self.judge(key, edit, &version, &stamp).await? {
                        Race::Ours(etag) => {
                            return Ok(Outcome::Stored {
                                version,
                                etag,
                                metadata,
                            });
                        }
                        Race::Again(found) if again => {
                            newer_base = found;
                            if newer_base.is_none() && version.base.is_some() {
                                // The object was removed: what is written here brings it back.
                                if version.needs_base {
                                    return Err(FsError::Changed);
                                }
                                edit.forget_base();
                            }
                        }
                        Race::Again(_) => return Err(FsError::Changed),
                        Race::Lost(remote) => {
                            return self.save_beside(key, edit, metadata, stamp.at, remote).await;
                        }
                    }
                }
                // The file changed while it was read, such as shrinking below a part.
                Err(_) if again && edit.generation() != version.generation => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn judge(&self, key: &Key, edit: &Edit, version: &Version, stamp: &Stamp) -> Result<Race, FsError> {
        let remote = match self.store.head(key).await {
            Ok(remote) => remote,
            Err(StoreError::NotFound) => return Ok(Race::Again(None)),
            Err(error) => return Err(error.into()),
        };
        if remote.metadata.get(METADATA_COMMIT) == Some(&stamp.id.to_string()) {
            return Ok(Race::Ours(remote.etag));
        }
        if !version.builds_on_base && remote.modified + MODIFIED_GRAIN <= edit.begun {
            return Ok(Race::Again(Some(remote.etag)));
        }
        Ok(Race::Lost(remote))
    }

    async fn save_beside(
        &self,
        key: &Key,
        edit: &Edit,
        metadata: Metadata,
        at: SystemTime,
        remote: ObjectInfo,
    ) -> Result<Outcome, FsError> {
        let copy = conflict_key(key, at, &metadata);
        let version = edit.version();
        upload(
            (&*self.store, &self.transfers),
            (key, &copy),
            edit,
            &version,
            &metadata,
            WriteCondition::None,
        )
        .await?;
        self.conflicts.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            key = key.as_str(),
            copy = copy.as_str(),
            "somebody else changed an object while it was written here; our version is kept beside it"
        );
        Ok(Outcome::Lost { copy, remote })
    }
}

enum Race {
    /// The object there is this very commit; only the reply was lost.
    Ours(ETag),
    /// Try again over this version, or over none.
    Again(Option<ETag>),
    /// Somebody else's version stays.
    Lost(ObjectInfo),
}

/// `name.mooring-conflict-20260102T030405Z-1a2b3c4d`, the name cut so that both limits hold; so deep that
/// there is no room for it, the copy goes to the next folder above that has some.
fn conflict_key(key: &Key, at: SystemTime, metadata: &Metadata) -> Key {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = OffsetDateTime::from(at).format(&format).unwrap_or_default();
    let commit = metadata.get(METADATA_COMMIT);
    let id: String = commit.map(|id| id.chars().take(8).collect()).unwrap_or_default();
    let suffix = format!(".mooring-conflict-{time}-{id}");
    let (mut folder, name) = match key.as_str().rfind('/') {
        Some(slash) => key.as_str().split_at(slash + 1),
        None => ("", key.as_str()),
    };
    while folder.len() + suffix.len() >= KEY_BYTES_MAX {
        let above = folder
            .trim_end_matches('/')
            .rfind('/')
            .map_or(0, |slash| slash + 1);
        folder = &folder[..above];
    }
    let room = (NAME_BYTES_MAX - suffix.len()).min(KEY_BYTES_MAX - suffix.len() - folder.len());
    let mut cut = name.len().min(room);
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    Key::new(format!("{folder}{}{suffix}", &name[..cut]))
}

#[cfg(test)]
mod tests;
