//! Staged bytes to records and back: what a successor needs besides the staging file itself.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD};
use uuid::Uuid;

use super::{Edit, Staging, State, lock};
use crate::clock;
use crate::store::{ETag, Key};
use crate::succession::record::{self, Record, system_time, wall};
use crate::succession::{Inheritance, Recorder};
use crate::unsaved::{self, Carries, Note, Place};
use crate::writer::ranges::RangeSet;

/// A successor counts on from so much later: a change that the dead worker had counted, and perhaps uploaded,
/// but not written down, must not share its number with another one. Nobody has more changes on their way.
const GENERATIONS_SKIPPED: u64 = 1 << 20;

impl Staging {
    /// A folder whose files nobody goes on with when this process ends.
    pub fn without_successor(folder: PathBuf) -> Staging {
        Staging {
            folder,
            ..Staging::default()
        }
    }

    /// Makes a staging file, with a name if somebody else may have to open it.
    pub(super) fn make(&self, id: Uuid) -> io::Result<(File, Option<PathBuf>)> {
        match self.try_make(id) {
            // Somebody has tidied up too well.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folder()?;
                self.try_make(id)
            }
            made => made,
        }
    }

    fn try_make(&self, id: Uuid) -> io::Result<(File, Option<PathBuf>)> {
        if !self.recorder.is_on() {
            return Ok((tempfile::tempfile_in(&self.folder)?, None));
        }
        let name = path_of(&self.folder, id);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&name)?;
        Ok((file, Some(name)))
    }

    /// Makes the folder, unless it is there.
    pub fn make_folder(&self) -> io::Result<()> {
        match &self.lock {
            Some(lock) => lock.renew(),
            None => lock::make(&self.folder),
        }
    }

    /// The edits that a dead worker left. Fails if it cannot be told whether all are there: then nothing was changed, and
    /// somebody else may try.
    pub fn restore(&self, inheritance: &Inheritance) -> io::Result<Restored> {
        let mut restored = Restored::default();
        for (edit, present) in inheritance.edits.values() {
            match Edit::restored(self, edit, present.clone()) {
                Ok(found) => {
                    restored.edits.insert(edit.id, Arc::new(found));
                }
                // It goes only after its record, so somebody else has taken it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let elsewhere = edit.generation <= edit.committed && edit.committed != u64::MAX;
                    if !elsewhere {
                        restored.lost.insert(edit.id);
                    }
                    self.recorder.note(&Record::EditGone(edit.id));
                }
                Err(error) => {
                    // Before those that were restored are dropped.
                    self.recorder.leave();
                    let path = path_of(&self.folder, Uuid::from_u128(edit.id));
                    let reason = format!("the staging file {}: {error}", path.display());
                    return Err(io::Error::new(error.kind(), reason));
                }
            }
        }
        Ok(restored)
    }

    /// Removes staging files that are none of these.
    pub fn purge(&self, kept: &HashMap<u128, Arc<Edit>>) {
        remove_staged(&self.folder, |id| kept.contains_key(&id));
    }
}

/// Where the staging file of an edit is while somebody may go on with it.
fn path_of(folder: &Path, id: Uuid) -> PathBuf {
    folder.join(id.to_string())
}

/// The edits that a dead worker left.
#[derive(Debug, Default)]
pub struct Restored {
    /// Those that are there, by id.
    pub edits: HashMap<u128, Arc<Edit>>,
    /// Those whose bytes were nowhere else, and are gone.
    pub lost: HashSet<u128>,
}

/// Removes staging files of which no note tells, but those of these ids, and what was being noted when a worker died.
pub fn remove_staged(folder: &Path, kept: impl Fn(u128) -> bool) {
    let Ok(found) = std::fs::read_dir(folder) else {
        return;
    };
    for path in found.flatten().map(|entry| entry.path()) {
        let id = unsaved::staged_id(&path);
        let unwanted = id.is_some_and(|id| !kept(id.as_u128()) && !unsaved::is_noted(folder, id));
        if unwanted || unsaved::is_unfinished(&path) {
            // One that cannot be removed takes room, and nothing else.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Edit {
    /// Notes the present state, and a range that came to be here; the caller holds the state.
    pub(super) fn note(&self, state: &State, added: Option<Range<u64>>) {
        self.note_with(state, added, None);
    }

    /// The same, and something else at one stroke.
    pub(super) fn note_with(&self, state: &State, added: Option<Range<u64>>, other: Option<Record>) {
        if self.name.get().is_none() || !self.recorder.is_on() {
            return;
        }
        let edit = Record::Edit(self.record(state, added.into_iter().collect()));
        self.recorder.note_all(std::iter::once(&edit).chain(&other));
    }

    /// The present state, with ranges that are here.
    fn record(&self, state: &State, added: Vec<Range<u64>>) -> record::Edit {
        let State {
            size,
            base,
            visible,
            present: _,
            fetched,
            generation,
            committed,
            opened,
            lost_at,
            copy,
        } = state;
        record::Edit {
            id: self.id.as_u128(),
            size: *size,
            base: base.as_ref().map(|etag| etag.0.clone()),
            visible: *visible,
            added,
            fetched: *fetched,
            generation: *generation,
            committed: *committed,
            opened: clock::nanos_of(*opened),
            lost_at: lost_at.map(wall),
            copy: copy.as_ref().map(|key| key.as_str().to_owned()),
            tried: self.tried.load(Ordering::Relaxed),
        }
    }

    /// Whoever succeeds this process knows of it as it is now when this returns.
    pub(in crate::writer) fn write_down(&self) {
        if self.name.get().is_some() {
            self.recorder.write_down();
        }
    }

    /// This process ends, and nobody goes on with it. Bytes that are nowhere else are kept in the folder under a name
    /// that nobody tidies up, which is answered.
    pub fn end(&self, folder: &Path) -> io::Result<Option<PathBuf>> {
        if !self.is_dirty() {
            self.forget_note();
            if let Some(name) = self.name.get() {
                std::fs::remove_file(name)?;
            }
            return Ok(None);
        }
        let name = self.named_in(folder)?;
        let kept = unsaved::kept_path(folder, self.id);
        std::fs::rename(name, &kept)?;
        Ok(Some(kept))
    }

    /// Writes a note into the folder, beside the staging file, that says what its bytes were to become; it goes with the
    /// edit, if they have become it by then. Answers whether it was written just now.
    pub fn write_note(
        &self,
        folder: &Path,
        place: &Place,
        key: &Key,
        carries: Carries,
        now: SystemTime,
    ) -> io::Result<bool> {
        let record = {
            let state = self.state.lock();
            self.record(&state, state.present.ranges().collect())
        };
        let generation = record.generation;
        if self.noted.load(Ordering::Relaxed) == generation {
            return Ok(false);
        }
        self.named_in(folder)?;
        Note::new(place.clone(), key.as_str().to_owned(), carries, record, now).write(folder)?;
        self.noted.store(generation, Ordering::Relaxed);
        Ok(true)
    }

    /// Whether a note tells of it.
    pub fn is_noted(&self) -> bool {
        self.noted.load(Ordering::Relaxed) > 0
    }

    /// The name of the staging file. It gets one if nobody was to open it until now.
    fn named_in(&self, folder: &Path) -> io::Result<&Path> {
        if let Some(name) = self.name.get() {
            return Ok(name);
        }
        let path = path_of(folder, self.id);
        let unnamed = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
        rustix::fs::linkat(CWD, unnamed, CWD, &path, AtFlags::SYMLINK_FOLLOW)?;
        Ok(self.name.get_or_init(|| path))
    }

    /// An edit whose mount has ended, by its note. Dropping it removes nothing.
    pub fn kept(staging_file: &Path, noted: &record::Edit) -> io::Result<Edit> {
        let file = File::options().read(true).write(true).open(staging_file)?;
        let present = noted
            .added
            .iter()
            .cloned()
            .fold(RangeSet::default(), |mut present, range| {
                present.insert(range);
                present
            });
        let edit = Edit::of_record(file, None, Recorder::default(), noted, present)?;
        // By now nobody can tell what was there before the file was opened: whatever differs is somebody else's.
        edit.state.lock().fetched = true;
        Ok(edit)
    }

    /// Its bytes are in the store: nothing is left to tell.
    pub fn forget_note(&self) {
        if let Some(folder) = self.name.get().and_then(|name| name.parent())
            && self.noted.swap(0, Ordering::Relaxed) > 0
        {
            // A note without its file says so to whoever reads it.
            let _ = std::fs::remove_file(unsaved::path(folder, self.id));
        }
    }

    fn restored(staging: &Staging, edit: &record::Edit, present: RangeSet) -> io::Result<Edit> {
        let id = Uuid::from_u128(edit.id);
        // First: what it says of a file that lives is of yesterday, and whoever uploads that would have this process take
        // newer bytes for stored.
        match std::fs::remove_file(unsaved::path(&staging.folder, id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let name = path_of(&staging.folder, id);
        let file = File::options().read(true).write(true).open(&name)?;
        let edit = Edit::of_record(file, Some(name), staging.recorder.clone(), edit, present)?;
        edit.note(&edit.state.lock(), None);
        Ok(edit)
    }

    fn of_record(
        file: File,
        name: Option<PathBuf>,
        recorder: Recorder,
        edit: &record::Edit,
        present: RangeSet,
    ) -> io::Result<Edit> {
        let record::Edit {
            id,
            size,
            base,
            visible,
            added: _,
            fetched,
            generation,
            committed,
            opened,
            lost_at,
            copy,
            tried,
        } = edit;
        // What was written beyond it was not told of, and must not show when the file grows over it.
        file.set_len(*size)?;
        let dirty = generation > committed;
        let state = State {
            size: *size,
            base: base.clone().map(ETag),
            visible: *visible,
            present,
            fetched: *fetched,
            generation: generation + if dirty { GENERATIONS_SKIPPED } else { 0 },
            committed: *committed,
            opened: clock::moment_of(*opened),
            lost_at: lost_at.map(system_time),
            copy: copy.clone().map(Key::new),
        };
        Ok(Edit {
            id: Uuid::from_u128(*id),
            file: Arc::new(file),
            name: name.map(OnceLock::from).unwrap_or_default(),
            recorder,
            changing: Mutex::new(()),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            uploading: AtomicBool::new(false),
            tried: AtomicBool::new(*tried),
            settling: AtomicBool::new(false),
            noted: AtomicU64::new(0),
        })
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        match self.is_dirty() {
            // It is a person's by now.
            true if self.is_noted() => return,
            true => {}
            false => self.forget_note(),
        }
        if let Some(name) = self.name.take() {
            let gone = Record::EditGone(self.id.as_u128());
            self.recorder.note_removal(&gone, name);
        }
    }
}
