//! One contiguous range of one version of an object, on its way into memory. Readers get bytes as soon
//! as they have arrived; an interrupted transfer is continued where it broke off; a dropped part stops
//! downloading and gives its memory back.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Object, ReadError, Shared};
use crate::budget::Reserved;
use crate::store::StoreError;

/// Interruptions in a row before the download gives up: with the store's own retries in each, this
/// outlasts the restart of a server.
const INTERRUPTIONS_MAX: u32 = 5;

/// Progress after which interruptions are counted anew: a bad line that moves is no reason to give up.
const PROGRESS_BYTES: u64 = 256 << 10;

/// Before the first continuation; doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A range that is being downloaded or has been.
#[derive(Debug)]
pub(super) struct Part {
    buffer: Arc<Buffer>,
    /// Dropping it stops the download.
    _download: AbortOnDropHandle<()>,
}

/// Why a part cannot give its bytes.
#[derive(Debug)]
pub(super) enum Lack {
    /// The download has failed for good.
    Failed(ReadError),
    /// They have been discarded behind a cursor.
    Discarded,
}

#[derive(Debug)]
struct Buffer {
    range: Range<u64>,
    progress: watch::Sender<Progress>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Progress {
    /// Bytes up to here have arrived.
    filled: u64,
    failed: Option<ReadError>,
}

/// Invariant: the chunks are contiguous and end at `Progress::filled` or, for a moment, beyond it.
#[derive(Debug)]
struct Held {
    chunks: VecDeque<Chunk>,
    low: u64,
    reserved: Reserved,
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    bytes: Bytes,
}

impl Part {
    /// Begins to download `range`, which lies within the object; `reserved` pays for it.
    pub(super) fn download(
        shared: &Arc<Shared>,
        object: &Arc<Object>,
        range: Range<u64>,
        reserved: Reserved,
    ) -> Arc<Part> {
        let progress = watch::Sender::new(Progress {
            filled: range.start,
            failed: None,
        });
        let held = Mutex::new(Held {
            chunks: VecDeque::new(),
            low: range.start,
            reserved,
        });
        let buffer = Arc::new(Buffer {
            range,
            progress,
            held,
        });
        let download = fill(Arc::clone(shared), Arc::clone(object), Arc::clone(&buffer));
        let download = shared.tasks.spawn_on(download, &shared.runtime);
        Arc::new(Part {
            buffer,
            _download: AbortOnDropHandle::new(download),
        })
    }

    pub(super) fn range(&self) -> &Range<u64> {
        &self.buffer.range
    }

    /// Has the download failed for good?
    pub(super) fn is_failed(&self) -> bool {
        self.buffer.progress.borrow().failed.is_some()
    }

    /// The bytes of `range` (within the part's) if they are in memory now.
    pub(super) fn bytes_now(&self, range: &Range<u64>) -> Option<Vec<Bytes>> {
        if self.buffer.progress.borrow().filled < range.end {
            return None;
        }
        self.buffer.held.lock().slices(range)
    }

    /// The bytes of `range` (within the part's) once they have arrived.
    pub(super) async fn bytes(&self, range: &Range<u64>) -> Result<Vec<Bytes>, Lack> {
        let mut progress = self.buffer.progress.subscribe();
        let arrived = progress
            .wait_for(|now| now.filled >= range.end || now.failed.is_some())
            .await;
        let arrived = arrived.expect("the sender lives in the buffer that self holds");
        if let Some(error) = arrived.failed.as_ref().filter(|_| arrived.filled < range.end) {
            return Err(Lack::Failed(error.clone()));
        }
        // A read guard of the channel: the download could not report while it is held.
        drop(arrived);
        self.buffer.held.lock().slices(range).ok_or(Lack::Discarded)
    }

    /// Forgets what lies before `low`, now and when it arrives.
    pub(super) fn discard_below(&self, low: u64) {
        self.buffer
            .held
            .lock()
            .discard_below(low.min(self.buffer.range.end));
    }
}

impl Buffer {
    fn push(&self, bytes: Bytes) {
        let filled = {
            let mut held = self.held.lock();
            let start = self.progress.borrow().filled;
            let end = start + bytes.len() as u64;
            held.chunks.push_back(Chunk { start, bytes });
            let low = held.low;
            held.discard_below(low);
            end
        };
        self.progress.send_modify(|progress| progress.filled = filled);
    }
}

impl Held {
    fn slices(&self, range: &Range<u64>) -> Option<Vec<Bytes>> {
        if range.start < self.low || range.is_empty() {
            return range.is_empty().then(Vec::new);
        }
        let first = self.chunks.partition_point(|chunk| chunk.end() <= range.start);
        let overlapping = self
            .chunks
            .range(first..)
            .take_while(|chunk| chunk.start < range.end);
        let slices = overlapping.map(|chunk| {
            let from = range.start.max(chunk.start) - chunk.start;
            let to = range.end.min(chunk.end()) - chunk.start;
            chunk.bytes.slice(from as usize..to as usize)
        });
        Some(slices.collect())
    }

    /// Whole chunks only: a chunk is a slice of what the connection read, and freed in one piece.
    fn discard_below(&mut self, low: u64) {
        self.low = self.low.max(low);
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= self.low) {
            if let Some(chunk) = self.chunks.pop_front() {
                self.reserved.give_back(chunk.bytes.len() as u64);
            }
        }
    }
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// Downloads a buffer's range to its end or to a failure that stays.
async fn fill(shared: Arc<Shared>, object: Arc<Object>, buffer: Arc<Buffer>) {
    let mut interruptions = 0;
    let mut continued_at = buffer.range.start;
    loop {
        let Err(error) = fill_once(&shared, &object, &buffer).await else {
            return;
        };
        let filled = buffer.progress.borrow().filled;
        if filled >= continued_at + PROGRESS_BYTES {
            interruptions = 0;
            continued_at = filled;
        }
        interruptions += 1;
        let passing = matches!(error, StoreError::Interrupted { .. });
        if !passing || interruptions > INTERRUPTIONS_MAX {
            tracing::debug!(key = object.key.as_str(), range = ?buffer.range, %error, "a download fails");
            buffer
                .progress
                .send_modify(|progress| progress.failed = Some(error.into()));
            return;
        }
        tokio::time::sleep(PAUSE_MIN * 2_u32.pow(interruptions - 1)).await;
    }
}

/// One request for what is missing.
async fn fill_once(shared: &Shared, object: &Object, buffer: &Buffer) -> Result<(), StoreError> {
    let missing = buffer.progress.borrow().filled..buffer.range.end;
    if missing.is_empty() {
        return Ok(());
    }
    let if_match = Some(&object.etag).filter(|etag| !etag.0.is_empty());
    // A small object is asked for as a whole, so that the store's checksum can reveal wrong bytes.
    let whole = missing == (0..object.size) && object.size <= shared.options.small_file_bytes_max;
    let range = (!whole).then_some(missing);
    let mut answer = shared.store.get(&object.key, range, if_match).await?;
    // Where a store has no version tags the size is all there is to compare.
    if answer.info.size != object.size {
        return Err(StoreError::PreconditionFailed);
    }
    while let Some(bytes) = answer.body.next().await {
        buffer.push(bytes?);
    }
    match buffer.progress.borrow().filled == buffer.range.end {
        true => Ok(()),
        false => Err(StoreError::Interrupted {
            reason: "the body ended early".to_owned(),
        }),
    }
}
