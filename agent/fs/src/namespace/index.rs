//! Listings on the local disk: a folder that was listed before the mount ended is there at once when it is mounted anew.
//!
//! What is kept is shown to who lists the folder, if the store has said so at most [`STALE_MAX`] ago, and the folder is
//! listed again meanwhile. It answers no questions about single names. One file for each folder, written beside the readers by a thread of its own; files are
//! replaced as a whole, and one that was torn or belongs to another folder counts for nothing.
//!
//! Invariants: whoever changes a folder has its file taken away, so that nobody misses in a listing what was made here;
//! whoever goes on for a dead process has all of them taken away, since that one may not have come to it. What is kept is
//! of one key to the store: another one may see less.

mod format;

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::lister::Listed;
use crate::clock;

/// So old a listing may be that is served before it is verified: a machine restarts and a program is upgraded within it.
pub const STALE_MAX: Duration = Duration::from_secs(300);

/// Listings that wait to be written; beyond it they are not kept, since the disk is slower than the store.
const WAITING_MAX: usize = 64;

/// Folders of which a mount may leave listings: beyond it, those that it lists first.
const FOLDERS_MAX: usize = 65_536;

/// Between two sweeps, which remove what is too old to be served: so the disk holds the listings of some minutes only.
const SWEEP_EVERY: Duration = Duration::from_secs(300);

/// What a listing's file is called while it is written.
const PART: &str = "part";

/// The listings of one mount that are kept; clones share them. [`Index::default`] keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct Index(Option<Arc<Inner>>);

/// A listing as it was found.
#[derive(Debug)]
pub struct Found {
    /// What was listed.
    pub listed: Listed,
    /// How long ago the store said so.
    pub age: Duration,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    orders: Sender<Order>,
    /// Listings that wait to be written.
    waiting: Arc<AtomicUsize>,
    /// Those that lie on the disk, or will in a moment, and whose they are.
    there: Mutex<HashMap<u64, Whose>>,
    off: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    /// A mount before has left it: it may be served, once.
    Inherited,
    /// Of this process, which knows better.
    Own,
}

enum Order {
    Keep(Box<Listing>),
    Remove(PathBuf),
    RemoveAll,
}

/// A folder's listing, on its way to the disk.
struct Listing {
    file: PathBuf,
    /// The folder's path below the mount.
    path: String,
    listed: Listed,
    verified: SystemTime,
}

impl Index {
    /// The listings that a mount before has left in `folder` for those who see the store as `identity` says. Two mounts
    /// may share it; what one changes is to the other as if it were done on another host.
    pub fn open(folder: &Path, identity: &impl Hash) -> io::Result<Index> {
        let folder = folder.join(format!("{:016x}", hash_of(identity)));
        make(&folder)?;
        let names = fs::read_dir(&folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let hashes = names.filter_map(|name| u64::from_str_radix(&name, 16).ok());
        let there = hashes.map(|hash| (hash, Whose::Inherited)).collect();
        let (orders, ordered) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            folder: folder.clone(),
            waiting: Arc::clone(&waiting),
        };
        std::thread::Builder::new()
            .name("index".to_owned())
            .spawn(move || writer.run(&ordered))?;
        Ok(Index(Some(Arc::new(Inner {
            folder,
            orders,
            waiting,
            there: Mutex::new(there),
            off: AtomicBool::new(false),
        }))))
    }

    /// Whether a mount before has left something of a folder; asks no disk.
    pub fn may_have(&self, path: &str) -> bool {
        let whose = |inner: &Arc<Inner>| inner.there.lock().get(&hash_of(&path)).copied();
        self.usable().and_then(whose) == Some(Whose::Inherited)
    }

    /// What a mount before has left of the folder with this path below the mount, if it may still be served. Blocks on
    /// the disk.
    pub fn load(&self, path: &str, now: SystemTime) -> Option<Found> {
        let inner = self.usable()?;
        let whose = inner.there.lock().insert(hash_of(&path), Whose::Own);
        if whose != Some(Whose::Inherited) {
            return None;
        }
        let bytes = fs::read(inner.file(hash_of(&path))).ok()?;
        let (verified, listed) = format::decode(&bytes, path)?;
        // A clock that was set back says nothing of ages.
        let age = now.duration_since(verified).ok()?;
        (age <= STALE_MAX).then_some(Found { listed, age })
    }

    /// Keeps what the store has just said of a folder.
    pub fn keep(&self, path: &str, listed: Listed, verified: SystemTime) {
        let Some(inner) = self.usable() else { return };
        if inner.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            inner.waiting.fetch_sub(1, Ordering::Relaxed);
            // What is there is older.
            return self.outdate(path);
        }
        let hash = hash_of(&path);
        {
            let mut there = inner.there.lock();
            if there.len() >= FOLDERS_MAX && !there.contains_key(&hash) {
                inner.waiting.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            there.insert(hash, Whose::Own);
        }
        inner.order(Order::Keep(Box::new(Listing {
            file: inner.file(hash),
            path: path.to_owned(),
            listed,
            verified,
        })));
    }

    /// What is kept of a folder does not hold any more. Never waits.
    pub fn outdate(&self, path: &str) {
        let Some(inner) = &self.0 else { return };
        let hash = hash_of(&path);
        if inner.there.lock().remove(&hash).is_some() {
            inner.order(Order::Remove(inner.file(hash)));
        }
    }

    /// Nothing that is kept holds any more. Never waits.
    pub fn outdate_all(&self) {
        if let Some(inner) = &self.0 {
            inner.there.lock().clear();
            inner.order(Order::RemoveAll);
        }
    }

    /// The store is seen with other eyes from now on: what is kept is not served any more, and nothing is added.
    pub fn end(&self) {
        if let Some(inner) = &self.0
            && !inner.off.swap(true, Ordering::Relaxed)
        {
            self.outdate_all();
        }
    }

    fn usable(&self) -> Option<&Arc<Inner>> {
        self.0.as_ref().filter(|inner| !inner.off.load(Ordering::Relaxed))
    }
}

impl Inner {
    /// Two folders with one name would replace each other's listings, and each finds that it is not its own.
    fn file(&self, hash: u64) -> PathBuf {
        self.folder.join(format!("{hash:016x}"))
    }

    fn order(&self, order: Order) {
        // Without the thread nothing is written, so nothing has to be removed.
        let _ = self.orders.send(order);
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Does what is ordered, one after the other, so that nothing is written after it was outdated.
struct Writer {
    folder: PathBuf,
    waiting: Arc<AtomicUsize>,
}

impl Writer {
    fn run(self, ordered: &Receiver<Order>) {
        self.sweep();
        let mut failing = false;
        loop {
            let done = match ordered.recv_timeout(SWEEP_EVERY) {
                Ok(Order::Keep(listing)) => {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    keep(&listing)
                }
                Ok(Order::Remove(path)) => removed(&path),
                Ok(Order::RemoveAll) => remove_in(&self.folder, |_| true),
                Err(RecvTimeoutError::Timeout) => {
                    self.sweep();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match done {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(folder = %self.folder.display(), %error,
                        "listings are not kept on the disk; after a restart folders are listed anew");
                }
                Err(_) => {}
            }
        }
    }

    /// Removes what nobody may be told any more, also of mounts that saw the store with other eyes.
    fn sweep(&self) {
        let now = clock::wall();
        let all = self.folder.parent().and_then(|all| fs::read_dir(all).ok());
        for folder in all.into_iter().flatten().flatten() {
            let folder = folder.path();
            if let Err(error) = remove_in(&folder, |file| is_too_old(file, now)) {
                tracing::debug!(folder = %folder.display(), %error, "old listings stay on the disk");
            }
            if folder != self.folder {
                // Unless something is left in it.
                let _ = fs::remove_dir(folder);
            }
        }
    }
}

fn is_too_old(file: &fs::Metadata, now: SystemTime) -> bool {
    let modified = file.modified().ok();
    let age = modified.and_then(|modified| now.duration_since(modified).ok());
    age.is_none_or(|age| age > STALE_MAX)
}

fn remove_in(folder: &Path, is_wanted: impl Fn(&fs::Metadata) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.metadata().is_ok_and(|found| is_wanted(&found)) {
            removed(&entry.path())?;
        }
    }
    Ok(())
}

/// For nobody else's eyes, since names lie in it.
fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Torn files are found by their checksum, so nothing waits for the disk.
fn keep(listing: &Listing) -> io::Result<()> {
    let part = listing.file.with_extension(PART);
    let bytes = format::encode(listing);
    let written = match fs::write(&part, &bytes) {
        // Somebody has tidied the folder away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => listing
            .file
            .parent()
            .map_or(Ok(()), make)
            .and_then(|()| fs::write(&part, &bytes)),
        written => written,
    };
    let written = written.and_then(|()| fs::rename(&part, &listing.file));
    if written.is_err() {
        let _ = fs::remove_file(&part);
        let _ = removed(&listing.file);
    }
    written
}

fn removed(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
