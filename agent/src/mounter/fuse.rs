//! The kernel's side of a FUSE mount: the descriptor, the mount and its end.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::MountError;
use crate::observed::mountinfo::{FILE_SYSTEM, MountTable, Top};

/// The largest request of this kernel: 256 pages, see /proc/sys/fs/fuse/max_pages_limit. Measured: larger ones are slower.
const READ_BYTES_MAX: u32 = 1024 * 1024;

/// Read-ahead of the page cache: the default of 128 KiB would never let a buffered read ask for a whole request.
const READ_AHEAD_KIB: &str = "1024";

/// Opens the device and mounts it. Until someone serves the descriptor, every access waits; when it is closed
/// unserved, every access fails.
pub(super) fn mount(path: &Path, read_only: bool) -> Result<OwnedFd, MountError> {
    let device =
        rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
            MountError::host(
                "FuseUnavailable",
                format!("cannot open /dev/fuse ({errno}); load the kernel's module: modprobe fuse"),
            )
        })?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={READ_BYTES_MAX}",
        device.as_raw_fd()
    );
    let options = CString::new(options).expect("the options are numbers and words");
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount("mooring", path, FILE_SYSTEM, flags, options.as_c_str()).map_err(|errno| {
        MountError::host(
            "MountRefused",
            format!(
                "the kernel refuses to mount {} ({errno}); the agent needs root with CAP_SYS_ADMIN",
                path.display()
            ),
        )
    })?;
    Ok(device)
}

/// Lets the page cache ask for whole requests. Without it the mount is slower, not wrong.
pub(super) fn set_read_ahead(path: &Path) {
    let Ok(table) = MountTable::read() else { return };
    let Top::Ours(entry) = table.top(path) else { return };
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", entry.device);
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB) {
        tracing::debug!(setting, %error, "the read-ahead stays as it is");
    }
}

/// What came of an attempt to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unmounted {
    /// Nothing of ours is mounted there any more.
    Done,
    /// Files are open.
    Busy,
}

/// Unmounts if nobody uses it.
pub(super) fn unmount(path: &Path) -> Result<Unmounted, MountError> {
    take_away(path, UnmountFlags::NOFOLLOW)
}

/// Takes the mount out of the tree at once; open files go on until they are closed.
pub(super) fn detach(path: &Path) -> Result<Unmounted, MountError> {
    take_away(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

fn take_away(path: &Path, flags: UnmountFlags) -> Result<Unmounted, MountError> {
    // Only our own mounts: never one that someone has put on top.
    let table = MountTable::read()
        .map_err(|error| MountError::io("read", Path::new("/proc/self/mountinfo"), error))?;
    if !matches!(table.top(path), Top::Ours(_)) {
        return Ok(Unmounted::Done);
    }
    match rustix::mount::unmount(path, flags) {
        // EINVAL: someone was quicker.
        Ok(()) | Err(Errno::INVAL) => Ok(Unmounted::Done),
        Err(Errno::BUSY) => Ok(Unmounted::Busy),
        Err(errno) => Err(MountError::io("unmount", path, errno)),
    }
}
