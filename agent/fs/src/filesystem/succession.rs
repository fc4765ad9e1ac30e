//! A filesystem that goes on where a dead worker has stopped, and what it leaves to the next one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Filesystem, Parts, Settings};
use crate::clock;
use crate::handle::Handles;
use crate::namespace::inode::{File, Metadata, Table, format_mtime};
use crate::store::{Key, StoreError};
use crate::succession::record::Record;
use crate::succession::{Inheritance, Recorder};
use crate::unsaved::{self, Carries, Place};
use crate::writer::staging::Staging;

/// Between attempts to have the store forget what a dead worker had begun to upload.
const ABORT_PAUSE: Duration = Duration::from_secs(60);

impl Filesystem {
    /// The filesystem of a dead worker: the kernel finds its inodes and handles again, and the store gets what
    /// was written. The inheritance is what `parts.recorder` goes on with. After a failure everything is as it was, and
    /// somebody else may try.
    pub fn going_on(
        settings: Settings,
        parts: Parts,
        inheritance: &Inheritance,
    ) -> io::Result<Arc<Filesystem>> {
        let staging = Staging {
            folder: settings.staging.clone(),
            recorder: parts.recorder.clone(),
            lock: settings.lock.clone(),
        };
        let restored = staging.restore(inheritance)?;
        staging.purge(&restored.edits);
        let table = Table::restored(inheritance, &restored, parts.recorder.clone());
        let handles = Handles::restored(inheritance, &parts.reader, parts.recorder.clone());
        Ok(Filesystem::of(settings, parts, staging, (table, handles)))
    }

    /// What was written may not get into the store before the process ends: notes beside the staging files say what they
    /// were to become. Those of what is in the store go.
    pub fn note_unsaved(&self, place: &Place) {
        let staging = self.writer.staging();
        let mut written = Vec::new();
        let edits = self.namespace.table().edits();
        if edits.iter().any(|(_, edit)| edit.is_dirty())
            && let Err(error) = staging.make_folder()
        {
            tracing::error!(folder = %staging.folder.display(), %error, "the staging folder cannot be made");
        }
        for (ino, edit) in edits {
            if !edit.is_dirty() {
                edit.forget_note();
                continue;
            }
            let Ok(key) = self.namespace.key_of(ino) else {
                // It was removed: nobody misses it.
                continue;
            };
            let Ok(carries) = self.namespace.table().file(ino).map(carries) else {
                continue;
            };
            let noted = edit.write_note(&staging.folder, place, &key, carries, clock::wall());
            match noted {
                Ok(true) => written.push(edit.id()),
                Ok(false) => {}
                Err(error) => tracing::error!(
                    key = key.as_str(), %error,
                    "no note can be written of what is still to be uploaded"
                ),
            }
        }
        if !written.is_empty()
            && let Err(error) = unsaved::sync(&staging.folder, &written)
        {
            tracing::error!(folder = %staging.folder.display(), %error, "notes may not outlive a power loss");
        }
    }

    /// Nobody goes on with it: takes away what was kept for that. What could not be uploaded stays in the cache folder,
    /// for a person.
    pub fn leave_nothing(&self, place: &Place) {
        self.recorder.give_up();
        // Where the disk was full there may be room by now.
        self.note_unsaved(place);
        let folder = &self.writer.staging().folder;
        let edits = self.namespace.table().edits();
        for (ino, edit) in edits {
            let path = || self.namespace.table().path(ino).unwrap_or_default();
            match edit.end(folder) {
                Ok(None) => {}
                Ok(Some(kept)) if edit.is_noted() => tracing::error!(
                    path = path(), kept = %kept.display(), size = edit.size(), written = ?edit.staged(),
                    "a file could not be uploaded; what was written to it is kept: `mooring-fs recover` uploads it"
                ),
                Ok(Some(kept)) => tracing::error!(
                    path = path(), kept = %kept.display(), size = edit.size(), written = ?edit.staged(),
                    "a file could not be uploaded; what was written to it is kept, without a note: bring it to the store by hand"
                ),
                Err(error) if edit.is_dirty() => tracing::error!(
                    path = path(), %error,
                    "a file could not be uploaded, and what was written to it cannot be kept"
                ),
                Err(error) => tracing::warn!(path = path(), %error, "a staging file cannot be removed"),
            }
        }
        // Unless something was kept.
        let _ = std::fs::remove_dir(folder);
    }

    /// Who notes what a successor must know.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Writes down what was noted so far: to be done before the kernel is told of it, and before the store loses
    /// what a repetition would need.
    pub fn write_down(&self) {
        self.recorder.write_down();
        if self.recorder.wants_upkeep() {
            let recorder = self.recorder.clone();
            self.tasks
                .spawn_blocking_on(move || recorder.keep_up(), &self.runtime);
        }
    }

    /// Half of the inodes that the kernel has and nobody uses: those of which the store has not spoken for the longest
    /// time.
    pub fn unused_inodes(&self) -> Vec<u64> {
        let mut unused = self.namespace.table().unused();
        let half = unused.len() / 2;
        if half > 0 {
            unused.select_nth_unstable(half);
            unused.truncate(half);
        }
        unused.into_iter().map(|(_, ino)| ino.0).collect()
    }

    /// Takes up the work that a dead worker had begun of its own accord: closes what it had opened for a moment,
    /// uploads what nobody has open any more, and gives up the uploads that it cannot go on with, of which the
    /// store would keep the parts for ever.
    pub fn take_up(self: &Arc<Self>, inheritance: &Inheritance) {
        for (upload, key) in inheritance.uploads.clone() {
            let filesystem = Arc::clone(self);
            let give_up = async move { filesystem.give_up_upload(&Key::new(key), upload).await };
            self.tasks.spawn_on(give_up, &self.runtime);
        }

        for handle in self.handles.abandoned() {
            self.release(handle);
        }
        let edits = self.namespace.table().edits();
        for (ino, edit) in edits {
            let open = self
                .namespace
                .table()
                .get(ino)
                .map_or(0, |inode| inode.open_count());
            let writers = self.namespace.table().file(ino).map_or(0, |file| file.writers);
            match edit.is_dirty() {
                true if writers == 0 => {
                    let filesystem = Arc::clone(self);
                    let settle = async move { filesystem.settle(ino).await };
                    self.tasks.spawn_on(settle, &self.runtime);
                }
                // Who reads it may have these bytes nowhere else, if it is just being removed or replaced.
                false if open == 0 => self.drop_edit(ino),
                true | false => {}
            }
        }
        self.write_down();
    }

    /// However long the store is away: whoever succeeds this process is told of it until it is done.
    async fn give_up_upload(&self, key: &Key, upload: String) {
        loop {
            match self.store.abort_upload(key, &upload).await {
                Ok(()) | Err(StoreError::NotFound) => break,
                Err(error) => {
                    tracing::info!(key = key.as_str(), %error, "an unfinished upload stays behind for now");
                }
            }
            tokio::select! {
                // Both arms are cancel-safe: they hold no state.
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(ABORT_PAUSE) => {}
            }
        }
        self.recorder.note(&Record::UploadOver(upload));
        self.write_down();
    }
}

/// What the object of a dirty file is to carry.
fn carries(file: &File) -> Carries {
    let known = file.metadata.clone();
    Carries {
        // An object that never was carries nothing; of another one a listing does not tell.
        metadata: known.or_else(|| file.object.is_none().then(Metadata::new)),
        mtime: file.mtime_set.then(|| format_mtime(file.mtime)),
    }
}
