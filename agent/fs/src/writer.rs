//! Writing: staged files become objects, never at the cost of somebody else's version.
//!
//! A commit is conditional: a new file only where no object is, a changed one only over the version it
//! was made from. A lost race keeps the remote object and saves ours beside it. What counts as a race: the
//! remote version may be newer than the moment the file was opened here, or ours builds on the old one's
//! bytes. A whole file that replaces a version which was merely not known yet is written over it, as it
//! would be on any disk. Which was first is told by the store's clock alone, together with how long ago
//! the file was opened; in doubt it was a race. Stores that ignore conditions (some do, answering success) have the last
//! writer win; stores that refuse them are noticed at the first refusal and asked without from then on.
//!
//! Each object carries the mark of the edit and of its state, so that an upload whose reply was lost is
//! recognised however much later, and credited with the bytes that it has, not with newer ones.
//!
//! It knows keys and bytes, not names: which key a file has is its caller's business.

mod lost;
pub mod ranges;
pub mod rename;
pub mod staging;
mod unfinished;
pub mod uploader;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Semaphore;

use self::staging::{Edit, METADATA_COMMIT, Staging, Version};
use self::uploader::upload;
use crate::error::FsError;
use crate::namespace::inode::Metadata;
use crate::store::{ETag, Key, ObjectInfo, ObjectStore, StoreError, WriteCondition};

/// Uploading requests in flight over all files: four files at full speed, or 32 small ones. More only wait
/// in the store, and hold connections that readers need.
const TRANSFERS_MAX: usize = 32;

/// Stores tell the time of a modification in whole seconds, cut off: it happened before the next one. One
/// second more, because the machines of one store have clocks of their own.
const MODIFIED_GRAIN: Duration = Duration::from_secs(2);

/// Before the next attempt when the store says that the condition failed although it holds, which it does
/// while it works on another write of the object.
const CONTENDED_PAUSE: Duration = Duration::from_millis(200);

/// Attempts at one commit: the first, and again after each race that may be won, each refusal of the
/// condition, and each file that shrank while it was read.
const ATTEMPTS_MAX: u32 = 5;

/// The writer of one mount.
pub struct Writer {
    store: Arc<dyn ObjectStore>,
    staging: Staging,
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
        /// Where ours is, unless it had no bytes of its own.
        copy: Option<Key>,
        /// What is there, unless the object was removed.
        remote: Option<ObjectInfo>,
    },
}

impl Writer {
    /// A writer.
    pub fn new(store: Arc<dyn ObjectStore>, staging: Staging) -> Writer {
        Writer {
            store,
            staging,
            transfers: Semaphore::new(TRANSFERS_MAX),
            conditional: AtomicBool::new(true),
            conflicts: AtomicU64::new(0),
        }
    }

    /// Where files are staged.
    pub fn staging(&self) -> &Staging {
        &self.staging
    }

    /// Copies saved beside files so far.
    pub fn conflicts(&self) -> u64 {
        self.conflicts.load(Ordering::Relaxed)
    }

    /// Uploads the present state of a file to `key`. The caller holds the edit's turn. `now` names a copy, if
    /// there has to be one.
    pub async fn commit(
        &self,
        key: &Key,
        edit: &Edit,
        mut metadata: Metadata,
        now: SystemTime,
    ) -> Result<Outcome, FsError> {
        let _uploading = edit.uploading();
        if edit.is_frozen() {
            return match self.store.head(key).await {
                Ok(remote) => self.save_beside(key, edit, metadata, now, Some(remote)).await,
                Err(StoreError::NotFound) => self.save_beside(key, edit, metadata, now, None).await,
                Err(error) => Err(error.into()),
            };
        }
        let mut newer_base = None;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let again = attempts < ATTEMPTS_MAX;
            let version = edit.version();
            metadata.insert(METADATA_COMMIT.to_owned(), edit.mark(version.generation));
            let base = newer_base.clone().or_else(|| version.base.clone());
            let condition = match (self.conditional.load(Ordering::Relaxed), base.clone()) {
                (false, _) => WriteCondition::None,
                (true, None) => WriteCondition::Absent,
                (true, Some(etag)) => WriteCondition::Matches(etag),
            };
            let conditional = condition != WriteCondition::None;
            let uploaded = upload(
                (&*self.store, &self.transfers, &self.staging.recorder),
                (key, key),
                edit,
                &version,
                &metadata,
                condition,
            );
            match uploaded.await {
                Ok(etag) => {
                    return Ok(Outcome::Stored {
                        version,
                        etag,
                        metadata,
                    });
                }
                Err(FsError::Store(StoreError::Unsupported)) if conditional && again => {
                    tracing::warn!("the store refuses conditional writes: the last writer wins");
                    self.conditional.store(false, Ordering::Relaxed);
                    continue;
                }
                Err(FsError::Store(StoreError::PreconditionFailed | StoreError::NotFound)) if conditional => {
                }
                // Bytes of the object below are needed, and it is not there any more.
                Err(FsError::Changed) => {}
                // The file changed while it was read, such as shrinking below a part.
                Err(_) if again && edit.generation() != version.generation => continue,
                Err(error) => return Err(error),
            }
            match self.judge(key, edit, &version, base.as_ref()).await? {
                Race::Ours { generation, etag } if generation >= version.generation => {
                    return Ok(Outcome::Stored {
                        version,
                        etag,
                        metadata,
                    });
                }
                // An attempt before this one has had its effect; what came since is put over it.
                Race::Ours { generation, etag } if again => {
                    edit.committed(generation, etag);
                    newer_base = None;
                }
                Race::Again(found) if again => {
                    if found.is_some() && found == base {
                        tokio::time::sleep(CONTENDED_PAUSE * attempts).await;
                    }
                    newer_base = found;
                    if newer_base.is_none() {
                        // The object was removed: what is written here brings it back.
                        edit.forget_base();
                    }
                }
                Race::Ours { .. } | Race::Again(_) => {
                    let reason = "others write the same object all the time".to_owned();
                    return Err(StoreError::Unavailable { reason }.into());
                }
                Race::Lost(remote) => return self.save_beside(key, edit, metadata, now, remote).await,
            }
        }
    }

    /// What it means that an upload over `base` was refused.
    async fn judge(
        &self,
        key: &Key,
        edit: &Edit,
        version: &Version,
        base: Option<&ETag>,
    ) -> Result<Race, FsError> {
        let remote = match self.store.head(key).await {
            Ok(remote) => remote,
            Err(StoreError::NotFound) if version.needs_base => return Ok(Race::Lost(None)),
            Err(StoreError::NotFound) => return Ok(Race::Again(None)),
            Err(error) => return Err(error.into()),
        };
        Ok(if let Some(generation) = edit.made(&remote.metadata) {
            Race::Ours {
                generation,
                etag: remote.etag,
            }
        } else if base == Some(&remote.etag)
            || (!version.builds_on_base && self.was_there_before(&remote, edit.opened()))
        {
            Race::Again(Some(remote.etag))
        } else {
            Race::Lost(Some(remote))
        })
    }

    /// Whether an object was certainly there before a moment here.
    fn was_there_before(&self, remote: &ObjectInfo, moment: Instant) -> bool {
        let Some((said, heard)) = self.store.clock() else {
            return false;
        };
        let there = match heard.checked_duration_since(moment) {
            Some(since) => said.checked_sub(since),
            None => said.checked_add(moment.duration_since(heard)),
        };
        there.is_some_and(|there| remote.modified + MODIFIED_GRAIN <= there)
    }
}

enum Race {
    /// The object there is one of ours; only the reply was lost.
    Ours {
        /// What it holds.
        generation: u64,
        /// Its version.
        etag: ETag,
    },
    /// Try again over this version, or over none.
    Again(Option<ETag>),
    /// Somebody else's version stays, or none.
    Lost(Option<ObjectInfo>),
}

#[cfg(test)]
mod tests;
