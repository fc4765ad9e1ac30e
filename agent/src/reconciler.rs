//! The loop that makes true what is ordered: look, plan, begin every step at once, publish; again whenever something
//! changes. Each step is a task of its own, so one bad mount delays no other; a failed step is a condition and a later
//! retry, never the end of the loop.
//!
//! What is mounted is never remembered here, only what is under way, what failed and when to try again.

mod deaths;
mod publish;
mod trouble;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooring_identity::Clock;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backends::Foreign;
use crate::blocking::readable;
use crate::desired::{DesiredSet, Removal};
use crate::facts;
use crate::ledger::{BANNED, Ledger};
use crate::mounter::{MountError, Mounter};
use crate::notify::Notifier;
use crate::observed::process::{Process, ProgramFile, reap};
use crate::observed::record::{Phase, Record};
use crate::observed::{ObservedSet, Seen};
use crate::offline::Offline;
use crate::plan::{self, Action, Memory, Step};
use crate::probe::Prober;
use crate::status::{HostStatus, MountStatus, TAKEN_OVER};
use trouble::Troubles;
use work::{Done, Outcome, Work};

/// What no event tells of, such as an unmount by hand, is seen within this time.
const TICK: Duration = Duration::from_secs(2);

/// Mounts that are made at the same time. Each holds a thread of the runtime's 512 for as long as its store is silent, and
/// a service manager that is asked for hundreds of units at once answers too late.
const STARTS_MAX: usize = 32;

/// Mounts that have failed and are tried again at the same time: those behind silent stores wait for each other, and
/// nobody waits for them.
const RETRIES_MAX: usize = 8;

/// A start that is under way when the agent is told to end may take this long; a longer one is cleared away by the
/// next agent.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// The loop.
pub struct Reconciler {
    mounter: Arc<Mounter>,
    ledger: Arc<Ledger>,
    offline: Offline,
    clock: Clock,
    status: watch::Sender<HostStatus>,
    born: Instant,
    tasks: JoinSet<Done>,
    starts: Arc<Semaphore>,
    retries: Arc<Semaphore>,
    running: BTreeMap<Uuid, Running>,
    troubles: Troubles,
    prober: Prober,
    exits: JoinSet<Process>,
    watched: BTreeSet<Process>,
    /// Unmounted by order, reported until the catalog has surely heard of it.
    gone: BTreeMap<Uuid, (MountStatus, Instant)>,
    notifier: Arc<Notifier>,
    reload: Arc<Notify>,
    kernel_release: String,
    /// Workers of another program than the installed one are to be replaced: at the start, which may be that of an
    /// upgrade, and whenever the agent is told to look.
    upgrading: bool,
    /// What is known against the installed program.
    refused: Option<Refusal>,
    /// The worker of each mount whose death was counted last.
    counted: BTreeMap<Uuid, Process>,
}

/// The installed program could not take a mount over.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    uid: Uuid,
    program: Option<ProgramFile>,
    /// The mount's worker had been ended for it, and open files with that.
    was_fatal: bool,
}

/// A task under way.
struct Running {
    task: tokio::task::Id,
    path: PathBuf,
    action: Action,
    /// With [`Action::Stop`]: the order that it carries out.
    removal: Option<Removal>,
    cancel: CancellationToken,
}

impl Reconciler {
    /// Puts the loop together; it does nothing until it runs.
    pub fn new(
        mounter: Arc<Mounter>,
        ledger: Arc<Ledger>,
        offline: Offline,
        clock: Clock,
        status: watch::Sender<HostStatus>,
        notifier: Arc<Notifier>,
        reload: Arc<Notify>,
    ) -> Reconciler {
        Reconciler {
            prober: Prober::new(Arc::clone(&mounter)),
            mounter,
            ledger,
            offline,
            clock,
            status,
            born: Instant::now(),
            tasks: JoinSet::new(),
            starts: Arc::new(Semaphore::new(STARTS_MAX)),
            retries: Arc::new(Semaphore::new(RETRIES_MAX)),
            running: BTreeMap::new(),
            troubles: Troubles::default(),
            exits: JoinSet::new(),
            watched: BTreeSet::new(),
            gone: BTreeMap::new(),
            notifier,
            reload,
            kernel_release: facts::kernel_release(),
            upgrading: true,
            refused: None,
            counted: BTreeMap::new(),
        }
    }

    /// Runs until `shutdown`. Leaves all mounts and workers as they are.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mounter = Arc::clone(&self.mounter);
        // Not waited for: it looks at what others run or have left, and no mount depends on it.
        tokio::task::spawn_blocking(move || {
            mounter.sweep_keys();
            mounter.tidy_all(false);
        });
        let mut held = self.ledger.subscribe();
        loop {
            let desired = DesiredSet::of(&held.borrow_and_update().clone());
            let wake_at = self.round(&desired, &shutdown).await;
            // From here, where the work is done: an agent whose rounds do not end is one to be restarted.
            self.notifier.alive();
            let woken = self.wait(&mut held, wake_at, &shutdown).await;
            match woken {
                Woken::Shutdown => break,
                Woken::Done(done) => self.settle(done),
                Woken::Ended(process) => {
                    self.watched.remove(&process);
                }
                Woken::Reload => {
                    tracing::info!(
                        "told to look for mounts whose worker runs another program than the installed one"
                    );
                    self.notifier.reloading();
                    self.upgrading = true;
                    self.refused = None;
                    self.notifier.ready();
                }
                Woken::Look => {}
            }
            // Whatever else has ended meanwhile belongs into the same round.
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.settle(done);
            }
        }
        let finish = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_PATIENCE, finish).await.is_err() {
            tracing::info!("a step is still under way; the next agent goes on with it");
        }
        self.tasks.detach_all();
    }

    /// Waits for something to do.
    async fn wait(
        &mut self,
        held: &mut watch::Receiver<Arc<crate::ledger::Held>>,
        wake_at: Instant,
        shutdown: &CancellationToken,
    ) -> Woken {
        let changed = async {
            // The ledger lives as long as we hold it, so this cannot fail.
            let _ = held.changed().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => Woken::Shutdown, // cancel-safe: no state
            () = changed => Woken::Look, // cancel-safe per tokio's docs
            Some(done) = self.tasks.join_next_with_id() => Woken::Done(done), // cancel-safe per tokio's docs
            Some(ended) = self.exits.join_next() => match ended { // cancel-safe per tokio's docs
                Ok(process) => Woken::Ended(process),
                Err(_) => Woken::Look,
            },
            () = self.reload.notified() => Woken::Reload, // cancel-safe per tokio's docs
            () = self.prober.answered() => Woken::Look, // cancel-safe: see there
            () = tokio::time::sleep_until(wake_at.into()) => Woken::Look, // cancel-safe: no state
        }
    }

    /// One round. Answers when the next one is due at the latest.
    async fn round(&mut self, desired: &DesiredSet, shutdown: &CancellationToken) -> Instant {
        let looked = look(Arc::clone(&self.mounter)).await;
        let now = Instant::now();
        let observed = match looked {
            Ok(Ok(observed)) => observed,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot look at this host's mounts; is /proc mounted, and the run folder there?");
                return now + TICK;
            }
            Err(_) => {
                tracing::error!(
                    "no thread looks at this host's mounts; has the agent reached a limit of its tasks?"
                );
                return now + TICK;
            }
        };
        let running = &self.running;
        let busy = |uid| running.contains_key(&uid);
        self.mounter.keeper.settle(&observed, busy);
        self.note_deaths(&observed, now);
        self.let_go(desired, &observed);
        self.call_off(desired);
        self.troubles.forget_settled(desired, now);
        self.watch_workers(&observed);
        self.ask(desired, &observed, now);
        let offline = self.offline.over(desired.offline_bound, self.clock.now());
        let memory = Memory {
            busy: self
                .running
                .iter()
                .map(|(uid, running)| (*uid, running.path.clone()))
                .collect(),
            retry_at: self.troubles.retry_at(),
            disconnected: self.disconnected(desired),
            kept: observed
                .runs()
                .map(|run| run.record.assignment_uid)
                .filter(|uid| self.mounter.keeper.holds(*uid))
                .collect(),
            outdated: self.outdated(&observed),
            upgrading: self
                .running
                .values()
                .any(|running| running.action == Action::Upgrade),
            offline: offline.is_some(),
        };
        let plan = plan::plan(desired, &observed, &memory, &self.mounter.mount_root, now);
        for step in plan.steps {
            self.begin(step, desired, &observed, shutdown);
        }
        self.publish(desired, &observed, offline, now);
        plan.wake_at.map_or(now + TICK, |wake| wake.min(now + TICK))
    }

    /// Calls off unmounts whose order has changed since they began: the next round begins them with the grace of the
    /// new one. Else a ban, or an order to unmount at once, would wait for a grace that was given long before. What is about
    /// to be mounted is called off when its removal is ordered; what would be served on, by a ban only, for a successor
    /// uploads what waits.
    fn call_off(&self, desired: &DesiredSet) {
        for (uid, running) in &self.running {
            let ordered = desired.removals.get(uid);
            let changed = running.removal.is_some() && running.removal.as_ref() != ordered;
            let banned = ordered.is_some_and(|removal| removal.reason == BANNED);
            let is_of_no_use = match running.action {
                Action::Succeed | Action::Upgrade | Action::Adopt { orphan: _ } => banned,
                action => ordered.is_some() && mounts(action),
            };
            if changed || is_of_no_use {
                running.cancel.cancel();
            }
        }
    }

    /// Begins one step as a task of its own.
    fn begin(
        &mut self,
        step: Step,
        desired: &DesiredSet,
        observed: &ObservedSet,
        shutdown: &CancellationToken,
    ) {
        let (uid, action) = (step.uid, step.action);
        let work = Work::of(step, desired, observed, &self.mounter);
        let path = work.path.clone();
        if action != Action::Sweep {
            tracing::info!(assignment = %uid, path = %path.display(), ?action, "step begins");
        }
        let (mounter, ledger) = (Arc::clone(&self.mounter), Arc::clone(&self.ledger));
        let cancel = shutdown.child_token();
        let removal = match action {
            Action::Stop => desired.removals.get(&uid).cloned(),
            _ => None,
        };
        let foreign = observed.record(uid).and_then(Record::foreign);
        let turn = match turn_of(action, foreign, self.troubles.error(uid).is_some()) {
            Turn::AtOnce => None,
            Turn::Start => Some(Arc::clone(&self.starts)),
            Turn::Retry => Some(Arc::clone(&self.retries)),
        };
        let task = self
            .tasks
            .spawn(work.run(mounter, ledger, turn, cancel.clone()))
            .id();
        let running = Running {
            task,
            path,
            action,
            removal,
            cancel,
        };
        self.running.insert(uid, running);
    }

    /// Takes the result of a task.
    fn settle(&mut self, ended: Result<(tokio::task::Id, Done), tokio::task::JoinError>) {
        let now = Instant::now();
        let done = match ended {
            Ok((_, done)) => done,
            Err(error) => {
                let uid = self
                    .running
                    .iter()
                    .find(|(_, running)| running.task == error.id())
                    .map(|(uid, _)| *uid);
                let Some(uid) = uid else { return };
                let message =
                    "the agent failed at this mount; its log has a panic, please report it".to_owned();
                Done {
                    uid,
                    outcome: Err(MountError::Host {
                        reason: "AgentError",
                        message,
                    }),
                }
            }
        };
        let Done { uid, outcome } = done;
        let path = self
            .running
            .remove(&uid)
            .map(|running| running.path)
            .unwrap_or_default();
        match outcome {
            Ok(Outcome::Serves(status)) => {
                tracing::info!(assignment = %uid, path = %path.display(), "mount serves");
                self.troubles.succeeded(uid, now);
                if let Some(record) = self.mounter.runs.read(uid) {
                    self.prober
                        .learned(uid, &record.path, record.worker.pid, status, now);
                }
            }
            Ok(Outcome::Succeeded { cause, status }) => {
                tracing::info!(assignment = %uid, path = %path.display(), ?cause, "mount goes on with another worker");
                self.troubles.succeeded(uid, now);
                self.refused.take_if(|refusal| refusal.uid == uid);
                if let Some(record) = self.mounter.runs.read(uid) {
                    self.prober
                        .learned(uid, &record.path, record.worker.pid, status, now);
                }
            }
            Ok(Outcome::Relabelled) => {
                tracing::info!(assignment = %uid, path = %path.display(), "mount goes on for its new order");
                self.troubles.succeeded(uid, now);
            }
            Ok(Outcome::Adopted { orphan, status }) => {
                tracing::info!(assignment = %uid, %orphan, path = %path.display(), "an orphan's mount is taken over");
                self.troubles.succeeded(uid, now);
                self.troubles.forget(orphan);
                if let Some(record) = self.mounter.runs.read(uid) {
                    self.prober
                        .learned(uid, &record.path, record.worker.pid, status, now);
                }
                self.remember_gone(orphan, path, TAKEN_OVER, now);
            }
            Ok(Outcome::Evicted { orphan }) => {
                tracing::info!(assignment = %uid, %orphan, path = %path.display(), "an orphan has made room for a new order");
                self.troubles.forget(orphan);
                self.remember_gone(orphan, path, TAKEN_OVER, now);
            }
            Ok(Outcome::Removed(reason)) => {
                tracing::info!(assignment = %uid, path = %path.display(), "mount is removed");
                self.troubles.forget(uid);
                self.remember_gone(uid, path, &reason, now);
            }
            Ok(Outcome::Nothing) => {}
            Err(error) => {
                // The same failure at every retry is news only once.
                if self.troubles.error(uid) == Some(&error) {
                    tracing::debug!(assignment = %uid, %error, "step failed again");
                } else {
                    let reason = error.reason();
                    tracing::warn!(assignment = %uid, path = %path.display(), reason, %error, "step failed");
                }
                let dead = self.mounter.runs.read(uid);
                let dead = dead.filter(|record| !record.worker.is_alive());
                if matches!(error, MountError::UpgradeRefused { .. }) {
                    self.refused = Some(Refusal {
                        uid,
                        program: ProgramFile::at(&self.mounter.programs.mooring_fs),
                        was_fatal: dead.is_some(),
                    });
                }
                if let Some(record) = dead {
                    // What became of it is this failure's story, and no death besides.
                    self.counted.insert(uid, record.worker);
                }
                let order = self.ledger.held();
                self.troubles
                    .failed(uid, error, &DesiredSet::of(&order), now, self.clock.jitter());
            }
        }
    }

    /// Each live worker gets a task that waits for its end.
    fn watch_workers(&mut self, observed: &ObservedSet) {
        for run in observed.runs().filter(|run| run.alive) {
            let process = run.record.worker;
            if self.watched.contains(&process) {
                continue;
            }
            // Without a descriptor it has ended just now, and the next round counts it.
            let Some(pidfd) = process.pidfd() else { continue };
            let Ok(pidfd) = readable(pidfd) else { continue };
            self.watched.insert(process);
            self.exits.spawn(async move {
                // An error could only mean that the runtime ends.
                let _ = pidfd.readable().await;
                reap(pidfd.get_ref());
                process
            });
        }
    }

    /// Asks every live mount that no task works on how it does.
    fn ask(&mut self, desired: &DesiredSet, observed: &ObservedSet, now: Instant) {
        let mut asked = BTreeSet::new();
        for run in observed.runs() {
            let record = &run.record;
            let uid = record.assignment_uid;
            let serving = matches!(observed.seen(uid, &record.path), Seen::Mounted(_))
                && record.phase == Phase::Mounted;
            if serving {
                asked.insert(uid);
                if !self.running.contains_key(&uid) {
                    self.prober.ask(uid, &record.path, Some(record.worker), now);
                }
            }
        }
        for (uid, order) in &desired.orders {
            let Ok(spec) = &order.spec else { continue };
            let path = spec.place.path(&self.mounter.mount_root);
            if observed.record(*uid).is_none() && observed.seen(*uid, &path) == Seen::Unrecorded {
                asked.insert(*uid);
                self.prober.ask(*uid, &path, None, now);
            }
        }
        self.prober.retain(|uid| asked.contains(uid));
    }

    fn disconnected(&self, desired: &DesiredSet) -> BTreeSet<Uuid> {
        use crate::mounter::through::Touched;
        let nobody = |uid: &&Uuid| {
            let probe = self.prober.latest(**uid);
            probe.is_some_and(|probe| probe.mount == Some(Touched::Disconnected))
        };
        desired.orders.keys().filter(nobody).copied().collect()
    }
}

/// Looks at what is, on a thread of its own: those of the runtime may all wait for stores that are away, and an agent
/// whose rounds do not end is killed by its service manager.
async fn look(
    mounter: Arc<Mounter>,
) -> Result<std::io::Result<ObservedSet>, tokio::sync::oneshot::error::RecvError> {
    let (answer, looked) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("look".to_owned());
    // Without a thread the answer is dropped, which is an answer, too.
    let look = move || {
        let observed = ObservedSet::look(&mounter.runs, &mounter.programs.mooring_fs);
        let runs = observed.iter().flat_map(ObservedSet::runs);
        // It may go on for days while its store is away, and nobody asks it how it does.
        for run in runs.filter(|run| run.alive && run.record.phase == Phase::Detached) {
            mounter.runs.bound_log(run.record.assignment_uid);
        }
        answer.send(observed)
    };
    let _ = thread.spawn(look);
    looked.await
}

/// Whether a step may end with a fresh mount.
fn mounts(action: Action) -> bool {
    match action {
        Action::Start | Action::Restart | Action::Evict { orphan: _ } | Action::SetCredential => true,
        Action::Stop
        | Action::Finish
        | Action::Sweep
        | Action::Clear
        | Action::Relabel
        | Action::Adopt { orphan: _ }
        | Action::Supersede
        | Action::Succeed
        | Action::Upgrade => false,
    }
}

/// For what a step waits before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// For nothing.
    AtOnce,
    /// For other mounts that are made.
    Start,
    /// For other mounts that have failed and are tried again.
    Retry,
}

/// A key is handed over at once, unless the mount (of `foreign`'s program, if of others) must be made anew for it: whoever
/// waits for a store that is silent must not keep the keys of others from them.
fn turn_of(action: Action, foreign: Option<Foreign>, has_failed: bool) -> Turn {
    let makes_a_mount = match action {
        Action::SetCredential => foreign == Some(Foreign::S3fs),
        action => mounts(action),
    };
    match (makes_a_mount, has_failed) {
        (false, _) => Turn::AtOnce,
        (true, false) => Turn::Start,
        (true, true) => Turn::Retry,
    }
}

/// Why the loop goes on.
enum Woken {
    Shutdown,
    Done(Result<(tokio::task::Id, Done), tokio::task::JoinError>),
    Ended(Process),
    Reload,
    Look,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_wait_for_no_start_and_no_first_start_for_what_has_failed_before() {
        for (action, foreign, has_failed, turn) in [
            (Action::SetCredential, None, true, Turn::AtOnce),
            (Action::SetCredential, Some(Foreign::Geesefs), false, Turn::AtOnce),
            (Action::SetCredential, Some(Foreign::S3fs), false, Turn::Start),
            (Action::SetCredential, Some(Foreign::S3fs), true, Turn::Retry),
            (Action::Start, None, false, Turn::Start),
            (Action::Start, None, true, Turn::Retry),
            (Action::Restart, Some(Foreign::S3fs), false, Turn::Start),
            (Action::Succeed, None, true, Turn::AtOnce),
            (Action::Stop, None, false, Turn::AtOnce),
        ] {
            assert_eq!(
                turn_of(action, foreign, has_failed),
                turn,
                "{action:?} {foreign:?}"
            );
        }
    }
}
