//! Asks live mounts how they do, each beside the others: the worker over its socket, and the mount itself by touching
//! it. A mount that never answers costs one thread and delays nobody. A worker that can be succeeded and whose mount is
//! not kept yet, since this agent has not made it, is asked for its descriptor on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mooring_control::WorkerStatus;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::mounter::Mounter;
use crate::mounter::through::{Touched, touch};
use crate::mounter::worker::{Worker, WorkerError};
use crate::observed::process::Process;

/// Between two questions to the same mount. A question costs both sides some 100 µs; a trouble that no event tells of
/// is seen within this time and [`TOUCH_TIMEOUT`].
const INTERVAL: Duration = Duration::from_secs(3);

/// Questions under way. Those to mounts that hang take seconds each, on threads that starts and look-ups need, too.
const ASKED_MAX: usize = 256;

/// Mounts answer this from memory. Longer than any pause of a loaded machine that a person would not call a hang.
const TOUCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers within this time make one round. Nobody waits for them: what is urgent comes as an event of its own.
const ANSWERS_REST: Duration = Duration::from_millis(100);

/// How a mount does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What its worker says, or why it says nothing.
    pub worker: Result<WorkerStatus, String>,
    /// What the mount says. Not asked while the worker is silent: the asking thread would only hang.
    pub mount: Option<Touched>,
}

/// The questions under way and the latest answers.
pub struct Prober {
    mounter: Arc<Mounter>,
    asking: JoinSet<(Uuid, u64, Probe)>,
    mounts: BTreeMap<Uuid, Watched>,
    generations: u64,
}

#[derive(Debug)]
struct Watched {
    /// Answers to questions that were asked of an earlier mount of the same assignment are dropped.
    generation: u64,
    path: PathBuf,
    worker_pid: Option<u32>,
    latest: Option<Probe>,
    asked_at: Option<Instant>,
    asking: bool,
    /// A thread is in the mount and has not come back.
    touching: Arc<AtomicBool>,
}

impl Prober {
    /// Asks nothing yet.
    pub fn new(mounter: Arc<Mounter>) -> Prober {
        Prober {
            mounter,
            asking: JoinSet::new(),
            mounts: BTreeMap::new(),
            generations: 0,
        }
    }

    /// Asks the mount of `uid` unless it was asked just now. `worker` is its worker, if it is known.
    pub fn ask(&mut self, uid: Uuid, path: &Path, worker: Option<Process>, now: Instant) {
        let pid = worker.map(|worker| worker.pid);
        let full = self.asking.len() >= ASKED_MAX;
        let watched = self.watched(uid, path, pid);
        let due = watched
            .asked_at
            .is_none_or(|asked| now.duration_since(asked) >= INTERVAL);
        if watched.asking || !due || full {
            return;
        }
        watched.asking = true;
        watched.asked_at = Some(now);
        let (generation, touching) = (watched.generation, Arc::clone(&watched.touching));
        let question = Question {
            mounter: Arc::clone(&self.mounter),
            uid,
            path: path.to_owned(),
            worker,
            touching,
        };
        self.asking
            .spawn_blocking(move || (uid, generation, question.ask()));
    }

    /// A mount that was made or given a key just now has answered already.
    pub fn learned(&mut self, uid: Uuid, path: &Path, worker_pid: u32, status: WorkerStatus, now: Instant) {
        let watched = self.watched(uid, path, Some(worker_pid));
        watched.asked_at = Some(now);
        watched.latest = Some(Probe {
            worker: Ok(status),
            mount: Some(Touched::Answers),
        });
    }

    /// Keeps only the mounts for which `keep` holds.
    pub fn retain(&mut self, keep: impl Fn(&Uuid) -> bool) {
        self.mounts.retain(|uid, _| keep(uid));
    }

    /// The latest answer.
    pub fn latest(&self, uid: Uuid) -> Option<&Probe> {
        self.mounts.get(&uid)?.latest.as_ref()
    }

    /// Waits for answers, and for those that come soon after the first: many mounts shall not be many rounds.
    /// Cancel-safe: an answer is taken in at once, and one that is not taken stays. Never returns while nothing is asked.
    pub async fn answered(&mut self) {
        match self.asking.join_next().await {
            Some(answer) => self.take(answer),
            None => std::future::pending().await,
        }
        tokio::time::sleep(ANSWERS_REST).await;
        while let Some(answer) = self.asking.try_join_next() {
            self.take(answer);
        }
    }

    fn take(&mut self, answer: Result<(Uuid, u64, Probe), tokio::task::JoinError>) {
        match answer {
            Ok((uid, generation, probe)) => {
                let watched = self.mounts.get_mut(&uid);
                if let Some(watched) = watched.filter(|watched| watched.generation == generation) {
                    watched.asking = false;
                    watched.latest = Some(probe);
                }
            }
            Err(error) => tracing::error!(%error, "a probe of a mount panicked"),
        }
    }

    fn watched(&mut self, uid: Uuid, path: &Path, worker_pid: Option<u32>) -> &mut Watched {
        let same = |watched: &Watched| watched.path == path && watched.worker_pid == worker_pid;
        if !self.mounts.get(&uid).is_some_and(same) {
            self.generations += 1;
            let fresh = Watched {
                generation: self.generations,
                path: path.to_owned(),
                worker_pid,
                latest: None,
                asked_at: None,
                asking: false,
                touching: Arc::default(),
            };
            self.mounts.insert(uid, fresh);
        }
        self.mounts.get_mut(&uid).expect("it was inserted just now")
    }
}

struct Question {
    mounter: Arc<Mounter>,
    uid: Uuid,
    path: PathBuf,
    worker: Option<Process>,
    touching: Arc<AtomicBool>,
}

impl Question {
    fn ask(self) -> Probe {
        if self.worker.is_some() {
            self.mounter.runs.bound_log(self.uid);
        }
        let worker = match self.worker {
            None => Err("no record says which worker serves it".to_owned()),
            Some(process) if self.is_foreign() => self.mounter.foreign_status(process),
            Some(process) => self.ask_worker(process).map_err(|error| error.to_string()),
        };
        let ask_the_mount = worker.is_ok() || self.worker.is_none();
        let mount = ask_the_mount.then(|| {
            if self.touching.swap(true, Ordering::AcqRel) {
                return Touched::Silent;
            }
            let over = Arc::clone(&self.touching);
            touch(&self.path, TOUCH_TIMEOUT, move || {
                over.store(false, Ordering::Release)
            })
        });
        Probe { worker, mount }
    }

    fn is_foreign(&self) -> bool {
        let record = self.mounter.runs.read(self.uid);
        record.is_some_and(|record| record.foreign().is_some())
    }

    fn ask_worker(&self, process: Process) -> Result<WorkerStatus, WorkerError> {
        let keeper = &self.mounter.keeper;
        if !keeper.holds(self.uid)
            && let Some(record) = self.mounter.runs.read(self.uid)
            && let Some(number) = record.fuse_descriptor.filter(|_| record.worker == process)
        {
            // Before it is asked: it may hang, and should somebody end it for that, its mount shall not end.
            keeper.retrieve(self.uid, &self.path, process, number);
        }
        let worker = Worker::connect(&self.mounter.runs.control_socket(self.uid))?;
        let hello = worker.hello();
        if let Some(number) = hello.fuse_descriptor.filter(|_| hello.pid == process.pid) {
            match (hello.resend, keeper.holds(self.uid)) {
                (true, false) => {
                    keeper.retrieve(self.uid, &self.path, process, number);
                }
                // It could not write down what a successor must know, and after its death nobody could go on.
                (false, true) => {
                    tracing::warn!(assignment = %self.uid, path = %self.path.display(),
                        "a worker has given its succession up, as its log says; should it die, its mount is made anew");
                    keeper.forget_of(self.uid, process);
                }
                (true, true) | (false, false) => {}
            }
        }
        worker.status()
    }
}
