//! Open files and folders to records and back.
//!
//! A folder that a dead worker had listed in part is listed again, and read while it is; what was given out counts as
//! given out, at the positions that the kernel knows, and what else the listing finds follows. So nothing is given out
//! twice, nor left out. Of what was given out only that is looked up again which the kernel asks for again: a reply
//! that it did not get, or where a program goes back to.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use super::{Access, FileHandle, FolderHandle, HandleId, Handles, Opening, Pinned, View};
use crate::clock;
use crate::error::FsError;
use crate::namespace::directory::Snapshot;
use crate::namespace::inode::Ino;
use crate::namespace::names::FileName;
use crate::namespace::runs::Entry;
use crate::namespace::{Namespace, Source};
use crate::reader::Reader;
use crate::store::{ETag, Key};
use crate::succession::record::{self, Record};
use crate::succession::table::OpenFile;
use crate::succession::{Inheritance, Recorder};

/// Names that are asked for at the same time.
const QUESTIONS_IN_FLIGHT: usize = 16;

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

    /// The view of somebody who had read a part from the dead worker, from a position on; `earlier` is the one that
    /// does not go back so far.
    pub(super) async fn go_on(
        &self,
        namespace: &Arc<Namespace>,
        mut earlier: Option<Arc<View>>,
        position: u64,
    ) -> Result<Arc<View>, FsError> {
        let given = self.given.lock().clone().unwrap_or_default();
        loop {
            let made = Arc::new(match &earlier {
                Some(view) => {
                    self.view_from(namespace, &given, &view.rest(&given), position)
                        .await?
                }
                None => {
                    let (snapshot, source) = namespace.list(self.ino)?;
                    let rest = Rest::new(&given, snapshot, source);
                    self.view_from(namespace, &given, &rest, position).await?
                }
            });
            let mut current = self.view.lock();
            match &*current {
                // Who reads at the same time has made one, too; all go on with the first.
                Some(other)
                    if !earlier
                        .as_ref()
                        .is_some_and(|earlier| Arc::ptr_eq(earlier, other)) =>
                {
                    if other.begins_at <= position {
                        return Ok(Arc::clone(other));
                    }
                    earlier = Some(Arc::clone(other));
                }
                Some(_) | None => return Ok(Arc::clone(current.insert(made))),
            }
        }
    }

    async fn view_from(
        &self,
        namespace: &Arc<Namespace>,
        given: &Given,
        rest: &Rest,
        position: u64,
    ) -> Result<View, FsError> {
        let again: Vec<(FileName, u64)> =
            given[given.partition_point(|(_, after)| *after <= position)..].to_vec();
        let found: Vec<Option<(FileName, Entry, u64)>> = stream::iter(again)
            .map(|(name, after)| async move {
                let entry = self.entry_now(namespace, rest, &name).await?;
                Ok::<_, FsError>(entry.map(|entry| (name, entry, after)))
            })
            .buffered(QUESTIONS_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut head: Vec<(FileName, Entry, u64)> = found.into_iter().flatten().collect();
        head.extend(rest.fresh.iter().cloned());
        Ok(View {
            head,
            begins_at: position,
            tail_from: rest.tail_from,
            snapshot: Snapshot {
                head: rest.local.clone(),
                changed: rest.changed.clone(),
            },
            removed: rest.removed.clone(),
            source: rest.source.clone(),
        })
    }

    /// What a name that was given out stands for now.
    async fn entry_now(
        &self,
        namespace: &Arc<Namespace>,
        rest: &Rest,
        name: &FileName,
    ) -> Result<Option<Entry>, FsError> {
        if let Some((_, entry)) = rest.local.iter().find(|(local, _)| local == name) {
            return Ok(Some(entry.clone()));
        }
        if rest.removed.contains(name) {
            return Ok(None);
        }
        let listed = match &rest.source {
            Source::Run(listing) => return Ok(listing.run.get(name.as_str()).cloned()),
            Source::Lister(lister) => lister.seen(name),
        };
        // The kernel was told of most of them with their attributes, so they are known.
        let known = || namespace.table().entry(self.ino, name);
        if let Some(entry) = listed.or_else(known) {
            return Ok(Some(entry));
        }
        match namespace.resolve(self.ino, name).await {
            Ok(resolved) => Ok(Some(resolved.entry)),
            Err(FsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What follows what a dead worker has given out.
struct Rest {
    /// Entries that local changes made.
    local: Vec<(FileName, Entry)>,
    /// Those of them that were not given out, each with the position after it.
    fresh: Vec<(FileName, Entry, u64)>,
    /// Names that the listing's entries do not count for: those that changed, and those that were given out.
    changed: HashSet<FileName>,
    /// Names that were removed here.
    removed: HashSet<FileName>,
    tail_from: u64,
    source: Source,
}

impl Rest {
    fn new(given: &Given, snapshot: Snapshot, source: Source) -> Rest {
        let Snapshot { head, mut changed } = snapshot;
        let names: HashSet<&FileName> = given.iter().map(|(name, _)| name).collect();
        let last = given.last().map_or(0, |(_, after)| *after);
        let fresh: Vec<_> = head
            .iter()
            .filter(|(name, _)| !names.contains(name))
            .zip(last + 1..)
            .map(|((name, entry), after)| (name.clone(), entry.clone(), after))
            .collect();
        let made: HashSet<&FileName> = head.iter().map(|(name, _)| name).collect();
        let removed = changed
            .iter()
            .filter(|name| !made.contains(name))
            .cloned()
            .collect();
        changed.extend(names.into_iter().cloned());
        Rest {
            tail_from: last + fresh.len() as u64,
            local: head,
            fresh,
            changed,
            removed,
            source,
        }
    }
}

impl View {
    /// The same entries behind those that were given out, under the same positions.
    fn rest(&self, given: &Given) -> Rest {
        let last = given.last().map_or(0, |(_, after)| *after);
        Rest {
            local: self.snapshot.head.clone(),
            fresh: self
                .head
                .iter()
                .filter(|(_, _, after)| *after > last)
                .cloned()
                .collect(),
            changed: self.snapshot.changed.clone(),
            removed: self.removed.clone(),
            tail_from: self.tail_from,
            source: self.source.clone(),
        }
    }
}
