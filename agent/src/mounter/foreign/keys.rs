//! Where foreign programs read their keys: one private folder per mount on a file system in memory, never the command
//! line, never the environment, never a disk. One that still uploads after its mount has gone keeps its own, whatever the
//! next mount of the same assignment is given.
//!
//! Invariant: what lies here belongs to a mount whose program may still run; whoever forgets the run removes it, and what
//! no record names is swept when no program names it either.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use mooring_identity::files;
use rustix::mount::MountFlags;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::super::MountError;
use super::super::native::{EXIT_PATIENCE, describe};
use crate::observed::process::Process;

/// File system types of statfs(2) that live in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Two small files for each mount: room for thousands.
const OPTIONS: &str = "size=16m,mode=0700";

/// What a program reads its key from: files by name.
pub(super) type KeyFiles = Vec<(&'static str, Zeroizing<Vec<u8>>)>;

/// The folders of all mounts.
#[derive(Clone, Debug)]
pub(in crate::mounter) struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// Below the run folder, which is in memory already on most hosts.
    pub(in crate::mounter) fn below(run_dir: &Path) -> Keys {
        Keys {
            folder: run_dir.join("keys"),
        }
    }

    /// The path of a file with which the program of one mount is told its key. It goes into command lines and other
    /// programs' options, so it must have no character that means something there.
    pub(super) fn path(&self, mount: Uuid, name: &str) -> PathBuf {
        self.folder.join(mount.to_string()).join(name)
    }

    /// Gives the program of a mount its key, each file whole.
    pub(super) fn write(&self, mount: Uuid, contents: &KeyFiles) -> Result<(), MountError> {
        let failed = |error: mooring_identity::Error| MountError::host("HostError", describe(&error));
        self.prepare()?;
        files::create_private_directory(&self.folder.join(mount.to_string())).map_err(failed)?;
        for (name, content) in contents {
            files::write_atomic(&self.path(mount, name), content, files::PRIVATE).map_err(failed)?;
        }
        Ok(())
    }

    /// Forgets the key of a mount that has ended, if it had one here.
    pub(in crate::mounter) fn remove(&self, mount: Uuid) {
        let folder = self.folder.join(mount.to_string());
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in entries {
            if let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::error!(path = %entry.path().display(), %error,
                    "the key of a mount that has ended cannot be removed; remove it by hand");
            }
        }
        let _ = std::fs::remove_dir(folder);
    }

    /// Forgets those of the `found` keys that are not among `named`, unless one of the programs still reads them there.
    pub(in crate::mounter) fn sweep(
        &self,
        found: &BTreeSet<Uuid>,
        named: &BTreeSet<Uuid>,
        are_programs: impl Fn(&Path) -> bool,
    ) {
        for mount in found.difference(named) {
            if Process::naming(&self.folder.join(mount.to_string()), &are_programs).is_empty() {
                self.remove(*mount);
            }
        }
    }

    /// Kills the programs that read the key of a mount; tells whether they have ended.
    pub(in crate::mounter) fn end_readers(&self, mount: Uuid, are_programs: impl Fn(&Path) -> bool) -> bool {
        let readers = Process::naming(&self.folder.join(mount.to_string()), are_programs);
        readers.into_iter().all(|reader| reader.end(EXIT_PATIENCE))
    }

    /// Forgets the keys of all mounts, also of those that nobody remembers.
    pub(in crate::mounter) fn remove_all(&self) {
        for mount in self.mounts() {
            self.remove(mount);
        }
    }

    /// Whose keys are here.
    pub(in crate::mounter) fn mounts(&self) -> impl Iterator<Item = Uuid> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }

    fn prepare(&self) -> Result<(), MountError> {
        files::create_private_directory(&self.folder)
            .map_err(|error| MountError::host("HostError", describe(&error)))?;
        let found = rustix::fs::statfs(&self.folder)
            .map_err(|errno| MountError::io("look at", &self.folder, errno))?;
        if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&found.f_type) {
            return Ok(());
        }
        let options = CString::new(OPTIONS).expect("the options are words and numbers");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("mooring-keys", &self.folder, "tmpfs", flags, options.as_c_str())
            .map_err(|errno| MountError::io("mount memory for keys at", &self.folder, errno))
    }
}
