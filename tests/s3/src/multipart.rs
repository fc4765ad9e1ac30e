//! Uploads in parts that are under way, and how parts become an object.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use time::OffsetDateTime;

use crate::clock;
use crate::conditions::WriteConditions;
use crate::digest;
use crate::error::Error;
use crate::object::{Attributes, Checksums, Facts, Object};
use crate::storage::Content;
use crate::storage::journal::Entry;
use crate::store::Store;

/// S3's bounds of a part number.
pub(crate) const PART_NUMBERS: std::ops::RangeInclusive<i32> = 1..=10_000;

/// Completed uploads that are remembered: more than any client has in the air.
const COMPLETED_MAX: usize = 1000;

/// All uploads, by their identifier, which sorts by creation.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    uploads: BTreeMap<String, Upload>,
    /// The latest completed ones, until the server ends.
    completed: VecDeque<Completed>,
}

/// An upload that became an object. S3 repeats its answer for a while when a client, having lost it, asks again.
#[derive(Debug)]
struct Completed {
    id: String,
    bucket: String,
    key: String,
    etag: String,
}

/// One upload.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) initiated: OffsetDateTime,
    pub(crate) parts: BTreeMap<i32, Arc<Object>>,
    attributes: Attributes,
}

/// A part as the client names it when it completes the upload.
#[derive(Debug)]
pub(crate) struct NamedPart {
    pub(crate) number: i32,
    pub(crate) etag: String,
}

impl Uploads {
    pub(crate) fn create(
        &mut self,
        id: String,
        bucket: String,
        key: String,
        attributes: Attributes,
        initiated: OffsetDateTime,
    ) {
        self.uploads.insert(
            id,
            Upload {
                bucket,
                key,
                initiated,
                parts: BTreeMap::new(),
                attributes,
            },
        );
    }

    /// Puts a part in its place and gives back the one that it replaces.
    pub(crate) fn put_part(
        &mut self,
        id: &str,
        number: i32,
        part: Arc<Object>,
    ) -> Result<Option<Arc<Object>>, Error> {
        let upload = self
            .uploads
            .get_mut(id)
            .ok_or_else(|| Error::NoSuchUpload(id.to_owned()))?;
        Ok(upload.parts.insert(number, part))
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Upload> {
        self.uploads.remove(id)
    }

    /// From now on a second completion of an upload fails.
    pub(crate) fn forget_completed(&mut self) {
        self.completed.clear();
    }

    /// The ETag that the upload's completion was answered with.
    fn completed(&self, bucket: &str, key: &str, id: &str) -> Option<&str> {
        let known = |it: &&Completed| it.id == id && it.bucket == bucket && it.key == key;
        Some(&self.completed.iter().find(known)?.etag)
    }

    /// The upload of that name, when it is for this bucket and key.
    pub(crate) fn get(&self, bucket: &str, key: &str, id: &str) -> Result<&Upload, Error> {
        let upload = self
            .uploads
            .get(id)
            .filter(|upload| upload.bucket == bucket && upload.key == key);
        upload.ok_or_else(|| Error::NoSuchUpload(id.to_owned()))
    }

    /// A bucket's uploads, oldest first.
    pub(crate) fn in_bucket(&self, bucket: &str) -> impl Iterator<Item = (&str, &Upload)> {
        self.uploads
            .iter()
            .filter(move |(_, upload)| upload.bucket == bucket)
            .map(|(id, upload)| (&**id, upload))
    }

    /// The journal lines that lead to this state.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (id, upload) in &self.uploads {
            entries.push(upload.entry(id));
            entries.extend(
                upload
                    .parts
                    .iter()
                    .map(|(&number, part)| part_entry(id, number, part)),
            );
        }
        entries
    }
}

impl Upload {
    fn entry(&self, id: &str) -> Entry {
        Entry::CreateUpload {
            id: id.to_owned(),
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            attributes: self.attributes.clone(),
            initiated: self.initiated,
        }
    }

    /// The object that these parts make. Bytes are shared, not moved.
    fn assemble(&self, named: &[NamedPart], part_bytes_min: u64) -> Result<Object, Error> {
        let mut content = Content::default();
        let mut lengths = Vec::with_capacity(named.len());
        let mut previous = 0;
        for (at, NamedPart { number, etag }) in named.iter().enumerate() {
            if *number <= previous {
                return Err(Error::InvalidPartOrder(*number));
            }
            previous = *number;
            let part = self.parts.get(number).filter(|part| part.facts.etag == *etag);
            let part = part.ok_or(Error::InvalidPart(*number))?;
            let length = part.content.length();
            if length < part_bytes_min && at + 1 < named.len() {
                return Err(Error::EntityTooSmall {
                    number: *number,
                    length,
                    minimum: part_bytes_min,
                });
            }
            lengths.push(length);
            content.append(part.content.clone());
        }
        let etag = digest::multipart_etag(named.iter().map(|part| part.etag.as_str()));
        let facts = Facts {
            etag,
            modified: clock::now(),
            attributes: self.attributes.clone(),
            checksums: Checksums::default(),
            parts: lengths,
        };
        Ok(Object { content, facts })
    }
}

impl Store {
    pub(crate) fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        attributes: Attributes,
    ) -> Result<String, Error> {
        let mut uploads = self.uploads.lock();
        self.require_bucket(bucket)?;
        let id = clock::unique();
        uploads.create(
            id.clone(),
            bucket.to_owned(),
            key.to_owned(),
            attributes,
            clock::now(),
        );
        let entry = uploads.get(bucket, key, &id)?.entry(&id);
        self.storage.record(|| entry)?;
        Ok(id)
    }

    pub(crate) fn put_part(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        number: i32,
        part: Object,
    ) -> Result<Arc<Object>, Error> {
        let part = Arc::new(part);
        let replaced = {
            let mut uploads = self.uploads.lock();
            uploads.get(bucket, key, id)?;
            self.storage.record(|| part_entry(id, number, &part))?;
            uploads.put_part(id, number, part.clone())?
        };
        drop(replaced);
        Ok(part)
    }

    /// Makes the object and ends the upload, or leaves both as they were; tells the object's ETag.
    pub(crate) fn complete_upload(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        named: &[NamedPart],
        part_bytes_min: u64,
        conditions: &WriteConditions,
    ) -> Result<String, Error> {
        let mut uploads = self.uploads.lock();
        if let Some(etag) = uploads.completed(bucket, key, id) {
            return Ok(etag.to_owned());
        }
        let object = uploads.get(bucket, key, id)?.assemble(named, part_bytes_min)?;
        let object = self.put(bucket, key, object, conditions)?;
        self.storage.record(|| Entry::EndUpload { id: id.to_owned() })?;
        let ended = uploads.remove(id);
        let etag = object.facts.etag.clone();
        if uploads.completed.len() == COMPLETED_MAX {
            uploads.completed.pop_front();
        }
        uploads.completed.push_back(Completed {
            id: id.to_owned(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            etag: etag.clone(),
        });
        drop(uploads);
        // Outside of the lock: parts that were not named go now.
        drop(ended);
        Ok(etag)
    }

    pub(crate) fn abort_upload(&self, bucket: &str, key: &str, id: &str) -> Result<(), Error> {
        let mut uploads = self.uploads.lock();
        uploads.get(bucket, key, id)?;
        self.storage.record(|| Entry::EndUpload { id: id.to_owned() })?;
        let ended = uploads.remove(id);
        drop(uploads);
        drop(ended);
        Ok(())
    }
}

fn part_entry(id: &str, number: i32, part: &Object) -> Entry {
    Entry::PutPart {
        id: id.to_owned(),
        number,
        facts: part.facts.clone(),
        extents: (&part.content).into(),
    }
}
