//! The inode table: what the kernel holds, what is open and what is not in S3 yet.
//!
//! Numbers are allocated, never derived from paths, and never given out twice in a process. An inode
//! leaves the table when the kernel has forgotten it, nothing is open, nothing is dirty and no entry
//! below it is in the table. What was changed is marked for the successor's table, in one place: whoever gets
//! an inode to change it. No I/O here.

mod succession;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::directory::Directory;
use super::names::{FileName, checked_key};
use super::runs::{Entry, ObjectVersion};
use crate::error::FsError;
use crate::succession::Recorder;
use crate::writer::staging::Edit;

/// An inode number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ino(pub u64);

/// The mount's own folder.
pub const ROOT: Ino = Ino(1);

/// User metadata of an object.
pub type Metadata = BTreeMap<String, String>;

/// Where in the tree an inode is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// The mount's own folder.
    Root,
    /// An entry of a folder.
    At(Ino, FileName),
    /// Removed, but still open or still known to the kernel.
    Gone,
}

/// One file or folder.
#[derive(Debug)]
pub struct Inode {
    /// Where it is.
    pub link: Link,
    /// What it is.
    pub kind: Kind,
    lookups: u64,
    open: u32,
}

/// What an inode is.
#[derive(Debug)]
pub enum Kind {
    /// A folder.
    Folder(Directory),
    /// A file.
    File(File),
}

/// A file.
#[derive(Debug)]
pub struct File {
    /// Its object in S3; `None` while it exists only here.
    pub object: Option<Arc<ObjectVersion>>,
    /// User metadata of that version, once known: listings do not carry it.
    pub metadata: Option<Metadata>,
    /// Modification time as shown. Never changes while the version stays, so that a listing and a HEAD,
    /// which know different times, do not make a file look modified.
    pub mtime: SystemTime,
    /// A modification time that was set by an application and is not in S3 yet.
    pub mtime_set: bool,
    /// When the store last said that this is the current version.
    pub verified: Instant,
    /// Raised by local changes that open handles must follow: uploads and renames.
    pub epoch: u64,
    /// Bytes that are being written here.
    pub edit: Option<Arc<Edit>>,
    /// How many handles may write.
    pub writers: u32,
    /// How many operations on its path need its bytes to stay here.
    pub holds: u32,
    /// Raised when the version is replaced by one that was not made of it here: a handle of another line
    /// must not see or change this one's bytes.
    pub lineage: u64,
    /// The line whose pages the kernel may have in its cache: handles share them.
    pub cached: Option<u64>,
}

/// All inodes.
#[derive(Debug)]
pub struct Table {
    inodes: HashMap<Ino, Inode>,
    next: u64,
    recorder: Recorder,
    /// Changed since the successor's table was written.
    touched: HashSet<Ino>,
}

/// Name of the metadata entry with the modification time, as s3fs and others write it.
pub const METADATA_MTIME: &str = "mtime";

impl Table {
    /// A table with nothing but the root.
    pub fn new(wall: SystemTime, recorder: Recorder) -> Table {
        let root = Inode {
            link: Link::Root,
            kind: Kind::Folder(Directory::new(wall)),
            lookups: 1,
            open: 0,
        };
        Table {
            inodes: HashMap::from([(ROOT, root)]),
            next: ROOT.0 + 1,
            recorder,
            touched: HashSet::new(),
        }
    }

    /// How many inodes there are.
    pub fn count(&self) -> usize {
        self.inodes.len()
    }

    /// An inode. Unknown numbers can only come from a kernel that mixes mounts up.
    pub fn get(&self, ino: Ino) -> Result<&Inode, FsError> {
        self.inodes.get(&ino).ok_or(FsError::NotFound)
    }

    /// An inode, to change it.
    pub fn get_mut(&mut self, ino: Ino) -> Result<&mut Inode, FsError> {
        self.touch(ino);
        self.inodes.get_mut(&ino).ok_or(FsError::NotFound)
    }

    /// A folder.
    pub fn folder(&self, ino: Ino) -> Result<&Directory, FsError> {
        match &self.get(ino)?.kind {
            Kind::Folder(directory) => Ok(directory),
            Kind::File(_) => Err(FsError::NotFolder),
        }
    }

    /// A folder, to change it.
    pub fn folder_mut(&mut self, ino: Ino) -> Result<&mut Directory, FsError> {
        match &mut self.get_mut(ino)?.kind {
            Kind::Folder(directory) => Ok(directory),
            Kind::File(_) => Err(FsError::NotFolder),
        }
    }

    /// A file.
    pub fn file(&self, ino: Ino) -> Result<&File, FsError> {
        match &self.get(ino)?.kind {
            Kind::File(file) => Ok(file),
            Kind::Folder(_) => Err(FsError::IsFolder),
        }
    }

    /// A file, to change it.
    pub fn file_mut(&mut self, ino: Ino) -> Result<&mut File, FsError> {
        match &mut self.get_mut(ino)?.kind {
            Kind::File(file) => Ok(file),
            Kind::Folder(_) => Err(FsError::IsFolder),
        }
    }

    /// The path below the mount, without slashes at its ends; empty for the root.
    pub fn path(&self, ino: Ino) -> Result<String, FsError> {
        let mut names = Vec::new();
        let mut at = ino;
        loop {
            match &self.get(at)?.link {
                Link::Root => break,
                Link::At(parent, name) => {
                    names.push(name.as_str());
                    at = *parent;
                }
                Link::Gone => return Err(FsError::NotFound),
            }
        }
        names.reverse();
        Ok(names.join("/"))
    }

    /// Path of a (possible) entry of a folder, refused if no key could have it.
    pub fn path_below(&self, parent: Ino, name: &FileName) -> Result<String, FsError> {
        let folder = self.path(parent)?;
        checked_key(if folder.is_empty() {
            name.as_str().to_owned()
        } else {
            format!("{folder}/{}", name.as_str())
        })
    }

    /// The inode of an entry that the store or a listing has told of, made if it is not there.
    /// A file with local changes keeps its own attributes.
    pub fn attach(
        &mut self,
        parent: Ino,
        name: &FileName,
        entry: &Entry,
        metadata: Option<Metadata>,
        verified: Instant,
    ) -> Result<Ino, FsError> {
        let known = self.folder(parent)?.children.get(name).copied();
        if let Some(ino) = known {
            let inode = self.get_mut(ino)?;
            match (&mut inode.kind, entry) {
                (Kind::Folder(_), Entry::Folder) | (Kind::File(_), Entry::Local) => return Ok(ino),
                (Kind::File(file), Entry::File(version)) => {
                    if file.edit.is_none() {
                        file.adopt(Arc::clone(version), metadata, verified);
                    }
                    return Ok(ino);
                }
                (Kind::File(file), Entry::Folder) if file.edit.is_some() => return Ok(ino),
                (Kind::File(_), Entry::Folder) | (Kind::Folder(_), Entry::File(_) | Entry::Local) => {
                    // Somebody replaced a file by a folder or the other way round.
                    self.detach(parent, name);
                }
            }
        }
        let kind = match entry {
            Entry::Folder => Kind::Folder(Directory::new(self.folder(parent)?.changed)),
            Entry::File(version) => Kind::File(File::of(Arc::clone(version), metadata, verified)),
            Entry::Local => return Err(FsError::NotFound),
        };
        Ok(self.insert(parent, name, kind))
    }

    /// What is under a name, as far as an inode tells.
    pub fn entry(&self, parent: Ino, name: &FileName) -> Option<Entry> {
        let ino = self.folder(parent).ok()?.children.get(name)?;
        match &self.get(*ino).ok()?.kind {
            Kind::Folder(_) => Some(Entry::Folder),
            Kind::File(file) => file.object.clone().map(Entry::File),
        }
    }

    /// Adds an inode under a name that has none.
    pub fn insert(&mut self, parent: Ino, name: &FileName, kind: Kind) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        let inode = Inode {
            link: Link::At(parent, name.clone()),
            kind,
            lookups: 0,
            open: 0,
        };
        self.inodes.insert(ino, inode);
        self.touch(ino);
        if let Ok(folder) = self.folder_mut(parent) {
            folder.children.insert(name.clone(), ino);
        }
        ino
    }

    /// Takes an entry out of the tree; its inode stays as long as somebody holds it.
    pub fn detach(&mut self, parent: Ino, name: &FileName) -> Option<Ino> {
        let ino = self.folder_mut(parent).ok()?.children.remove(name)?;
        if let Ok(inode) = self.get_mut(ino) {
            inode.link = Link::Gone;
        }
        self.sweep(ino);
        self.sweep(parent);
        Some(ino)
    }

    /// Moves an entry to another name; what was there must have been detached.
    pub fn relink(&mut self, from: (Ino, &FileName), to: (Ino, &FileName)) -> Option<Ino> {
        let ino = self.folder_mut(from.0).ok()?.children.remove(from.1)?;
        if let Ok(inode) = self.get_mut(ino) {
            inode.link = Link::At(to.0, to.1.clone());
        }
        if let Ok(folder) = self.folder_mut(to.0) {
            folder.children.insert(to.1.clone(), ino);
        }
        self.sweep(from.0);
        Some(ino)
    }

    /// The kernel got this inode once more.
    pub fn remember(&mut self, ino: Ino) {
        if let Ok(inode) = self.get_mut(ino) {
            inode.lookups += 1;
        }
    }

    /// The kernel lets go of `count` of the times it got this inode.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        if let Ok(inode) = self.get_mut(ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
        }
        self.sweep(ino);
    }

    /// A handle was opened.
    pub fn opened(&mut self, ino: Ino) {
        if let Ok(inode) = self.get_mut(ino) {
            inode.open += 1;
        }
    }

    /// A handle was closed.
    pub fn closed(&mut self, ino: Ino) {
        if let Ok(inode) = self.get_mut(ino) {
            inode.open = inode.open.saturating_sub(1);
        }
        self.sweep(ino);
    }

    /// Drops an inode that nobody holds, and then the folders that were kept only for it.
    pub fn sweep(&mut self, ino: Ino) {
        let mut at = ino;
        while let Some(inode) = self.inodes.get(&at) {
            let held =
                inode.link == Link::Root || inode.lookups > 0 || inode.open > 0 || inode.kind.is_busy();
            if held {
                return;
            }
            let Some(inode) = self.inodes.remove(&at) else {
                return;
            };
            self.touch(at);
            let Link::At(parent, name) = inode.link else {
                return;
            };
            if let Ok(folder) = self.folder_mut(parent) {
                folder.children.remove(&name);
            }
            at = parent;
        }
    }

    /// Every inode at or below a folder, the folder first.
    pub fn below(&self, ino: Ino) -> Vec<Ino> {
        let mut found = vec![ino];
        let mut at = 0;
        while at < found.len() {
            if let Ok(folder) = self.folder(found[at]) {
                found.extend(folder.children.values().copied());
            }
            at += 1;
        }
        found
    }

    /// Files with bytes that were written here.
    pub fn edits(&self) -> Vec<(Ino, Arc<Edit>)> {
        self.inodes
            .iter()
            .filter_map(|(ino, inode)| match &inode.kind {
                Kind::File(file) => Some((*ino, Arc::clone(file.edit.as_ref()?))),
                Kind::Folder(_) => None,
            })
            .collect()
    }
}

impl Inode {
    /// How many handles are open.
    pub fn open_count(&self) -> u32 {
        self.open
    }
}

impl Kind {
    fn is_busy(&self) -> bool {
        match self {
            Kind::Folder(directory) => !directory.children.is_empty(),
            Kind::File(file) => file.edit.is_some(),
        }
    }
}

impl File {
    /// A file of which the store has told.
    pub fn of(version: Arc<ObjectVersion>, metadata: Option<Metadata>, verified: Instant) -> File {
        File {
            mtime: shown_mtime(&version, metadata.as_ref()),
            object: Some(version),
            metadata,
            mtime_set: false,
            verified,
            epoch: 0,
            edit: None,
            writers: 0,
            holds: 0,
            lineage: 0,
            cached: None,
        }
    }

    /// A file that exists only here.
    pub fn local(edit: Arc<Edit>, wall: SystemTime, now: Instant) -> File {
        File {
            object: None,
            metadata: None,
            mtime: wall,
            mtime_set: false,
            verified: now,
            epoch: 0,
            edit: Some(edit),
            writers: 0,
            holds: 0,
            lineage: 0,
            cached: None,
        }
    }

    /// The store says that this is the current version; an older answer than the last one counts for nothing.
    pub fn adopt(&mut self, version: Arc<ObjectVersion>, metadata: Option<Metadata>, verified: Instant) {
        if verified < self.verified {
            return;
        }
        let same = self
            .object
            .as_ref()
            .is_some_and(|known| known.etag == version.etag);
        if !same {
            self.mtime = shown_mtime(&version, metadata.as_ref());
            self.mtime_set = false;
            self.object = Some(version);
            self.metadata = metadata;
            self.lineage += 1;
        } else if self.metadata.is_none() {
            self.metadata = metadata;
        }
        self.verified = verified;
    }

    /// Size as shown.
    pub fn size(&self) -> u64 {
        match (&self.edit, &self.object) {
            (Some(edit), _) => edit.size(),
            (None, Some(object)) => object.size,
            (None, None) => 0,
        }
    }
}

fn shown_mtime(version: &ObjectVersion, metadata: Option<&Metadata>) -> SystemTime {
    metadata
        .and_then(|metadata| metadata.get(METADATA_MTIME))
        .and_then(|text| parse_mtime(text))
        .unwrap_or(version.modified)
}

/// Seconds since 1970, with or without a fraction.
fn parse_mtime(text: &str) -> Option<SystemTime> {
    let whole = text.split('.').next()?;
    let seconds: u64 = whole.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))
}

/// The metadata entry for a modification time.
pub fn format_mtime(mtime: SystemTime) -> String {
    mtime
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        .to_string()
}
