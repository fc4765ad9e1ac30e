//! The kernel's table of mounts, `/proc/self/mountinfo`, parsed. The one truth about what is mounted where.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::backends::Foreign;

/// File system type of our own backend's mounts, as the kernel shows it.
pub const FILE_SYSTEM: &str = "fuse.mooring";

/// What the kernel shows as mounted, for mounts of every backend. It tells those of GeeseFS and s3fs from the ones that
/// a person has made with these programs.
pub const SOURCE: &str = "mooring";

/// All mounts of this process's namespace, in the kernel's order: later ones lie above earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable {
    entries: Vec<MountEntry>,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Device number, as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub path: PathBuf,
    /// File system type, such as `ext4` or `fuse.mooring`.
    pub file_system: String,
    /// What was mounted.
    pub source: String,
    /// Whether mounts made below it appear in other namespaces too.
    pub shared: bool,
}

impl MountEntry {
    fn is_ours(&self) -> bool {
        let foreign = [Foreign::Geesefs, Foreign::S3fs];
        self.file_system == FILE_SYSTEM
            || (self.source == SOURCE
                && foreign
                    .iter()
                    .any(|program| self.file_system == program.file_system()))
    }
}

/// What lies on top at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top<'a> {
    /// No mount.
    Nothing,
    /// The empty file system that guards a mount point which cannot be made immutable.
    Guard,
    /// One of our mounts.
    Ours(&'a MountEntry),
    /// A mount of someone else.
    Foreign(&'a MountEntry),
}

/// Source of the guard's mount.
pub const GUARD_SOURCE: &str = "mooring-guard";

impl MountTable {
    /// Asks the kernel.
    pub fn read() -> std::io::Result<MountTable> {
        Ok(MountTable::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// Parses the kernel's text. A line that cannot be understood is skipped: it is none of ours.
    pub fn parse(text: &[u8]) -> MountTable {
        MountTable {
            entries: text.split(|byte| *byte == b'\n').filter_map(parse_line).collect(),
        }
    }

    /// What lies on top at `path`.
    pub fn top(&self, path: &Path) -> Top<'_> {
        match self.entries.iter().rev().find(|entry| entry.path == path) {
            None => Top::Nothing,
            Some(entry) if entry.is_ours() => Top::Ours(entry),
            Some(entry) if entry.source == GUARD_SOURCE => Top::Guard,
            Some(entry) => Top::Foreign(entry),
        }
    }

    /// Whether anything of this device is mounted.
    pub fn has_device(&self, device: &str) -> bool {
        self.entries.iter().any(|entry| entry.device == device)
    }

    /// The mount at exactly `path`, if there is one.
    pub fn at(&self, path: &Path) -> Option<&MountEntry> {
        self.entries.iter().rev().find(|entry| entry.path == path)
    }
}

/// `36 35 98:0 /root /path options shared:1 - type source super-options`, see proc(5).
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let path = fields.nth(1)?;
    let mut shared = false;
    for field in fields.by_ref() {
        if field == b"-" {
            break;
        }
        shared |= field.starts_with(b"shared:");
    }
    Some(MountEntry {
        device: text(device),
        path: OsString::from_vec(unescape(path)).into(),
        file_system: text(fields.next()?),
        source: text(&unescape(fields.next()?)),
        shared,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The kernel writes space, tab, line feed and backslash as a backslash and three octal digits.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0_u8, |value, digit| {
                value.wrapping_mul(8).wrapping_add(digit - b'0')
            }));
            rest = &tail[3..];
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 254:0 /mnt/mooring /mnt/mooring rw shared:1 - ext4 /dev/vda rw
41 40 0:50 / /mnt/mooring/ml/a rw,nosuid,nodev - fuse.mooring mooring rw,user_id=0
42 40 0:51 / /mnt/mooring/ml/b ro - tmpfs mooring-guard ro
43 42 0:52 / /mnt/mooring/ml/b rw - fuse.mooring mooring rw
44 40 0:53 / /mnt/mooring/ml/c rw - fuse.mooring mooring rw
45 44 0:54 / /mnt/mooring/ml/c rw - tmpfs tmpfs rw
46 40 0:55 / /mnt/mooring/ml/d ro - tmpfs mooring-guard ro
47 40 0:56 / /mnt/with\\040space\\134 rw master:2 - ext4 /dev/vdb rw
garbage
";

    #[test]
    fn the_topmost_mount_of_a_path_counts() {
        let table = MountTable::parse(TEXT);
        let top = |name: &str| table.top(&Path::new("/mnt/mooring/ml").join(name));
        assert!(matches!(top("a"), Top::Ours(entry) if entry.device == "0:50"));
        assert!(matches!(top("b"), Top::Ours(entry) if entry.device == "0:52"));
        assert!(matches!(top("c"), Top::Foreign(_)));
        assert_eq!(top("d"), Top::Guard);
        assert_eq!(top("e"), Top::Nothing);
    }

    #[test]
    fn mounts_of_other_programs_are_ours_when_we_have_named_them() {
        let table = MountTable::parse(
            b"40 22 0:1 / /mnt/mooring/ml/a rw - fuse.geesefs mooring rw
41 22 0:2 / /mnt/mooring/ml/b rw - fuse.s3fs mooring rw
42 22 0:3 / /mnt/mooring/ml/c rw - fuse.s3fs s3fs rw
43 22 0:4 / /mnt/mooring/ml/d rw - fuse.rclone mooring rw
",
        );
        let ours = |name: &str| matches!(table.top(&Path::new("/mnt/mooring/ml").join(name)), Top::Ours(_));
        assert!(ours("a") && ours("b") && !ours("c") && !ours("d"));
    }

    #[test]
    fn escapes_are_undone_and_propagation_is_read() {
        let table = MountTable::parse(TEXT);
        assert!(table.at(Path::new("/mnt/mooring")).unwrap().shared);
        assert!(!table.at(Path::new("/mnt/with space\\")).unwrap().shared);
    }

    #[test]
    fn the_table_of_this_machine_has_a_root() {
        assert!(MountTable::read().unwrap().at(Path::new("/")).is_some());
    }
}
