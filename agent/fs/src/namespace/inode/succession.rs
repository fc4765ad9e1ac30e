//! The inode table to records and back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::{File, Ino, Inode, Kind, Link, ROOT, Table};
use crate::clock;
use crate::namespace::directory::Directory;
use crate::namespace::names::FileName;
use crate::namespace::runs::{Entry, ObjectVersion};
use crate::store::ETag;
use crate::succession::record::{self, Record, system_time, wall};
use crate::succession::{Inheritance, Recorder};
use crate::writer::staging::{Edit, Restored};

impl Table {
    /// Adds the records of everything that was changed since the last time to a batch.
    pub fn record_changes(&mut self, batch: &mut Vec<u8>) {
        for ino in std::mem::take(&mut self.touched) {
            let record = match self.inodes.get(&ino) {
                Some(inode) => Record::Inode(record_of(ino, inode)),
                None => Record::InodeGone(ino.0),
            };
            record.write_to(batch);
        }
    }

    /// The table that a dead worker left, with the edits that could be opened again.
    pub fn restored(inheritance: &Inheritance, restored: &Restored, recorder: Recorder) -> Table {
        let Restored { edits, lost } = restored;
        let mut table = Table {
            inodes: HashMap::with_capacity(inheritance.inodes.len()),
            next: inheritance.next_ino.max(ROOT.0 + 1),
            recorder,
            touched: HashSet::new(),
        };
        for inode in inheritance.inodes.values() {
            table.inodes.insert(Ino(inode.ino), inode_of(inode, edits));
        }
        table.inodes.entry(ROOT).or_insert_with(|| Inode {
            link: Link::Root,
            kind: Kind::Folder(Directory::new(clock::wall())),
            lookups: 1,
            open: 0,
        });
        table.restore_entries();
        for inode in inheritance.inodes.values() {
            if let record::Kind::File(record::FileFacts { edit: Some(edit), .. }) = &inode.kind
                && lost.contains(edit)
            {
                table.lose(Ino(inode.ino));
            }
        }
        for open in inheritance.files.values() {
            if let Some(inode) = table.inodes.get_mut(&Ino(open.file.ino)) {
                inode.open += 1;
                if let Kind::File(file) = &mut inode.kind {
                    file.writers += u32::from(open.file.access.1);
                }
            }
        }
        for (folder, _) in inheritance.folders.values() {
            if let Some(inode) = table.inodes.get_mut(&Ino(folder.ino)) {
                inode.open += 1;
            }
        }
        table
    }

    /// Puts the entries back into their folders, and what exists only here into what the folders know.
    fn restore_entries(&mut self) {
        let entries: Vec<(Ino, Ino, FileName, bool)> = self
            .inodes
            .iter()
            .filter_map(|(ino, inode)| match &inode.link {
                Link::At(parent, name) => {
                    let local = matches!(&inode.kind, Kind::File(file) if file.object.is_none() && file.edit.is_some());
                    Some((*parent, *ino, name.clone(), local))
                }
                Link::Root | Link::Gone => None,
            })
            .collect();
        for (parent, ino, name, local) in entries {
            let Some(Inode {
                kind: Kind::Folder(folder),
                ..
            }) = self.inodes.get_mut(&parent)
            else {
                // A folder leaves the table after everything in it, so this is no table of ours; the file is
                // of use to those who have it open all the same.
                if let Some(inode) = self.inodes.get_mut(&ino) {
                    inode.link = Link::Gone;
                }
                continue;
            };
            folder.children.insert(name.clone(), ino);
            if local {
                folder.change(name, Some(Entry::Local), None);
            }
        }
    }

    /// What was written to a file is gone. Who has it open is told; what the store has is another version.
    fn lose(&mut self, ino: Ino) {
        let path = self.path(ino).unwrap_or_default();
        tracing::error!(
            path,
            "what was written to a file is lost: its staging file is not there"
        );
        if let Ok(file) = self.file_mut(ino) {
            file.lineage += 1;
            file.cached = None;
            file.mtime_set = false;
        }
    }

    /// Inodes that the kernel has and that could be looked up again at any time, as far as can be told here; with when
    /// the store last spoke of each, if it did.
    pub fn unused(&self) -> Vec<(Option<Instant>, Ino)> {
        self.inodes
            .iter()
            .filter(|(_, inode)| inode.lookups > 0 && inode.open == 0 && matches!(inode.link, Link::At(..)))
            .filter_map(|(ino, inode)| match &inode.kind {
                Kind::Folder(folder) => {
                    let leaf = folder.children.is_empty() && !folder.has_local_entries();
                    leaf.then_some((None, *ino))
                }
                Kind::File(file) => {
                    // What was set here and is not in S3 is nowhere else.
                    let clean = file.edit.is_none() && !file.mtime_set && file.holds == 0;
                    clean.then_some((Some(file.verified), *ino))
                }
            })
            .collect()
    }

    pub(super) fn touch(&mut self, ino: Ino) {
        if self.recorder.is_on() {
            self.touched.insert(ino);
            self.recorder.mark();
        }
    }
}

fn record_of(ino: Ino, inode: &Inode) -> record::Inode {
    let Inode {
        link,
        kind,
        lookups,
        open: _,
    } = inode;
    record::Inode {
        ino: ino.0,
        lookups: *lookups,
        link: match link {
            Link::Root => record::Link::Root,
            Link::At(parent, name) => record::Link::At(parent.0, name.as_str().to_owned()),
            Link::Gone => record::Link::Gone,
        },
        kind: match kind {
            Kind::Folder(folder) => record::Kind::Folder {
                changed: wall(folder.changed),
                marker: folder.has_marker(),
            },
            Kind::File(file) => record::Kind::File(facts_of(file)),
        },
    }
}

fn facts_of(file: &File) -> record::FileFacts {
    let File {
        object,
        metadata,
        mtime,
        mtime_set,
        verified,
        epoch,
        edit,
        // Both are counted anew: by handles, and by operations on their way, of which there are none.
        writers: _,
        holds: _,
        lineage,
        cached,
    } = file;
    record::FileFacts {
        object: object.as_ref().map(|object| record::Object {
            size: object.size,
            etag: object.etag.0.clone(),
            modified: wall(object.modified),
        }),
        // It may be large, and can be had from the store, if that is what it is of.
        metadata: metadata.clone().filter(|_| edit.is_some()),
        mtime: wall(*mtime),
        mtime_set: *mtime_set,
        verified: clock::nanos_of(*verified),
        epoch: *epoch,
        lineage: *lineage,
        cached: *cached,
        edit: edit.as_ref().map(|edit| edit.id().as_u128()),
    }
}

fn inode_of(inode: &record::Inode, edits: &HashMap<u128, Arc<Edit>>) -> Inode {
    let link = match &inode.link {
        record::Link::Root => Link::Root,
        record::Link::At(parent, name) => match FileName::of_component(name) {
            Some(name) => Link::At(Ino(*parent), name),
            None => Link::Gone,
        },
        record::Link::Gone => Link::Gone,
    };
    let kind = match &inode.kind {
        record::Kind::Folder { changed, marker } => {
            let mut folder = Directory::new(system_time(*changed));
            folder.set_marker(*marker);
            Kind::Folder(folder)
        }
        record::Kind::File(facts) => Kind::File(file_of(facts, edits)),
    };
    Inode {
        link,
        kind,
        lookups: inode.lookups,
        open: 0,
    }
}

fn file_of(facts: &record::FileFacts, edits: &HashMap<u128, Arc<Edit>>) -> File {
    let record::FileFacts {
        object,
        metadata,
        mtime,
        mtime_set,
        verified,
        epoch,
        lineage,
        cached,
        edit,
    } = facts;
    let edit = edit.and_then(|id| edits.get(&id).cloned());
    // Of what is nowhere to be found only the store can tell.
    let nothing = object.is_none() && edit.is_none();
    File {
        object: object.as_ref().map(|object| {
            Arc::new(ObjectVersion {
                size: object.size,
                etag: ETag(object.etag.clone()),
                modified: system_time(object.modified),
            })
        }),
        metadata: metadata.clone(),
        mtime: system_time(*mtime),
        mtime_set: *mtime_set,
        verified: clock::moment_of(if nothing { 0 } else { *verified }),
        epoch: *epoch,
        edit,
        writers: 0,
        holds: 0,
        lineage: *lineage,
        cached: *cached,
    }
}
