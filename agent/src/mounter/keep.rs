//! Duplicates of the FUSE descriptors of live mounts. As long as one is kept, the death of a worker ends nothing: its
//! requests wait, and a successor is given the descriptor.
//!
//! Invariants: only mounts whose worker can be succeeded are kept, since with a duplicate and without a successor every
//! access would wait for ever; whatever gives a mount up (an unmount, a remount, a succession that fails) forgets its
//! duplicate first; what comes back from a worker or from the service manager is proved to be of this very mount.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::PidfdGetfdFlags;
use uuid::Uuid;

use crate::notify::{Notifier, Stored};
use crate::observed::ObservedSet;
use crate::observed::mountinfo::{MountTable, Top};
use crate::observed::process::Process;

/// Device number of `/dev/fuse`: the kernel's own list of devices gives it this one everywhere.
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// What stands before the assignment's uid in the name of a descriptor that the service manager keeps.
const NAME_PREFIX: &str = "mount-";

/// All duplicates, by assignment.
#[derive(Debug)]
pub struct Keeper {
    notifier: Arc<Notifier>,
    kept: Mutex<BTreeMap<Uuid, Kept>>,
    /// From the service manager, not judged yet.
    stored: Mutex<Vec<Stored>>,
}

/// One duplicate. Dropping it closes it.
#[derive(Debug)]
struct Kept {
    descriptor: OwnedFd,
    /// The mount's device, as mountinfo shows it.
    device: String,
}

impl Keeper {
    /// Keeps nothing yet; `stored` is judged by the first [`Keeper::settle`].
    pub fn new(notifier: Arc<Notifier>, stored: Vec<Stored>) -> Keeper {
        Keeper {
            notifier,
            kept: Mutex::default(),
            stored: Mutex::new(stored),
        }
    }

    /// Keeps the descriptor of the mount at `path`, if it is one; tells whether.
    pub fn keep(&self, uid: Uuid, path: &Path, descriptor: OwnedFd) -> bool {
        let Ok(table) = MountTable::read() else {
            return false;
        };
        let Top::Ours(entry) = table.top(path) else {
            return false;
        };
        self.keep_of(uid, &entry.device, descriptor)
    }

    fn keep_of(&self, uid: Uuid, device: &str, descriptor: OwnedFd) -> bool {
        if !is_of(descriptor.as_fd(), device) {
            tracing::warn!(assignment = %uid, device, "a descriptor that should be this mount's is not; it is ignored");
            return false;
        }
        self.notifier.store(&name(uid), descriptor.as_fd());
        let kept = Kept {
            descriptor,
            device: device.to_owned(),
        };
        self.all().insert(uid, kept);
        true
    }

    /// Gets the duplicate of a live mount back from its worker, which has it as `number`.
    pub fn retrieve(&self, uid: Uuid, path: &Path, worker: Process, number: i32) -> bool {
        let got = worker.pidfd().and_then(|pidfd| {
            rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())
                .inspect_err(|errno| {
                    tracing::warn!(assignment = %uid, pid = worker.pid, %errno,
                        "a worker's descriptor cannot be fetched; does the agent have CAP_SYS_PTRACE?");
                })
                .ok()
        });
        let kept = got.is_some_and(|descriptor| self.keep(uid, path, descriptor));
        if kept {
            tracing::info!(assignment = %uid, path = %path.display(), "a mount's descriptor is kept again");
        }
        kept
    }

    /// Whether the mount of `uid` outlives its worker.
    pub fn holds(&self, uid: Uuid) -> bool {
        self.all().contains_key(&uid)
    }

    /// A descriptor for a successor.
    pub fn duplicate(&self, uid: Uuid) -> Option<OwnedFd> {
        self.all().get(&uid)?.descriptor.try_clone().ok()
    }

    /// The mount may end with its worker from now on. If the worker is dead, every access to it fails now.
    pub fn forget(&self, uid: Uuid) {
        self.all().remove(&uid);
        // Also what could not be taken back from it: by the manager's duplicate alone, callers would wait for ever.
        self.notifier.unstore(&name(uid));
    }

    /// Another assignment has taken the mount over.
    pub fn hand_over(&self, from: Uuid, to: Uuid) {
        let Some(kept) = self.all().remove(&from) else {
            return;
        };
        self.notifier.unstore(&name(from));
        self.keep_of(to, &kept.device, kept.descriptor);
    }

    /// Takes in what the service manager has kept, and forgets mounts that are no more. `busy` ones are left alone: what
    /// was observed of them may be older than what is kept.
    pub fn settle(&self, observed: &ObservedSet, busy: impl Fn(Uuid) -> bool) {
        let stored = std::mem::take(&mut *self.stored.lock().unwrap_or_else(PoisonError::into_inner));
        for Stored {
            name: stored_name,
            descriptor,
        } in stored
        {
            let uid = stored_name
                .strip_prefix(NAME_PREFIX)
                .and_then(|uid| Uuid::try_parse(uid).ok());
            let device = uid.and_then(|uid| observed.record(uid)).and_then(|record| {
                match observed.table().top(&record.path) {
                    Top::Ours(entry) => Some(entry.device.as_str()),
                    Top::Nothing | Top::Guard | Top::Foreign(_) => None,
                }
            });
            let taken = match (uid, device) {
                (Some(uid), Some(device)) => self.keep_of(uid, device, descriptor),
                (Some(_), None) | (None, _) => false,
            };
            if !taken {
                self.notifier.unstore(&stored_name);
            }
        }
        let over: Vec<Uuid> = self
            .all()
            .iter()
            .filter(|(uid, kept)| !busy(**uid) && !observed.table().has_device(&kept.device))
            .map(|(uid, _)| *uid)
            .collect();
        for uid in over {
            self.forget(uid);
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Uuid, Kept>> {
        // Nothing panics while it is held, and a map is whole at any moment.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(uid: Uuid) -> String {
    format!("{NAME_PREFIX}{uid}")
}

/// Whether a descriptor is of the mount with this device. Kernels that do not tell a descriptor's connection leave
/// it at «a FUSE descriptor», of which a worker has one.
fn is_of(descriptor: BorrowedFd<'_>, device: &str) -> bool {
    let Ok(found) = rustix::fs::fstat(descriptor) else {
        return false;
    };
    if (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev)) != FUSE_DEVICE {
        return false;
    }
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()));
    let told = told.unwrap_or_default();
    let connection = told
        .lines()
        .find_map(|line| line.strip_prefix("fuse_connection:"));
    connection.is_none_or(|connection| device == format!("0:{}", connection.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> Keeper {
        Keeper::new(Arc::default(), Vec::new())
    }

    #[test]
    fn what_is_no_fuse_descriptor_is_not_kept() {
        let file = tempfile::tempfile().unwrap();
        let keeper = keeper();
        assert!(!keeper.keep_of(Uuid::from_u128(1), "0:50", file.into()));
        assert!(!keeper.holds(Uuid::from_u128(1)));
    }

    #[test]
    fn a_stored_descriptor_without_a_mount_is_dropped() {
        let keeper = Keeper::new(
            Arc::default(),
            vec![Stored {
                name: name(Uuid::from_u128(1)),
                descriptor: tempfile::tempfile().unwrap().into(),
            }],
        );
        keeper.settle(&ObservedSet::of("", Vec::new()), |_| false);
        assert!(!keeper.holds(Uuid::from_u128(1)));
    }

    #[test]
    fn a_mount_that_is_no_more_is_forgotten_unless_it_is_being_worked_on() {
        let Ok(device) = std::fs::File::options().read(true).write(true).open("/dev/fuse") else {
            return; // No right to it here; the stories have it.
        };
        let (keeper, uid) = (keeper(), Uuid::from_u128(1));
        let none = ObservedSet::of("", Vec::new());
        assert!(keeper.keep_of(uid, "0:50", device.into()));
        keeper.settle(&none, |_| true);
        assert!(keeper.duplicate(uid).is_some());
        keeper.settle(&none, |_| false);
        assert!(keeper.duplicate(uid).is_none());
    }
}
