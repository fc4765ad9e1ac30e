//! Reads one version of an object: exact ranges for random reads, parallel read-ahead for sequential
//! ones, small files whole.
//!
//! A handle is bound to the version that was opened: every request carries `If-Match`, and bytes of two
//! versions are never mixed; when the object was replaced, what is not in memory yet answers
//! [`ReadError::Changed`]. Nothing is kept beyond the handle: that is the cache's work. No lock is held
//! across an await, and planning a read never waits, so it may be done in a FUSE thread.

mod prefetch;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::prefetch::{Lack, Part};
use self::streams::{CURSORS_MAX, Streams, WINDOW_BYTES_MIN};
use crate::budget::{MemoryBudget, Share};
use crate::store::{ETag, Key, ObjectStore, StoreError};

/// Parts below this cost more in requests than they gain in parallelism.
const PART_BYTES_MIN: u64 = 1 << 20;

/// Parts that a window is divided into while it grows, and so the requests in flight.
const PARTS_PER_WINDOW: u64 = 4;

/// A handle that was not read for so long gives up what it has read ahead when others need the memory.
const IDLE_TIME_MIN: Duration = Duration::from_secs(1);

/// For so long a read that was not answered in time fails at once when it is repeated: the kernel asks again, page by page,
/// for what it could not read ahead, and each time would be a deadline more for whoever waits.
const LATE_KEPT: Duration = Duration::from_secs(5);

/// How reads are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReaderOptions {
    /// Files up to this size are fetched whole by the first read.
    pub small_file_bytes_max: u64,
    /// The largest part, one request each.
    pub part_bytes_max: u64,
    /// Read ahead per stream at most.
    pub window_bytes_max: u64,
    /// A read that is not answered by then fails.
    pub deadline: Duration,
}

/// Why a read fails; a variant is what the filesystem does about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Somebody replaced the object after it was opened: the handle is stale.
    #[error("the object has changed since it was opened")]
    Changed,
    /// Somebody removed the object.
    #[error("the object is gone")]
    Gone,
    /// The store does not let us read it.
    #[error("the object may not be read")]
    Denied(#[source] StoreError),
    /// The store does not answer or answers nonsense, beyond all retries.
    #[error("the object cannot be read")]
    Failed(#[source] StoreError),
    /// No answer in time.
    #[error("the read was not answered within its deadline")]
    DeadlineExceeded,
}

/// Makes handles; clones share everything.
#[derive(Clone)]
pub struct Reader(Arc<Shared>);

/// An object that is open for reading. Dropping it stops its downloads and gives its memory back.
pub struct ReadHandle(Arc<Open>);

/// A read that has been planned: its downloads run.
#[must_use = "a read does nothing for anybody until it is waited for"]
pub struct PendingRead {
    open: Arc<Open>,
    range: Range<u64>,
    /// None: it has not been answered in time a moment ago.
    pieces: Option<Vec<Piece>>,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    budget: MemoryBudget,
    options: ReaderOptions,
    tasks: TaskTracker,
    runtime: Handle,
    opened: Mutex<Vec<Weak<Open>>>,
}

/// The version of an object that a handle is bound to.
#[derive(Debug)]
struct Object {
    key: Key,
    etag: ETag,
    size: u64,
}

struct Open {
    shared: Arc<Shared>,
    object: Arc<Object>,
    /// Taken before no other lock but, by `try_lock`, those of other handles.
    state: Mutex<State>,
}

struct State {
    streams: Streams,
    slots: [Slot; CURSORS_MAX],
    /// A small file's only part.
    whole: Option<Arc<Part>>,
    read_at: Instant,
    /// When a read was last not answered in time, and which.
    late: Option<(Instant, Range<u64>)>,
}

/// What has been read ahead for one cursor. Invariant: the parts are contiguous and in order.
#[derive(Default)]
struct Slot {
    parts: VecDeque<Arc<Part>>,
    share: Option<Share>,
}

struct Piece {
    part: Arc<Part>,
    range: Range<u64>,
    /// Made for this read alone: if it fails there is nothing else to try.
    own: bool,
}

impl Default for ReaderOptions {
    /// 8 MiB parts reach full speed with 0.2 CPU-s/GB, 64 MiB keeps eight of them in flight, and a minute
    /// is what programs and people take for a hang.
    fn default() -> ReaderOptions {
        ReaderOptions {
            small_file_bytes_max: 256 << 10,
            part_bytes_max: 8 << 20,
            window_bytes_max: 64 << 20,
            deadline: Duration::from_secs(60),
        }
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> ReadError {
        match error {
            StoreError::PreconditionFailed => ReadError::Changed,
            StoreError::NotFound => ReadError::Gone,
            StoreError::DeadlineExceeded => ReadError::DeadlineExceeded,
            StoreError::Denied { .. } => ReadError::Denied(error),
            StoreError::NoSuchBucket
            | StoreError::Unsupported
            | StoreError::Refused { .. }
            | StoreError::OtherScheme { .. }
            | StoreError::Unavailable { .. }
            | StoreError::Interrupted { .. } => ReadError::Failed(error),
        }
    }
}

impl Reader {
    /// A reader whose downloads run on `runtime`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        budget: MemoryBudget,
        options: ReaderOptions,
        runtime: Handle,
    ) -> Reader {
        let (tasks, opened) = (TaskTracker::new(), Mutex::new(Vec::new()));
        Reader(Arc::new(Shared {
            store,
            budget,
            options,
            tasks,
            runtime,
            opened,
        }))
    }

    /// Opens a version of an object. Asks nothing of the store yet.
    pub fn open(&self, key: Key, etag: ETag, size: u64) -> ReadHandle {
        let state = State {
            streams: Streams::default(),
            slots: Default::default(),
            whole: None,
            read_at: Instant::now(),
            late: None,
        };
        let object = Arc::new(Object { key, etag, size });
        let open = Arc::new(Open {
            shared: Arc::clone(&self.0),
            object,
            state: Mutex::new(state),
        });
        let mut opened = self.0.opened.lock();
        // Sweeps when the list would grow, so that it is never longer than twice what is open.
        if opened.len() == opened.capacity() {
            opened.retain(|other| other.strong_count() > 0);
        }
        opened.push(Arc::downgrade(&open));
        ReadHandle(open)
    }

    /// Memory that is in use, and how much may be.
    pub fn memory(&self) -> (u64, u64) {
        (self.0.budget.used_bytes(), self.0.budget.limit_bytes())
    }

    /// Waits until no download runs any more: after all handles are dropped.
    pub async fn finished(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl ReadHandle {
    /// The bytes at `offset`, `len` of them or as many as there are before the end.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Bytes, ReadError> {
        self.plan(offset, len).wait().await
    }

    /// Plans a read and starts its downloads; never waits. If [`PendingRead::now`] has the bytes already,
    /// the caller can answer at once.
    pub fn plan(&self, offset: u64, len: u64) -> PendingRead {
        let open = &self.0;
        let range = offset.min(open.object.size)..offset.saturating_add(len).min(open.object.size);
        let pieces = if range.is_empty() {
            Some(Vec::new())
        } else {
            open.plan(range.clone())
        };
        PendingRead {
            open: Arc::clone(open),
            range,
            pieces,
        }
    }

    /// The size of the version that is open.
    pub fn size(&self) -> u64 {
        self.0.object.size
    }

    /// The version that is open.
    pub fn etag(&self) -> &ETag {
        &self.0.object.etag
    }
}

impl PendingRead {
    /// The bytes, if all of them are in memory.
    pub fn now(&self) -> Option<Bytes> {
        let pieces = self.pieces.as_ref()?;
        let slices = pieces.iter().map(|piece| piece.part.bytes_now(&piece.range));
        Some(joined(slices.collect::<Option<Vec<_>>>()?.concat()))
    }

    /// The bytes, as soon as all of them have arrived.
    pub async fn wait(self) -> Result<Bytes, ReadError> {
        let Some(pieces) = &self.pieces else {
            return Err(ReadError::DeadlineExceeded);
        };
        let deadline = self.open.shared.options.deadline;
        let gathered = tokio::time::timeout(deadline, self.gather(pieces)).await;
        let gathered = gathered.unwrap_or(Err(ReadError::DeadlineExceeded));
        if matches!(gathered, Err(ReadError::DeadlineExceeded)) {
            self.open.give_up(self.range.clone());
        }
        gathered
    }

    async fn gather(&self, pieces: &[Piece]) -> Result<Bytes, ReadError> {
        let mut slices = Vec::new();
        for Piece { part, range, own } in pieces {
            match part.bytes(range).await {
                Ok(found) => slices.extend(found),
                Err(Lack::Failed(error)) if *own || error.is_final() => return Err(error),
                // The failure may be old: what was read ahead failed before anybody wanted it.
                Err(Lack::Failed(_) | Lack::Discarded) => {
                    self.open.forget_failed();
                    match self.open.exactly(range.clone()).bytes(range).await {
                        Ok(found) => slices.extend(found),
                        Err(Lack::Failed(error)) => return Err(error),
                        Err(Lack::Discarded) => unreachable!("only this read knows the part"),
                    }
                }
            }
        }
        Ok(joined(slices))
    }
}

impl ReadError {
    /// Asking again would get the same answer.
    fn is_final(&self) -> bool {
        match self {
            ReadError::Changed | ReadError::Gone | ReadError::Denied(_) => true,
            ReadError::Failed(_) | ReadError::DeadlineExceeded => false,
        }
    }
}

impl Open {
    /// The parts that a read is answered from; starts those that are missing and reads ahead. None if the same was
    /// not answered in time a moment ago.
    fn plan(&self, range: Range<u64>) -> Option<Vec<Piece>> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if let Some((at, late)) = &state.late
            && now.duration_since(*at) < LATE_KEPT
            && late.start < range.end
            && range.start < late.end
        {
            return None;
        }
        state.read_at = now;
        if self.object.size <= self.shared.options.small_file_bytes_max {
            return Some(vec![self.piece_of_whole(&mut state, range)]);
        }
        let seen = state.streams.observe(range.start, range.end - range.start);
        let slot = &mut state.slots[seen.slot];
        if seen.replaced {
            slot.clear();
        }
        if let Some(wanted) = seen.window_bytes {
            let window_bytes = self.window_bytes(slot, wanted);
            slot.discard_below(streams::low(&seen, range.start, window_bytes));
            self.read_ahead(slot, &range, window_bytes);
        }
        Some(self.pieces(slot, range))
    }

    /// The window that a stream gets of the one it wants: its share of the memory at most.
    fn window_bytes(&self, slot: &mut Slot, wanted: u64) -> u64 {
        let Shared { budget, options, .. } = &*self.shared;
        let share_bytes = slot.share.get_or_insert_with(|| budget.share()).bytes();
        wanted
            .min(options.window_bytes_max)
            .min(share_bytes)
            .max(WINDOW_BYTES_MIN)
    }

    /// Starts the parts that the window lacks, as far as there is memory.
    fn read_ahead(&self, slot: &mut Slot, range: &Range<u64>, window_bytes: u64) {
        let Shared { budget, options, .. } = &*self.shared;
        let share_bytes = slot.share.get_or_insert_with(|| budget.share()).bytes();
        let window_bytes = window_bytes
            .min(options.window_bytes_max)
            .min(share_bytes)
            .max(WINDOW_BYTES_MIN);
        let part_bytes = part_bytes(window_bytes, options.part_bytes_max);
        let until = range
            .end
            .max(range.start.saturating_add(window_bytes))
            .min(self.object.size);
        // A jump beyond what was read ahead: contiguous again from here.
        if slot.end().is_none_or(|end| end < range.start) {
            slot.parts.clear();
        }
        let mut start = slot.end().unwrap_or(range.start);
        while start < until {
            let end = part_end(start, part_bytes).min(self.object.size);
            let Some(reserved) = self.reserve(end - start) else {
                break;
            };
            slot.parts
                .push_back(Part::download(&self.shared, &self.object, start..end, reserved));
            start = end;
        }
        if slot.parts.is_empty() {
            slot.share = None;
        }
    }

    fn reserve(&self, bytes: u64) -> Option<crate::budget::Reserved> {
        let budget = &self.shared.budget;
        budget.try_reserve(bytes).or_else(|| {
            self.shared.reclaim_idle();
            budget.try_reserve(bytes)
        })
    }

    /// What the slot's parts cover of `range`, and own parts for the rest.
    fn pieces(&self, slot: &Slot, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        let first = slot.parts.partition_point(|part| part.range().end <= range.start);
        for part in slot
            .parts
            .range(first..)
            .take_while(|part| part.range().start < range.end)
        {
            if at < part.range().start {
                pieces.push(self.own_piece(at..part.range().start));
                at = part.range().start;
            }
            let end = part.range().end.min(range.end);
            pieces.push(Piece {
                part: Arc::clone(part),
                range: at..end,
                own: false,
            });
            at = end;
        }
        if at < range.end {
            pieces.push(self.own_piece(at..range.end));
        }
        pieces
    }

    /// A small file's bytes. All of them are kept as long as there is memory for them; the kernel keeps what
    /// was read in any case.
    fn piece_of_whole(&self, state: &mut State, range: Range<u64>) -> Piece {
        let known = state.whole.take().filter(|part| !part.is_failed());
        state.whole = known.or_else(|| {
            let reserved = self.reserve(self.object.size)?;
            let all = 0..self.object.size;
            Some(Part::download(&self.shared, &self.object, all, reserved))
        });
        match &state.whole {
            Some(whole) => Piece {
                part: Arc::clone(whole),
                range,
                own: true,
            },
            None => self.own_piece(range),
        }
    }

    fn own_piece(&self, range: Range<u64>) -> Piece {
        Piece {
            part: self.exactly(range.clone()),
            range,
            own: true,
        }
    }

    /// Downloads what a read needs now, whatever the budget says.
    fn exactly(&self, range: Range<u64>) -> Arc<Part> {
        let reserved = self.shared.budget.reserve_over(range.end - range.start);
        Part::download(&self.shared, &self.object, range, reserved)
    }

    /// A read was not answered in time: whoever asks later begins anew.
    fn give_up(&self, range: Range<u64>) {
        let mut state = self.state.lock();
        state.whole = None;
        for slot in &mut state.slots {
            if let Some(stuck) = slot.parts.iter().position(|part| part.range().end > range.start) {
                slot.parts.truncate(stuck);
            }
        }
        state.late = Some((Instant::now(), range));
    }

    /// Drops what was read ahead from the first failed part on, so that later reads ask anew.
    fn forget_failed(&self) {
        for slot in &mut self.state.lock().slots {
            if let Some(failed) = slot.parts.iter().position(|part| part.is_failed()) {
                slot.parts.truncate(failed);
            }
        }
    }
}

impl Shared {
    /// Takes the memory of handles that nobody has read for a while.
    fn reclaim_idle(&self) {
        let now = Instant::now();
        for open in self.opened.lock().iter().filter_map(Weak::upgrade) {
            // The caller's own handle is locked, and so skipped; one that is locked by another is not idle.
            let Some(mut state) = open.state.try_lock() else {
                continue;
            };
            if now.duration_since(state.read_at) >= IDLE_TIME_MIN {
                state.slots.iter_mut().for_each(Slot::clear);
                state.whole = None;
            }
        }
    }
}

impl Slot {
    fn end(&self) -> Option<u64> {
        self.parts.back().map(|part| part.range().end)
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.share = None;
    }

    fn discard_below(&mut self, low: u64) {
        while self.parts.front().is_some_and(|part| part.range().end <= low) {
            self.parts.pop_front();
        }
        if let Some(part) = self.parts.front() {
            part.discard_below(low);
        }
    }
}

/// How large the parts of a window are: a quarter of it, a power of two, within bounds.
fn part_bytes(window_bytes: u64, part_bytes_max: u64) -> u64 {
    let quarter = (window_bytes / PARTS_PER_WINDOW).max(1);
    (1 << quarter.ilog2()).clamp(PART_BYTES_MIN, part_bytes_max.max(PART_BYTES_MIN))
}

/// Where a part that begins at `start` ends: at a multiple of its size, so that parts of all readers fall
/// on the same bounds; a remainder of less than half a part is joined to the next.
fn part_end(start: u64, part_bytes: u64) -> u64 {
    let bound = (start / part_bytes + 1) * part_bytes;
    if bound - start < part_bytes / 2 {
        bound + part_bytes
    } else {
        bound
    }
}

/// One buffer, without a copy if it is one already.
fn joined(mut slices: Vec<Bytes>) -> Bytes {
    if slices.len() <= 1 {
        return slices.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(slices.iter().map(Bytes::len).sum());
    slices.iter().for_each(|slice| whole.extend_from_slice(slice));
    whole.freeze()
}
