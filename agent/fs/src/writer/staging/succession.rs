//! Staged bytes to records and back: what a successor needs besides the staging file itself.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

use super::{Edit, Staging, State};
use crate::clock;
use crate::store::{ETag, Key};
use crate::succession::Inheritance;
use crate::succession::record::{self, Record, system_time, wall};
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
        if !self.recorder.is_on() {
            return Ok((tempfile::tempfile_in(&self.folder)?, None));
        }
        let name = self.path_of(id);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&name)?;
        Ok((file, Some(name)))
    }

    /// The edits that a dead worker left. One whose file cannot be opened was dropped at the very moment.
    pub fn restore(&self, inheritance: &Inheritance) -> HashMap<u128, Arc<Edit>> {
        let mut edits = HashMap::new();
        for (edit, present) in inheritance.edits.values() {
            match Edit::restored(self, edit, present.clone()) {
                Ok(restored) => {
                    edits.insert(edit.id, Arc::new(restored));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let id = Uuid::from_u128(edit.id);
                    tracing::error!(%id, %error, "a staged file of the dead worker cannot be opened");
                }
            }
        }
        edits
    }

    /// Removes staging files that are none of these.
    pub fn purge(&self, kept: &HashMap<u128, Arc<Edit>>) {
        let Ok(found) = std::fs::read_dir(&self.folder) else {
            return;
        };
        for entry in found.flatten() {
            let known = entry
                .file_name()
                .to_str()
                .and_then(|name| Uuid::try_parse(name).ok())
                .is_none_or(|id| kept.contains_key(&id.as_u128()));
            if !known {
                // One that cannot be removed takes room, and nothing else.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn path_of(&self, id: Uuid) -> PathBuf {
        self.folder.join(id.to_string())
    }
}

impl Edit {
    /// Notes the present state, and a range that came to be here; the caller holds the state.
    pub(super) fn note(&self, state: &State, added: Option<Range<u64>>) {
        self.note_with(state, added, None);
    }

    /// The same, and something else at one stroke.
    pub(super) fn note_with(&self, state: &State, added: Option<Range<u64>>, other: Option<Record>) {
        if self.name.is_none() || !self.recorder.is_on() {
            return;
        }
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
        let edit = Record::Edit(record::Edit {
            id: self.id.as_u128(),
            size: *size,
            base: base.as_ref().map(|etag| etag.0.clone()),
            visible: *visible,
            added: added.into_iter().collect(),
            fetched: *fetched,
            generation: *generation,
            committed: *committed,
            opened: clock::nanos_of(*opened),
            lost_at: lost_at.map(wall),
            copy: copy.as_ref().map(|key| key.as_str().to_owned()),
            tried: self.tried.load(Ordering::Relaxed),
        });
        self.recorder.note_all(std::iter::once(&edit).chain(&other));
    }

    /// An upload in parts was begun: whoever succeeds this process must know of it at once, since nothing else may
    /// be written before it is done.
    pub(in crate::writer) fn note_upload(&self, key: &Key, upload: &str) {
        let begun = Record::UploadBegun(upload.to_owned(), key.as_str().to_owned());
        self.recorder.note(&begun);
        self.recorder.write_down();
    }

    /// It was completed or given up.
    pub(in crate::writer) fn note_upload_over(&self, upload: String) {
        self.recorder.note_in_passing(&Record::UploadOver(upload));
    }

    fn restored(staging: &Staging, edit: &record::Edit, present: RangeSet) -> io::Result<Edit> {
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
        let id = Uuid::from_u128(*id);
        let name = staging.path_of(id);
        let file = File::options().read(true).write(true).open(&name)?;
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
        let edit = Edit {
            id,
            file: Arc::new(file),
            name: Some(name),
            recorder: staging.recorder.clone(),
            changing: Mutex::new(()),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            uploading: AtomicBool::new(false),
            tried: AtomicBool::new(*tried),
            settling: AtomicBool::new(false),
        };
        edit.note(&edit.state.lock(), None);
        Ok(edit)
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        // Where the recorder is off, this process leaves everything to another one.
        if let Some(name) = self.name.take()
            && self.recorder.is_on()
        {
            self.recorder
                .note_in_passing(&Record::EditGone(self.id.as_u128()));
            // It takes room until the next worker tidies up, and does nothing else.
            let _ = std::fs::remove_file(name);
        }
    }
}
