//! A listing as bytes: a checksum, what it is of, and its entries in the order of their names, each without what it has in
//! common with the name before. Pure.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Listing;
use crate::namespace::lister::Listed;
use crate::namespace::names::FileName;
use crate::namespace::runs::{Entry, ObjectVersion, Run};
use crate::store::ETag;

/// Raised when the bytes mean something else; what others have written is not read.
const FORMAT: u32 = 1;

const CHECKSUM_BYTES: usize = 4;

/// A moment as the time since 1970; earlier ones become that.
type Wall = (u64, u32);

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    format: u32,
    path: &'a str,
    verified: Wall,
    marker: bool,
    #[serde(borrow)]
    hidden: Vec<&'a str>,
    entries: u64,
}

#[derive(Serialize, Deserialize)]
struct Row<'a> {
    /// Bytes in common with the name before.
    shared: u8,
    rest: &'a str,
    /// None for a folder.
    #[serde(borrow)]
    object: Option<Object<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Object<'a> {
    size: u64,
    modified: Wall,
    etag: &'a str,
}

/// The bytes of a listing's file.
pub(super) fn encode(listing: &Listing) -> Vec<u8> {
    let Listed { run, marker, hidden } = &listing.listed;
    let entries = run.entries();
    let header = Header {
        format: FORMAT,
        path: &listing.path,
        verified: wall(listing.verified),
        marker: *marker,
        hidden: hidden.iter().map(String::as_str).collect(),
        entries: entries.len() as u64,
    };
    let mut bytes = appended(vec![0; CHECKSUM_BYTES], &header);
    let mut before = "";
    for (name, entry) in entries {
        let object = match entry {
            Entry::Folder => None,
            Entry::File(version) => Some(Object {
                size: version.size,
                modified: wall(version.modified),
                etag: &version.etag.0,
            }),
            // No store has listed it.
            Entry::Local => continue,
        };
        let shared = in_common(before, name.as_str());
        bytes = appended(
            bytes,
            &Row {
                shared: shared as u8,
                rest: &name.as_str()[shared..],
                object,
            },
        );
        before = name.as_str();
    }
    let sum = crc32c::crc32c(&bytes[CHECKSUM_BYTES..]);
    bytes[..CHECKSUM_BYTES].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// When the store said it, and what; `None` for anything but a whole listing of this very folder.
pub(super) fn decode(bytes: &[u8], path: &str) -> Option<(SystemTime, Listed)> {
    let (sum, bytes) = bytes.split_first_chunk::<CHECKSUM_BYTES>()?;
    if crc32c::crc32c(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (header, mut left): (Header<'_>, _) = postcard::take_from_bytes(bytes).ok()?;
    if header.format != FORMAT || header.path != path {
        return None;
    }
    let mut entries = Vec::with_capacity(usize::try_from(header.entries).ok()?.min(left.len()));
    let mut name = String::new();
    while !left.is_empty() {
        let (row, after): (Row<'_>, _) = postcard::take_from_bytes(left).ok()?;
        left = after;
        if !name.is_char_boundary(row.shared.into()) {
            return None;
        }
        name.truncate(row.shared.into());
        name.push_str(row.rest);
        let entry = match row.object {
            None => Entry::Folder,
            Some(object) => Entry::File(Arc::new(ObjectVersion {
                size: object.size,
                etag: ETag(object.etag.to_owned()),
                modified: moment(object.modified)?,
            })),
        };
        entries.push((FileName::of_component(&name)?, entry));
    }
    let in_order = entries.is_sorted_by(|(one, _), (other, _)| one < other);
    let listed = Listed {
        run: Arc::new(Run::new(entries)),
        marker: header.marker,
        hidden: header.hidden.into_iter().map(str::to_owned).collect(),
    };
    in_order.then_some((moment(header.verified)?, listed))
}

fn appended(bytes: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, bytes).expect("memory takes any value")
}

/// Bytes that two names begin with alike, whole characters only. A name has at most 255.
fn in_common(one: &str, other: &str) -> usize {
    let alike = one
        .bytes()
        .zip(other.bytes())
        .take_while(|(one, other)| one == other);
    let mut count = alike.count();
    while !other.is_char_boundary(count) {
        count -= 1;
    }
    count
}

fn wall(time: SystemTime) -> Wall {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

fn moment((seconds, nanos): Wall) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos.min(999_999_999)))
}
