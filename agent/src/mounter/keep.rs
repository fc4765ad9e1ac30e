//! Duplicates of the FUSE descriptors of live mounts. As long as one is kept, the death of a worker ends nothing: its
//! requests wait, and a successor is given the descriptor.
//!
//! Invariants: only mounts whose worker can be succeeded are kept, since with a duplicate and without a successor every
//! access would wait for ever; whatever gives a mount up (an unmount, a remount, a succession that fails) forgets its
//! duplicate first, and so does a lost record, for without it nobody would notice that the worker has died; what comes
//! back from a worker or from the service manager is proved to be of this very mount.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Of these mounts no record was found the last time. Once is no proof: it may be in the middle of a take-over, or
    /// could not be read for a moment.
    unrecorded: Mutex<BTreeSet<Uuid>>,
    /// Workers whose descriptor could not be fetched, so that it is said once of each.
    refused: Mutex<BTreeSet<Process>>,
    /// Workers that cannot be succeeded any more, whatever their records say.
    given_up: Mutex<BTreeSet<Process>>,
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
            unrecorded: Mutex::default(),
            refused: Mutex::default(),
            given_up: Mutex::default(),
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
        if lock(&self.given_up).contains(&worker) {
            return false;
        }
        let got = worker.pidfd().and_then(|pidfd| {
            rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())
                .inspect_err(|errno| {
                    if lock(&self.refused).insert(worker) {
                        tracing::warn!(assignment = %uid, pid = worker.pid, %errno,
                            "a worker's descriptor cannot be fetched, so its mount ends with it; does the agent have \
                             CAP_SYS_PTRACE, and is kernel.yama.ptrace_scope below 3?");
                    }
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

    /// The same, since this worker cannot be succeeded: its descriptor is not fetched again.
    pub fn forget_of(&self, uid: Uuid, worker: Process) {
        lock(&self.given_up).insert(worker);
        self.forget(uid);
    }

    /// Another assignment has taken the mount over.
    pub fn hand_over(&self, from: Uuid, to: Uuid) {
        let Some(kept) = self.all().remove(&from) else {
            return;
        };
        self.notifier.unstore(&name(from));
        self.keep_of(to, &kept.device, kept.descriptor);
    }

    /// Takes in what the service manager has kept, and forgets mounts that are no more, or of which no record tells who
    /// serves them. `busy` ones are left alone: what was observed of them may be older than what is kept.
    pub fn settle(&self, observed: &ObservedSet, busy: impl Fn(Uuid) -> bool) {
        let workers: BTreeSet<Process> = observed.runs().map(|run| run.record.worker).collect();
        for known in [&self.refused, &self.given_up] {
            lock(known).retain(|worker| workers.contains(worker));
        }
        let stored = std::mem::take(&mut *lock(&self.stored));
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
        let free: Vec<(Uuid, bool)> = self
            .all()
            .iter()
            .filter(|(uid, _)| !busy(**uid))
            .map(|(uid, kept)| (*uid, observed.table().has_device(&kept.device)))
            .collect();
        let unrecorded: BTreeSet<Uuid> = free
            .iter()
            .map(|(uid, _)| *uid)
            .filter(|uid| observed.record(*uid).is_none())
            .collect();
        let before = std::mem::replace(&mut *lock(&self.unrecorded), unrecorded.clone());
        for (uid, mounted) in free {
            let lost = unrecorded.contains(&uid) && before.contains(&uid);
            if mounted && lost {
                tracing::warn!(assignment = %uid,
                    "nothing in the run folder tells any more who serves this mount; should that worker die, it is made anew");
            }
            if lost || !mounted {
                self.forget(uid);
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Uuid, Kept>> {
        lock(&self.kept)
    }
}

/// Nothing panics while these are held, and a map or a list is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use crate::observed::Run;
    use crate::observed::record::Record;

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

    /// A FUSE descriptor. Like the stories, these tests are run as root.
    fn device() -> OwnedFd {
        let options = std::fs::File::options().read(true).write(true).open("/dev/fuse");
        options.expect("/dev/fuse can be opened").into()
    }

    const DEVICE: &str = "0:50";
    const AT: &str = "/mnt/mooring/ml/data";

    /// What is seen of the mount of assignment 1, and whether it has a record.
    fn mounted(recorded: bool) -> ObservedSet {
        let run = crate::observed::record::tests::record();
        let run = Run {
            record: Record {
                assignment_uid: Uuid::from_u128(1),
                path: AT.into(),
                ..run
            },
            alive: false,
            program: None,
        };
        let line = format!("36 35 {DEVICE} / {AT} rw shared:1 - fuse.mooring mooring rw\n");
        ObservedSet::of(&line, recorded.then_some(run).into_iter().collect())
    }

    fn stored() -> Keeper {
        let stored = Stored {
            name: name(Uuid::from_u128(1)),
            descriptor: device(),
        };
        Keeper::new(Arc::default(), vec![stored])
    }

    #[test]
    fn what_the_manager_has_kept_is_taken_in_for_a_mount_with_a_record_and_no_other() {
        for (observed, kept) in [
            (mounted(true), true),
            (mounted(false), false),
            (ObservedSet::of("", Vec::new()), false),
        ] {
            let keeper = stored();
            keeper.settle(&observed, |_| false);
            assert_eq!(keeper.holds(Uuid::from_u128(1)), kept);
        }
    }

    #[test]
    fn a_mount_that_is_no_more_is_forgotten_unless_it_is_being_worked_on() {
        let (keeper, uid) = (keeper(), Uuid::from_u128(1));
        let none = ObservedSet::of("", Vec::new());
        assert!(keeper.keep_of(uid, DEVICE, device()));
        keeper.settle(&none, |_| true);
        assert!(keeper.duplicate(uid).is_some());
        keeper.settle(&none, |_| false);
        assert!(keeper.duplicate(uid).is_none());
    }

    #[test]
    fn a_mount_whose_record_is_lost_may_end_with_its_worker() {
        let (keeper, uid) = (keeper(), Uuid::from_u128(1));
        assert!(keeper.keep_of(uid, DEVICE, device()));
        for observed in [mounted(true), mounted(false), mounted(true), mounted(false)] {
            keeper.settle(&observed, |_| false);
            assert!(keeper.holds(uid), "once is no proof");
        }
        keeper.settle(&mounted(false), |_| true);
        assert!(keeper.holds(uid), "it is being worked on");
        for _ in 0..2 {
            keeper.settle(&mounted(false), |_| false);
        }
        assert!(!keeper.holds(uid));
    }
}
