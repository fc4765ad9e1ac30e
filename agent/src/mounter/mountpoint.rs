//! The folders that mounts lie on. A mount point is never a plain writable folder: while nothing is mounted it is
//! mode 0000 and immutable, or covered by an empty read-only file system, so that not even root, which most
//! containers are, writes to the local disk by mistake.
//!
//! Invariants: nothing is ever deleted but an empty folder; no link is ever followed, neither on the way to the mount root
//! nor below it: folders are made and opened from the descriptor of the one above them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use mooring_identity::files;
use rustix::fs::{CWD, IFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::MountError;
use crate::desired::Place;
use crate::groups;
use crate::observed::mountinfo::{GUARD_SOURCE, MountTable, Top};

/// Makes the mount root: a shared mount of itself, so that mounts made below it appear in containers that have bound
/// it before (`rslave`). May be called again at any time.
pub fn prepare_mount_root(root: &Path) -> Result<(), MountError> {
    if !root.is_dir() {
        // Containers and jobs pass through.
        files::create_parents(&root.join("mount"))
            .map_err(|error| MountError::host("HostError", super::native::describe(&error)))?;
    }
    refuse_strangers(root)?;
    let table = table()?;
    if table.at(root).is_none() {
        rustix::mount::mount_bind(root, root).map_err(|errno| {
            MountError::host(
                "MountRefused",
                format!(
                    "the kernel refuses to bind {} onto itself ({errno}); the agent needs root with CAP_SYS_ADMIN",
                    root.display()
                ),
            )
        })?;
    }
    if !table.at(root).is_some_and(|entry| entry.shared) {
        rustix::mount::mount_change(root, MountPropagationFlags::SHARED)
            .map_err(|errno| MountError::io("share", root, errno))?;
    }
    if !in_namespace_of_init() {
        tracing::warn!(root = %root.display(),
            "this process has a mount namespace of its own: mounts made here may be invisible to others; \
             remove PrivateMounts= and Protect*= options from its unit");
    }
    Ok(())
}

/// Whoever may write to the mount root could put links and mounts of his own where root works.
fn refuse_strangers(root: &Path) -> Result<(), MountError> {
    let found = open_root(root)?
        .metadata()
        .map_err(|error| MountError::io("look at", root, error))?;
    if found.uid() == 0 && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(MountError::host(
        "MountRootUnsafe",
        format!(
            "others than root own {} or may write to it; let only root write there: chown root {0}; chmod go-w {0}",
            root.display()
        ),
    ))
}

/// Opens the mount root, on the way to which no link may lie: the kernel shows mounts by their real paths, and whoever
/// may change a link could have all mounts made elsewhere.
fn open_root(root: &Path) -> Result<File, MountError> {
    let opened = rustix::fs::openat2(CWD, root, FOLDER, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    match opened {
        Ok(root) => Ok(File::from(root)),
        Err(Errno::LOOP) => Err(MountError::host(
            "MountRootUnsafe",
            format!(
                "{} is a link, or lies behind one; set mount_root to the real folder{}",
                root.display(),
                std::fs::canonicalize(root)
                    .map(|real| format!(": {}", real.display()))
                    .unwrap_or_default()
            ),
        )),
        Err(errno) => Err(MountError::io("open the folder", root, errno)),
    }
}

/// Makes the project's folder, which only its group may enter, and in it the guarded mount point.
pub(super) fn prepare(root: &Path, place: &Place, group: Option<&str>) -> Result<u32, MountError> {
    let gid = admit(root, place, group)?;
    let project = open_folder(&open_root(root)?, &place.project_folder(root))?;
    guard(&project, &place.path(root))?;
    Ok(gid)
}

/// Makes the project's folder, if need be, and lets the group enter it, and nobody else. May be done at any time: whoever
/// is in the folder already stays there.
pub(super) fn admit(root: &Path, place: &Place, group: Option<&str>) -> Result<u32, MountError> {
    let gid = gid_of(group)?;
    let path = place.project_folder(root);
    let project = make_folder(&open_root(root)?, &path)?;
    // The owner first: the mode must never be wider than for the group it is meant for.
    std::os::unix::fs::fchown(&project, Some(0), Some(gid))
        .map_err(|error| MountError::io("set the owner of", &path, error))?;
    let mode = if group.is_some() { 0o750 } else { 0o700 };
    project
        .set_permissions(std::fs::Permissions::from_mode(mode))
        .map_err(|error| MountError::io("set the mode of", &path, error))?;
    Ok(gid)
}

/// The number of the group that may enter; root's without one.
pub(super) fn gid_of(group: Option<&str>) -> Result<u32, MountError> {
    let Some(name) = group else { return Ok(0) };
    let found = groups::gid_of(name).map_err(|error| {
        MountError::host(
            "GroupUnknown",
            format!("cannot look up the group {name}: {error}"),
        )
    })?;
    found.ok_or_else(|| {
        MountError::host(
            "GroupUnknown",
            format!(
                "this host has no group {name}, which the pool maps to the project; add it: groupadd {name}"
            ),
        )
    })
}

/// Whether a mount could be made at `point`; changes nothing.
pub(super) fn check_free(root: &Path, place: &Place) -> Result<(), MountError> {
    let point = &place.path(root);
    if is_guarded(point)? || !point.exists() {
        return Ok(());
    }
    let project = open_folder(&open_root(root)?, &place.project_folder(root))?;
    let folder = open_folder(&project, point)?;
    if is_immutable(&folder) {
        return Ok(());
    }
    refuse_files(point)
}

/// Makes a mount point that nobody can write to.
fn guard(project: &File, point: &Path) -> Result<(), MountError> {
    if is_guarded(point)? {
        return Ok(());
    }
    let folder = make_folder(project, point)?;
    if is_immutable(&folder) {
        return Ok(());
    }
    refuse_files(point)?;
    folder
        .set_permissions(std::fs::Permissions::from_mode(0o000))
        .map_err(|error| MountError::io("set the mode of", point, error))?;
    let flags = rustix::fs::ioctl_getflags(&folder).unwrap_or(IFlags::empty());
    if rustix::fs::ioctl_setflags(&folder, flags | IFlags::IMMUTABLE).is_ok() && is_immutable(&folder) {
        return Ok(());
    }
    // This file system knows no immutable folders, or the agent lacks CAP_LINUX_IMMUTABLE.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(GUARD_SOURCE, point, "tmpfs", flags, c"size=4k,mode=0000")
        .map_err(|errno| MountError::io("guard", point, errno))
}

/// Whether the guard lies there already; an error if something else does.
fn is_guarded(point: &Path) -> Result<bool, MountError> {
    match table()?.top(point) {
        Top::Guard => Ok(true),
        Top::Nothing => Ok(false),
        Top::Ours(_) => Err(MountError::host(
            "PlaceTaken",
            format!(
                "{} still has a mount of this agent; it is tried again",
                point.display()
            ),
        )),
        Top::Foreign(entry) => Err(MountError::host(
            "PlaceTaken",
            format!(
                "{} has a mount of something else ({}); unmount it: umount {}",
                point.display(),
                entry.file_system,
                point.display()
            ),
        )),
    }
}

fn refuse_files(point: &Path) -> Result<(), MountError> {
    let mut entries = std::fs::read_dir(point).map_err(|error| MountError::io("list", point, error))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(MountError::host(
            "PlaceTaken",
            format!(
                "{} is a folder with files in it, which a mount would hide; move them away",
                point.display()
            ),
        )),
    }
}

/// Takes the guard away and removes the mount point, and the project's folder if it is the last. Anything that is not
/// empty stays, and so does anything that someone has mounted there.
pub(super) fn release(root: &Path, point: &Path) -> Result<(), MountError> {
    // A path from a record must lie exactly two levels below the root.
    let Some(project) = point.parent().filter(|project| project.parent() == Some(root)) else {
        return Ok(());
    };
    if matches!(table()?.top(point), Top::Guard) {
        rustix::mount::unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
            .map_err(|errno| MountError::io("unmount the guard of", point, errno))?;
    }
    if table()?.top(point) != Top::Nothing {
        return Ok(());
    }
    if !point.exists() {
        return remove_empty(project);
    }
    let folder = open_folder(&open_folder(&open_root(root)?, project)?, point)?;
    if let Ok(flags) = rustix::fs::ioctl_getflags(&folder)
        && flags.contains(IFlags::IMMUTABLE)
    {
        rustix::fs::ioctl_setflags(&folder, flags - IFlags::IMMUTABLE)
            .map_err(|errno| MountError::io("unlock", point, errno))?;
    }
    remove_empty(point)?;
    remove_empty(project)
}

fn remove_empty(folder: &Path) -> Result<(), MountError> {
    match std::fs::remove_dir(folder) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(MountError::io("remove the empty folder", folder, error)),
    }
}

/// Makes the last part of `path` in the folder `above`, unless it is there, and opens it.
fn make_folder(above: &File, path: &Path) -> Result<File, MountError> {
    match rustix::fs::mkdirat(above, last_part(path), Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_folder(above, path),
        Err(errno) => Err(MountError::io("create", path, errno)),
    }
}

/// Opens the last part of `path` in the folder `above`. A link in its place is refused: it could lead anywhere.
fn open_folder(above: &File, path: &Path) -> Result<File, MountError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(above, last_part(path), FOLDER, Mode::empty(), resolve)
        .map(File::from)
        .map_err(|errno| MountError::io("open the folder", path, errno))
}

/// Places are made of two names, so there always is a last one.
fn last_part(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

/// How folders are opened.
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn is_immutable(folder: &File) -> bool {
    rustix::fs::ioctl_getflags(folder).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE))
}

fn table() -> Result<MountTable, MountError> {
    MountTable::read().map_err(|error| MountError::io("read", Path::new("/proc/self/mountinfo"), error))
}

fn in_namespace_of_init() -> bool {
    let namespace = |process: &str| {
        std::fs::metadata(format!("/proc/{process}/ns/mnt"))
            .map(|found| found.ino())
            .ok()
    };
    // A container may hide the namespaces of its first process: then nothing is known against this one.
    namespace("1").is_none_or(|of_init| namespace("self") == Some(of_init))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_on_the_way_to_the_mount_root_is_refused_with_the_real_folder() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap().join("real");
        std::fs::create_dir_all(real.join("mnt")).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        assert!(open_root(&real.join("mnt")).is_ok());
        let error = open_root(&dir.path().join("link/mnt")).unwrap_err().to_string();
        assert!(error.contains(&real.join("mnt").display().to_string()), "{error}");
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let (elsewhere, path) = (tempfile::tempdir().unwrap(), root.join("ml"));
        std::os::unix::fs::symlink(elsewhere.path(), &path).unwrap();
        let above = open_root(&root).unwrap();
        assert!(make_folder(&above, &path).is_err());
        assert!(make_folder(&above, &root.join("bio")).is_ok());
    }
}
