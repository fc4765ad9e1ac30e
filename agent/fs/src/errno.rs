//! The one table from the filesystem's errors to the kernel's numbers. Exhaustive: a new variant stops
//! the build here.

use fuser::Errno;

use crate::error::FsError;
use crate::store::StoreError;

/// The number that an application sees.
pub fn errno(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotFolder => Errno::ENOTDIR,
        FsError::IsFolder => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::ReadOnly => Errno::EROFS,
        FsError::BadHandle => Errno::EBADF,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::NameNotUtf8 => Errno::EILSEQ,
        FsError::TooLarge => Errno::EFBIG,
        FsError::Invalid => Errno::EINVAL,
        FsError::NotPermitted => Errno::EPERM,
        FsError::Unsupported => Errno::EOPNOTSUPP,
        FsError::NoAttribute => Errno::ENODATA,
        FsError::TooManyKeys => Errno::EXDEV,
        FsError::BufferTooSmall => Errno::ERANGE,
        FsError::TooManyOpen => Errno::ENFILE,
        FsError::Busy => Errno::EBUSY,
        FsError::Changed | FsError::Conflict { .. } => Errno::ESTALE,
        FsError::TimedOut => Errno::ETIMEDOUT,
        FsError::Staging(number) => Errno::from_i32(*number),
        FsError::Store(error) => match error {
            StoreError::NotFound => Errno::ENOENT,
            StoreError::Denied { .. } => Errno::EACCES,
            StoreError::PreconditionFailed => Errno::ESTALE,
            StoreError::Unsupported => Errno::EOPNOTSUPP,
            StoreError::DeadlineExceeded => Errno::ETIMEDOUT,
            StoreError::NoSuchBucket
            | StoreError::Refused { .. }
            | StoreError::OtherScheme { .. }
            | StoreError::Unavailable { .. }
            | StoreError::Interrupted { .. } => Errno::EIO,
        },
    }
}
