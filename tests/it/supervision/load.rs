//! A mount in use: threads that read, write, list and change names in it as programs do, with files that stay open all
//! the time. Written against the mount alone; whatever serves it may change.

use std::fs::{self, File};
use std::io::{PipeWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mooring_tests::process::Process;
use mooring_tests::{Store, eventually};

/// The object that is read at random, block by block; each block says which one it is.
const BLOCK: usize = 4096;
const BLOCKS: u64 = 1024;
const READ_FILE: &str = "blocks";

/// What a program does between two operations, so that four of them leave something of two cores to who is tested.
const THINK: Duration = Duration::from_millis(2);

/// Threads at work. Whatever fails, or answers with something else than was written, is kept for the end.
pub(super) struct Load {
    folder: PathBuf,
    stop: Arc<AtomicBool>,
    workers: Vec<Worker>,
}

struct Worker {
    name: &'static str,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Outcome>,
}

#[derive(Default)]
struct Outcome {
    failures: Vec<String>,
    slowest: Duration,
}

impl Load {
    /// Puts what is read into the store, before it is mounted or after.
    pub(super) fn prepare(store: &Store) {
        store.put(READ_FILE, blocks());
    }

    /// Begins to use the mount at `folder`.
    pub(super) fn start(folder: &Path) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = |name, work: Work| {
            let (stop, done) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
            let (counter, folder) = (Arc::clone(&done), folder.to_owned());
            let thread = std::thread::spawn(move || run(&stop, &counter, work(&folder)));
            Worker { name, done, thread }
        };
        let workers = vec![
            begin("reader", reader),
            begin("names", names),
            begin("log", log),
            begin("looks", looks),
        ];
        let load = Load {
            folder: folder.to_owned(),
            stop,
            workers,
        };
        load.goes_on();
        load
    }

    /// Waits until every thread has finished some more operations.
    pub(super) fn goes_on(&self) {
        let before: Vec<u64> = self.counts();
        eventually(
            "every program in the mount goes on",
            Duration::from_secs(60),
            || {
                let now = self.counts();
                let stuck = self.workers.iter().zip(before.iter().zip(&now));
                let stuck: Vec<&str> = stuck
                    .filter(|(_, (before, now))| **now < **before + 3)
                    .map(|(worker, _)| worker.name)
                    .collect();
                if stuck.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{stuck:?} do not"))
                }
            },
        );
    }

    /// Ends it; answers how many operations there were, and how long the longest one took.
    ///
    /// # Panics
    /// When one has failed, or when what was written is not in S3.
    pub(super) fn ends_well(self, store: &Store) -> (u64, Duration) {
        let folder = self.folder.clone();
        let ended = self.ends();
        is_in_store(&folder, store);
        ended
    }

    /// Ends it without a look at the store.
    ///
    /// # Panics
    /// When an operation has failed.
    pub(super) fn ends(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let operations = self.counts().iter().sum();
        let mut slowest = Duration::ZERO;
        let mut failures = Vec::new();
        for worker in self.workers {
            let outcome = worker.thread.join().expect("a thread of the load does not panic");
            slowest = slowest.max(outcome.slowest);
            failures.extend(
                outcome
                    .failures
                    .into_iter()
                    .map(|text| format!("{}: {text}", worker.name)),
            );
        }
        assert!(
            failures.is_empty(),
            "{} of {operations} operations failed:\n{}",
            failures.len(),
            failures.join("\n")
        );
        (operations, slowest)
    }

    fn counts(&self) -> Vec<u64> {
        let workers = self.workers.iter();
        workers
            .map(|worker| worker.done.load(Ordering::Relaxed))
            .collect()
    }
}

/// What was written line by line, over all that happened, is in S3 as it is in the mount.
pub(super) fn is_in_store(folder: &Path, store: &Store) {
    let log = fs::read(folder.join("log")).unwrap();
    assert_lines(&log);
    assert_eq!(store.get("log").unwrap(), log);
}

/// A load in a process of its own. A process that starts others must have nothing open in a mount that nobody serves:
/// its copy of the descriptor is closed between fork and exec, which waits for an answer.
pub(super) struct Apart {
    process: Process,
    /// Closing it ends the load.
    order: PipeWriter,
    folder: PathBuf,
}

impl Apart {
    /// Begins to use the mount at `folder`; logs go to `logs`.
    pub(super) fn start(folder: &Path, logs: &Path) -> Apart {
        let (reader, order) = std::io::pipe().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["supervision::load_apart", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER_VARIABLE, folder);
        let mut process = Process::start_with("load", logs, command, reader.into());
        process.says("the load has begun");
        Apart {
            process,
            order,
            folder: folder.to_owned(),
        }
    }

    /// Ends it.
    ///
    /// # Panics
    /// When an operation has failed, or when what was written is not in S3.
    pub(super) fn ends_well(mut self, store: &Store) {
        drop(self.order);
        let status = self.process.ends(Duration::from_secs(60));
        assert!(status.success(), "{}", self.process.output());
        is_in_store(&self.folder, store);
    }
}

/// What the other process does.
pub(super) fn apart() {
    let folder = std::env::var_os(FOLDER_VARIABLE).expect("another story starts this one");
    let load = Load::start(Path::new(&folder));
    println!("the load has begun");
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).unwrap();
    load.goes_on();
    load.ends();
}

const FOLDER_VARIABLE: &str = "MOORING_STORY_FOLDER";

/// One turn of a program; its number comes in, and what went wrong goes out.
type Turn = Box<dyn FnMut(u64) -> Result<(), String> + Send>;
type Work = fn(&Path) -> Turn;

fn run(stop: &AtomicBool, done: &AtomicU64, mut turn: Turn) -> Outcome {
    let mut outcome = Outcome::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        if let Err(failure) = turn(number) {
            outcome
                .failures
                .push(format!("turn {number}, after {:?}: {failure}", begun.elapsed()));
        }
        outcome.slowest = outcome.slowest.max(begun.elapsed());
        number += 1;
        done.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(THINK);
    }
    outcome
}

fn blocks() -> Vec<u8> {
    (0..BLOCKS)
        .flat_map(|number| number.to_le_bytes().repeat(BLOCK / 8))
        .collect()
}

/// Reads blocks in no order from a file that stays open.
fn reader(folder: &Path) -> Turn {
    let path = folder.join(READ_FILE);
    let mut file = None;
    Box::new(move |turn| {
        let file = match &file {
            Some(file) => file,
            None => file.insert(File::open(&path).map_err(|error| failed("open", &path, error))?),
        };
        // A step that is prime to the number of blocks visits all of them.
        let number = turn * 389 % BLOCKS;
        let mut block = [0; BLOCK];
        file.read_exact_at(&mut block, number * BLOCK as u64)
            .map_err(|error| failed("read", &path, error))?;
        let expected = number.to_le_bytes().repeat(BLOCK / 8);
        same("a block", &block, &expected)
    })
}

/// Makes, renames and removes folders and files. Nothing that has succeeded may be found to have failed, and no other
/// way round.
fn names(folder: &Path) -> Turn {
    let root = folder.to_owned();
    Box::new(move |turn| {
        let folder = root.join(format!("folder-{turn}"));
        let (first, second) = (folder.join("first"), folder.join("second"));
        let text = format!("text of turn {turn}");
        fs::create_dir(&folder).map_err(|error| failed("mkdir", &folder, error))?;
        fs::write(&first, &text).map_err(|error| failed("write", &first, error))?;
        fs::rename(&first, &second).map_err(|error| failed("rename", &first, error))?;
        let read = fs::read(&second).map_err(|error| failed("read", &second, error))?;
        same("what was written", &read, text.as_bytes())?;
        let listed: Vec<_> = fs::read_dir(&folder)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed("list", &folder, error))?
            .into_iter()
            .map(|entry| entry.file_name())
            .collect();
        if listed != ["second"] {
            return Err(format!("{} lists {listed:?}", folder.display()));
        }
        fs::remove_file(&second).map_err(|error| failed("unlink", &second, error))?;
        fs::remove_dir(&folder).map_err(|error| failed("rmdir", &folder, error))
    })
}

/// Appends lines to a file that stays open, and now and then has them brought to S3.
fn log(folder: &Path) -> Turn {
    let path = folder.join("log");
    let mut file = None;
    Box::new(move |turn| {
        let file = match &mut file {
            Some(file) => file,
            None => file.insert(File::create(&path).map_err(|error| failed("create", &path, error))?),
        };
        file.write_all(line(turn).as_bytes())
            .map_err(|error| failed("append to", &path, error))?;
        if turn % 50 == 49 {
            file.sync_all().map_err(|error| failed("fsync", &path, error))?;
        }
        Ok(())
    })
}

/// Asks for attributes, lists, and asks how large the file system is.
fn looks(folder: &Path) -> Turn {
    let root = folder.to_owned();
    Box::new(move |_| {
        let file = root.join(READ_FILE);
        let size = fs::metadata(&file)
            .map_err(|error| failed("stat", &file, error))?
            .len();
        if size != BLOCKS * BLOCK as u64 {
            return Err(format!("{} has {size} bytes", file.display()));
        }
        let names = fs::read_dir(&root)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed("list", &root, error))?;
        if !names.iter().any(|entry| entry.file_name() == READ_FILE) {
            return Err(format!("{READ_FILE} is not listed"));
        }
        rustix::fs::statvfs(&root)
            .map(drop)
            .map_err(|error| failed("statvfs", &root, error.into()))
    })
}

fn line(turn: u64) -> String {
    format!("line {turn} of a log\n")
}

/// Every line once, in order, and nothing else.
fn assert_lines(log: &[u8]) {
    let text = String::from_utf8(log.to_vec()).expect("the log is text");
    for (turn, found) in text.split_inclusive('\n').enumerate() {
        assert_eq!(found, line(turn as u64), "line {turn} of the log");
    }
}

fn same(what: &str, found: &[u8], expected: &[u8]) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what} is {} other bytes than expected", found.len()))
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> String {
    format!("{what} {}: {error}", path.display())
}
