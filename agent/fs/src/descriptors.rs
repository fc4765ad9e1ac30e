//! How many descriptors this process may have, and that files being written do not take the last of them:
//! without one for a connection nothing could be uploaded, and so none would ever become free.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::error::FsError;

/// Kept for connections to the store (some dozens at full speed), the control socket and the kernel.
const RESERVE: u64 = 256;

/// Allows this process as many descriptors as it may have: each file that is open for writing has one, and
/// so has each connection; the usual soft limit of 1024 is for programs that use select.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}

/// Refuses a file that was just opened if its descriptor is one of the last. The system gives out the lowest
/// that is free, so the number tells how many there are.
pub fn leave_reserve(file: &File) -> Result<(), FsError> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if is_reserved(file.as_raw_fd(), limit) => Err(FsError::TooManyOpen),
        Some(_) | None => Ok(()),
    }
}

fn is_reserved(descriptor: i32, limit: u64) -> bool {
    // Under a tiny limit most must still be of use.
    let reserve = RESERVE.min(limit / 4);
    u64::try_from(descriptor).is_ok_and(|number| number >= limit - reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_reserved() {
        for (descriptor, limit, expected) in [
            (3, 1024, false),
            (767, 1024, false),
            (768, 1024, true),
            (95, 128, false),
            (96, 128, true),
            (1 << 20, u64::MAX, false),
        ] {
            assert_eq!(
                is_reserved(descriptor, limit),
                expected,
                "number {descriptor} of {limit}"
            );
        }
    }

    #[test]
    fn an_ordinary_file_is_not_refused() {
        assert!(leave_reserve(&tempfile::tempfile().unwrap()).is_ok());
    }
}
