//! One catalog on one state directory: two would give out the same revisions to different hosts.

use std::fs::{File, TryLockError};
use std::path::Path;

use mooring_identity::files;

/// The state directory is ours until this is dropped, or the process dies.
#[derive(Debug)]
pub struct StateLock {
    /// The kernel holds the lock as long as this is open.
    _file: File,
}

/// Why the state directory cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another mooring-catalog runs on {0}: stop it first")]
    Taken(String),
    /// The lock file cannot be made.
    #[error("the lock in {directory} cannot be taken")]
    File {
        /// The state directory.
        directory: String,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
}

impl StateLock {
    /// Takes the state directory, which is made on the first start.
    ///
    /// # Errors
    /// When another process has it, or when it cannot be written.
    pub fn acquire(directory: &Path) -> Result<StateLock, LockError> {
        let failed = |source| LockError::File {
            directory: directory.display().to_string(),
            source,
        };
        files::create_private_directory(directory).map_err(|error| failed(std::io::Error::other(error)))?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(StateLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Taken(directory.display().to_string())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_is_for_one_process_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = StateLock::acquire(&state).unwrap();
        let refused = StateLock::acquire(&state).unwrap_err();
        assert!(matches!(refused, LockError::Taken(_)), "{refused}");
        drop(first);
        StateLock::acquire(&state).unwrap();
    }
}
