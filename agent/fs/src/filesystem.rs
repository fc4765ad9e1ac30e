//! The operations of the filesystem, on our own types: what `fuse.rs` calls, one method per operation.
//!
//! Each is a future that is ready at once when memory has the answer. It knows no kernel types and no
//! error numbers. Operations on files, folders, removal and renames live in files of their own below.
//!
//! Attributes: owner, group and permission bits are the mount's, for all files alike; changing them is
//! accepted and has no effect, so that `cp -p`, `tar` and `rsync` work. A modification time that an
//! application sets is kept while the kernel knows the file, and stored with the object (metadata `mtime`,
//! as s3fs does) when the file is next uploaded or renamed.

mod attributes;
mod commits;
mod files;
mod folders;
mod moves;
mod removal;
mod status;
mod subtrees;
mod succession;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::attributes::AttributeChange;
pub use self::files::{Existing, Opened};
use self::status::Counts;
use self::subtrees::{Claim, Purpose, Subtrees};
use crate::clock;
use crate::error::FsError;
use crate::handle::Handles;
use crate::namespace::inode::{Ino, Kind, Table};
use crate::namespace::names::{FileName, Prefix};
use crate::namespace::runs::Entry;
use crate::namespace::{Answer, Namespace};
use crate::reader::Reader;
use crate::store::metered::Requests;
use crate::store::{ListRequest, ObjectStore, StoreError};
use crate::succession::Recorder;
use crate::writer::Writer;
use crate::writer::staging::Staging;
use crate::writer::staging::lock::FolderLock;

/// Files uploaded at the same time when a mount ends.
const UPLOADS_AT_END: usize = 16;

/// How files and folders look, the same for all of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Presentation {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u16,
    /// Permission bits of folders.
    pub dir_mode: u16,
}

/// What a mount is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Only keys below it.
    pub prefix: Prefix,
    /// Refuse every change.
    pub read_only: bool,
    /// How long names, sizes and listings are believed.
    pub metadata_ttl: Duration,
    /// How files look.
    pub presentation: Presentation,
    /// Folder for staged writes; exists.
    pub staging: std::path::PathBuf,
    /// Where it is this mount's alone.
    pub lock: Option<Arc<FolderLock>>,
    /// Memory for what is read; without it, what this process may take of the machine's.
    pub memory_bytes: Option<u64>,
}

/// The parts that a filesystem is built from.
pub struct Parts {
    /// The bucket.
    pub store: Arc<dyn ObjectStore>,
    /// Reads its objects.
    pub reader: Reader,
    /// Where futures run.
    pub runtime: Handle,
    /// What a successor will know.
    pub recorder: Recorder,
    /// What the bucket was asked.
    pub requests: Arc<Requests>,
}

/// One mounted bucket.
pub struct Filesystem {
    store: Arc<dyn ObjectStore>,
    namespace: Arc<Namespace>,
    reader: Reader,
    writer: Writer,
    handles: Handles,
    presentation: Presentation,
    read_only: bool,
    health: Mutex<Health>,
    /// Claimed by whatever changes the store, and before the turn of an edit.
    subtrees: Subtrees,
    tasks: TaskTracker,
    stopping: CancellationToken,
    runtime: Handle,
    recorder: Recorder,
    requests: Arc<Requests>,
    counts: Counts,
}

/// Attributes as an application sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Inode number.
    pub ino: Ino,
    /// Whether it is a folder.
    pub folder: bool,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: SystemTime,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Attributes, and for how long they may be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The attributes.
    pub attributes: Attributes,
    /// How long the kernel may answer with them.
    pub ttl: Duration,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// A file or folder.
    Found(Found),
    /// Nothing.
    Absent {
        /// How long the kernel may answer so.
        ttl: Duration,
    },
}

/// How the store answers.
#[derive(Clone, Default, Debug)]
pub struct Health {
    /// Why the last request failed, unless a later one succeeded.
    pub store_error: Option<String>,
    /// Whether it failed because the store refuses the key.
    pub key_refused: bool,
    /// Whether the last write was accepted.
    pub writable: Option<bool>,
}

impl Filesystem {
    /// A filesystem that has asked nothing of the store yet.
    pub fn new(settings: Settings, parts: Parts) -> Arc<Filesystem> {
        let staging = Staging {
            folder: settings.staging.clone(),
            recorder: parts.recorder.clone(),
            lock: settings.lock.clone(),
        };
        let table = Table::new(clock::wall(), parts.recorder.clone());
        let handles = Handles::new(parts.recorder.clone());
        Filesystem::of(settings, parts, staging, (table, handles))
    }

    fn of(
        settings: Settings,
        parts: Parts,
        staging: Staging,
        (table, handles): (Table, Handles),
    ) -> Arc<Filesystem> {
        let Settings {
            prefix,
            read_only,
            metadata_ttl,
            presentation,
            staging: _,
            lock: _,
            memory_bytes: _,
        } = settings;
        let Parts {
            store,
            reader,
            runtime,
            recorder,
            requests,
        } = parts;
        let tasks = TaskTracker::new();
        let namespace = Arc::new(Namespace::new(
            Arc::clone(&store),
            (prefix, metadata_ttl),
            table,
            tasks.clone(),
            runtime.clone(),
        ));
        let inodes = Arc::downgrade(&namespace);
        recorder.gathers(move |notes| {
            let Some(namespace) = inodes.upgrade() else {
                return notes.take();
            };
            let mut table = namespace.table();
            let mut batch = notes.take();
            table.record_changes(&mut batch);
            batch
        });
        Arc::new(Filesystem {
            namespace,
            writer: Writer::new(Arc::clone(&store), staging),
            store,
            reader,
            handles,
            presentation,
            read_only,
            health: Mutex::default(),
            subtrees: Subtrees::default(),
            tasks,
            stopping: CancellationToken::new(),
            runtime,
            recorder,
            requests,
            counts: Counts::begin(Instant::now()),
        })
    }

    /// Where futures run.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Owns every task of the filesystem.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Finds a name in a folder. The kernel holds the inode from then on.
    pub async fn lookup(&self, parent: Ino, name: &FileName) -> Result<Found, FsError> {
        match self.lookup_or_absent(parent, name).await? {
            Lookup::Found(found) => Ok(found),
            Lookup::Absent { ttl: _ } => Err(FsError::NotFound),
        }
    }

    /// The same; that a name is absent is an answer that may be believed for a while, too.
    pub async fn lookup_or_absent(&self, parent: Ino, name: &FileName) -> Result<Lookup, FsError> {
        let resolved = match self.namespace.find(parent, name).await? {
            Answer::Is(resolved) => resolved,
            Answer::Absent { until } => {
                return Ok(Lookup::Absent {
                    ttl: until.saturating_duration_since(Instant::now()),
                });
            }
        };
        let mut table = self.namespace.table();
        let ino = table.attach(
            parent,
            name,
            &resolved.entry,
            resolved.metadata,
            resolved.verified,
        )?;
        table.remember(ino);
        let attributes = self.attributes(&table, ino)?;
        Ok(Lookup::Found(Found {
            attributes,
            ttl: resolved.until.saturating_duration_since(Instant::now()),
        }))
    }

    /// An entry that a folder's listing named, as [`Filesystem::lookup`] would find it; `None` if it was
    /// removed here since.
    pub fn lookup_listed(
        &self,
        parent: Ino,
        (name, entry): (&FileName, &Entry),
        (asked, verified): (Instant, Instant),
    ) -> Option<Found> {
        let mut table = self.namespace.table();
        let entry = match table.folder(parent).ok()?.changed_since(name, asked) {
            Some(newer) => newer?,
            None => entry.clone(),
        };
        let ino = table.attach(parent, name, &entry, None, verified).ok()?;
        table.remember(ino);
        let attributes = self.attributes(&table, ino).ok()?;
        let ttl = (verified + self.namespace.ttl()).saturating_duration_since(Instant::now());
        Some(Found { attributes, ttl })
    }

    /// The kernel lets go of an inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.namespace.table().forget(ino, count);
    }

    /// Attributes of an inode.
    pub async fn get_attributes(&self, ino: Ino) -> Result<Found, FsError> {
        self.namespace.refresh(ino).await?;
        self.found(ino)
    }

    /// Notes how an operation that had to ask the store went.
    pub fn note_answer(&self, result: Result<(), &FsError>) {
        let mut health = self.health.lock();
        match result {
            Ok(()) => {
                health.store_error = None;
                health.key_refused = false;
            }
            Err(FsError::Store(error)) => {
                health.store_error = Some(error.to_string());
                health.key_refused = matches!(error, StoreError::Denied { .. });
            }
            Err(_) => {}
        }
    }

    /// Asks the store something, so that its health is that of the key in use now, also where nobody uses the mount.
    pub fn try_key(self: &Arc<Self>) {
        let filesystem = Arc::clone(self);
        let ask = async move {
            let everything = filesystem.namespace.folder_key("")?;
            filesystem
                .store
                .list(ListRequest::any(everything.as_str()))
                .await?;
            Ok::<(), FsError>(())
        };
        let filesystem = Arc::clone(self);
        self.tasks.spawn_on(
            async move { filesystem.note_answer(ask.await.as_ref().copied()) },
            &self.runtime,
        );
    }

    /// How the store answers.
    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// Open files, files with bytes that are not in S3, files being uploaded, conflict copies.
    pub fn activity(&self) -> (usize, usize, usize, u64) {
        let edits = self.namespace.table().edits();
        let dirty = edits.iter().filter(|(_, edit)| edit.is_dirty()).count();
        let uploading = edits.iter().filter(|(_, edit)| edit.is_uploading()).count();
        (
            self.handles.files_open(),
            dirty,
            uploading,
            self.writer.conflicts(),
        )
    }

    /// Keys that cannot be shown: how many were met, and the first of them.
    pub fn hidden_keys(&self) -> (u64, Vec<String>) {
        self.namespace.hidden().report()
    }

    /// Uploads everything that is waiting. True if nothing is left.
    pub async fn upload_everything(&self) -> bool {
        self.upload(|_| true).await
    }

    /// Uploads what nobody has open for writing any more: what is half written is nothing that others should see, if
    /// somebody goes on with it. True if nothing of it is left.
    pub async fn upload_closed(&self) -> bool {
        self.upload(|ino| {
            self.namespace
                .table()
                .file(ino)
                .is_ok_and(|file| file.writers == 0)
        })
        .await
    }

    async fn upload(&self, is_wanted: impl Fn(Ino) -> bool) -> bool {
        let edits = self.namespace.table().edits();
        let dirty: Vec<Ino> = edits
            .into_iter()
            .filter(|(_, edit)| edit.is_dirty())
            .map(|(ino, _)| ino)
            .filter(|ino| is_wanted(*ino))
            .collect();
        let uploads = stream::iter(dirty).map(|ino| async move {
            let result = self.commit(ino).await;
            if let Err(error) = &result {
                let path = self.namespace.table().path(ino).unwrap_or_default();
                tracing::error!(path, %error, "a file cannot be uploaded");
            }
            result.is_ok()
        });
        let all = uploads
            .buffer_unordered(UPLOADS_AT_END)
            .fold(true, |all, done| async move { all && done })
            .await;
        self.write_down();
        all
    }

    /// Ends the filesystem's tasks: uploads what is waiting within `grace`, then gives up.
    /// True if nothing was lost.
    pub async fn stop(&self, grace: Duration) -> bool {
        let clean = tokio::time::timeout(grace, self.upload_everything())
            .await
            .unwrap_or(false);
        self.stopping.cancel();
        self.tasks.close();
        // Tasks end at the next await after the cancellation; those that do not are dropped with the runtime.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
        clean
    }

    fn found(&self, ino: Ino) -> Result<Found, FsError> {
        let table = self.namespace.table();
        let attributes = self.attributes(&table, ino)?;
        let ttl = match &table.get(ino)?.kind {
            Kind::File(file) if file.edit.is_none() => {
                (file.verified + self.namespace.ttl()).saturating_duration_since(Instant::now())
            }
            Kind::File(_) | Kind::Folder(_) => self.namespace.ttl(),
        };
        Ok(Found { attributes, ttl })
    }

    fn attributes(&self, table: &Table, ino: Ino) -> Result<Attributes, FsError> {
        let Presentation {
            uid,
            gid,
            file_mode,
            dir_mode,
        } = self.presentation;
        Ok(match &table.get(ino)?.kind {
            Kind::Folder(folder) => Attributes {
                ino,
                folder: true,
                size: 4096,
                mtime: folder.changed,
                mode: dir_mode,
                uid,
                gid,
            },
            Kind::File(file) => Attributes {
                ino,
                folder: false,
                size: file.size(),
                mtime: file.mtime,
                mode: file_mode,
                uid,
                gid,
            },
        })
    }

    /// Until it is dropped, the file's object is changed by nobody who moves it. One without a name has none.
    async fn claim_file(&self, ino: Ino) -> Result<Claim<'_>, FsError> {
        let paths = || match self.namespace.table().path(ino) {
            Ok(path) => Ok(vec![path]),
            Err(FsError::NotFound) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        self.subtrees.claim(Purpose::Change, paths).await
    }

    /// The same for a name in a folder, whether it exists or not.
    async fn claim_entry(&self, parent: Ino, name: &FileName) -> Result<Claim<'_>, FsError> {
        let paths = || Ok(vec![self.namespace.table().path_below(parent, name)?]);
        self.subtrees.claim(Purpose::Change, paths).await
    }

    fn writable(&self) -> Result<(), FsError> {
        if self.read_only {
            Err(FsError::ReadOnly)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
