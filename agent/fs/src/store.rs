//! What the filesystem needs of an object store, as a trait with two implementations: real S3 and a
//! fake in memory with scripted failures.
//!
//! Everything above this module speaks [`Key`], [`ETag`] and [`StoreError`] and never sees the SDK.
//! Implementations retry what is safe to retry within [`Deadlines`]; what they return is final.

pub mod address;
mod breaker;
pub mod call;
pub mod http;
#[cfg(test)]
pub(crate) mod memory;
pub mod metered;
mod retry;
pub mod s3;
mod wire;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// Up to here an object that is asked for as a whole is compared with the checksum that the store keeps, if it keeps one,
/// before the first of its bytes is answered. Larger ones would have to wait too long for their last byte.
pub const VERIFIED_BYTES_MAX: u64 = 1 << 20;

/// The full key of an object in the bucket, the mount's prefix included. At most 1024 bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(String);

/// The version tag of an object as the store gave it, quotes included; compared, never interpreted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ETag(pub String);

/// What is known of an object without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectInfo {
    /// Size in bytes.
    pub size: u64,
    /// Version tag for `If-Match`.
    pub etag: ETag,
    /// Last modification as the store keeps it (whole seconds on most stores).
    pub modified: SystemTime,
    /// User metadata, names in lower case without `x-amz-meta-`, and from [`ObjectStore::head`] also what S3 keeps in
    /// headers of its own, such as `:content-type`, under the names of [`standard`]. Whoever writes an object with it
    /// keeps them all. Empty when it comes from a listing, which does not carry it.
    pub metadata: BTreeMap<String, String>,
}

/// Names in an object's metadata for what S3 keeps in headers of its own. No user metadata has such a name: a header's
/// name has no colon.
pub mod standard {
    /// `Content-Type`.
    pub const CONTENT_TYPE: &str = ":content-type";
    /// `Content-Encoding`.
    pub const CONTENT_ENCODING: &str = ":content-encoding";
    /// `Content-Language`.
    pub const CONTENT_LANGUAGE: &str = ":content-language";
    /// `Content-Disposition`.
    pub const CONTENT_DISPOSITION: &str = ":content-disposition";
    /// `Cache-Control`.
    pub const CACHE_CONTROL: &str = ":cache-control";
    /// `Expires`, as an HTTP date.
    pub const EXPIRES: &str = ":expires";
    /// The object's tags, as a query string.
    pub const TAGGING: &str = ":tagging";
}

/// One page of a listing.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// Objects in key order, the prefix itself included if it exists as an object.
    pub objects: Vec<(Key, ObjectInfo)>,
    /// Common prefixes (ending in `/`), in order; empty without a delimiter.
    pub prefixes: Vec<Key>,
    /// Token of the next page, if there is one.
    pub next: Option<String>,
}

/// What to list.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Fold keys below the next `/` into common prefixes.
    pub delimited: bool,
    /// Only keys after this one in UTF-8 byte order.
    pub start_after: Option<String>,
    /// Token from the page before.
    pub continuation: Option<String>,
    /// At most this many entries, 1 to 1000.
    pub keys_max: u16,
}

impl ListRequest {
    /// Whatever there is below a prefix: a question for the answer's sake.
    pub fn any(prefix: &str) -> ListRequest {
        ListRequest {
            prefix: prefix.to_owned(),
            delimited: false,
            start_after: None,
            continuation: None,
            keys_max: 1,
        }
    }
}

/// Under which condition a write may replace what is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteCondition {
    /// Replace whatever is there.
    None,
    /// Only if no object has the key.
    Absent,
    /// Only if the object still has this version.
    Matches(ETag),
}

/// Bytes to upload: memory, or a range of a file that is read when the request is sent (and again on a retry).
#[derive(Clone, Debug)]
pub enum UploadBody {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A range of an open local file.
    File {
        /// The file; reads use positions and do not move its cursor.
        file: std::sync::Arc<std::fs::File>,
        /// First byte and the byte after the last.
        range: Range<u64>,
    },
}

/// An uploaded part, as [`ObjectStore::complete_upload`] wants it back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartDone {
    /// 1 to 10,000.
    pub number: u16,
    /// Tag that the store gave the part.
    pub etag: ETag,
}

/// A ranged GET's answer: what the object is, and its bytes as they arrive.
pub struct GetResponse {
    /// Of the whole object, not of the range.
    pub info: ObjectInfo,
    /// Exactly the bytes asked for; ends with [`StoreError::Interrupted`] when the connection does too early.
    pub body: BoxStream<'static, Result<Bytes, StoreError>>,
}

/// How long the parts of a request may take. They follow progress: a slow transfer that moves is left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// Name, TCP and TLS of a new connection.
    pub connect: Duration,
    /// From the last byte of a request to the first of its answer, and between two of the request's own.
    pub first_byte: Duration,
    /// The same for what the store works on before it answers: copies and the completion of an upload.
    pub server_work: Duration,
    /// Between two chunks of an answer's body.
    pub stall: Duration,
    /// A whole small operation, its retries included: everything but transfers and server-side work. A
    /// GET counts until its head has arrived.
    pub small_operation: Duration,
}

impl Default for Deadlines {
    /// S3's own guidance is to retry after a few seconds; 15 s covers a cold bucket, 20 s a lost packet's
    /// longest usual backoff, and 30 s stays below the minute after which programs are thought hung. AWS
    /// documents that completing an upload can take minutes.
    fn default() -> Deadlines {
        Deadlines {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(15),
            server_work: Duration::from_secs(300),
            stall: Duration::from_secs(20),
            small_operation: Duration::from_secs(30),
        }
    }
}

/// Why a request failed; a variant is what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No such key, or no such upload.
    #[error("no such object")]
    NotFound,
    /// No such bucket: nothing on this mount can work.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The key or the account may not do this, or the signature is wrong.
    #[error("the store denies access ({code})")]
    Denied {
        /// The store's own word, such as `SignatureDoesNotMatch`.
        code: String,
    },
    /// An `If-Match` or `If-None-Match` did not hold: somebody else wrote.
    #[error("the object has changed")]
    PreconditionFailed,
    /// The store does not know this call.
    #[error("the store does not support this request")]
    Unsupported,
    /// The request is refused as malformed or too large; retrying cannot help.
    #[error("the store refuses the request ({code})")]
    Refused {
        /// The store's own word.
        code: String,
    },
    /// The endpoint says http and the server at its port speaks TLS, or the other way round; only another endpoint helps.
    #[error("{server} speaks {}, and the endpoint begins with {}", if *speaks_tls { "TLS" } else { "no TLS" }, if *speaks_tls { "http://" } else { "https://" })]
    OtherScheme {
        /// Its name or address, and port.
        server: String,
        /// What it speaks.
        speaks_tls: bool,
    },
    /// Throttled, unreachable, reset or failing beyond the retries; later it may work.
    #[error("the store is not reachable: {reason}")]
    Unavailable {
        /// What happened last, without secrets.
        reason: String,
    },
    /// The body ended early, stalled or did not match its length; the caller may ask for the rest.
    #[error("the transfer was interrupted: {reason}")]
    Interrupted {
        /// What happened.
        reason: String,
    },
    /// The deadline of the operation passed.
    #[error("the deadline has passed")]
    DeadlineExceeded,
}

/// An S3 bucket, as the filesystem uses it. Every call has a deadline and bounded retries with jitter.
pub trait ObjectStore: Send + Sync + 'static {
    /// The store's clock as its last answer told it, in whole seconds cut off, and when that came.
    fn clock(&self) -> Option<(SystemTime, Instant)>;

    /// Metadata of one object.
    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<ObjectInfo, StoreError>>;

    /// Bytes of one object: all of it, or `range` (which the caller has cut to the object's size).
    /// With `if_match`, [`StoreError::PreconditionFailed`] if the object has another version by now. Without a range, wrong
    /// bytes are found out as [`VERIFIED_BYTES_MAX`] says.
    fn get<'a>(
        &'a self,
        key: &'a Key,
        range: Option<Range<u64>>,
        if_match: Option<&'a ETag>,
    ) -> BoxFuture<'a, Result<GetResponse, StoreError>>;

    /// One page of keys.
    fn list<'a>(&'a self, request: ListRequest) -> BoxFuture<'a, Result<ListPage, StoreError>>;

    /// Writes a whole object in one request; answers its new version.
    fn put<'a>(
        &'a self,
        key: &'a Key,
        body: UploadBody,
        metadata: &'a BTreeMap<String, String>,
        condition: WriteCondition,
    ) -> BoxFuture<'a, Result<ETag, StoreError>>;

    /// Begins a multipart upload; answers its id.
    fn create_upload<'a>(
        &'a self,
        key: &'a Key,
        metadata: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, StoreError>>;

    /// Uploads one part.
    fn upload_part<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        number: u16,
        body: UploadBody,
    ) -> BoxFuture<'a, Result<PartDone, StoreError>>;

    /// Makes one part of a range of an existing object, on the server's side.
    fn copy_part<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        number: u16,
        source: &'a Key,
        range: Range<u64>,
        if_match: &'a ETag,
    ) -> BoxFuture<'a, Result<PartDone, StoreError>>;

    /// Makes the object of its parts; answers its new version. A retry after a lost reply may answer
    /// [`StoreError::NotFound`] or [`StoreError::PreconditionFailed`] though the first attempt succeeded:
    /// only the object's own metadata tells. The same holds for a conditional [`ObjectStore::put`].
    fn complete_upload<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        parts: &'a [PartDone],
        condition: WriteCondition,
    ) -> BoxFuture<'a, Result<ETag, StoreError>>;

    /// Gives an upload up; what is not there any more is no error.
    fn abort_upload<'a>(&'a self, key: &'a Key, upload: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Copies an object of up to 5 GiB on the server's side, metadata included (or replaced by `metadata`).
    fn copy<'a>(
        &'a self,
        source: &'a Key,
        target: &'a Key,
        if_match: Option<&'a ETag>,
        metadata: Option<&'a BTreeMap<String, String>>,
    ) -> BoxFuture<'a, Result<ETag, StoreError>>;

    /// Deletes up to 1000 objects in one request; absent ones count as deleted. One result per key, in order.
    fn delete<'a>(
        &'a self,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Result<(), StoreError>>, StoreError>>;
}

impl UploadBody {
    /// Bytes to send.
    pub fn len(&self) -> u64 {
        match self {
            UploadBody::Bytes(bytes) => bytes.len() as u64,
            UploadBody::File { file: _, range } => range.end.saturating_sub(range.start),
        }
    }

    /// Nothing to send?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Key {
    /// A key as it stands. Keys longer than S3 allows are refused by the namespace before they get here.
    pub fn new(key: impl Into<String>) -> Key {
        Key(key.into())
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
