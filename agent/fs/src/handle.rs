//! Open files and folders: what each handle number stands for.
//!
//! A file handle is pinned to the version that it was opened with, so that it never mixes two versions;
//! only changes made here (an upload, a rename) move it on. It knows the line of versions that it belongs to. Invariant: a handle lives until the kernel
//! releases it, and its inode with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::error::FsError;
use crate::namespace::directory::Snapshot;
use crate::namespace::inode::Ino;
use crate::namespace::names::FileName;
use crate::namespace::runs::Entry;
use crate::namespace::{Namespace, Source};
use crate::reader::ReadHandle;

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
}

impl FileHandle {
    /// Something was changed through it.
    pub fn note_write(&self) {
        self.wrote.store(true, Ordering::Relaxed);
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
    /// Which folder.
    pub ino: Ino,
    view: Mutex<Option<Arc<View>>>,
}

/// One pass over a folder's entries.
pub struct View {
    head: Vec<(FileName, Entry)>,
    snapshot: Snapshot,
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
    next: AtomicU64,
    files: Mutex<HashMap<HandleId, Arc<FileHandle>>>,
    folders: Mutex<HashMap<HandleId, Arc<FolderHandle>>>,
}

impl Handles {
    /// Adds an open file.
    pub fn open_file(
        &self,
        ino: Ino,
        access: Access,
        lineage: u64,
        opened: Instant,
    ) -> Result<HandleId, FsError> {
        let mut files = self.files.lock();
        if files.len() >= HANDLES_MAX {
            return Err(FsError::TooManyOpen);
        }
        let id = self.new_id();
        files.insert(
            id,
            Arc::new(FileHandle {
                ino,
                access,
                lineage,
                opened,
                pinned: Mutex::new(None),
                wrote: AtomicBool::new(false),
            }),
        );
        Ok(id)
    }

    /// Adds an open folder.
    pub fn open_folder(&self, ino: Ino) -> Result<HandleId, FsError> {
        let mut folders = self.folders.lock();
        if folders.len() >= HANDLES_MAX {
            return Err(FsError::TooManyOpen);
        }
        let id = self.new_id();
        folders.insert(
            id,
            Arc::new(FolderHandle {
                ino,
                view: Mutex::new(None),
            }),
        );
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

    /// Takes a file's handle away.
    pub fn close_file(&self, id: HandleId) -> Option<Arc<FileHandle>> {
        self.files.lock().remove(&id)
    }

    /// Takes a folder's handle away.
    pub fn close_folder(&self, id: HandleId) -> Option<Arc<FolderHandle>> {
        self.folders.lock().remove(&id)
    }

    /// How many files are open.
    pub fn files_open(&self) -> usize {
        self.files.lock().len()
    }

    fn new_id(&self) -> HandleId {
        HandleId(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl FolderHandle {
    /// The view that a reader at `position` continues; one that begins gets what the folder holds now.
    pub fn view(&self, namespace: &Arc<Namespace>, position: u64) -> Result<Arc<View>, FsError> {
        let mut view = self.view.lock();
        match &*view {
            Some(current) if position > 0 => Ok(Arc::clone(current)),
            Some(_) | None => {
                let (mut snapshot, source) = namespace.list(self.ino)?;
                let head = std::mem::take(&mut snapshot.head);
                Ok(Arc::clone(view.insert(Arc::new(View {
                    head,
                    snapshot,
                    source,
                }))))
            }
        }
    }
}

impl View {
    /// Up to `count` entries from `position` on, which counts entries, not `.` and `..`. Waits for at least
    /// one; empty at the end.
    pub async fn entries(&self, position: u64, count: usize) -> Result<Batch, FsError> {
        let head_len = self.head.len() as u64;
        let (asked, verified) = match &self.source {
            Source::Run(listing) => (listing.started, listing.finished),
            Source::Lister(lister) => (lister.started, Instant::now()),
        };
        let mut at = position;
        loop {
            let from = at;
            let found: Vec<(FileName, Entry)> = if at < head_len {
                self.head[at as usize..].iter().take(count).cloned().collect()
            } else {
                let at = (at - head_len) as usize;
                match &self.source {
                    Source::Run(listing) => listing
                        .run
                        .entries()
                        .iter()
                        .skip(at)
                        .take(count)
                        .cloned()
                        .collect(),
                    Source::Lister(lister) => lister.entries(at, count).await?,
                }
            };
            if found.is_empty() {
                return Ok(Batch {
                    entries: Vec::new(),
                    asked,
                    verified,
                });
            }
            at += found.len() as u64;
            let entries: Vec<_> = found
                .into_iter()
                .zip(from + 1..)
                .filter(|((name, _), after)| *after <= head_len || !self.snapshot.changed.contains(name))
                .map(|((name, entry), after)| (name, entry, after))
                .collect();
            if !entries.is_empty() {
                return Ok(Batch {
                    entries,
                    asked,
                    verified,
                });
            }
        }
    }
}
