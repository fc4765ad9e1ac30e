//! Open files and folders to records and back.
//!
//! A folder that a dead worker had listed in part is listed again; what was given out counts as given out, in the
//! order and at the positions that the kernel knows, and what is new to the listing follows. So nothing is given
//! out twice, nor left out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use parking_lot::Mutex;

use super::{Access, FileHandle, FolderHandle, HandleId, Handles, Opening, Pinned, View};
use crate::clock;
use crate::error::FsError;
use crate::namespace::directory::{Listing, Snapshot};
use crate::namespace::inode::Ino;
use crate::namespace::names::FileName;
use crate::namespace::runs::{Entry, Run};
use crate::namespace::{Namespace, Source};
use crate::reader::Reader;
use crate::store::{ETag, Key};
use crate::succession::record::{self, Record};
use crate::succession::table::OpenFile;
use crate::succession::{Inheritance, Recorder};

/// Entries taken from a listing at a time.
const STEP_ENTRIES: usize = 4096;

/// Names that a dead worker has given out, each with the position after it, ascending.
pub(super) type Given = Vec<(FileName, u64)>;

impl Handles {
    /// The handles that a dead worker left.
    pub fn restored(inheritance: &Inheritance, reader: &Reader, recorder: Recorder) -> Handles {
        let files = inheritance.files.values().map(|open| {
            let handle = FileHandle::restored(open, reader, &recorder);
            (handle.id, Arc::new(handle))
        });
        let folders = inheritance.folders.values().map(|(folder, listed)| {
            let handle = FolderHandle::restored(folder, listed, &recorder);
            (handle.id, Arc::new(handle))
        });
        Handles {
            next: AtomicU64::new(inheritance.next_handle.saturating_sub(1)),
            files: Mutex::new(files.collect()),
            folders: Mutex::new(folders.collect()),
            recorder,
        }
    }

    /// The file that an earlier attempt at a request had opened.
    pub fn file_of_request(&self, request: u64) -> Option<(HandleId, Arc<FileHandle>)> {
        let files = self.files.lock();
        let (id, handle) = files.iter().find(|(_, handle)| handle.request == Some(request))?;
        Some((*id, Arc::clone(handle)))
    }

    /// The folder that an earlier attempt at a request had opened.
    pub fn folder_of_request(&self, request: u64) -> Option<HandleId> {
        let folders = self.folders.lock();
        let (id, _) = folders
            .iter()
            .find(|(_, handle)| handle.request == Some(request))?;
        Some(*id)
    }

    /// Files that were opened by no request: by an operation that died with its worker.
    pub fn abandoned(&self) -> Vec<HandleId> {
        let files = self.files.lock();
        let abandoned = files.iter().filter(|(_, handle)| handle.request.is_none());
        abandoned.map(|(id, _)| *id).collect()
    }
}

impl FileHandle {
    pub(super) fn record(&self) -> record::File {
        let Access { read, write, append } = self.access;
        record::File {
            handle: self.id.0,
            ino: self.ino.0,
            access: (read, write, append),
            lineage: self.lineage,
            opened: clock::nanos_of(self.opened),
            request: self.request,
            keep_cache: self.keep_cache,
        }
    }

    fn restored(open: &OpenFile, reader: &Reader, recorder: &Recorder) -> FileHandle {
        let OpenFile { file, wrote, pinned } = open;
        let record::File {
            handle,
            ino,
            access: (read, write, append),
            lineage,
            opened,
            request,
            keep_cache,
        } = file;
        let opening = Opening {
            ino: Ino(*ino),
            access: Access {
                read: *read,
                write: *write,
                append: *append,
            },
            lineage: *lineage,
            opened: clock::moment_of(*opened),
            request: *request,
            keep_cache: *keep_cache,
        };
        let pinned = pinned.as_ref().map(|pinned| Pinned {
            epoch: pinned.epoch,
            reader: Arc::new(reader.open(
                Key::new(pinned.key.clone()),
                ETag(pinned.etag.clone()),
                pinned.size,
            )),
        });
        FileHandle {
            pinned: Mutex::new(pinned),
            wrote: AtomicBool::new(*wrote),
            ..FileHandle::new(HandleId(*handle), opening, recorder)
        }
    }
}

impl FolderHandle {
    /// Some entries are about to be given out, each with the position after it.
    pub fn note_listed(&self, entries: Vec<(FileName, u64)>) {
        if !entries.is_empty() {
            let names = entries
                .into_iter()
                .map(|(name, after)| (name.as_str().to_owned(), after));
            self.recorder.note(&Record::Listed(self.id.0, names.collect()));
        }
    }

    pub(super) fn note_begun(&self) {
        *self.given.lock() = None;
        self.recorder.note(&Record::ListingBegun(self.id.0));
    }

    pub(super) fn record(&self) -> record::Folder {
        record::Folder {
            handle: self.id.0,
            ino: self.ino.0,
            request: self.request,
        }
    }

    fn restored(folder: &record::Folder, listed: &[(String, u64)], recorder: &Recorder) -> FolderHandle {
        let given: Given = listed
            .iter()
            .filter_map(|(name, after)| Some((FileName::of_component(name)?, *after)))
            .collect();
        FolderHandle {
            given: Mutex::new(Some(Arc::new(given))),
            ..FolderHandle::new(
                (HandleId(folder.handle), Ino(folder.ino)),
                folder.request,
                recorder,
            )
        }
    }

    /// The view of somebody who had read a part from the dead worker.
    pub(super) async fn go_on(&self, namespace: &Arc<Namespace>) -> Result<Arc<View>, FsError> {
        let given = self.given.lock().clone().unwrap_or_default();
        let (snapshot, source) = namespace.list(self.ino)?;
        let (listed, started) = all_of(&source).await?;
        let Snapshot { head, changed } = snapshot;
        let mut present: HashMap<FileName, Entry> = listed
            .into_iter()
            .filter(|(name, _)| !changed.contains(name))
            .chain(head)
            .collect();
        let head: Vec<(FileName, Entry, u64)> = given
            .iter()
            .filter_map(|(name, after)| Some((name.clone(), present.get(name)?.clone(), *after)))
            .collect();
        given.iter().for_each(|(name, _)| {
            present.remove(name);
        });
        let rest = Listing {
            run: Arc::new(Run::new(present.into_iter().collect())),
            started,
            finished: Instant::now(),
        };
        let made = Arc::new(View {
            head,
            tail_from: given.last().map_or(0, |(_, after)| *after),
            snapshot: Snapshot {
                head: Vec::new(),
                changed: HashSet::new(),
            },
            source: Source::Run(rest),
        });
        // Who reads at the same time has made one, too; all go on with the first.
        Ok(Arc::clone(self.view.lock().get_or_insert(made)))
    }
}

/// Everything that a listing finds, and when it began.
async fn all_of(source: &Source) -> Result<(Vec<(FileName, Entry)>, Instant), FsError> {
    match source {
        Source::Run(listing) => Ok((listing.run.entries().to_vec(), listing.started)),
        Source::Lister(lister) => {
            let mut all = Vec::new();
            loop {
                let more = lister.entries(all.len(), STEP_ENTRIES).await?;
                if more.is_empty() {
                    return Ok((all, lister.started));
                }
                all.extend(more);
            }
        }
    }
}
