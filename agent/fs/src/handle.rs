//! Open files and folders: what each handle number stands for.
//!
//! A file handle is pinned to the version that it was opened with, so that it never mixes two versions;
//! only changes made here (an upload, a rename) move it on. It knows the line of versions that it belongs to. Invariant: a handle lives until the kernel
//! releases it, and its inode with it; whoever succeeds this process has it under the same number.

mod succession;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use self::succession::Given;
use crate::error::FsError;
use crate::namespace::directory::Snapshot;
use crate::namespace::inode::Ino;
use crate::namespace::names::FileName;
use crate::namespace::runs::Entry;
use crate::namespace::{Namespace, Source};
use crate::reader::ReadHandle;
use crate::store::{ETag, Key};
use crate::succession::Recorder;
use crate::succession::record::{self, Record};

/// Handles open at the same time; a process has 1024 by default, so this is dozens of busy processes.
const HANDLES_MAX: usize = 65_536;

/// Number of a handle, as the kernel repeats it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HandleId(pub u64);

/// What a file was opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// May read.
    pub read: bool,
    /// May write.
    pub write: bool,
    /// Writes go to the end, whatever offset they name.
    pub append: bool,
}

/// An open file.
pub struct FileHandle {
    id: HandleId,
    recorder: Recorder,
    /// Which file.
    pub ino: Ino,
    /// What for.
    pub access: Access,
    /// The file's [`lineage`](crate::namespace::inode::File::lineage) when it was opened.
    pub lineage: u64,
    /// When it was opened.
    pub opened: Instant,
    /// The reader of the pinned version: made at the opening, or later when the bytes were here then.
    pub pinned: Mutex<Option<Pinned>>,
    wrote: AtomicBool,
    /// The request that opened it, in this process or in the one before.
    request: Option<u64>,
    keep_cache: bool,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Which file.
    pub ino: Ino,
    /// What for.
    pub access: Access,
    /// The file's lineage now.
    pub lineage: u64,
    /// When.
    pub opened: Instant,
    /// The request that opens it, if it may be sent again.
    pub request: Option<u64>,
    /// Whether the kernel's pages are of this version.
    pub keep_cache: bool,
}

impl FileHandle {
    /// Something was changed through it.
    pub fn note_write(&self) {
        if !self.wrote.swap(true, Ordering::Relaxed) {
            self.recorder.note(&Record::FileWrote(self.id.0));
        }
    }

    /// It reads this version from now on. The caller holds `pinned`.
    pub fn note_pinned(&self, epoch: u64, key: &Key, etag: &ETag, size: u64) {
        if self.recorder.is_on() {
            let pinned = record::Pinned {
                epoch,
                key: key.as_str().to_owned(),
                etag: etag.0.clone(),
                size,
            };
            self.recorder.note(&Record::FilePinned(self.id.0, pinned));
        }
    }

    /// What the kernel is told of its pages.
    pub fn keep_cache(&self) -> bool {
        self.keep_cache
    }

    /// Whether something was changed through it.
    pub fn wrote(&self) -> bool {
        self.wrote.load(Ordering::Relaxed)
    }
}

/// The version that a handle reads.
#[derive(Clone)]
pub struct Pinned {
    /// Which local change it has followed.
    pub epoch: u64,
    /// Reads it.
    pub reader: Arc<ReadHandle>,
}

/// An open folder.
pub struct FolderHandle {
    id: HandleId,
    recorder: Recorder,
    /// Which folder.
    pub ino: Ino,
    request: Option<u64>,
    view: Mutex<Option<Arc<View>>>,
    /// What a dead worker has given out, until somebody reads on.
    given: Mutex<Option<Arc<Given>>>,
}

/// One pass over a folder's entries.
pub struct View {
    /// Entries that come first, with the position after each, ascending.
    head: Vec<(FileName, Entry, u64)>,
    /// Positions below this cannot be read on from: the entries there were given out by a dead worker.
    begins_at: u64,
    /// The position at which those of the source begin.
    tail_from: u64,
    snapshot: Snapshot,
    /// Names that were removed here since the listing began.
    removed: HashSet<FileName>,
    source: Source,
}

/// Some entries of a folder.
pub struct Batch {
    /// Name, entry, and the position after it.
    pub entries: Vec<(FileName, Entry, u64)>,
    /// Local changes since then are newer than these entries.
    pub asked: Instant,
    /// Since when they may be believed.
    pub verified: Instant,
}

/// All open handles of a mount.
#[derive(Default)]
pub struct Handles {
    recorder: Recorder,
    next: AtomicU64,
    files: Mutex<HashMap<HandleId, Arc<FileHandle>>>,
    folders: Mutex<HashMap<HandleId, Arc<FolderHandle>>>,
}

impl Handles {
    /// No handles yet.
    pub fn new(recorder: Recorder) -> Handles {
        Handles {
            recorder,
            ..Handles::default()
        }
    }

    /// Adds an open file.
    pub fn open_file(&self, opening: Opening) -> Result<HandleId, FsError> {
        let mut files = self.files.lock();
        if files.len() >= HANDLES_MAX {
            return Err(FsError::TooManyOpen);
        }
        let id = self.new_id();
        let handle = FileHandle::new(id, opening, &self.recorder);
        self.recorder.note(&Record::File(handle.record()));
        files.insert(id, Arc::new(handle));
        Ok(id)
    }

    /// Adds an open folder.
    pub fn open_folder(&self, ino: Ino, request: Option<u64>) -> Result<HandleId, FsError> {
        let mut folders = self.folders.lock();
        if folders.len() >= HANDLES_MAX {
            return Err(FsError::TooManyOpen);
        }
        let id = self.new_id();
        let handle = FolderHandle::new((id, ino), request, &self.recorder);
        self.recorder.note(&Record::Folder(handle.record()));
        folders.insert(id, Arc::new(handle));
        Ok(id)
    }

    /// An open file.
    pub fn file(&self, id: HandleId) -> Result<Arc<FileHandle>, FsError> {
        self.files.lock().get(&id).cloned().ok_or(FsError::BadHandle)
    }

    /// An open folder.
    pub fn folder(&self, id: HandleId) -> Result<Arc<FolderHandle>, FsError> {
        self.folders.lock().get(&id).cloned().ok_or(FsError::BadHandle)
    }

    /// Whether somebody may read a file.
    pub fn is_read(&self, ino: Ino) -> bool {
        let files = self.files.lock();
        files
            .values()
            .any(|handle| handle.ino == ino && handle.access.read)
    }

    /// Takes a file's handle away.
    pub fn close_file(&self, id: HandleId) -> Option<Arc<FileHandle>> {
        let closed = self.files.lock().remove(&id)?;
        self.recorder.note(&Record::FileClosed(id.0));
        Some(closed)
    }

    /// Takes a folder's handle away.
    pub fn close_folder(&self, id: HandleId) -> Option<Arc<FolderHandle>> {
        let closed = self.folders.lock().remove(&id)?;
        self.recorder.note(&Record::FolderClosed(id.0));
        Some(closed)
    }

    /// How many files are open.
    pub fn files_open(&self) -> usize {
        self.files.lock().len()
    }

    fn new_id(&self) -> HandleId {
        HandleId(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl FileHandle {
    fn new(id: HandleId, opening: Opening, recorder: &Recorder) -> FileHandle {
        let Opening {
            ino,
            access,
            lineage,
            opened,
            request,
            keep_cache,
        } = opening;
        FileHandle {
            id,
            recorder: recorder.clone(),
            ino,
            access,
            lineage,
            opened,
            pinned: Mutex::new(None),
            wrote: AtomicBool::new(false),
            request,
            keep_cache,
        }
    }
}

impl FolderHandle {
    fn new((id, ino): (HandleId, Ino), request: Option<u64>, recorder: &Recorder) -> FolderHandle {
        FolderHandle {
            id,
            recorder: recorder.clone(),
            ino,
            request,
            view: Mutex::new(None),
            given: Mutex::new(None),
        }
    }

    /// The view that a reader at `position` continues; one that begins gets what the folder holds now.
    pub async fn view(&self, namespace: &Arc<Namespace>, position: u64) -> Result<Arc<View>, FsError> {
        if position == 0 {
            return self.begin(namespace);
        }
        let current = self.view.lock().clone();
        match current {
            Some(current) if current.begins_at <= position => Ok(current),
            earlier => self.go_on(namespace, earlier, position).await,
        }
    }

    /// Begins to list.
    pub fn begin(&self, namespace: &Arc<Namespace>) -> Result<Arc<View>, FsError> {
        let (mut snapshot, source) = namespace.list(self.ino)?;
        let head = numbered(std::mem::take(&mut snapshot.head));
        self.note_begun();
        Ok(Arc::clone(self.view.lock().insert(Arc::new(View {
            begins_at: 0,
            tail_from: head.len() as u64,
            head,
            // Whoever goes on from the middle comes from a dead worker, and makes another view.
            removed: HashSet::new(),
            snapshot,
            source,
        }))))
    }
}

/// Entries with the position after each.
fn numbered(entries: Vec<(FileName, Entry)>) -> Vec<(FileName, Entry, u64)> {
    entries
        .into_iter()
        .zip(1..)
        .map(|((name, entry), after)| (name, entry, after))
        .collect()
}

impl View {
    /// Up to `count` entries from `position` on, which counts entries, not `.` and `..`. Waits for at least
    /// one; empty at the end.
    pub async fn entries(&self, position: u64, count: usize) -> Result<Batch, FsError> {
        let (asked, verified) = match &self.source {
            Source::Run(listing) => (listing.started, listing.finished),
            Source::Lister(lister) => (lister.started, Instant::now()),
        };
        let batch = |entries| Batch {
            entries,
            asked,
            verified,
        };
        let next = self.head.partition_point(|(_, _, after)| *after <= position);
        if next < self.head.len() {
            return Ok(batch(self.head[next..].iter().take(count).cloned().collect()));
        }
        let mut at = position.max(self.tail_from);
        loop {
            let from = (at - self.tail_from) as usize;
            let found: Vec<(FileName, Entry)> = match &self.source {
                Source::Run(listing) => listing
                    .run
                    .entries()
                    .iter()
                    .skip(from)
                    .take(count)
                    .cloned()
                    .collect(),
                Source::Lister(lister) => lister.entries(from, count).await?,
            };
            if found.is_empty() {
                return Ok(batch(Vec::new()));
            }
            let entries: Vec<_> = found
                .iter()
                .zip(at + 1..)
                .filter(|((name, _), _)| !self.snapshot.changed.contains(name))
                .map(|((name, entry), after)| (name.clone(), entry.clone(), after))
                .collect();
            if !entries.is_empty() {
                return Ok(batch(entries));
            }
            at += found.len() as u64;
        }
    }
}
