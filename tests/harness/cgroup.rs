//! A group of processes of the kernel's, in which a machine's init system makes its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::eventually;

/// A group below that of this process, in each hierarchy that an init system uses. Removed on drop, when the last of its
/// processes has ended.
pub struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes it.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn new(name: &str) -> Cgroup {
        let own = std::fs::read_to_string("/proc/self/cgroup").expect("the kernel tells our groups");
        let folders: Vec<PathBuf> = own
            .lines()
            .filter_map(|line| {
                let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
                let root = mount_point(hierarchy)?;
                Some(root.join(path.trim_start_matches('/')).join(name))
            })
            .collect();
        for folder in &folders {
            std::fs::create_dir(folder)
                .unwrap_or_else(|error| panic!("{} is not made: {error}", folder.display()));
        }
        Cgroup { folders }
    }

    /// A command that runs in it.
    pub fn command(&self, program: &str) -> Command {
        let entered: String = self
            .folders
            .iter()
            .map(|folder| format!("echo $$ >'{}/cgroup.procs'; ", folder.display()))
            .collect();
        let mut command = Command::new("sh");
        command
            .arg("-ec")
            .arg(format!("{entered}exec \"$@\""))
            .arg("sh")
            .arg(program);
        command
    }
}

/// Where a hierarchy is mounted: the unified one, without a name, or systemd's own.
fn mount_point(hierarchy: &str) -> Option<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").ok()?;
    table.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
        let wanted = match hierarchy {
            "" => kind == "cgroup2",
            "name=systemd" => kind == "cgroup" && options.split(',').any(|one| one == hierarchy),
            _ => false,
        };
        wanted.then(|| PathBuf::from(path))
    })
}

/// Removes the groups below, then the group: they are folders that only look full.
fn remove(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    std::fs::remove_dir(folder)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            let gone = || match remove(folder) {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(format!("{}: {error}", folder.display())),
            };
            if std::thread::panicking() {
                // tests/run removes what is left.
                let _ = gone();
            } else {
                eventually("a machine's processes have ended", Duration::from_secs(20), gone);
            }
        }
    }
}
