//! Collects what a successor must know and writes it down before the kernel is told.
//!
//! Noting is cheap and happens where something changes, under whatever lock protects it, so that records of one
//! thing are in the order of its changes. Writing down happens once per reply, in one call, for everything that
//! was noted so far by anybody; who finds that others have done it has nothing to do.
//!
//! A file that a record speaks of outlives the record: it is removed only when the log says that it is gone.
//!
//! Lock order: the writing anew, the log, then the inode table, then the notes.

use std::cell::{Cell, RefCell};
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

/// Where records go; clones go to the same place. The default one goes nowhere.
#[derive(Clone, Default)]
pub struct Recorder(Option<Arc<Inner>>);

type Gather = Box<dyn Fn(&Notes<'_>) -> Vec<u8> + Send + Sync>;
type Relief = Box<dyn Fn() + Send + Sync>;

struct Inner {
    folder: PathBuf,
    log: Mutex<Log>,
    notes: Mutex<Noted>,
    /// Files of which no log speaks any more.
    removable: Mutex<Vec<PathBuf>>,
    /// Counts what was noted.
    noted: AtomicU64,
    /// How much of that is in the log. Never counts what is not there yet.
    written: AtomicU64,
    /// There is something for [`Recorder::keep_up`], and whether somebody is at it.
    upkeep: AtomicBool,
    tending: AtomicBool,
    /// Held while the log is written anew. Taken before the log.
    compaction: Mutex<()>,
    off: AtomicBool,
    /// With `off`: everything stays as it is for another process.
    left: AtomicBool,
    gather: OnceLock<Gather>,
    relief: OnceLock<Relief>,
    /// Relief was asked for when the log was too long already.
    pressed: AtomicBool,
    /// Requests of dead workers that may be sent again.
    inherited: Mutex<BTreeMap<u64, Before>>,
}

#[derive(Default)]
struct Noted {
    records: Vec<u8>,
    /// Files that go when these records are in the log.
    doomed: Vec<PathBuf>,
}

/// What was noted and is not written yet.
pub struct Notes<'a> {
    inner: &'a Inner,
    covered: Cell<u64>,
    doomed: RefCell<Vec<PathBuf>>,
}

impl Notes<'_> {
    /// Takes them.
    pub fn take(&self) -> Vec<u8> {
        // In this order: what is counted is in the notes.
        self.covered.set(self.inner.noted.load(Ordering::Acquire));
        let Noted { records, doomed } = std::mem::take(&mut *self.inner.notes.lock());
        self.doomed.borrow_mut().extend(doomed);
        records
    }
}

impl Recorder {
    /// Begins a table for a mount without a past.
    pub fn begin(folder: &Path) -> io::Result<Recorder> {
        // For nobody else's eyes, since it holds names; whoever made it may have said so already.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        Log::remove_unfinished(folder)?;
        let nothing = Inheritance::default();
        Ok(Recorder::of(
            folder,
            Log::begin(folder, nothing.records())?,
            &nothing,
        ))
    }

    /// Goes on with the table of a dead worker, which says this.
    pub fn go_on(folder: &Path, inheritance: &Inheritance) -> io::Result<Recorder> {
        Log::remove_unfinished(folder)?;
        Ok(Recorder::of(folder, Log::go_on(folder)?, inheritance))
    }

    fn of(folder: &Path, log: Log, inheritance: &Inheritance) -> Recorder {
        Recorder(Some(Arc::new(Inner {
            folder: folder.to_owned(),
            log: Mutex::new(log),
            notes: Mutex::default(),
            noted: AtomicU64::new(0),
            written: AtomicU64::new(0),
            removable: Mutex::default(),
            upkeep: AtomicBool::new(false),
            tending: AtomicBool::new(false),
            compaction: Mutex::new(()),
            off: AtomicBool::new(false),
            left: AtomicBool::new(false),
            gather: OnceLock::new(),
            relief: OnceLock::new(),
            pressed: AtomicBool::new(false),
            inherited: Mutex::new(inheritance.requests.clone()),
        })))
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
            records.for_each(|record| record.write_to(&mut notes.records));
            drop(notes);
            inner.noted.fetch_add(1, Ordering::Release);
        }
    }

    /// Notes a record that need not be written before anything: it goes with the next ones.
    pub fn note_in_passing(&self, record: &Record) {
        if let Some(inner) = self.on() {
            record.write_to(&mut inner.notes.lock().records);
        }
    }

    /// Notes a record, and removes a file once that is written down. Nobody is waited for: if there is no log any more
    /// that speaks of the file, it goes with the next upkeep, unless it is left to another process.
    pub fn note_removal(&self, record: &Record, path: PathBuf) {
        let Some(inner) = &self.0 else {
            return remove_file(&path);
        };
        {
            let mut notes = inner.notes.lock();
            // Whoever turns it off takes what is in the notes afterwards.
            if !inner.off.load(Ordering::Acquire) {
                record.write_to(&mut notes.records);
                notes.doomed.push(path);
                drop(notes);
                inner.noted.fetch_add(1, Ordering::Release);
                return;
            }
        }
        if !inner.left.load(Ordering::Acquire) {
            inner.removable.lock().push(path);
            inner.upkeep.store(true, Ordering::Release);
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

    /// Says what makes the log shorter when it comes near to what it may be. It is called without any lock, and must
    /// not wait for anything.
    pub fn is_relieved_by(&self, relief: impl Fn() + Send + Sync + 'static) {
        if let Some(inner) = &self.0 {
            // There is one connection, which says it once.
            let _ = inner.relief.set(Box::new(relief));
        }
    }

    /// Writes down everything that was noted or marked before.
    pub fn write_down(&self) {
        let Some(inner) = self.on() else { return };
        let wanted = inner.noted.load(Ordering::Acquire);
        if inner.written.load(Ordering::Acquire) >= wanted {
            return;
        }
        let mut log = inner.log.lock();
        // Whoever was waited for may have done it, or turned it off.
        if inner.written.load(Ordering::Acquire) >= wanted || inner.off.load(Ordering::Acquire) {
            return;
        }
        let notes = Notes {
            inner,
            covered: Cell::new(0),
            doomed: RefCell::default(),
        };
        let batch = match inner.gather.get() {
            Some(gather) => gather(&notes),
            None => notes.take(),
        };
        let appended = match batch.is_empty() {
            true => Ok(()),
            false => log.append(&batch),
        };
        if let Err(error) = &appended {
            tracing::error!(
                folder = %inner.folder.display(), %error,
                "what a successor must know cannot be written; if this process dies, the mount ends"
            );
            inner.off.store(true, Ordering::Release);
            remove(&log);
            inner.take_doomed();
        } else {
            inner.written.store(notes.covered.get(), Ordering::Release);
        }
        let doomed = notes.doomed.into_inner();
        if !doomed.is_empty() || log.is_long() || appended.is_err() {
            inner.removable.lock().extend(doomed);
            inner.upkeep.store(true, Ordering::Release);
        }
    }

    /// Whether there is something for [`Recorder::keep_up`] to do; true for one caller at a time, who does it.
    pub fn wants_upkeep(&self) -> bool {
        self.0.as_deref().is_some_and(Inner::claim_upkeep)
    }

    /// Does what nobody waits for, and what may take as long as a disk takes: removes files that nobody needs any
    /// more, and writes the log anew when it has grown.
    pub fn keep_up(&self) {
        let Some(inner) = &self.0 else { return };
        loop {
            let tending = Tending(inner);
            inner.upkeep.store(false, Ordering::Release);
            inner.remove_files();
            if inner.log.lock().is_long() {
                self.compact();
                self.judge();
            }
            drop(tending);
            if !inner.claim_upkeep() {
                return;
            }
        }
    }

    /// What is to be done about the length of a log that was just written anew.
    fn judge(&self) {
        let Some(inner) = self.on() else { return };
        let (too_long, nearly, bytes) = {
            let log = inner.log.lock();
            (log.is_too_long(), log.is_nearly_too_long(), log.bytes())
        };
        let pressed = inner.pressed.swap(too_long, Ordering::Relaxed);
        match inner.relief.get() {
            Some(relief) if nearly && !(too_long && pressed) => relief(),
            Some(_) | None if too_long => {
                tracing::error!(
                    folder = %inner.folder.display(), bytes,
                    "what a successor must know takes too much memory; if this process dies, the mount ends"
                );
                self.give_up();
            }
            Some(_) | None => {}
        }
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
            inner.log.lock().put_off();
        }
    }

    /// There is to be no successor: nothing is noted any more, and the log goes away.
    pub fn give_up(&self) {
        if let Some(inner) = &self.0 {
            inner.off.store(true, Ordering::Release);
            {
                let log = inner.log.lock();
                remove(&log);
                inner.take_doomed();
            }
            inner.remove_files();
            // Who is writing it anew finds that it is gone, and takes that away, too, before this process ends.
            drop(inner.compaction.lock());
        }
    }

    /// This process ends, and everything stays as it is for another one, which may append to the same log when this
    /// returns.
    pub fn leave(&self) {
        if let Some(inner) = &self.0 {
            inner.left.store(true, Ordering::Release);
            inner.off.store(true, Ordering::Release);
            // Whoever writes it anew, or appends to it, comes to an end.
            drop(inner.compaction.lock());
            drop(inner.log.lock());
        }
    }

    /// As on a machine with less memory.
    #[cfg(test)]
    pub(super) fn limit(&self, bytes_max: u64) {
        if let Some(inner) = &self.0 {
            inner.log.lock().limit(bytes_max);
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

impl Inner {
    fn claim_upkeep(&self) -> bool {
        self.upkeep.load(Ordering::Acquire) && !self.tending.swap(true, Ordering::AcqRel)
    }

    /// What was noted is written down by nobody any more, so no log speaks of these files.
    fn take_doomed(&self) {
        let doomed = std::mem::take(&mut self.notes.lock().doomed);
        self.removable.lock().extend(doomed);
    }

    fn remove_files(&self) {
        let removable = std::mem::take(&mut *self.removable.lock());
        removable.iter().for_each(|path| remove_file(path));
    }
}

/// Somebody is at the upkeep, until this is dropped, also by a panic.
struct Tending<'a>(&'a Inner);

impl Drop for Tending<'_> {
    fn drop(&mut self) {
        self.0.tending.store(false, Ordering::Release);
    }
}

/// One that cannot be removed takes room until the next mount tidies up, and does nothing else.
fn remove_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a staging file cannot be removed");
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
