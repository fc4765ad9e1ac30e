//! Collects what a successor must know and writes it down before the kernel is told.
//!
//! Noting is cheap and happens where something changes, under whatever lock protects it, so that records of one
//! thing are in the order of its changes. Writing down happens once per reply, in one call, for everything that
//! was noted so far by anybody; who finds that others have done it has nothing to do.
//!
//! Lock order: the writing anew, the log, then the inode table, then the notes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::attempt::Before;
use super::log::{Log, Snapshot};
use super::record::Record;
use super::table::Inheritance;

/// A log below this is not worth writing anew; it is 5,000 to 10,000 records.
const COMPACT_BYTES_MIN: u64 = 1 << 20;

/// A log is written anew when it has grown by this factor: then each byte is written anew once, on average.
const COMPACT_FACTOR: u64 = 2;

/// Where records go; clones go to the same place. The default one goes nowhere.
#[derive(Clone, Default)]
pub struct Recorder(Option<Arc<Inner>>);

type Gather = Box<dyn Fn(&Notes<'_>) -> Vec<u8> + Send + Sync>;

struct Inner {
    folder: PathBuf,
    log: Mutex<Log>,
    notes: Mutex<Vec<u8>>,
    /// Counts what was noted.
    noted: AtomicU64,
    /// How much of that is in the log. Never counts what is not there yet.
    written: AtomicU64,
    compacting: AtomicBool,
    /// Held while the log is written anew. Taken before the log.
    compaction: Mutex<()>,
    off: AtomicBool,
    gather: OnceLock<Gather>,
    /// Requests of dead workers that may be sent again.
    inherited: Mutex<BTreeMap<u64, Before>>,
}

/// What was noted and is not written yet.
pub struct Notes<'a> {
    inner: &'a Inner,
    covered: Cell<u64>,
}

impl Notes<'_> {
    /// Takes them.
    pub fn take(&self) -> Vec<u8> {
        // In this order: what is counted is in the notes.
        self.covered.set(self.inner.noted.load(Ordering::Acquire));
        std::mem::take(&mut *self.inner.notes.lock())
    }
}

impl Recorder {
    /// Begins a table for a mount without a past.
    pub fn begin(folder: &Path) -> io::Result<Recorder> {
        Recorder::go_on(folder, Inheritance::default())
    }

    /// Goes on with the table of a dead worker, which is written anew.
    pub fn go_on(folder: &Path, inheritance: Inheritance) -> io::Result<Recorder> {
        // For nobody else's eyes, since it holds names; whoever made it may have said so already.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let inherited = inheritance.requests.clone();
        let log = Log::begin(folder, inheritance.records())?;
        Log::remove_unfinished(folder)?;
        Ok(Recorder(Some(Arc::new(Inner {
            folder: folder.to_owned(),
            log: Mutex::new(log),
            notes: Mutex::default(),
            noted: AtomicU64::new(0),
            written: AtomicU64::new(0),
            compacting: AtomicBool::new(false),
            compaction: Mutex::new(()),
            off: AtomicBool::new(false),
            gather: OnceLock::new(),
            inherited: Mutex::new(inherited),
        }))))
    }

    /// Whether a successor can be had.
    pub fn is_on(&self) -> bool {
        self.on().is_some()
    }

    /// Notes a record.
    pub fn note(&self, record: &Record) {
        self.note_all(std::iter::once(record));
    }

    /// Notes records that count together or not at all.
    pub fn note_all<'a>(&self, records: impl Iterator<Item = &'a Record>) {
        if let Some(inner) = self.on() {
            let mut notes = inner.notes.lock();
            records.for_each(|record| record.write_to(&mut notes));
            drop(notes);
            inner.noted.fetch_add(1, Ordering::Release);
        }
    }

    /// Notes a record that need not be written before anything: it goes with the next ones.
    pub fn note_in_passing(&self, record: &Record) {
        if let Some(inner) = self.on() {
            record.write_to(&mut inner.notes.lock());
        }
    }

    /// Something changed of which the caller makes records when they are written down.
    pub fn mark(&self) {
        if let Some(inner) = self.on() {
            inner.noted.fetch_add(1, Ordering::Release);
        }
    }

    /// Says how the notes are taken and the records of what was marked are added to them, both while nobody can mark
    /// more. Until then notes alone are written.
    pub fn gathers(&self, gather: impl Fn(&Notes<'_>) -> Vec<u8> + Send + Sync + 'static) {
        if let Some(inner) = &self.0 {
            // There is one filesystem, which says it once.
            let _ = inner.gather.set(Box::new(gather));
        }
    }

    /// Writes down everything that was noted or marked before. True if the log has grown so much that it should be
    /// written anew, to one caller at a time.
    pub fn write_down(&self) -> bool {
        let Some(inner) = self.on() else { return false };
        let wanted = inner.noted.load(Ordering::Acquire);
        if inner.written.load(Ordering::Acquire) >= wanted {
            return false;
        }
        let mut log = inner.log.lock();
        if inner.written.load(Ordering::Acquire) >= wanted {
            return false;
        }
        let notes = Notes {
            inner,
            covered: Cell::new(0),
        };
        let batch = match inner.gather.get() {
            Some(gather) => gather(&notes),
            None => notes.take(),
        };
        if !batch.is_empty()
            && let Err(error) = log.append(&batch)
        {
            tracing::error!(
                folder = %inner.folder.display(), %error,
                "what a successor must know cannot be written; if this process dies, the mount ends"
            );
            inner.off.store(true, Ordering::Release);
            remove(&log);
            return false;
        }
        inner.written.store(notes.covered.get(), Ordering::Release);
        let (bytes, anew) = log.bytes();
        bytes > COMPACT_BYTES_MIN.max(anew * COMPACT_FACTOR) && !inner.compacting.swap(true, Ordering::AcqRel)
    }

    /// Writes the log anew. Others go on meanwhile.
    pub fn compact(&self) {
        let Some(inner) = &self.0 else { return };
        let _compaction = inner.compaction.lock();
        if !self.is_on() {
            return;
        }
        let snapshot = inner.log.lock().snapshot();
        let compacted = snapshot
            .and_then(Snapshot::compact)
            .and_then(|compacted| inner.log.lock().adopt(compacted));
        if let Err(error) = compacted {
            // The old one is still good, or will say itself that it is not.
            tracing::warn!(%error, "what a successor must know cannot be written anew, and grows");
        }
        inner.compacting.store(false, Ordering::Release);
    }

    /// There is to be no successor: nothing is noted any more, and the log goes away.
    pub fn give_up(&self) {
        if let Some(inner) = &self.0 {
            inner.off.store(true, Ordering::Release);
            remove(&inner.log.lock());
            // Who is writing it anew finds that it is gone, and takes that away, too, before this process ends.
            drop(inner.compaction.lock());
        }
    }

    /// This process ends, and everything stays as it is for another one.
    pub fn leave(&self) {
        if let Some(inner) = &self.0 {
            inner.off.store(true, Ordering::Release);
        }
    }

    /// What a dead worker had noted of a request.
    pub(super) fn inherited(&self, request: u64) -> Option<Before> {
        self.on()?.inherited.lock().get(&request).cloned()
    }

    fn on(&self) -> Option<&Inner> {
        self.0
            .as_deref()
            .filter(|inner| !inner.off.load(Ordering::Acquire))
    }
}

/// Nobody is to find it any more.
fn remove(log: &Log) {
    if let Err(error) = log.remove() {
        tracing::warn!(%error, "a table that nobody may go on with cannot be removed");
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder({})", if self.is_on() { "on" } else { "off" })
    }
}
