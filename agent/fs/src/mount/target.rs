//! The folder of a standalone mount: what may be mounted at, and what to tell a person when it may not.
//!
//! Looks at the kernel's table before it looks at the folder, since the folder of a mount whose process is dead or stuck
//! answers late, wrongly or never. Two mounts are never stacked: one unmount would take away both, or only the one that
//! somebody sees. What is no FUSE mount, such as a volume of a container, may be mounted over.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::MountError;

/// What a live mount takes to answer for itself; it asks nobody for it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// How the sources of our mounts begin in the kernel's table.
const SOURCE_PREFIX: &str = "mooring-fs#";

/// The folder to mount at, free of links, if it can be mounted at.
pub(super) fn checked_target(target: &Path) -> Result<PathBuf, MountError> {
    let resolved = resolved(target);
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    if let Some(mount) = resolved.as_deref().and_then(|path| fuse_mount_at(&table, path)) {
        return Err(taken(resolved.as_deref().unwrap_or(target), &mount));
    }
    match std::fs::metadata(target) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(MountError::new(
                format!("{} is no folder", target.display()),
                "mount at a folder",
            ));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(MountError::new(
                format!("{} cannot be used: {error}", target.display()),
                format!("make the folder: mkdir -p {}", quoted(target)),
            ));
        }
        Err(error) => {
            return Err(MountError::new(
                format!("{} cannot be used: {error}", target.display()),
                "mount at a folder that you may enter",
            ));
        }
    }
    resolved.ok_or_else(|| {
        MountError::new(
            format!("{} cannot be resolved", target.display()),
            "check the path",
        )
    })
}

/// Why the kernel or fusermount3 refused.
pub(super) fn mount_failure(error: &std::io::Error, target: &Path, allow_other: bool) -> MountError {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    if let Some(mount) = fuse_mount_at(&table, target) {
        return taken(target, &mount);
    }
    let remedy = match error.kind() {
        _ if !Path::new("/dev/fuse").exists() => "load the kernel's fuse module: modprobe fuse",
        std::io::ErrorKind::NotFound => "install fusermount3 (package fuse3), or mount as root",
        std::io::ErrorKind::PermissionDenied if allow_other => {
            "without root, --allow-other needs the line user_allow_other in /etc/fuse.conf"
        }
        // fusermount3 says why on its own, and its failures have all kinds.
        _ if !rustix::process::geteuid().is_root() => {
            "the folder must be yours, and /dev/fuse and fusermount3 (package fuse3) must be usable by you"
        }
        _ => "in a container, /dev/fuse and CAP_SYS_ADMIN are needed",
    };
    MountError::new(format!("{} cannot be mounted: {error}", target.display()), remedy)
}

/// A FUSE mount in the kernel's table.
#[derive(Debug, PartialEq, Eq)]
struct FuseMount {
    ours: bool,
    source: String,
    /// Who made it.
    user_id: u32,
}

/// The path without links. The last component of a dead mount's path cannot be looked at, the ones above it can.
fn resolved(target: &Path) -> Option<PathBuf> {
    if let Ok(path) = target.canonicalize() {
        return Some(path);
    }
    let absolute = std::path::absolute(target).ok()?;
    let parent = absolute.parent()?.canonicalize().ok()?;
    Some(parent.join(absolute.file_name()?))
}

/// The topmost mount at exactly this path, if it is one of FUSE.
fn fuse_mount_at(mountinfo: &[u8], path: &Path) -> Option<FuseMount> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .rfind(|(at, _)| at == path)?
        .1
}

/// `36 35 98:0 /root /path options shared:1 - type source super-options`, see proc(5).
fn parse_line(line: &[u8]) -> Option<(PathBuf, Option<FuseMount>)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = PathBuf::from(OsString::from_vec(unescaped(fields.nth(4)?)));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = fields.next()?;
    let source = String::from_utf8_lossy(&unescaped(fields.next()?)).into_owned();
    let options = String::from_utf8_lossy(fields.next().unwrap_or_default());
    if kind != b"fuse" && !kind.starts_with(b"fuse.") {
        return Some((path, None));
    }
    let user_id = options
        .split(',')
        .find_map(|option| option.strip_prefix("user_id="));
    let mount = FuseMount {
        // Mounts made directly by root carry no subtype.
        ours: kind == b"fuse.mooring" || source.starts_with(SOURCE_PREFIX),
        source,
        user_id: user_id.and_then(|id| id.parse().ok()).unwrap_or(0),
    };
    Some((path, Some(mount)))
}

/// The kernel writes space, tab, line feed and backslash as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped.filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Answers,
    Dead,
    Silent,
}

/// What is there already, whether it lives, and the one command that takes it away for whoever asks.
fn taken(target: &Path, mount: &FuseMount) -> MountError {
    let caller = rustix::process::geteuid().as_raw();
    explain_taken(target, mount, life_of(target), caller)
}

fn explain_taken(target: &Path, mount: &FuseMount, life: Life, caller: u32) -> MountError {
    let shown = target.display();
    let name = mount.source.strip_prefix(SOURCE_PREFIX).unwrap_or(&mount.source);
    let reason = match (life, mount.ours) {
        (Life::Dead, _) => format!("{shown} is a mount of {name} whose process has died"),
        (Life::Silent, _) => format!("{shown} is a mount of {name} that does not answer"),
        (Life::Answers, true) => format!("{shown} is a mount of {name} already"),
        (Life::Answers, false) => format!("{shown} is a FUSE mount of {name} already"),
    };
    let target = quoted(target);
    let remedy = match (caller, mount.user_id) {
        (0, _) => format!("unmount it first: umount {target}"),
        (caller, user) if caller == user => format!("unmount it first: fusermount3 -u {target}"),
        (_, user) => {
            format!("the user with the id {user} has mounted it: they, or root, can run: umount {target}")
        }
    };
    let elsewhere = match life {
        Life::Answers => ", or mount at another folder",
        Life::Dead | Life::Silent => "",
    };
    MountError::new(reason, format!("{remedy}{elsewhere}"))
}

/// Asks the mount itself: a question about its size is never answered from the kernel's memory.
fn life_of(target: &Path) -> Life {
    let (sender, answer) = mpsc::channel();
    let path = target.to_owned();
    // A thread of its own: whoever asks a stuck process waits for it in the kernel, beyond any deadline.
    let asking = std::thread::Builder::new().spawn(move || {
        // Nobody waits any more after the deadline.
        let _ = sender.send(rustix::fs::statvfs(&path));
    });
    if asking.is_err() {
        return Life::Answers;
    }
    match answer.recv_timeout(ANSWER_DEADLINE) {
        Ok(Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)) => Life::Dead,
        // Others' mounts refuse us, and live.
        Ok(Ok(_) | Err(_)) => Life::Answers,
        Err(_) => Life::Silent,
    }
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:50 / /mnt/lake rw,nosuid - fuse.mooring mooring-fs#lake:some\\040day rw,user_id=1000,group_id=1000
41 22 0:51 / /mnt/under rw - fuse.mooring mooring-fs#lake rw,user_id=0
42 41 0:52 / /mnt/under rw - tmpfs tmpfs rw
43 22 0:53 / /mnt/with\\040space rw shared:7 master:2 - fuse.sshfs me@host: rw,user_id=5
";

    fn at(path: &str) -> Option<FuseMount> {
        fuse_mount_at(TABLE, Path::new(path))
    }

    fn said(path: &str, life: Life, caller: u32) -> String {
        explain_taken(Path::new(path), &at(path).unwrap(), life, caller).to_string()
    }

    #[test]
    fn only_the_topmost_mount_at_the_very_path_counts() {
        assert!(at("/mnt/lake").is_some_and(|mount| mount.ours && mount.user_id == 1000));
        assert_eq!(at("/mnt"), None);
        assert_eq!(at("/mnt/lake/below"), None);
        assert_eq!(
            at("/mnt/under"),
            None,
            "hidden below something that may be mounted over"
        );
        assert!(at("/mnt/with space").is_some_and(|mount| !mount.ours));
    }

    #[test]
    fn the_remedy_is_the_command_that_works_for_the_caller() {
        assert_eq!(
            said("/mnt/lake", Life::Dead, 0),
            "/mnt/lake is a mount of lake:some day whose process has died\n  unmount it first: umount /mnt/lake"
        );
        assert_eq!(
            said("/mnt/lake", Life::Dead, 1000),
            "/mnt/lake is a mount of lake:some day whose process has died\n  unmount it first: fusermount3 -u /mnt/lake"
        );
        let others = said("/mnt/lake", Life::Dead, 1001);
        assert!(
            others.contains("id 1000") && others.contains("or root"),
            "{others}"
        );
        let alive = said("/mnt/with space", Life::Answers, 0);
        assert!(
            alive.contains("umount '/mnt/with space', or mount at another folder"),
            "{alive}"
        );
        assert!(said("/mnt/lake", Life::Silent, 0).contains("does not answer"));
    }

    #[test]
    fn a_folder_without_a_mount_is_resolved_and_taken() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let expected = folder.path().canonicalize().unwrap().join("real");
        assert_eq!(checked_target(&link).unwrap(), expected);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(
            checked_target(&folder.path().join("file"))
                .unwrap_err()
                .reason
                .contains("no folder")
        );
        assert!(
            checked_target(&folder.path().join("none"))
                .unwrap_err()
                .remedy
                .contains("mkdir -p")
        );
    }
}
