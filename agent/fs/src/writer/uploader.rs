//! Turns a staged file into an object: one PUT for small ones, parts in parallel for the rest, and parts
//! copied on the server's side where the old object's bytes are unchanged.

use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::staging::{Edit, Version};
use super::unfinished;
use crate::error::FsError;
use crate::namespace::inode::Metadata;
use crate::store::{ETag, Key, ObjectStore, PartDone, StoreError, UploadBody, WriteCondition};
use crate::succession::Recorder;

const MIB: u64 = 1 << 20;

/// Up to here one PUT takes no longer than a multipart upload's three round trips.
pub const SINGLE_PUT_BYTES_MAX: u64 = 16 * MIB;

/// Parts of 4 to 8 MiB saturate a connection; 8 of them in flight saturate 10 Gbit/s at 20 ms.
const PART_BYTES: u64 = 8 * MIB;
const PARTS_IN_FLIGHT: usize = 8;

/// S3's limits: number of parts, and size of any part but the last.
const PARTS_MAX: u64 = 10_000;
const PART_BYTES_MIN: u64 = 5 * MIB;

/// Uploads one version of an edited file to `key`. `source` is where the object below it is.
pub async fn upload(
    (store, transfers, recorder): (&dyn ObjectStore, &Semaphore, &Recorder),
    (source, key): (&Key, &Key),
    edit: &Edit,
    version: &Version,
    metadata: &Metadata,
    condition: WriteCondition,
) -> Result<ETag, FsError> {
    if version.size <= SINGLE_PUT_BYTES_MAX {
        edit.fetch(store, source, 0..version.size).await?;
        let body = UploadBody::File {
            file: Arc::clone(edit.file()),
            range: 0..version.size,
        };
        let _transfer = transfers.acquire().await;
        return Ok(store.put(key, body, metadata, condition).await?);
    }
    let upload = unfinished::begin((store, recorder), key, metadata).await?;
    let result = multipart(
        (store, transfers),
        (source, key),
        edit,
        version,
        &upload,
        condition,
    )
    .await;
    unfinished::end((store, recorder), key, upload, result).await
}

async fn multipart(
    (store, transfers): (&dyn ObjectStore, &Semaphore),
    (source, key): (&Key, &Key),
    edit: &Edit,
    version: &Version,
    upload: &str,
    condition: WriteCondition,
) -> Result<ETag, FsError> {
    let mut parts: Vec<PartDone> = stream::iter(part_ranges(version.size))
        .map(|(number, range)| {
            part(
                (store, transfers),
                (source, key),
                edit,
                version,
                (upload, number, range),
            )
        })
        .buffer_unordered(PARTS_IN_FLIGHT)
        .try_collect()
        .await?;
    parts.sort_by_key(|part| part.number);
    Ok(store.complete_upload(key, upload, &parts, condition).await?)
}

async fn part(
    (store, transfers): (&dyn ObjectStore, &Semaphore),
    (source, key): (&Key, &Key),
    edit: &Edit,
    version: &Version,
    (upload, number, range): (&str, u16, Range<u64>),
) -> Result<PartDone, FsError> {
    // Never closed, so it is always granted.
    let _transfer = transfers.acquire().await;
    let unchanged =
        edit.missing(range.clone()) == [range.clone()] && range.end - range.start >= PART_BYTES_MIN;
    if let (true, Some(base)) = (unchanged, &version.base) {
        match store
            .copy_part(key, upload, number, source, range.clone(), base)
            .await
        {
            Ok(done) => return Ok(done),
            Err(StoreError::Unsupported | StoreError::Refused { .. }) => {} // then the long way
            Err(StoreError::PreconditionFailed | StoreError::NotFound) => return Err(FsError::Changed),
            Err(error) => return Err(error.into()),
        }
    }
    edit.fetch(store, source, range.clone()).await?;
    let body = UploadBody::File {
        file: Arc::clone(edit.file()),
        range,
    };
    Ok(store.upload_part(key, upload, number, body).await?)
}

/// The parts of a file of `size` bytes: 8 MiB each, or as large as 10,000 parts need.
fn part_ranges(size: u64) -> impl Iterator<Item = (u16, Range<u64>)> {
    let part_bytes = part_bytes(size);
    (0..size.div_ceil(part_bytes)).map(move |index| {
        let start = index * part_bytes;
        // At most 10,000, so it fits.
        ((index + 1) as u16, start..(start + part_bytes).min(size))
    })
}

fn part_bytes(size: u64) -> u64 {
    size.div_ceil(PARTS_MAX).next_multiple_of(MIB).max(PART_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::staging::FILE_BYTES_MAX;

    #[test]
    fn parts_cover_a_file_of_any_size_within_the_limits_of_s3() {
        for size in [17 * MIB, 100 * MIB, (100 << 30) + 1, FILE_BYTES_MAX] {
            let parts: Vec<_> = part_ranges(size).collect();
            assert!(parts.len() <= PARTS_MAX as usize);
            assert_eq!(parts[0].1.start, 0);
            assert_eq!(parts[parts.len() - 1].1.end, size);
            assert!(
                parts
                    .windows(2)
                    .all(|pair| pair[0].1.end == pair[1].1.start && pair[1].0 == pair[0].0 + 1)
            );
            assert!(
                parts[..parts.len() - 1]
                    .iter()
                    .all(|(_, range)| range.end - range.start >= PART_BYTES_MIN)
            );
            assert!(parts.iter().all(|(_, range)| range.end - range.start <= 5 << 30));
        }
    }
}
