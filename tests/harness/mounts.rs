//! What is mounted, as the kernel says it.

use std::path::{Path, PathBuf};
use std::process::Command;

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
