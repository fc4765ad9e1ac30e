//! One budget of memory for everything that buffers file contents. Reservations are guards: what is
//! dropped is given back. Nobody ever waits here: a window that gets no memory is smaller, and a read that
//! needs its bytes now goes over the limit by those bytes, since refusing it would be an I/O error.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::sys;

/// More than this speeds nothing up: it is eight readers with their full windows of 64 MiB.
const DEFAULT_BYTES_MAX: u64 = 512 << 20;
/// Of the machine's or the cgroup's memory; jobs on the host come first.
const DEFAULT_SHARE: u64 = 4;
/// Two of the largest parts: with less, large files would be read piecemeal.
const DEFAULT_BYTES_MIN: u64 = 16 << 20;

/// The budget; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Account>);

/// Memory that is spoken for, until dropped.
#[derive(Debug)]
pub struct Reserved {
    account: Arc<Account>,
    bytes: u64,
}

/// Takes part in the division of the budget, until dropped.
#[derive(Debug)]
pub struct Share(Arc<Account>);

#[derive(Debug)]
struct Account {
    limit_bytes: u64,
    used_bytes: AtomicU64,
    shares: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(limit_bytes: u64) -> MemoryBudget {
        let (used_bytes, shares) = (AtomicU64::new(0), AtomicUsize::new(0));
        MemoryBudget(Arc::new(Account {
            limit_bytes,
            used_bytes,
            shares,
        }))
    }

    /// Of `bytes`, but not more than half of what this process may use; or of a quarter of that, at most 512 MiB. What a
    /// burst has used goes back to the system within seconds after it.
    pub fn of_this_process(bytes: Option<u64>) -> MemoryBudget {
        let available = available_bytes(Path::new("/proc"), Path::new("/sys/fs/cgroup"));
        let budget = MemoryBudget::new(match bytes {
            Some(bytes) => allowed_bytes(bytes, available),
            None => default_bytes(available),
        });
        let account = Arc::downgrade(&budget.0);
        let begun = std::thread::Builder::new()
            .name("memory".to_owned())
            .spawn(move || give_back_after_bursts(&account));
        if let Err(error) = begun {
            tracing::debug!(%error, "memory stays with this process after a burst");
        }
        budget
    }

    /// Reserves memory if there is enough.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reserved> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.0.limit_bytes);
        self.0
            .used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .ok()?;
        Some(Reserved {
            account: Arc::clone(&self.0),
            bytes,
        })
    }

    /// Reserves memory in any case: for the bytes of a request that must be answered. Bounded by the
    /// requests that the kernel has outstanding, not by the budget.
    pub fn reserve_over(&self, bytes: u64) -> Reserved {
        self.0.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        Reserved {
            account: Arc::clone(&self.0),
            bytes,
        }
    }

    /// Joins the division of the budget.
    pub fn share(&self) -> Share {
        self.0.shares.fetch_add(1, Ordering::Relaxed);
        Share(Arc::clone(&self.0))
    }

    /// What is reserved now.
    pub fn used_bytes(&self) -> u64 {
        self.0.used_bytes.load(Ordering::Relaxed)
    }

    /// What may be reserved in all.
    pub fn limit_bytes(&self) -> u64 {
        self.0.limit_bytes
    }
}

impl Reserved {
    /// How much is reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives part of it back.
    pub fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.account.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

impl Share {
    /// An equal part of the budget for each holder of a share at this moment.
    pub fn bytes(&self) -> u64 {
        self.0.limit_bytes / self.0.shares.load(Ordering::Relaxed).max(1) as u64
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.shares.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at the memory so often. A burst's memory is then with the system again before anybody wonders, and the look, which
/// reads one small file, costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// With more than this reserved, somebody is reading: what is free now will be needed in a moment.
const IDLE_BYTES_MAX: u64 = 16 << 20;
/// It must have grown by this since it was last given back, or it is in use.
const GROWN_BYTES_MIN: u64 = 32 << 20;

/// Ends with the budget. A change of the allocator's limits instead, so that it frees at once, makes reading cost two
/// and a half times the system's time: each large buffer's pages are made anew (measured with 8 readers of 200 MiB).
fn give_back_after_bursts(account: &Weak<Account>) {
    let (mut was_idle, mut gave, mut least) = (false, false, resident_bytes());
    loop {
        std::thread::sleep(LOOK_EVERY);
        let Some(account) = account.upgrade() else { return };
        let is_idle = account.used_bytes.load(Ordering::Relaxed) <= IDLE_BYTES_MAX;
        let resident = resident_bytes();
        let grown = resident >= least.saturating_add(GROWN_BYTES_MIN);
        // Once more after that: readers give up what they have read ahead a little later.
        if is_idle && was_idle && (grown || gave) {
            sys::release_free_memory();
            least = resident_bytes();
            gave = grown;
            tracing::debug!(before = resident, after = least, "memory goes back to the system");
        }
        least = least.min(resident);
        was_idle = is_idle;
    }
}

/// What of this process is in memory; zero if that cannot be told.
fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Who asks for more than a host can give shall not bring it down.
fn allowed_bytes(asked: u64, available: Option<u64>) -> u64 {
    asked.min(available.unwrap_or(u64::MAX) / 2)
}

fn default_bytes(available: Option<u64>) -> u64 {
    let quarter = available.map_or(DEFAULT_BYTES_MAX, |bytes| bytes / DEFAULT_SHARE);
    quarter.clamp(DEFAULT_BYTES_MIN, DEFAULT_BYTES_MAX)
}

/// The least of the machine's memory and the limits of this process's cgroups, as far as they can be read.
fn available_bytes(proc: &Path, cgroup_root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes * 1024)
    });
    let groups = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        match (fields.next()?, fields.next()?) {
            ("", path) => cgroup_limit(cgroup_root, path, "memory.max"),
            (controllers, path) if controllers.split(',').any(|name| name == "memory") => {
                cgroup_limit(&cgroup_root.join("memory"), path, "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    machine.into_iter().chain(limits).min()
}

/// The least limit from a group up to the root. Inside a container the path may not exist, but the root
/// then is the container's own group. «max» does not parse and so means none.
fn cgroup_limit(root: &Path, group: &str, file: &str) -> Option<u64> {
    let group = Path::new(group.trim_start_matches('/'));
    let limit = |group: &Path| {
        fs::read_to_string(root.join(group).join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    group.ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_stop_at_the_limit_and_come_back_when_dropped() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.try_reserve(60).unwrap();
        assert!(budget.try_reserve(41).is_none());
        let second = budget.try_reserve(40).unwrap();
        first.give_back(10);
        assert_eq!(
            (first.bytes(), budget.used_bytes(), budget.limit_bytes()),
            (50, 90, 100)
        );
        let over = budget.reserve_over(50);
        assert_eq!(budget.used_bytes(), 140);
        assert!(budget.try_reserve(0).is_none());
        drop((first, second, over));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn shares_divide_the_budget() {
        let budget = MemoryBudget::new(100);
        let first = budget.share();
        assert_eq!(first.bytes(), 100);
        let second = budget.share();
        assert_eq!(first.bytes(), 50);
        drop(second);
        assert_eq!(first.bytes(), 100);
    }

    #[test]
    fn the_default_is_a_quarter_within_bounds() {
        assert_eq!(default_bytes(None), 512 << 20);
        assert_eq!(default_bytes(Some(64 << 30)), 512 << 20);
        assert_eq!(default_bytes(Some(1 << 30)), 256 << 20);
        assert_eq!(default_bytes(Some(8 << 20)), 16 << 20);
    }

    #[test]
    fn who_asks_for_more_than_there_is_gets_half_of_it() {
        assert_eq!(allowed_bytes(64 << 20, Some(1 << 30)), 64 << 20);
        assert_eq!(allowed_bytes(1 << 40, Some(1 << 30)), 512 << 20);
        assert_eq!(allowed_bytes(1 << 20, None), 1 << 20);
    }

    #[test]
    fn the_tightest_cgroup_on_the_way_up_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, sys) = (dir.path().join("proc"), dir.path().join("sys"));
        let write = |path: std::path::PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(proc.join("meminfo"), "MemFree: 1 kB\nMemTotal:    1048576 kB\n");
        assert_eq!(available_bytes(&proc, &sys), Some(1 << 30));
        write(proc.join("self/cgroup"), "0::/jobs/one\n");
        write(sys.join("jobs/one/memory.max"), "max\n");
        write(sys.join("jobs/memory.max"), "1000000\n");
        assert_eq!(available_bytes(&proc, &sys), Some(1_000_000));
        write(proc.join("self/cgroup"), "5:cpu,memory:/jobs/two\n0::/\n");
        write(sys.join("memory/jobs/two/memory.limit_in_bytes"), "70000\n");
        assert_eq!(available_bytes(&proc, &sys), Some(70_000));
    }
}
