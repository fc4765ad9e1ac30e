//! Whose a folder of staging files is: its worker holds a lock on it, which the kernel lets go however the worker ends.
//!
//! So whoever tidies up after dead workers, or uploads what they left, tells them from those that are alive, also where
//! no record names these any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

/// Who tidies up holds a folder for moments; a predecessor is dead.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// A folder that is one worker's alone, for as long as this lives.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    held: Mutex<Option<File>>,
}

impl FolderLock {
    /// Makes the folder, for nobody else's eyes, and takes it. A filesystem without locks does without.
    pub fn take(folder: &Path) -> io::Result<FolderLock> {
        let lock = FolderLock {
            folder: folder.to_owned(),
            held: Mutex::new(None),
        };
        lock.renew()?;
        Ok(lock)
    }

    /// Makes the folder anew if somebody has tidied it away, and takes that.
    pub fn renew(&self) -> io::Result<()> {
        let mut held = self.held.lock();
        let begun = Instant::now();
        loop {
            make(&self.folder)?;
            let ours = held.as_ref().is_some_and(|held| is_at(held, &self.folder));
            if ours {
                return Ok(());
            }
            match try_lock(&self.folder) {
                // Who had it before may have removed it in between.
                Ok(Some(locked)) if is_at(&locked, &self.folder) => {
                    *held = Some(locked);
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(
                        folder = %self.folder.display(), %error,
                        "the staging folder cannot be locked; nobody tidies up what a killed worker leaves there"
                    );
                    return Ok(());
                }
            }
            if begun.elapsed() > PATIENCE {
                let reason = format!(
                    "another process holds the staging folder {}",
                    self.folder.display()
                );
                return Err(io::Error::new(io::ErrorKind::WouldBlock, reason));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The lock of a folder, if no worker has it.
pub fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    let file = File::open(folder)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same for one whose worker was killed: its threads may still be on their way out.
pub fn lock_of_ended(folder: &Path) -> io::Result<Option<File>> {
    let begun = Instant::now();
    loop {
        let locked = try_lock(folder)?;
        if locked.is_some() || begun.elapsed() > PATIENCE {
            return Ok(locked);
        }
        std::thread::sleep(POLL);
    }
}

/// Makes a folder for nobody else's eyes, unless it is there.
pub fn make(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

fn is_at(held: &File, path: &Path) -> bool {
    match (held.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_workers_until_that_ends_also_when_it_is_made_anew() {
        let all = tempfile::tempdir().unwrap();
        let folder = all.path().join("one");
        let lock = FolderLock::take(&folder).unwrap();
        assert!(try_lock(&folder).unwrap().is_none());
        std::fs::remove_dir(&folder).unwrap();
        lock.renew().unwrap();
        assert!(try_lock(&folder).unwrap().is_none(), "the one that is there now");
        let ending = std::thread::spawn(move || {
            std::thread::sleep(2 * POLL);
            drop(lock);
        });
        assert!(lock_of_ended(&folder).unwrap().is_some(), "it is waited for");
        ending.join().unwrap();
    }
}
