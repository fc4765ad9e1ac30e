//! Moves objects on the server's side: S3 has no rename, so everything is copied first and deleted then.
//! What is deleted is the version that was copied, as far as S3 can tell: a source that somebody else has
//! changed since, or has added, is kept.

use std::collections::BTreeMap;
use std::ops::Range;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt, stream};

use super::{MODIFIED_GRAIN, unfinished};
use crate::error::FsError;
use crate::namespace::inode::Metadata;
use crate::namespace::names::checked_key;
use crate::store::{
    ETag, Key, ListRequest, ObjectInfo, ObjectStore, PartDone, StoreError, UploadBody, WriteCondition,
};
use crate::succession::Recorder;

/// S3's limit for a copy in one request; also for one part.
const COPY_BYTES_MAX: u64 = 5 << 30;

/// Parts of a large copy: small enough to be done in parallel, and at most 10,000 for 5 TiB.
const COPY_PART_BYTES: u64 = 1 << 30;
const COPY_PARTS_IN_FLIGHT: usize = 8;

/// Copies of objects in flight: they cost the store work but us nothing.
const COPIES_IN_FLIGHT: usize = 32;

/// Keys per DeleteObjects, S3's limit.
const DELETE_BATCH: usize = 1000;

/// Keys moved by one rename; they are held in memory (up to 1 KiB each) until all are copied.
const KEYS_MAX: usize = 200_000;

/// What a deletion left.
#[derive(Debug)]
pub struct Deleted {
    /// Keys below the prefix that are not the version that was copied.
    pub kept: Vec<Key>,
}

/// An object as a listing or a HEAD described it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is.
    pub key: Key,
    /// Its version.
    pub etag: ETag,
    /// Its size.
    pub size: u64,
}

/// Copies an object of any size. `metadata` replaces the object's own.
pub async fn copy_object(
    (store, recorder): (&dyn ObjectStore, &Recorder),
    source: &Source,
    target: &Key,
    metadata: Option<&Metadata>,
) -> Result<ETag, FsError> {
    if source.size <= COPY_BYTES_MAX {
        return Ok(store
            .copy(&source.key, target, Some(&source.etag), metadata)
            .await?);
    }
    let own;
    let metadata = match metadata {
        Some(metadata) => metadata,
        None => {
            own = store.head(&source.key).await?.metadata;
            &own
        }
    };
    let upload = unfinished::begin((store, recorder), target, metadata).await?;
    let copied = copy_parts(store, source, target, &upload).await;
    unfinished::end((store, recorder), target, upload, copied).await
}

/// Everything below a prefix, the prefix's own key included.
pub async fn keys_below(store: &dyn ObjectStore, prefix: &Key) -> Result<Vec<Source>, FsError> {
    let mut found = Vec::new();
    let mut continuation = None;
    loop {
        let page = store.list(everything_below(prefix, continuation)).await?;
        found.extend(page.objects.into_iter().map(|(key, info)| Source {
            key,
            etag: info.etag,
            size: info.size,
        }));
        if found.len() > KEYS_MAX {
            return Err(FsError::TooManyKeys);
        }
        if page.next.is_none() {
            return Ok(found);
        }
        continuation = page.next;
    }
}

/// Copies objects from below one prefix to below another, where nothing is; answers their new versions by new
/// key. If one fails, all that was tried is taken back, an own key of the target prefix too.
pub async fn copy_below(
    (store, recorder): (&dyn ObjectStore, &Recorder),
    sources: &[Source],
    (from, to): (&Key, &Key),
) -> Result<BTreeMap<Key, ETag>, FsError> {
    let mut pairs = Vec::with_capacity(sources.len());
    for source in sources {
        let rest = source
            .key
            .as_str()
            .strip_prefix(from.as_str())
            .ok_or(FsError::Invalid)?;
        pairs.push((
            source.clone(),
            Key::new(checked_key(format!("{}{rest}", to.as_str()))?),
        ));
    }
    let mut copied = BTreeMap::new();
    let mut tried = Vec::new();
    let mut failure = None;
    let mut waiting = pairs.into_iter();
    let mut copies = FuturesUnordered::new();
    loop {
        // After a failure none is begun, but those on their way end first: the server makes them in any case,
        // and what is deleted before it is there stays.
        while failure.is_none() && copies.len() < COPIES_IN_FLIGHT {
            let Some((source, target)) = waiting.next() else {
                break;
            };
            tried.push(target.clone());
            copies.push(async move {
                let copied = copy_below_one((store, recorder), &source, &target).await;
                copied.map(|etag| (target, etag))
            });
        }
        match copies.next().await {
            Some(Ok((target, etag))) => {
                copied.insert(target, etag);
            }
            Some(Err(error)) => failure = failure.or(Some(error)),
            None => break,
        }
    }
    match failure {
        None => Ok(copied),
        Some(error) => {
            // Those that failed too: perhaps only their reply was lost.
            if let Err(cleanup) = delete_all(store, &tried).await {
                tracing::warn!(to = to.as_str(), %cleanup, "copies of a folder that could not be moved stay behind");
            }
            Err(error)
        }
    }
}

/// A folder's marker is made anew: some stores, whose folders are folders, refuse to copy one.
async fn copy_below_one(
    (store, recorder): (&dyn ObjectStore, &Recorder),
    source: &Source,
    target: &Key,
) -> Result<ETag, FsError> {
    if source.size > 0 || !target.as_str().ends_with('/') {
        return copy_object((store, recorder), source, target, None).await;
    }
    let metadata = store.head(&source.key).await?.metadata;
    let nothing = UploadBody::Bytes(bytes::Bytes::new());
    Ok(store
        .put(target, nothing, &metadata, WriteCondition::None)
        .await?)
}

/// Deletes what was copied from below a prefix. Each page of keys is compared just before it is deleted, since
/// the copies may have taken long.
pub async fn delete_copied(
    store: &dyn ObjectStore,
    prefix: &Key,
    copied: &[Source],
) -> Result<Deleted, FsError> {
    let copied: BTreeMap<&Key, &ETag> = copied.iter().map(|source| (&source.key, &source.etag)).collect();
    let mut kept = Vec::new();
    let mut continuation = None;
    loop {
        let page = store.list(everything_below(prefix, continuation)).await?;
        let mut unchanged = Vec::new();
        for (key, info) in page.objects {
            match copied.get(&key) {
                Some(etag) if **etag == info.etag => unchanged.push(key),
                Some(_) | None => kept.push(key),
            }
        }
        delete_all(store, &unchanged).await?;
        if page.next.is_none() {
            return Ok(Deleted { kept });
        }
        continuation = page.next;
    }
}

fn everything_below(prefix: &Key, continuation: Option<String>) -> ListRequest {
    ListRequest {
        prefix: prefix.as_str().to_owned(),
        delimited: false,
        start_after: None,
        continuation,
        keys_max: 1000,
    }
}

/// Deletes keys in batches.
async fn delete_all(store: &dyn ObjectStore, keys: &[Key]) -> Result<(), FsError> {
    for batch in keys.chunks(DELETE_BATCH) {
        for result in store.delete(batch).await? {
            match result {
                Ok(()) | Err(StoreError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Deletes an object that was copied by somebody who did not come to delete it, if it still is the version that was
/// copied. Answers whether it is gone.
pub async fn delete_version(store: &dyn ObjectStore, key: &Key, copied: &ETag) -> Result<bool, FsError> {
    match store.head(key).await {
        Ok(there) if there.etag == *copied => {
            delete_all(store, std::slice::from_ref(key)).await?;
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(StoreError::NotFound) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Deletes what was copied from `old` to `new` by somebody who did not come to delete it: an object, or with
/// `below` everything below a prefix. Which versions were copied is not known any more. A copy mostly has the tag of its
/// source; where it has not, a source that was not certainly written before its copy is kept. Answers how many were.
pub async fn delete_moved(
    store: &dyn ObjectStore,
    old: &Key,
    new: &Key,
    below: bool,
) -> Result<usize, FsError> {
    let one = |key: &Key, info: ObjectInfo| vec![(key.clone(), info)];
    let (sources, copies) = if below {
        (objects_below(store, old).await?, objects_below(store, new).await?)
    } else {
        match (store.head(old).await, store.head(new).await) {
            (Ok(source), Ok(copy)) => (one(old, source), one(new, copy)),
            (Err(StoreError::NotFound), _) => return Ok(0),
            (Ok(source), Err(StoreError::NotFound)) => (one(old, source), Vec::new()),
            (Err(error), _) | (_, Err(error)) => return Err(error.into()),
        }
    };
    let copies: BTreeMap<Key, ObjectInfo> = copies.into_iter().collect();
    let (mut copied, mut kept) = (Vec::new(), 0);
    for (key, info) in sources {
        let rest = key.as_str().strip_prefix(old.as_str()).unwrap_or_default();
        let copy = copies.get(&Key::new(format!("{}{rest}", new.as_str())));
        // The copy itself may have been written since, so its size says nothing. Nor does the same second say which of two
        // was first.
        let is_copied =
            |copy: &&ObjectInfo| info.etag == copy.etag || info.modified + MODIFIED_GRAIN <= copy.modified;
        match copy.filter(is_copied).is_some() {
            true => copied.push(key),
            false => kept += 1,
        }
    }
    delete_all(store, &copied).await?;
    Ok(kept)
}

async fn objects_below(store: &dyn ObjectStore, prefix: &Key) -> Result<Vec<(Key, ObjectInfo)>, FsError> {
    let mut found = Vec::new();
    let mut continuation = None;
    loop {
        let page = store.list(everything_below(prefix, continuation)).await?;
        found.extend(page.objects);
        if page.next.is_none() {
            return Ok(found);
        }
        continuation = page.next;
    }
}

async fn copy_parts(
    store: &dyn ObjectStore,
    source: &Source,
    target: &Key,
    upload: &str,
) -> Result<ETag, FsError> {
    let ranges = (0..source.size.div_ceil(COPY_PART_BYTES)).map(|index| -> (u16, Range<u64>) {
        let start = index * COPY_PART_BYTES;
        // 5 TiB have 5120 parts of 1 GiB, so the number fits.
        (
            (index + 1) as u16,
            start..(start + COPY_PART_BYTES).min(source.size),
        )
    });
    let mut parts: Vec<PartDone> = stream::iter(ranges)
        .map(|(number, range)| store.copy_part(target, upload, number, &source.key, range, &source.etag))
        .buffer_unordered(COPY_PARTS_IN_FLIGHT)
        .try_collect()
        .await?;
    parts.sort_by_key(|part| part.number);
    Ok(store
        .complete_upload(target, upload, &parts, WriteCondition::None)
        .await?)
}
