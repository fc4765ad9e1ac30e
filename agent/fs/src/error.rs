//! Why an operation of the filesystem fails, in the filesystem's own words.
//!
//! A variant is what the caller can do about it. `errno.rs` gives each one its number; nothing else does.

use crate::store::StoreError;

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FsError {
    /// No such file or folder.
    #[error("no such file or folder")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// A folder is needed here.
    #[error("not a folder")]
    NotFolder,
    /// A file is needed here.
    #[error("is a folder")]
    IsFolder,
    /// The folder has entries, or holds keys that cannot be shown.
    #[error("the folder is not empty")]
    NotEmpty,
    /// The mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The handle was not opened for this.
    #[error("the file is not open for this")]
    BadHandle,
    /// A component of more than 255 bytes, or a key of more than 1024.
    #[error("the name is too long")]
    NameTooLong,
    /// The name is not UTF-8, which S3 keys are.
    #[error("the name is not UTF-8")]
    NameNotUtf8,
    /// Larger than an S3 object can be.
    #[error("the file would be larger than S3 allows")]
    TooLarge,
    /// The arguments make no sense.
    #[error("invalid argument")]
    Invalid,
    /// S3 has nothing like this, such as hard links.
    #[error("not possible on S3")]
    NotPermitted,
    /// This variation of the operation is not offered.
    #[error("not supported")]
    Unsupported,
    /// The attribute does not exist.
    #[error("no such attribute")]
    NoAttribute,
    /// A folder with more keys than are moved in one operation. Programs like `mv` then copy and delete.
    #[error("the folder has too many keys to be moved at once")]
    TooManyKeys,
    /// The caller's buffer is too small.
    #[error("the buffer is too small")]
    BufferTooSmall,
    /// The mount has as many open files as it allows.
    #[error("too many open files")]
    TooManyOpen,
    /// The object changed under an open file; what was read before belongs to another version.
    #[error("the object has changed under the open file")]
    Changed,
    /// Somebody else is changing what is there at the same time; trying again later helps.
    #[error("somebody else is changing it at the same time")]
    Busy,
    /// Somebody else changed the object; what was written here is kept beside it.
    #[error("the object was changed by somebody else; this version is kept as {copy}")]
    Conflict {
        /// Key of the copy.
        copy: String,
    },
    /// The operation took longer than its deadline.
    #[error("the deadline has passed")]
    TimedOut,
    /// The local staging folder failed; the number is the system's.
    #[error("the staging folder fails (error {0})")]
    Staging(i32),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FsError {
    /// A failure of the staging folder, keeping only the system's number so that the error can be cloned.
    pub fn staging(error: &std::io::Error) -> FsError {
        FsError::Staging(error.raw_os_error().unwrap_or(0))
    }

    /// The same for an operation that names a path. That the object has changed means a stale handle to the
    /// kernel, which then looks the path up and does the whole operation once more.
    pub fn by_path(self) -> FsError {
        match self {
            FsError::Changed | FsError::Conflict { .. } | FsError::Store(StoreError::PreconditionFailed) => {
                FsError::Busy
            }
            other => other,
        }
    }
}
