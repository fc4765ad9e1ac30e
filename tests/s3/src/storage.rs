//! Where bytes live: in memory, or in files. Both keep content as extents of immutable blobs, so that a server-side
//! copy, a copied part and a completed upload share bytes and never move them.
//!
//! Invariant: a blob never changes once written, and lives as long as anything holds an extent of it. So a reader
//! that holds an object reads that version to its end, whatever happens to the key meanwhile.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use s3s::StdError;
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};

pub(crate) mod files;
pub(crate) mod journal;
mod memory;

use files::{FileBlob, FileStorage, FileWriter};
use journal::Entry;
use memory::MemoryWriter;

/// Bytes that move in one step: between a file and the network, and into memory. A chunk of 9 KiB, as others use,
/// costs 6 to 10 times the CPU.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Chunks of a file that are read ahead of the network: one is sent while the next is read.
const CHUNKS_AHEAD: usize = 2;

/// The two kinds of storage.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    Memory,
    Files(Arc<FileStorage>),
}

impl Storage {
    /// Opens a data directory, and tells what it held.
    pub(crate) fn open_files(dir: &Path) -> io::Result<(Self, Vec<Entry>)> {
        let (files, entries) = FileStorage::open(dir)?;
        Ok((Self::Files(Arc::new(files)), entries))
    }

    /// Begins a new blob; `length` is what is expected, as a hint.
    pub(crate) fn writer(&self, length: Option<u64>) -> Writer {
        match self {
            Self::Memory => Writer::Memory(MemoryWriter::new(length)),
            Self::Files(files) => Writer::Files(FileWriter::new(files.clone(), length)),
        }
    }

    /// Makes a change durable against the death of this process. Called under the lock that orders the change.
    pub(crate) fn record(&self, entry: impl FnOnce() -> Entry) -> io::Result<()> {
        match self {
            Self::Memory => Ok(()),
            Self::Files(files) => files.record(&entry()),
        }
    }

    /// From now on dropped blobs keep their files: the server goes, the data stays.
    pub(crate) fn close(&self) {
        match self {
            Self::Memory => {}
            Self::Files(files) => files.close(),
        }
    }
}

/// A blob being written.
pub(crate) enum Writer {
    Memory(MemoryWriter),
    Files(FileWriter),
}

impl Writer {
    pub(crate) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        match self {
            Self::Memory(writer) => {
                writer.write(&bytes);
                Ok(())
            }
            Self::Files(writer) => writer.write(&bytes).await,
        }
    }

    pub(crate) async fn finish(self) -> io::Result<Content> {
        match self {
            Self::Memory(writer) => Ok(writer.finish()),
            Self::Files(writer) => writer.finish().await,
        }
    }
}

/// Immutable bytes of known length, put together from pieces of blobs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    extents: Vec<Extent>,
    length: u64,
}

/// A piece of a blob; never empty.
#[derive(Debug, Clone)]
pub(crate) enum Extent {
    Memory(Bytes),
    File { blob: Arc<FileBlob>, range: Range<u64> },
}

impl Extent {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { blob: _, range } => range.end - range.start,
        }
    }

    fn slice(&self, range: Range<u64>) -> Self {
        match self {
            Self::Memory(bytes) => Self::Memory(bytes.slice(range.start as usize..range.end as usize)),
            Self::File { blob, range: own } => Self::File {
                blob: blob.clone(),
                range: own.start + range.start..own.start + range.end,
            },
        }
    }
}

impl Content {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    pub(crate) fn push(&mut self, extent: Extent) {
        let length = extent.length();
        if length > 0 {
            self.length += length;
            self.extents.push(extent);
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.length += other.length;
        self.extents.extend(other.extents);
    }

    /// The same bytes, shared, of a range within `0..length`.
    pub(crate) fn slice(&self, range: Range<u64>) -> Self {
        let mut slice = Self::default();
        let mut start = 0;
        for extent in &self.extents {
            let end = start + extent.length();
            if end > range.start && start < range.end {
                slice.push(extent.slice(range.start.max(start) - start..range.end.min(end) - start));
            }
            start = end;
        }
        slice
    }

    /// The bytes as a response's body.
    pub(crate) fn stream(mut self) -> StreamingBlob {
        if let [Extent::Memory(bytes)] = self.extents.as_mut_slice() {
            // The whole range is one slice of memory, which hyper hands to the kernel without a copy.
            return StreamingBlob::from(s3s::Body::from(std::mem::take(bytes)));
        }
        let remaining = self.length as usize;
        let chunks = stream::iter(self.extents.into_iter().flat_map(chunks));
        let chunks = chunks.map(read).buffered(CHUNKS_AHEAD);
        StreamingBlob::new(ContentStream {
            chunks: Box::pin(chunks),
            remaining,
        })
    }

    /// All bytes in one piece.
    pub(crate) async fn bytes(self) -> Result<Bytes, StdError> {
        let chunks: Vec<Bytes> = self.stream().try_collect().await?;
        match chunks.as_slice() {
            [one] => Ok(one.clone()),
            several => Ok(several.concat().into()),
        }
    }
}

/// An extent in pieces of at most [`CHUNK_BYTES`].
fn chunks(extent: Extent) -> impl Iterator<Item = Extent> {
    let length = extent.length();
    (0..length)
        .step_by(CHUNK_BYTES)
        .map(move |at| extent.slice(at..length.min(at + CHUNK_BYTES as u64)))
}

/// A future that is `Sync`, as s3s wants of a body: an async block that held a file's blob across its await would be
/// as well, but a type says so.
fn read(chunk: Extent) -> Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send + Sync>> {
    match chunk {
        Extent::Memory(bytes) => Box::pin(std::future::ready(Ok(bytes))),
        Extent::File { blob, range } => {
            let reading = tokio::task::spawn_blocking(move || blob.read(range));
            Box::pin(async move { reading.await.map_err(io::Error::other)? })
        }
    }
}

struct ContentStream {
    chunks: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>,
    remaining: usize,
}

impl Stream for ContentStream {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let chunk = std::task::ready!(self.chunks.as_mut().poll_next(cx));
        if let Some(Ok(bytes)) = &chunk {
            self.remaining -= bytes.len();
        }
        Poll::Ready(chunk.map(|chunk| chunk.map_err(StdError::from)))
    }
}

impl ByteStream for ContentStream {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.remaining)
    }
}

#[cfg(test)]
#[path = "storage/tests.rs"]
mod tests;
