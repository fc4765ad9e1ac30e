//! The table as it was when its worker died: what the records say, taken together.

use std::collections::{BTreeMap, HashMap};

use super::attempt::Before;
use super::record::{Connection, Edit, File, Folder, Inode, Pinned, Place, Record};
use crate::writer::ranges::RangeSet;

/// Requests of dead workers that may still be sent again are remembered up to this number, the newest ones: far
/// more than a kernel has on its way to one mount.
const INHERITED_REQUESTS_MAX: usize = 65_536;

/// What a dead worker leaves.
#[derive(Clone, Default, Debug)]
pub struct Inheritance {
    /// What was agreed with the kernel.
    pub connection: Option<Connection>,
    /// Where the objects are.
    pub place: Option<Place>,
    /// Inodes by number.
    pub inodes: BTreeMap<u64, Inode>,
    /// Edits by id, with all ranges that are here.
    pub edits: HashMap<u128, (Edit, RangeSet)>,
    /// Open files by handle.
    pub files: BTreeMap<u64, OpenFile>,
    /// Open folders by handle, with the names that were given out, each with the position after it.
    pub folders: BTreeMap<u64, (Folder, Vec<(String, u64)>)>,
    /// Requests whose reply may not have reached the kernel.
    pub requests: BTreeMap<u64, Before>,
    /// Uploads in parts that were neither completed nor given up: key by id.
    pub uploads: BTreeMap<String, String>,
    /// The next inode number.
    pub next_ino: u64,
    /// The next handle.
    pub next_handle: u64,
}

/// An open file, and what came of it.
#[derive(Clone, PartialEq, Debug)]
pub struct OpenFile {
    /// How it was opened.
    pub file: File,
    /// Something was changed through it.
    pub wrote: bool,
    /// The version that it reads.
    pub pinned: Option<Pinned>,
}

impl Inheritance {
    /// Takes one more record. Taking one twice changes nothing.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Format(_) => {}
            Record::Connection(connection) => self.connection = Some(connection),
            Record::Inode(inode) => {
                self.skip_number(inode.ino);
                self.inodes.insert(inode.ino, inode);
            }
            Record::InodeGone(ino) => {
                self.skip_number(ino);
                self.inodes.remove(&ino);
            }
            Record::Edit(edit) => self.apply_edit(edit),
            Record::EditGone(id) => {
                self.edits.remove(&id);
            }
            Record::File(file) => {
                self.next_handle = self.next_handle.max(file.handle + 1);
                let open = OpenFile {
                    file,
                    wrote: false,
                    pinned: None,
                };
                self.files.insert(open.file.handle, open);
            }
            Record::FileWrote(handle) => {
                if let Some(open) = self.files.get_mut(&handle) {
                    open.wrote = true;
                }
            }
            Record::FilePinned(handle, pinned) => {
                if let Some(open) = self.files.get_mut(&handle) {
                    open.pinned = Some(pinned);
                }
            }
            Record::FileClosed(handle) => {
                self.files.remove(&handle);
            }
            Record::Folder(folder) => {
                self.next_handle = self.next_handle.max(folder.handle + 1);
                self.folders.insert(folder.handle, (folder, Vec::new()));
            }
            Record::ListingBegun(handle) => {
                if let Some((_, listed)) = self.folders.get_mut(&handle) {
                    listed.clear();
                }
            }
            Record::Listed(handle, names) => {
                if let Some((_, listed)) = self.folders.get_mut(&handle)
                    && let Some((_, first)) = names.first()
                {
                    // A reply that did not fit is given out once more, from where it was cut; and so is what a program
                    // goes back to. What lies behind was given out all the same.
                    let last = names.last().map_or(*first, |(_, after)| *after);
                    let begin = listed.partition_point(|(_, after)| after < first);
                    let end = listed.partition_point(|(_, after)| *after <= last);
                    listed.splice(begin..end.max(begin), names);
                }
            }
            Record::FolderClosed(handle) => {
                self.folders.remove(&handle);
            }
            Record::Began(request, intent) => {
                let before = self.requests.entry(request).or_default();
                before.intent = Some(intent);
                self.forget_old_requests();
            }
            Record::Ended(request, outcome) => {
                let before = self.requests.entry(request).or_default();
                before.outcome = Some(outcome);
                self.forget_old_requests();
            }
            Record::Answered(request) => {
                self.requests.remove(&request);
            }
            Record::Numbers { ino, handle } => {
                self.next_ino = self.next_ino.max(ino);
                self.next_handle = self.next_handle.max(handle);
            }
            Record::UploadBegun(upload, key) => {
                self.uploads.insert(upload, key);
            }
            Record::UploadOver(upload) => {
                self.uploads.remove(&upload);
            }
            Record::Place(place) => self.place = Some(place),
        }
    }

    /// This inode number was given out.
    pub fn skip_number(&mut self, ino: u64) {
        self.next_ino = self.next_ino.max(ino + 1);
    }

    /// Records that say the same.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let Inheritance {
            connection,
            place,
            inodes,
            edits,
            files,
            folders,
            requests,
            uploads,
            next_ino,
            next_handle,
        } = self;
        let numbers = Record::Numbers {
            ino: *next_ino,
            handle: *next_handle,
        };
        let edits = edits.values().map(|(edit, present)| {
            Record::Edit(Edit {
                added: present.ranges().collect(),
                ..edit.clone()
            })
        });
        let files = files.values().flat_map(|open| {
            let handle = open.file.handle;
            let pinned = open.pinned.clone();
            [
                Some(Record::File(open.file.clone())),
                open.wrote.then_some(Record::FileWrote(handle)),
                pinned.map(|pinned| Record::FilePinned(handle, pinned)),
            ]
            .into_iter()
            .flatten()
        });
        let folders = folders.values().flat_map(|(folder, listed)| {
            let listed = Record::Listed(folder.handle, listed.clone());
            [Record::Folder(folder.clone()), listed]
        });
        let requests = requests.iter().flat_map(|(request, before)| {
            let began = before
                .intent
                .clone()
                .map(|intent| Record::Began(*request, intent));
            let ended = before
                .outcome
                .clone()
                .map(|outcome| Record::Ended(*request, outcome));
            [began, ended].into_iter().flatten()
        });
        let uploads = uploads
            .iter()
            .map(|(upload, key)| Record::UploadBegun(upload.clone(), key.clone()));
        std::iter::once(numbers)
            .chain(connection.map(Record::Connection))
            .chain(place.clone().map(Record::Place))
            .chain(edits)
            .chain(inodes.values().cloned().map(Record::Inode))
            .chain(files)
            .chain(folders)
            .chain(requests)
            .chain(uploads)
    }

    fn apply_edit(&mut self, mut edit: Edit) {
        let added = std::mem::take(&mut edit.added);
        let (known, present) = self
            .edits
            .entry(edit.id)
            .or_insert_with(|| (edit.clone(), RangeSet::default()));
        added.into_iter().for_each(|range| present.insert(range));
        present.truncate(edit.visible);
        *known = edit;
    }

    fn forget_old_requests(&mut self) {
        while self.requests.len() > INHERITED_REQUESTS_MAX {
            self.requests.pop_first();
        }
    }
}
