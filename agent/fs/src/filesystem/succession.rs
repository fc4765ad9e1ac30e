//! A filesystem that goes on where a dead worker has stopped, and what it leaves to the next one.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Filesystem, Parts, Settings};
use crate::handle::Handles;
use crate::namespace::inode::Table;
use crate::store::{Key, StoreError};
use crate::succession::record::Record;
use crate::succession::{Inheritance, Recorder};
use crate::writer::staging::Staging;

impl Filesystem {
    /// The filesystem of a dead worker: the kernel finds its inodes and handles again, and the store gets what
    /// was written. The inheritance is what `parts.recorder` goes on with.
    pub fn going_on(settings: Settings, parts: Parts, inheritance: &Inheritance) -> Arc<Filesystem> {
        let staging = Staging {
            folder: settings.staging.clone(),
            recorder: parts.recorder.clone(),
        };
        let edits = staging.restore(inheritance);
        staging.purge(&edits);
        let table = Table::restored(inheritance, &edits, parts.recorder.clone());
        let handles = Handles::restored(inheritance, &parts.reader, parts.recorder.clone());
        Filesystem::of(settings, parts, staging, (table, handles))
    }

    /// Nobody goes on with it: takes away what was kept for that.
    pub fn leave_nothing(&self) {
        if self.recorder.is_on() {
            self.recorder.give_up();
            self.writer.staging().purge(&HashMap::new());
        }
    }

    /// Who notes what a successor must know.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Writes down what was noted so far: to be done before the kernel is told of it, and before the store loses
    /// what a repetition would need.
    pub fn write_down(&self) {
        if self.recorder.write_down() {
            let recorder = self.recorder.clone();
            self.tasks
                .spawn_blocking_on(move || recorder.compact(), &self.runtime);
        }
    }

    /// Takes up the work that a dead worker had begun of its own accord: closes what it had opened for a moment,
    /// uploads what nobody has open any more, and gives up the uploads that it cannot go on with, of which the
    /// store would keep the parts for ever.
    pub fn take_up(self: &Arc<Self>, inheritance: &Inheritance) {
        for (upload, key) in inheritance.uploads.clone() {
            let filesystem = Arc::clone(self);
            let give_up = async move {
                let key = Key::new(key);
                match filesystem.store.abort_upload(&key, &upload).await {
                    Ok(()) | Err(StoreError::NotFound) => {}
                    Err(error) => {
                        tracing::info!(key = key.as_str(), %error, "an unfinished upload stays behind");
                    }
                }
                filesystem.recorder.note_in_passing(&Record::UploadOver(upload));
            };
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
    }
}
