//! What exists: names, attributes, listings. Answers from memory what may still be believed and asks the
//! store for the rest.
//!
//! It changes nothing in the store and knows no bytes of files. Invariants: one lock over the whole table,
//! never held across an await; local changes are visible at once and outlive any listing that may not have
//! seen them.

pub mod directory;
pub mod hidden;
pub mod inode;
pub mod lister;
pub mod names;
pub mod runs;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use self::directory::{Known, Listing, Snapshot};
use self::hidden::{HiddenLog, Reason};
use self::inode::{Ino, Kind, Link, Metadata, Table};
use self::lister::Lister;
use self::names::{FileName, Prefix};
use self::runs::{Entry, ObjectVersion};
use crate::error::FsError;
use crate::offload::leave_caller_thread;
use crate::store::{Key, ListRequest, ObjectStore, StoreError};

/// The namespace of one mount.
pub struct Namespace {
    /// The store, for questions only.
    store: Arc<dyn ObjectStore>,
    prefix: Prefix,
    ttl: Duration,
    table: Mutex<Table>,
    hidden: Arc<HiddenLog>,
    /// Raised when a folder moves: listings that began before count for nothing. Guarded by `table`'s lock
    /// being held when it is raised and when a listing is installed.
    generation: Mutex<u64>,
    /// Folders with a listing, the oldest first: listings that may not be believed any more are dropped
    /// when the next one arrives, so that memory holds those of the last `ttl` only.
    listed: Mutex<VecDeque<(Instant, Ino)>>,
    listings: Listings,
    /// The store begins a listing where it is asked to, as far as is known.
    divisible: AtomicBool,
    tasks: TaskTracker,
    runtime: Handle,
}

/// How folders were listed so far.
#[derive(Debug, Default)]
struct Listings {
    begun: AtomicU64,
    from_memory: AtomicU64,
}

/// How many times folders were listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListingCounts {
    /// By the store.
    pub begun: u64,
    /// From memory, or together with a listing that was under way.
    pub from_memory: u64,
}

/// What a name is, and how long that may be believed.
#[derive(Debug)]
pub struct Resolved {
    /// What it is.
    pub entry: Entry,
    /// Known user metadata, if the store was asked for the object itself.
    pub metadata: Option<Metadata>,
    /// When the store, or a listing, said so.
    pub verified: Instant,
    /// Until when it may be believed.
    pub until: Instant,
}

/// What a name was found to be.
#[derive(Debug)]
pub enum Answer {
    /// It is this.
    Is(Resolved),
    /// Nothing has the name.
    Absent {
        /// Until when that may be believed.
        until: Instant,
    },
}

/// Where a directory handle takes its entries from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A finished listing.
    Run(Listing),
    /// One in progress.
    Lister(Arc<Lister>),
}

impl Namespace {
    /// A namespace of which only the inodes are known. Listings run on `runtime`, owned by `tasks`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        (prefix, ttl): (Prefix, Duration),
        table: Table,
        tasks: TaskTracker,
        runtime: Handle,
    ) -> Namespace {
        Namespace {
            store,
            prefix,
            ttl,
            table: Mutex::new(table),
            hidden: Arc::default(),
            generation: Mutex::new(0),
            listed: Mutex::default(),
            listings: Listings::default(),
            divisible: AtomicBool::new(true),
            tasks,
            runtime,
        }
    }

    /// The table, locked. Never hold it across an await.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// How long what the store said may be believed.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How folders were listed so far.
    pub fn listings(&self) -> ListingCounts {
        ListingCounts {
            begun: self.listings.begun.load(Ordering::Relaxed),
            from_memory: self.listings.from_memory.load(Ordering::Relaxed),
        }
    }

    /// Keys that cannot be shown, as far as they were met.
    pub fn hidden(&self) -> &HiddenLog {
        &self.hidden
    }

    /// The key of a path below the mount.
    pub fn key(&self, path: &str) -> Result<Key, FsError> {
        names::checked_key(format!("{}{path}", self.prefix.as_str())).map(Key::new)
    }

    /// The key of a folder's marker, which is also the prefix of everything in it. The root's may be empty.
    pub fn folder_key(&self, path: &str) -> Result<Key, FsError> {
        if path.is_empty() {
            return Ok(Key::new(self.prefix.as_str()));
        }
        names::checked_key(format!("{}{path}/", self.prefix.as_str())).map(Key::new)
    }

    /// Key of a file or folder in the table (a folder's ends in a slash).
    pub fn key_of(&self, ino: Ino) -> Result<Key, FsError> {
        let table = self.table();
        let path = table.path(ino)?;
        match table.get(ino)?.kind {
            Kind::Folder(_) => self.folder_key(&path),
            Kind::File(_) => self.key(&path),
        }
    }

    /// What a name in a folder is. `Err(NotFound)` if nothing.
    pub async fn resolve(&self, parent: Ino, name: &FileName) -> Result<Resolved, FsError> {
        match self.find(parent, name).await? {
            Answer::Is(resolved) => Ok(resolved),
            Answer::Absent { until: _ } => Err(FsError::NotFound),
        }
    }

    /// What a name in a folder is, or for how long it may be taken as absent. `Err(NotFound)` if there is no
    /// such folder.
    pub async fn find(&self, parent: Ino, name: &FileName) -> Result<Answer, FsError> {
        let path = {
            let table = self.table();
            let now = Instant::now();
            let folder = table.folder(parent)?;
            match folder.known(name, now, self.ttl) {
                Known::Is(entry, until) => {
                    let verified = until.checked_sub(self.ttl).unwrap_or(now);
                    return Ok(Answer::Is(Resolved {
                        entry,
                        metadata: None,
                        verified,
                        until,
                    }));
                }
                Known::Absent(until) => return Ok(Answer::Absent { until }),
                Known::Unknown => {}
            }
            match table.path_below(parent, name) {
                Ok(path) => path,
                // No key can be that long, so nothing has it.
                Err(FsError::NameTooLong) => {
                    return Ok(Answer::Absent {
                        until: now + self.ttl,
                    });
                }
                Err(error) => return Err(error),
            }
        };
        leave_caller_thread().await;
        let asked = Instant::now();
        let answer = self.ask(&path).await;
        let until = asked + self.ttl;
        let local = self.table().folder(parent)?.changed_since(name, asked);
        let (entry, metadata) = match (local, answer) {
            (Some(Some(entry)), _) => (entry, None),
            (Some(None), _) | (None, Err(FsError::NotFound)) => return Ok(Answer::Absent { until }),
            (None, answer) => answer?,
        };
        Ok(Answer::Is(Resolved {
            entry,
            metadata,
            verified: asked,
            until,
        }))
    }

    /// Asks the store what a path is, in one round trip: HEAD of the file and LIST of the folder at once.
    /// A folder hides a file of the same name.
    async fn ask(&self, path: &str) -> Result<(Entry, Option<Metadata>), FsError> {
        let (Ok(file), Ok(folder)) = (self.key(path), self.folder_key(path)) else {
            return Err(FsError::NotFound);
        };
        let below = ListRequest {
            prefix: folder.as_str().to_owned(),
            delimited: false,
            start_after: None,
            continuation: None,
            keys_max: 1,
        };
        let (file_answer, folder_answer) = tokio::join!(self.store.head(&file), self.store.list(below));
        let is_folder = match &folder_answer {
            Ok(page) => !page.objects.is_empty() || !page.prefixes.is_empty(),
            Err(_) => false,
        };
        if is_folder {
            if file_answer.is_ok() {
                self.hidden.note(file.as_str(), Reason::AlsoFolder);
            }
            return Ok((Entry::Folder, None));
        }
        // Without the listing it is not known whether a folder hides the file.
        folder_answer?;
        match file_answer {
            Ok(info) => Ok((
                Entry::File(Arc::new(ObjectVersion::of(&info))),
                Some(info.metadata),
            )),
            Err(StoreError::NotFound) => Err(FsError::NotFound),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the store for a file's present version, unless what is known may still be believed, or the
    /// file's bytes are being written here. A file that is gone stays as it was while it is open.
    pub async fn refresh(&self, ino: Ino) -> Result<(), FsError> {
        let key = {
            let table = self.table();
            let inode = table.get(ino)?;
            let Kind::File(file) = &inode.kind else {
                return Ok(());
            };
            let settled =
                file.edit.is_some() || inode.link == Link::Gone || file.verified + self.ttl > Instant::now();
            if settled {
                return Ok(());
            }
            self.key(&table.path(ino)?)?
        };
        leave_caller_thread().await;
        let asked = Instant::now();
        let answer = self.store.head(&key).await;
        let mut table = self.table();
        let inode = table.get_mut(ino)?;
        let open = inode.open_count() > 0;
        let Kind::File(file) = &mut inode.kind else {
            return Ok(());
        };
        match answer {
            // A rename or an upload meanwhile knows better.
            _ if file.edit.is_some() || file.verified > asked => Ok(()),
            Ok(info) => {
                file.adopt(Arc::new(ObjectVersion::of(&info)), Some(info.metadata), asked);
                Ok(())
            }
            Err(StoreError::NotFound) if open => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder's entries: what is known at once, and where the rest comes from. Begins a listing when
    /// none is fresh or in progress; it does not wait for it.
    pub fn list(self: &Arc<Self>, ino: Ino) -> Result<(Snapshot, Source), FsError> {
        let mut table = self.table();
        let now = Instant::now();
        let generation = *self.generation.lock();
        let path = table.path(ino);
        let folder = table.folder_mut(ino)?;
        if let Some(listing) = folder.fresh_listing(now, self.ttl) {
            self.listings.from_memory.fetch_add(1, Ordering::Relaxed);
            return Ok((folder.snapshot(listing.started), Source::Run(listing.clone())));
        }
        if let Some(lister) = &folder.loading {
            self.listings.from_memory.fetch_add(1, Ordering::Relaxed);
            let lister = Arc::clone(lister);
            return Ok((folder.snapshot(lister.started), Source::Lister(lister)));
        }
        let snapshot = folder.snapshot(now);
        let Ok(path) = path else {
            // A removed folder that is still somebody's working directory is empty.
            let nothing = Listing {
                run: Arc::default(),
                started: now,
                finished: now,
            };
            return Ok((snapshot, Source::Run(nothing)));
        };
        let prefix = self.folder_key(&path)?;
        let lister = Arc::new(Lister::new(now, generation));
        folder.loading = Some(Arc::clone(&lister));
        self.listings.begun.fetch_add(1, Ordering::Relaxed);
        drop(table);
        let namespace = Arc::clone(self);
        let task = Arc::clone(&lister);
        self.tasks.spawn_on(
            async move { namespace.load(ino, &prefix, &task).await },
            &self.runtime,
        );
        Ok((snapshot, Source::Lister(lister)))
    }

    /// Folders moved: no listing that is in progress or remembered below `ino` counts any more.
    pub fn moved(&self, ino: Ino) {
        let mut table = self.table();
        *self.generation.lock() += 1;
        for below in table.below(ino) {
            if let Ok(folder) = table.folder_mut(below) {
                folder.distrust();
            }
        }
    }

    /// Whether a folder has anything in S3 but its own marker; and whether it has the marker.
    pub async fn is_empty(&self, path: &str) -> Result<(bool, bool), FsError> {
        leave_caller_thread().await;
        let prefix = self.folder_key(path)?;
        let request = ListRequest {
            prefix: prefix.as_str().to_owned(),
            delimited: false,
            start_after: None,
            continuation: None,
            keys_max: 2,
        };
        let page = self.store.list(request).await?;
        let marker = page.objects.iter().any(|(key, _)| *key == prefix);
        let others = page.objects.iter().any(|(key, _)| *key != prefix) || !page.prefixes.is_empty();
        Ok((!others, marker))
    }

    async fn load(&self, ino: Ino, prefix: &Key, lister: &Arc<Lister>) {
        // If the task is dropped at shutdown, readers must not wait for it.
        let abandoned = Abandon(Arc::clone(lister));
        let result = lister
            .run(&self.store, prefix.as_str(), &self.hidden, &self.divisible)
            .await;
        drop(abandoned);
        let mut table = self.table();
        let same_generation = *self.generation.lock() == lister.generation;
        let Ok(folder) = table.folder_mut(ino) else { return };
        if folder
            .loading
            .as_ref()
            .is_some_and(|loading| Arc::ptr_eq(loading, lister))
        {
            folder.loading = None;
        }
        match result {
            Ok(listed) if same_generation => {
                let now = Instant::now();
                folder.install(lister.started, now, listed);
                self.drop_stale_listings(&mut table, now);
                self.listed.lock().push_back((now, ino));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(prefix = prefix.as_str(), %error, "a folder cannot be listed"),
        }
    }
}

impl Namespace {
    fn drop_stale_listings(&self, table: &mut Table, now: Instant) {
        let mut listed = self.listed.lock();
        while let Some((finished, ino)) = listed.front().copied() {
            if finished + self.ttl > now {
                return;
            }
            listed.pop_front();
            if let Ok(folder) = table.folder_mut(ino) {
                folder.drop_stale(now, self.ttl);
            }
        }
    }
}

/// Ends a listing's readers when its task ends without having finished.
struct Abandon(Arc<Lister>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon(FsError::TimedOut);
    }
}
