//! The records of the table, and their form in bytes.
//!
//! Plain numbers and texts only, so that no type of the filesystem decides how a file of another version of this
//! program is read. The form is postcard's, which has no names: a field is never added to a record that exists,
//! a changed record becomes a new variant at the end of [`Record`], and [`FORMAT`] grows only when an old table
//! cannot be read any more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::attempt::{Intent, Outcome};

/// The first record of a table says this; a successor that expects another gives up, and the mount is made anew.
pub const FORMAT: u32 = 1;

/// Seconds and nanoseconds since 1970.
pub type Wall = (i64, u32);

/// Nanoseconds on the clock that all processes of a machine share and that never goes back.
pub type Moment = u64;

/// Something that a successor must know. The last record about a thing counts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// Which form the table has; always first.
    Format(u32),
    /// What was agreed with the kernel.
    Connection(Connection),
    /// An inode.
    Inode(Inode),
    /// An inode is not in the table any more.
    InodeGone(u64),
    /// Bytes that are being written.
    Edit(Edit),
    /// They are not needed any more.
    EditGone(u128),
    /// A file was opened.
    File(File),
    /// Something was changed through a handle.
    FileWrote(u64),
    /// A handle reads this version.
    FilePinned(u64, Pinned),
    /// A file was closed.
    FileClosed(u64),
    /// A folder was opened.
    Folder(Folder),
    /// A pass over a folder has begun: nothing was given out yet.
    ListingBegun(u64),
    /// Names that were given out, each with the position after it.
    Listed(u64, Vec<(String, u64)>),
    /// A folder was closed.
    FolderClosed(u64),
    /// A request is about to change something.
    Began(u64, Intent),
    /// A request has done what it should, but for the reply.
    Ended(u64, Outcome),
    /// The kernel has the reply to a request: it will not be sent again.
    Answered(u64),
    /// No number below these is given out any more.
    Numbers {
        /// For inodes.
        ino: u64,
        /// For handles.
        handle: u64,
    },
    /// An upload in parts was begun: its id in the store, and the key.
    UploadBegun(String, String),
    /// It was completed or given up.
    UploadOver(String),
    /// Where the objects are: what is dirty is told of to a person when nobody succeeds this worker.
    Place(Place),
}

/// What was agreed with the kernel when the mount began, as its first request said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Minor version of the kernel's protocol; the major one is 7.
    pub minor: u32,
    /// The kernel's own limit of its read-ahead.
    pub readahead_bytes_max: u32,
    /// Capabilities that both have.
    pub capabilities: u64,
}

/// Where the objects of a mount are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// `https://host[:port]`; none means AWS itself, by region.
    pub endpoint: Option<String>,
    /// For signatures, and for the endpoint of AWS.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// What all keys of the mount begin with.
    pub prefix: String,
}

/// An inode.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Inode {
    /// Its number.
    pub ino: u64,
    /// How often the kernel got it.
    pub lookups: u64,
    /// Where it is.
    pub link: Link,
    /// What it is.
    pub kind: Kind,
}

/// Where in the tree an inode is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Link {
    /// The mount's own folder.
    Root,
    /// An entry of a folder.
    At(u64, String),
    /// Removed, but still held.
    Gone,
}

/// What an inode is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A folder.
    Folder {
        /// When its entries last changed.
        changed: Wall,
        /// Whether it has a key of its own.
        marker: bool,
    },
    /// A file.
    File(FileFacts),
}

/// What is known of a file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its object.
    pub object: Option<Object>,
    /// User metadata, once known.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Modification time as shown.
    pub mtime: Wall,
    /// It was set by an application and is not in S3 yet.
    pub mtime_set: bool,
    /// When the store last said so.
    pub verified: Moment,
    /// Local changes that handles follow.
    pub epoch: u64,
    /// Line of versions.
    pub lineage: u64,
    /// The line whose pages the kernel may have.
    pub cached: Option<u64>,
    /// Bytes that are being written.
    pub edit: Option<u128>,
}

/// One version of an object.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Object {
    /// Size in bytes.
    pub size: u64,
    /// Version tag.
    pub etag: String,
    /// When the store wrote it.
    pub modified: Wall,
}

/// Bytes that are being written, but for those of the staging file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Edit {
    /// Its id, which names its staging file.
    pub id: u128,
    /// Size of the file.
    pub size: u64,
    /// Version below.
    pub base: Option<String>,
    /// How much of the version below may show.
    pub visible: u64,
    /// Ranges that are here since the last record of this edit; cut at `visible`.
    pub added: Vec<Range<u64>>,
    /// Whether bytes of the version below are here.
    pub fetched: bool,
    /// The latest change.
    pub generation: u64,
    /// The latest change that is in S3.
    pub committed: u64,
    /// When the first handle that writes was opened.
    pub opened: Moment,
    /// When it was found to have lost a race.
    pub lost_at: Option<Wall>,
    /// Where it is kept since.
    pub copy: Option<String>,
    /// An upload was begun.
    pub tried: bool,
}

/// An open file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct File {
    /// Its handle.
    pub handle: u64,
    /// Which file.
    pub ino: u64,
    /// Opened for reading, for writing, for appending.
    pub access: (bool, bool, bool),
    /// The file's line of versions then.
    pub lineage: u64,
    /// When.
    pub opened: Moment,
    /// The request that opened it; none for what was opened here for a moment.
    pub request: Option<u64>,
    /// What the kernel is told of its pages.
    pub keep_cache: bool,
}

/// The version that a handle reads.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pinned {
    /// Which local change it has followed.
    pub epoch: u64,
    /// Where the object is.
    pub key: String,
    /// Its version.
    pub etag: String,
    /// Its size.
    pub size: u64,
}

/// An open folder.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Folder {
    /// Its handle.
    pub handle: u64,
    /// Which folder.
    pub ino: u64,
    /// The request that opened it.
    pub request: Option<u64>,
}

/// A time as records have it.
pub fn wall(time: SystemTime) -> Wall {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (since.as_secs().cast_signed(), since.subsec_nanos()),
        // Before 1970 only whole seconds: nothing here is that old.
        Err(before) => (-before.duration().as_secs().cast_signed(), 0),
    }
}

/// The time that a record has.
pub fn system_time((seconds, nanos): Wall) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    time.and_then(|time| time.checked_add(Duration::from_nanos(nanos.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Record {
    /// Adds its bytes to a batch.
    pub fn write_to(&self, batch: &mut Vec<u8>) {
        let taken = std::mem::take(batch);
        // Plain numbers, texts and lists into memory: nothing of it can fail.
        *batch = postcard::to_extend(self, taken).expect("records have a form in bytes");
    }

    /// Takes the first record of a batch; none at the end, or where something else follows.
    pub fn read_from(batch: &[u8]) -> Option<(Record, &[u8])> {
        if batch.is_empty() {
            return None;
        }
        postcard::take_from_bytes(batch).ok()
    }
}
