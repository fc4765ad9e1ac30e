//! What is mounted, as the kernel says it.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, StatxFlags};

/// The mount points at or below `folder`, innermost first.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells its mounts");
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|path| path.starts_with(folder))
        .collect();
    found.reverse();
    found
}

/// Whether `folder` is a mount point.
pub fn is_mounted(folder: &Path) -> bool {
    mounts_below(folder).iter().any(|path| path == folder)
}

/// Whether whoever serves the mount at `folder` answers, and lists it. Opening the folder alone says nothing: where a
/// filesystem has no use for opens, the kernel does not ask it, and so it opens a dead mount, too.
pub fn answers(folder: &Path) -> Result<(), String> {
    rustix::fs::statvfs(folder).map_err(|error| error.to_string())?;
    std::fs::read_dir(folder)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// The id of the mount that `path` is in. On kernels since 6.8 no mount ever has the id of an earlier one, so that it tells
/// whether something was mounted anew; before, ids are given out again.
pub fn mount_id(path: &Path) -> Option<u64> {
    // STATX_MNT_ID_UNIQUE, which rustix has no name for. It is not followed by a request to the filesystem: what is asked
    // for is the kernel's own.
    let wanted = StatxFlags::from_bits_retain(0x4000) | StatxFlags::MNT_ID;
    let found = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::STATX_DONT_SYNC, wanted).ok()?;
    Some(found.stx_mnt_id)
}

/// Detaches everything at or below `folder`. For the end of a story, also of a failed one.
pub fn detach_below(folder: &Path) {
    for path in mounts_below(folder) {
        let _ = Command::new("umount").arg("-l").arg(&path).output();
    }
}

/// Octal escapes of the kernel's table: space, tab, newline, backslash.
fn unescape(field: &str) -> PathBuf {
    PathBuf::from(
        field
            .replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\012", "\n")
            .replace("\\134", "\\"),
    )
}
