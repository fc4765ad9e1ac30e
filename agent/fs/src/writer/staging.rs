//! A file that is being written: its bytes in a local file, over the object they change.
//!
//! Invariants: a byte below `visible` that is not in `present` is the object's byte; every other byte is
//! the staging file's (holes read as zeros). `generation` grows with every change, so that an upload knows
//! what it contains. The staging file has no name, so nothing is left behind when the process ends, unless
//! another process may have to go on with it: then it has, and every change is noted for that one.
//!
//! An edit that lost a race is frozen before its copy is uploaded: nothing is accepted that the copy would
//! not hold. It never becomes an edit of the winner.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use futures::StreamExt;
use parking_lot::Mutex;
use uuid::Uuid;

use super::ranges::RangeSet;
use crate::descriptors::leave_reserve;
use crate::error::FsError;
use crate::namespace::inode::Metadata;
use crate::store::{ETag, Key, ObjectStore, StoreError};
use crate::succession::record::Record;
use crate::succession::{Attempt, Outcome, Recorder};

pub mod lock;
mod succession;

use self::lock::FolderLock;
pub use self::succession::{Restored, remove_staged};

/// S3's limit for an object: 10,000 parts of at most 5 GiB, and not more than 5 TiB in all.
pub const FILE_BYTES_MAX: u64 = 5 << 40;

/// Broken transfers of one range in a row, without a byte of progress, before giving up. The store has
/// retried each of them on its own.
const FRUITLESS_FETCHES_MAX: u32 = 3;

/// Metadata entry that says which edit made an object, and which state of it.
pub const METADATA_COMMIT: &str = "mooring-commit";

/// Where files are staged.
#[derive(Clone, Debug, Default)]
pub struct Staging {
    /// The folder; it is made again when somebody has tidied it away.
    pub folder: PathBuf,
    /// Who is told of every change, for a successor.
    pub recorder: Recorder,
    /// Where it is one mount's alone, from when it is made until that is gone from everywhere.
    pub lock: Option<Arc<FolderLock>>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Edit {
    /// Marks its uploads, so that one whose reply was lost is recognised in the object, however late.
    id: Uuid,
    file: Arc<File>,
    /// Its name, once it has one; whoever drops the edit removes it, when no successor is told of it any more.
    name: OnceLock<PathBuf>,
    recorder: Recorder,
    /// Held while bytes of the staging file change, which may wait for the disk. Taken before `state`.
    changing: Mutex<()>,
    /// Held for moments only, since it is also taken under the lock of the inode table.
    state: Mutex<State>,
    /// Held by whoever uploads, renames or removes, so that these happen one after the other.
    pub turn: tokio::sync::Mutex<()>,
    uploading: AtomicBool,
    /// An upload was begun at some time, and may have its effect whatever was answered.
    tried: AtomicBool,
    settling: AtomicBool,
    /// Up to which change a note tells of it that lies beside the staging file, for the case that the mount ends before
    /// its bytes are in S3; zero without one.
    noted: AtomicU64,
}

#[derive(Debug)]
struct State {
    size: u64,
    base: Option<ETag>,
    visible: u64,
    present: RangeSet,
    /// Bytes of the object below were brought here and may be part of the file.
    fetched: bool,
    generation: u64,
    committed: u64,
    /// When the first handle that writes was opened, to tell a lost race from an old listing.
    opened: Instant,
    /// When it was found to have lost a race; it accepts no changes any more.
    lost_at: Option<SystemTime>,
    /// Where it is kept since.
    copy: Option<Key>,
}

/// What an upload takes: the state at one moment.
#[derive(Debug)]
pub struct Version {
    /// Size of the file.
    pub size: u64,
    /// Version of the object below, if there is one.
    pub base: Option<ETag>,
    /// Which change it contains.
    pub generation: u64,
    /// Whether bytes of the object below are part of it.
    pub builds_on_base: bool,
    /// Whether some of these are still only in the object.
    pub needs_base: bool,
}

impl Edit {
    /// A new file: dirty from the start, since it must come to exist.
    pub fn new_file(staging: &Staging, id: Uuid, opened: Instant) -> Result<Edit, FsError> {
        Edit::begin(staging, (None, 0), 1, id, opened)
    }

    /// An existing object that is to be changed; nothing is changed yet.
    pub fn of_object(
        staging: &Staging,
        (base, size): (ETag, u64),
        id: Uuid,
        opened: Instant,
    ) -> Result<Edit, FsError> {
        Edit::begin(staging, (Some(base), size), 0, id, opened)
    }

    fn begin(
        staging: &Staging,
        (base, size): (Option<ETag>, u64),
        generation: u64,
        id: Uuid,
        opened: Instant,
    ) -> Result<Edit, FsError> {
        let (file, name) = staging.make(id).map_err(|error| FsError::staging(&error))?;
        let usable =
            leave_reserve(&file).and_then(|()| file.set_len(size).map_err(|error| FsError::staging(&error)));
        if let Err(error) = usable {
            if let Some(name) = &name {
                // One that cannot be removed takes no room.
                let _ = std::fs::remove_file(name);
            }
            return Err(error);
        }
        let state = State {
            size,
            base,
            visible: size,
            present: RangeSet::default(),
            fetched: false,
            generation,
            committed: 0,
            opened,
            lost_at: None,
            copy: None,
        };
        let edit = Edit {
            id,
            file: Arc::new(file),
            name: name.map(OnceLock::from).unwrap_or_default(),
            recorder: staging.recorder.clone(),
            changing: Mutex::new(()),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            uploading: AtomicBool::new(false),
            tried: AtomicBool::new(false),
            settling: AtomicBool::new(false),
            noted: AtomicU64::new(0),
        };
        edit.note(&edit.state.lock(), None);
        Ok(edit)
    }

    /// A handle that was opened at this time writes to it, too.
    pub fn joined(&self, opened: Instant) {
        let mut state = self.state.lock();
        if opened < state.opened {
            state.opened = opened;
            self.note(&state, None);
        }
    }

    /// When the first handle that writes was opened.
    pub fn opened(&self) -> Instant {
        self.state.lock().opened
    }

    /// Its id; the first characters tell it from others.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What marks an object made of one of its states.
    pub fn mark(&self, generation: u64) -> String {
        format!("{}-{generation}", self.id)
    }

    /// Which of its states an object holds; none if somebody else made it. A part of the file may be newer.
    pub fn made(&self, metadata: &Metadata) -> Option<u64> {
        let (id, generation) = metadata.get(METADATA_COMMIT)?.rsplit_once('-')?;
        let ours = id == self.id.to_string();
        generation.parse().ok().filter(|_| ours)
    }

    /// Size of the file.
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// Whether it holds changes that are not in S3.
    pub fn is_dirty(&self) -> bool {
        let state = self.state.lock();
        state.generation > state.committed
    }

    /// The latest change.
    pub fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Whether everything up to a change is in S3.
    pub fn is_committed(&self, generation: u64) -> bool {
        self.state.lock().committed >= generation
    }

    /// Whether an upload is on its way.
    pub fn is_uploading(&self) -> bool {
        self.uploading.load(Ordering::Relaxed)
    }

    /// Marks an upload for as long as the guard lives.
    pub fn uploading(&self) -> Uploading<'_> {
        self.uploading.store(true, Ordering::Relaxed);
        if !self.tried.swap(true, Ordering::Relaxed) {
            self.note(&self.state.lock(), None);
        }
        Uploading(self)
    }

    /// Whether it may have become an object, though no answer said so.
    pub fn may_be_stored(&self) -> bool {
        self.tried.load(Ordering::Relaxed)
    }

    /// Claims the task that uploads the file after its last close; false if somebody has it.
    pub fn begin_settling(&self) -> bool {
        !self.settling.swap(true, Ordering::Relaxed)
    }

    /// Gives that task up.
    pub fn end_settling(&self) {
        self.settling.store(false, Ordering::Relaxed);
    }

    /// The staging file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The state at this moment.
    pub fn version(&self) -> Version {
        let state = self.state.lock();
        let needs_base = !state.present.gaps(0..state.visible).is_empty();
        Version {
            size: state.size,
            base: state.base.clone(),
            generation: state.generation,
            builds_on_base: state.fetched || needs_base,
            needs_base,
        }
    }

    /// Writes; `offset` of `None` appends.
    pub fn write(&self, offset: Option<u64>, data: &[u8]) -> Result<(), FsError> {
        self.write_noting(offset, data, None)
    }

    /// Writes at the end, and notes at one stroke that it is done.
    pub fn append(&self, data: &[u8], attempt: &Attempt) -> Result<(), FsError> {
        self.write_noting(None, data, attempt.ended(Outcome::Done))
    }

    fn write_noting(&self, offset: Option<u64>, data: &[u8], ended: Option<Record>) -> Result<(), FsError> {
        let _changing = self.changing.lock();
        let offset = offset.unwrap_or_else(|| self.size());
        let end = offset.checked_add(data.len() as u64).ok_or(FsError::TooLarge)?;
        if end > FILE_BYTES_MAX {
            return Err(FsError::TooLarge);
        }
        self.accepts_changes()?;
        if let Err(error) = self.file.write_all_at(data, offset) {
            // What was written of it must not show when the file grows over it later.
            let _ = self.file.set_len(self.size());
            return Err(FsError::staging(&error));
        }
        let mut state = self.state.lock();
        let covered = (offset < state.visible).then(|| offset..end.min(state.visible));
        if let Some(covered) = covered.clone() {
            state.present.insert(covered);
        }
        state.size = state.size.max(end);
        state.generation += 1;
        self.note_with(&state, covered, ended);
        Ok(())
    }

    /// Cuts or extends with zeros.
    pub fn truncate(&self, size: u64) -> Result<(), FsError> {
        if size > FILE_BYTES_MAX {
            return Err(FsError::TooLarge);
        }
        let _changing = self.changing.lock();
        self.accepts_changes()?;
        let set_len = || self.file.set_len(size).map_err(|error| FsError::staging(&error));
        if size > self.size() {
            set_len()?;
            self.resized(size);
            return Ok(());
        }
        // A successor must not take bytes for present that were cut off, and show zeros instead.
        self.resized(size);
        self.write_down();
        set_len()
    }

    fn resized(&self, size: u64) {
        let mut state = self.state.lock();
        state.visible = state.visible.min(size);
        let visible = state.visible;
        state.present.truncate(visible);
        state.fetched &= visible > 0;
        state.size = size;
        state.generation += 1;
        self.note(&state, None);
    }

    fn accepts_changes(&self) -> Result<(), FsError> {
        match self.state.lock().lost_at {
            None => Ok(()),
            Some(_) => Err(FsError::Changed),
        }
    }

    /// It has lost a race: nothing is accepted from now on. Answers when that was noticed first, which names
    /// the copy.
    pub fn freeze(&self, now: SystemTime) -> SystemTime {
        let _changing = self.changing.lock();
        let mut state = self.state.lock();
        let at = *state.lost_at.get_or_insert(now);
        self.note(&state, None);
        at
    }

    /// Whether it has lost a race, and its copy may have to be uploaded yet.
    pub fn is_frozen(&self) -> bool {
        self.state.lock().lost_at.is_some()
    }

    /// All that was written to it is in a copy beside the object, if anything was: nothing is left to upload.
    pub fn kept_as(&self, copy: Option<Key>) {
        let mut state = self.state.lock();
        state.copy = copy;
        state.committed = u64::MAX;
        self.note(&state, None);
    }

    /// The copy that holds it, if it lost a race.
    pub fn copy(&self) -> Option<Key> {
        self.state.lock().copy.clone()
    }

    /// The ranges of the file that are here, in order.
    pub fn staged(&self) -> Vec<Range<u64>> {
        let missing = self.missing(0..u64::MAX);
        let size = self.size();
        let mut staged = Vec::new();
        let mut at = 0;
        for gap in missing.into_iter().chain(std::iter::once(size..size)) {
            if at < gap.start {
                staged.push(at..gap.start);
            }
            at = gap.end;
        }
        staged
    }

    /// Reads from the staging file what [`Edit::fetch`] has made sure is there.
    pub fn read_staged(&self, offset: u64, len: usize) -> Result<Vec<u8>, FsError> {
        let size = self.size();
        let len = size.saturating_sub(offset).min(len as u64) as usize;
        let mut buffer = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FsError::staging(&error)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }

    /// The parts of a range that are still only in the object below.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let state = self.state.lock();
        let end = range.end.min(state.visible);
        if range.start >= end {
            Vec::new()
        } else {
            state.present.gaps(range.start..end)
        }
    }

    /// Brings a range of the object below into the staging file. `key` is where the object is now.
    pub async fn fetch(&self, store: &dyn ObjectStore, key: &Key, range: Range<u64>) -> Result<(), FsError> {
        let mut fruitless = 0;
        loop {
            let Some(gap) = self.missing(range.clone()).into_iter().next() else {
                return Ok(());
            };
            let Some(base) = self.state.lock().base.clone() else {
                return Err(FsError::Changed);
            };
            match self.fetch_gap(store, key, &base, gap.clone()).await {
                Ok(()) => fruitless = 0,
                Err(FsError::Store(StoreError::PreconditionFailed | StoreError::NotFound)) => {
                    // An upload of our own may have replaced the object between the two lines above.
                    if self.state.lock().base.as_ref() == Some(&base) {
                        return Err(FsError::Changed);
                    }
                }
                Err(FsError::Store(StoreError::Interrupted { reason })) => {
                    let moved = self.missing(range.clone()).first() != Some(&gap);
                    fruitless = if moved { 0 } else { fruitless + 1 };
                    if fruitless > FRUITLESS_FETCHES_MAX {
                        return Err(FsError::Store(StoreError::Interrupted { reason }));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn fetch_gap(
        &self,
        store: &dyn ObjectStore,
        key: &Key,
        base: &ETag,
        gap: Range<u64>,
    ) -> Result<(), FsError> {
        let mut body = store.get(key, Some(gap.clone()), Some(base)).await?.body;
        let mut at = gap.start;
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            self.fill(at, &chunk)?;
            at += chunk.len() as u64;
        }
        if at < gap.end {
            return Err(StoreError::Interrupted {
                reason: "the body ended early".to_owned(),
            }
            .into());
        }
        Ok(())
    }

    /// Takes bytes of the object below, except where the application has written meanwhile.
    fn fill(&self, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let _changing = self.changing.lock();
        for gap in self.missing(offset..offset + data.len() as u64) {
            let from = (gap.start - offset) as usize;
            let to = (gap.end - offset) as usize;
            self.file
                .write_all_at(&data[from..to], gap.start)
                .map_err(|error| FsError::staging(&error))?;
            let mut state = self.state.lock();
            state.present.insert(gap.clone());
            state.fetched = true;
            self.note(&state, Some(gap));
        }
        Ok(())
    }

    /// An upload has become the object: the bytes that were not here are the same in it.
    pub fn committed(&self, generation: u64, etag: ETag) {
        let mut state = self.state.lock();
        state.base = Some(etag);
        state.committed = state.committed.max(generation);
        self.note(&state, None);
    }

    /// The object below was copied elsewhere with the same bytes.
    pub fn rebase(&self, etag: ETag) {
        let mut state = self.state.lock();
        state.base = Some(etag);
        self.note(&state, None);
    }

    /// The object below is gone, and none of its bytes are needed.
    pub fn forget_base(&self) {
        let mut state = self.state.lock();
        state.base = None;
        self.note(&state, None);
    }

    /// The object below is gone and the file has no name any more: nothing is left to upload.
    pub fn forget_object(&self) {
        let mut state = self.state.lock();
        state.base = None;
        state.committed = u64::MAX;
        self.note(&state, None);
    }
}

/// An upload on its way.
pub struct Uploading<'a>(&'a Edit);

impl Drop for Uploading<'_> {
    fn drop(&mut self) {
        self.0.uploading.store(false, Ordering::Relaxed);
    }
}
