//! Buckets and their objects: every change is one step under one lock, with its conditions judged inside.
//!
//! Lock order: uploads, then the table of buckets, then one bucket's index, then the journal. No lock is held
//! across an await.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use time::OffsetDateTime;

use crate::clock;
use crate::conditions::WriteConditions;
use crate::error::Error;
use crate::index::{Index, Page, PageRequest};
use crate::multipart::Uploads;
use crate::object::Object;
use crate::storage::files::FileBlob;
use crate::storage::journal::{Entry, StoredExtent};
use crate::storage::{Content, Extent, Storage};

/// All that the server holds.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) storage: Storage,
    pub(crate) uploads: Mutex<Uploads>,
    buckets: RwLock<BTreeMap<String, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    created: OffsetDateTime,
    index: Arc<RwLock<Index>>,
}

impl Store {
    pub(crate) fn in_memory() -> Self {
        Self::new(Storage::Memory)
    }

    /// Opens a data directory and takes up where the last process ended.
    pub(crate) fn in_files(dir: &Path) -> std::io::Result<Self> {
        let (storage, entries) = Storage::open_files(dir)?;
        let mut store = Self::new(storage.clone());
        if let Storage::Files(files) = &storage {
            // Holds every blob until all entries are replayed: a later entry may share one that an earlier entry
            // has given up.
            let mut blobs = HashMap::new();
            for entry in entries {
                store.replay(entry, &mut |number| {
                    blobs.entry(number).or_insert_with(|| files.blob(number)).clone()
                });
            }
            drop(blobs);
            files.compact(&store.snapshot())?;
        }
        Ok(store)
    }

    fn new(storage: Storage) -> Self {
        Self {
            storage,
            uploads: Mutex::default(),
            buckets: RwLock::default(),
        }
    }

    pub(crate) fn create_bucket(&self, name: &str) -> Result<(), Error> {
        let mut buckets = self.buckets.write();
        if buckets.contains_key(name) {
            return Err(Error::BucketExists(name.to_owned()));
        }
        let created = clock::now();
        self.storage.record(|| Entry::CreateBucket {
            bucket: name.to_owned(),
            created,
        })?;
        buckets.insert(
            name.to_owned(),
            Bucket {
                created,
                index: Arc::default(),
            },
        );
        Ok(())
    }

    pub(crate) fn delete_bucket(&self, name: &str) -> Result<(), Error> {
        let uploads = self.uploads.lock();
        let mut buckets = self.buckets.write();
        let bucket = buckets
            .get(name)
            .ok_or_else(|| Error::NoSuchBucket(name.to_owned()))?;
        if !bucket.index.read().is_empty() || uploads.in_bucket(name).next().is_some() {
            return Err(Error::BucketNotEmpty(name.to_owned()));
        }
        self.storage.record(|| Entry::DeleteBucket {
            bucket: name.to_owned(),
        })?;
        buckets.remove(name);
        Ok(())
    }

    pub(crate) fn buckets(&self) -> Vec<(String, OffsetDateTime)> {
        self.buckets
            .read()
            .iter()
            .map(|(name, bucket)| (name.clone(), bucket.created))
            .collect()
    }

    pub(crate) fn require_bucket(&self, name: &str) -> Result<(), Error> {
        self.index(name).map(drop)
    }

    /// Number of objects in a bucket.
    pub(crate) fn object_count(&self, bucket: &str) -> Result<usize, Error> {
        Ok(self.index(bucket)?.read().len())
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> Result<Arc<Object>, Error> {
        let index = self.index(bucket)?;
        let index = index.read();
        index
            .get(key)
            .cloned()
            .ok_or_else(|| Error::NoSuchKey(key.to_owned()))
    }

    /// Stores an object when the conditions hold for what is there.
    pub(crate) fn put(
        &self,
        bucket: &str,
        key: &str,
        object: Object,
        conditions: &WriteConditions,
    ) -> Result<Arc<Object>, Error> {
        let index = self.index(bucket)?;
        let object = Arc::new(object);
        let replaced = {
            let mut index = index.write();
            conditions.check(key, index.get(key).map(|current| &**current))?;
            self.storage.record(|| put_entry(bucket, key, &object))?;
            index.insert(key, object.clone())
        };
        // Outside of the lock: it may remove a file.
        drop(replaced);
        Ok(object)
    }

    /// Removes an object when the conditions hold; an absent key is no error, as in S3.
    pub(crate) fn delete(&self, bucket: &str, key: &str, conditions: &WriteConditions) -> Result<(), Error> {
        let index = self.index(bucket)?;
        let removed = {
            let mut index = index.write();
            // Of an absent key nothing is demanded: what the client wanted is so.
            if let Some(current) = index.get(key) {
                conditions.check(key, Some(current))?;
                self.storage.record(|| Entry::Delete {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                })?;
            }
            index.remove(key)
        };
        drop(removed);
        Ok(())
    }

    pub(crate) fn page(&self, bucket: &str, request: &PageRequest<'_>) -> Result<Page, Error> {
        Ok(self.index(bucket)?.read().page(request))
    }

    fn index(&self, bucket: &str) -> Result<Arc<RwLock<Index>>, Error> {
        let buckets = self.buckets.read();
        let bucket = buckets
            .get(bucket)
            .ok_or_else(|| Error::NoSuchBucket(bucket.to_owned()))?;
        Ok(bucket.index.clone())
    }

    /// Applies one line of the journal. Never fails: what a line refers to was there when it was written.
    fn replay(&mut self, entry: Entry, blob: &mut dyn FnMut(u64) -> Arc<FileBlob>) {
        let mut content = |extents: &[StoredExtent]| {
            let mut content = Content::default();
            for &StoredExtent(number, start, length) in extents {
                content.push(Extent::File {
                    blob: blob(number),
                    range: start..start + length,
                });
            }
            content
        };
        match entry {
            Entry::CreateBucket { bucket, created } => {
                self.buckets.get_mut().insert(
                    bucket,
                    Bucket {
                        created,
                        index: Arc::default(),
                    },
                );
            }
            Entry::DeleteBucket { bucket } => {
                self.buckets.get_mut().remove(&bucket);
            }
            Entry::Put {
                bucket,
                key,
                facts,
                extents,
            } => {
                let object = Object {
                    content: content(&extents),
                    facts,
                };
                if let Some(bucket) = self.buckets.get_mut().get(&bucket) {
                    bucket.index.write().insert(&key, Arc::new(object));
                }
            }
            Entry::Delete { bucket, key } => {
                if let Some(bucket) = self.buckets.get_mut().get(&bucket) {
                    bucket.index.write().remove(&key);
                }
            }
            Entry::CreateUpload {
                id,
                bucket,
                key,
                attributes,
                initiated,
            } => {
                self.uploads
                    .get_mut()
                    .create(id, bucket, key, attributes, initiated);
            }
            Entry::PutPart {
                id,
                number,
                facts,
                extents,
            } => {
                let part = Object {
                    content: content(&extents),
                    facts,
                };
                // The upload exists: its own line came before.
                let _ = self.uploads.get_mut().put_part(&id, number, Arc::new(part));
            }
            Entry::EndUpload { id } => {
                self.uploads.get_mut().remove(&id);
            }
        }
    }

    /// The shortest journal that leads to this state.
    fn snapshot(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (name, bucket) in &*self.buckets.read() {
            entries.push(Entry::CreateBucket {
                bucket: name.clone(),
                created: bucket.created,
            });
            let index = bucket.index.read();
            entries.extend(index.iter().map(|(key, object)| put_entry(name, key, object)));
        }
        entries.extend(self.uploads.lock().entries());
        entries
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.storage.close();
    }
}

fn put_entry(bucket: &str, key: &str, object: &Object) -> Entry {
    Entry::Put {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        facts: object.facts.clone(),
        extents: (&object.content).into(),
    }
}
