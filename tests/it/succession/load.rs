//! Programs that use a mount in every way at once, and know what they must find.
//!
//! Each is a thread with names of its own. An operation that fails, or finds something else than it must, ends the
//! thread with what it was; then the story fails.

mod names;
mod reading;
mod writing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mooring_tests::eventually;
use mooring_tests::store::Store;

pub(super) use self::reading::Reading;

/// What a thread says when something is not as it must be.
type Outcome = Result<(), String>;

/// What a thread does.
type Body = fn(&Program) -> Outcome;

/// Objects that must be in the store at the end; `None` for none.
type Expected = BTreeMap<String, Option<Vec<u8>>>;

/// One thread's view of the whole.
struct Program {
    mount: PathBuf,
    stop: Arc<AtomicBool>,
    operations: Arc<AtomicU64>,
    expected: Arc<Mutex<Expected>>,
}

/// Programs at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<(&'static str, Arc<AtomicU64>, JoinHandle<Outcome>)>,
    expected: Arc<Mutex<Expected>>,
    shell: Child,
    shell_stops_at: PathBuf,
}

/// What they have done.
pub(super) struct Done {
    operations: Vec<(&'static str, u64)>,
    expected: Expected,
}

/// What they find when they begin.
pub(super) fn prepare(store: &Store) {
    reading::prepare(store);
    writing::prepare(store);
    names::prepare(store);
    store.put("cwd/here", b"x");
}

impl Load {
    pub(super) fn start(mount: &Path, scratch: &Path) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let expected = Arc::new(Mutex::new(Expected::new()));
        let programs: [(&'static str, Body); 14] = [
            ("stat", reading::stat),
            ("list", reading::list),
            ("read in order", reading::in_order),
            ("read at random", reading::at_random),
            ("write and fsync", writing::write_and_fsync),
            ("append", writing::append),
            ("write large files", writing::large),
            ("change in place", writing::change_in_place),
            ("shrink", writing::shrink),
            ("make and remove folders", names::folders),
            ("make and remove files", names::files),
            ("rename files", names::rename_files),
            ("rename folders", names::rename_folders),
            ("use removed files", names::removed_files),
        ];
        let threads = programs.map(|(name, body)| {
            let operations = Arc::new(AtomicU64::new(0));
            let program = Program {
                mount: mount.to_owned(),
                stop: Arc::clone(&stop),
                operations: Arc::clone(&operations),
                expected: Arc::clone(&expected),
            };
            (name, operations, std::thread::spawn(move || body(&program)))
        });
        let shell_stops_at = scratch.join("shell-stops");
        // A working directory inside the mount is something that only another process can have.
        let shell = Command::new("sh")
            .arg("-c")
            .arg(
                "cd \"$1\" || exit 1; n=0; while [ ! -e \"$2\" ]; do n=$((n+1)); ls . >/dev/null || exit 2; \
                 echo $n > own || exit 3; [ \"$(cat own)\" = $n ] || exit 4; cat here >/dev/null || exit 5; done",
            )
            .arg("sh")
            .arg(mount.join("cwd"))
            .arg(&shell_stops_at)
            .spawn()
            .unwrap();
        Load {
            stop,
            threads: threads.into(),
            expected,
            shell,
            shell_stops_at,
        }
    }

    /// Lets them work.
    pub(super) fn run_for(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Fails if one of them has failed.
    pub(super) fn check(&self) {
        for (name, _, thread) in &self.threads {
            assert!(
                !thread.is_finished(),
                "«{name}» has ended early; the story's end says why"
            );
        }
    }

    /// Has them all come to an end.
    pub(super) fn stop(mut self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        std::fs::write(&self.shell_stops_at, b"").unwrap();
        let mut failures = Vec::new();
        let mut operations = Vec::new();
        for (name, count, thread) in std::mem::take(&mut self.threads) {
            match thread.join() {
                Ok(Ok(())) => operations.push((name, count.load(Ordering::Relaxed))),
                Ok(Err(failure)) => failures.push(format!("{name}: {failure}")),
                Err(_) => failures.push(format!("{name}: panicked")),
            }
        }
        let (_, status) = eventually("the shell ends", Duration::from_secs(30), || {
            self.shell.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        });
        if !status.success() {
            failures.push(format!("the shell in the mount: {status}"));
        }
        assert!(failures.is_empty(), "failed operations:\n{}", failures.join("\n"));
        let expected = std::mem::take(&mut *self.expected.lock().unwrap());
        Done { operations, expected }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        for (name, _, thread) in std::mem::take(&mut self.threads) {
            // The story fails already; this is why.
            if thread.is_finished()
                && let Ok(Err(failure)) = thread.join()
            {
                eprintln!("«{name}» has failed: {failure}");
            }
        }
    }
}

impl Done {
    pub(super) fn summary(&self) -> String {
        let each: Vec<String> = self
            .operations
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        each.join(", ")
    }

    /// Everybody has done something, and the store holds what they have written.
    pub(super) fn verify(&self, store: &Store) {
        for (name, count) in &self.operations {
            assert!(*count > 0, "«{name}» has done nothing");
        }
        for (key, expected) in &self.expected {
            let found = store.get(key).ok();
            let same = found == *expected;
            let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
            assert!(
                same,
                "{key}: {:?} bytes in the store, {:?} written",
                len(&found),
                len(expected)
            );
        }
        let copies: Vec<String> = store
            .list("")
            .into_iter()
            .filter(|key| key.contains("mooring-conflict"))
            .collect();
        assert!(copies.is_empty(), "nobody else wrote, but there are {copies:?}");
    }
}

impl Program {
    fn at(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    /// Counts an operation; false when it is time to end.
    fn goes_on(&self) -> bool {
        self.operations.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }

    /// At the end the store must hold this.
    fn expect(&self, key: &str, bytes: Option<Vec<u8>>) {
        self.expected.lock().unwrap().insert(key.to_owned(), bytes);
    }
}

/// How long a mount did not answer while `death` happened: the longest of questions asked one after the other, each of
/// which the worker itself has to answer.
pub(super) fn pause_of(mount: &Path, death: impl FnOnce()) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                rustix::fs::statvfs(mount).unwrap();
                longest = longest.max(asked.elapsed());
            }
            longest
        });
        death();
        over.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    })
}

/// Says which operation it was.
fn tell<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// Bytes that nobody mistakes for those of another file or place.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
