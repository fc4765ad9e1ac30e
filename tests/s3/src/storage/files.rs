//! Bytes in files: one immutable file per upload below `blobs/`, and a journal that says which object consists of
//! which. A blob's name is a number that is never given out twice; nothing refers to a file before it is complete,
//! because the journal's line is written afterwards, so no rename is needed for readers to see whole objects only.
//!
//! It does not sync: the data outlives this process, not a power cut.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;

use super::journal::{Entry, Journal, StoredExtent};
use super::{CHUNK_BYTES, Content, Extent};

/// Blobs per folder: keeps each folder small enough for any filesystem.
const BLOBS_PER_FOLDER: u64 = 4096;

/// A server that was just stopped may still end a write of one chunk.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(2);

/// A data directory that this process owns.
#[derive(Debug)]
pub(crate) struct FileStorage {
    blobs: PathBuf,
    next_blob: AtomicU64,
    journal: Mutex<Journal>,
    closed: Arc<AtomicBool>,
    /// Locked while it is open: two servers would write the same blobs.
    _lock: File,
}

impl FileStorage {
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Vec<Entry>)> {
        let blobs = dir.join("blobs");
        std::fs::create_dir_all(&blobs)?;
        let lock = lock(&dir.join("lock"))?;
        let (journal, entries) = Journal::open(&dir.join("journal"))?;
        let last = blob_files(&blobs)?.into_iter().map(|(number, _)| number).max();
        let storage = Self {
            blobs,
            next_blob: AtomicU64::new(last.map_or(1, |last| last + 1)),
            journal: Mutex::new(journal),
            closed: Arc::new(AtomicBool::new(false)),
            _lock: lock,
        };
        Ok((storage, entries))
    }

    pub(super) fn record(&self, entry: &Entry) -> io::Result<()> {
        self.journal.lock().append(entry)
    }

    /// Rewrites the journal to what still counts, and removes the files that nothing refers to: uploads that were
    /// under way when the process died, and blobs whose removal it did not live to do.
    pub(crate) fn compact(&self, entries: &[Entry]) -> io::Result<()> {
        self.journal.lock().rewrite(entries)?;
        let kept: std::collections::HashSet<u64> =
            entries.iter().flat_map(Entry::extents).map(|e| e.0).collect();
        for (number, path) in blob_files(&self.blobs)? {
            if !kept.contains(&number) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The blob of that number, which must be kept by one `Arc` only: it removes its file when dropped.
    pub(crate) fn blob(&self, number: u64) -> Arc<FileBlob> {
        Arc::new(FileBlob {
            number,
            path: blob_path(&self.blobs, number),
            closed: self.closed.clone(),
        })
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn create(&self) -> io::Result<(Arc<FileBlob>, File)> {
        let number = self.next_blob.fetch_add(1, Ordering::Relaxed);
        let blob = self.blob(number);
        let create = || File::options().write(true).create_new(true).open(&blob.path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(folder(&self.blobs, number))?;
                create()?
            }
            other => other?,
        };
        Ok((blob, file))
    }
}

/// One immutable file. Dropping the last holder removes it, unless the storage was closed.
#[derive(Debug)]
pub(crate) struct FileBlob {
    number: u64,
    path: PathBuf,
    closed: Arc<AtomicBool>,
}

impl FileBlob {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let file = File::open(&self.path)?;
        let length = (range.end - range.start) as usize;
        let mut buffer = Vec::with_capacity(length);
        while buffer.len() < length {
            let at = range.start + buffer.len() as u64;
            if rustix::io::pread(&file, spare_capacity(&mut buffer), at)? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{} is shorter than its journal says", self.path.display()),
                ));
            }
        }
        // The allocation may be longer than asked for, and so may the file.
        buffer.truncate(length);
        Ok(buffer.into())
    }
}

impl Drop for FileBlob {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a blob; the next start will");
        }
    }
}

/// Writes one blob, a chunk at a time, on the blocking pool.
pub(crate) struct FileWriter {
    storage: Arc<FileStorage>,
    /// Made with the first chunk, so that a small object costs one trip to the blocking pool.
    file: Option<(Arc<FileBlob>, File)>,
    length: u64,
    chunk: Vec<u8>,
}

impl FileWriter {
    pub(super) fn new(storage: Arc<FileStorage>, length: Option<u64>) -> Self {
        let capacity = length.map_or(CHUNK_BYTES, |length| CHUNK_BYTES.min(length as usize));
        Self {
            storage,
            file: None,
            length: 0,
            chunk: Vec::with_capacity(capacity),
        }
    }

    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK_BYTES {
                self.write_chunk().await?;
            }
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> io::Result<Content> {
        if !self.chunk.is_empty() {
            self.write_chunk().await?;
        }
        let mut content = Content::default();
        if let Some((blob, _)) = self.file {
            content.push(Extent::File {
                blob,
                range: 0..self.length,
            });
        }
        Ok(content)
    }

    async fn write_chunk(&mut self) -> io::Result<()> {
        let storage = self.storage.clone();
        let file = self.file.take();
        let chunk = std::mem::take(&mut self.chunk);
        let at = self.length;
        let writing = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let file = match file {
                Some(file) => file,
                None => storage.create()?,
            };
            file.1.write_all_at(&chunk, at)?;
            Ok((file, chunk))
        });
        let (file, mut chunk) = writing.await.map_err(io::Error::other)??;
        self.length += chunk.len() as u64;
        chunk.clear();
        self.file = Some(file);
        self.chunk = chunk;
        Ok(())
    }
}

impl From<&Content> for Vec<StoredExtent> {
    fn from(content: &Content) -> Self {
        let stored = content.extents().iter().map(|extent| match extent {
            Extent::File { blob, range } => StoredExtent(blob.number(), range.start, range.end - range.start),
            Extent::Memory(_) => unreachable!("file storage makes file extents only"),
        });
        stored.collect()
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if started.elapsed() > LOCK_WAIT_MAX => {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another server uses it: stop that first",
                ));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn folder(blobs: &Path, number: u64) -> PathBuf {
    blobs.join(format!("{:06x}", number / BLOBS_PER_FOLDER))
}

fn blob_path(blobs: &Path, number: u64) -> PathBuf {
    folder(blobs, number).join(format!("{number:010x}"))
}

fn blob_files(blobs: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(blobs)? {
        for blob in std::fs::read_dir(folder?.path())? {
            let blob = blob?;
            if let Some(number) = blob
                .file_name()
                .to_str()
                .and_then(|name| u64::from_str_radix(name, 16).ok())
            {
                files.push((number, blob.path()));
            }
        }
    }
    Ok(files)
}
