//! The three things that need unsafe code, and nothing else. Every block says why it is sound, and why there is no
//! safe way.

#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::DupFlags;

/// Makes the descriptor of `target` refer to what `source` does, keeping its number.
pub fn replace_descriptor(source: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let number = target.as_fd().as_raw_fd();
    // SAFETY: the number is open, since `target` borrows it, and stays so: it is never closed through this value,
    // which is never dropped, and dup3 puts another file under the number at one stroke.
    // JUSTIFICATION: fuser owns the descriptor of its session and lends it only; dup3 wants to be given it.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    rustix::io::dup3(source, &mut target, DupFlags::CLOEXEC)?;
    Ok(())
}

/// Closes every descriptor but the first three. To be called before anything is opened: one of a file on the
/// mount that this process is about to serve would have it wait for itself when it ends.
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
            // The one that listed them.
            continue;
        }
        // SAFETY: it is open, and nobody in this process has it: whoever calls this has opened nothing yet.
        // JUSTIFICATION: closing what this process does not own cannot be said in safe code.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// Gives memory that was freed back to the system, where the allocator would keep it: glibc's does, in each of its
/// arenas, once large blocks have been freed.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and changes nothing that is in use.
    // JUSTIFICATION: only the C library can tell its allocator so, and no crate wraps it.
    unsafe {
        libc::malloc_trim(0);
    }
}
