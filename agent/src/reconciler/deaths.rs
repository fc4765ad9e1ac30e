//! What becomes of mounts whose worker has died, and which workers are to be replaced. Decides what is kept, and nothing
//! else: the steps are the plan's.

use std::collections::BTreeSet;
use std::time::Instant;

use uuid::Uuid;

use super::Reconciler;
use crate::desired::DesiredSet;
use crate::mounter::through::Touched;
use crate::observed::record::Phase;
use crate::observed::{ObservedSet, Seen};
use crate::plan;

/// Deaths in a row after which a mount is made anew instead of being given to another worker. With the delays between
/// them, whoever asks for something that kills every worker at once gets an error after some 4 s; if it kills only after a
/// while, all in all the budget of deaths is spent first: after some 15 s.
const SUCCESSIONS_IN_A_ROW_MAX: u32 = 5;

impl Reconciler {
    /// A worker that dies again and again is started less and less often, and on the same mount only a few times: what it
    /// dies of may be a request that every successor gets again. Each one is counted once, whoever told of its end.
    pub(super) fn note_deaths(&mut self, observed: &ObservedSet, now: Instant) {
        self.counted.retain(|uid, worker| {
            let record = observed.record(*uid);
            record.is_some_and(|record| record.worker == *worker)
        });
        for run in observed.runs() {
            let record = &run.record;
            let uid = record.assignment_uid;
            let dead =
                record.phase == Phase::Mounted && matches!(observed.seen(uid, &record.path), Seen::Dead(_));
            if !dead || self.running.contains_key(&uid) || self.counted.contains_key(&uid) {
                continue;
            }
            self.counted.insert(uid, record.worker);
            let log = self.mounter.runs.log(uid);
            let words = self.mounter.last_words(uid);
            let kept = self.mounter.keeper.holds(uid);
            let deaths = self.troubles.died(uid, words, kept, now, self.clock.jitter());
            tracing::warn!(assignment = %uid, path = %record.path.display(), pid = record.worker.pid,
                log = %log.display(), kept, deaths, "a mount's worker has died");
            if kept && deaths > SUCCESSIONS_IN_A_ROW_MAX {
                tracing::warn!(assignment = %uid, path = %record.path.display(),
                    "its workers die one after the other; it is mounted anew");
                self.mounter.keeper.forget(uid);
            }
        }
    }

    /// A dead worker's mount that nobody can go on with ends here: otherwise every access to it would wait for ever.
    pub(super) fn let_go(&self, desired: &DesiredSet, observed: &ObservedSet) {
        for run in observed.runs().filter(|run| !run.alive) {
            let uid = run.record.assignment_uid;
            if !self.running.contains_key(&uid)
                && self.mounter.keeper.holds(uid)
                && !plan::can_be_succeeded(uid, desired, observed)
            {
                tracing::warn!(assignment = %uid, path = %run.record.path.display(),
                    "a dead worker is not succeeded, since its order is gone or has changed");
                self.mounter.keeper.forget(uid);
            }
        }
    }

    /// Mounts that do well and whose worker runs another program than the installed one.
    /// After a failure only the one that has met it, as long as that does well; and none at all if somebody has lost open
    /// files by it, until another program is installed or the agent is told to look: a program that does not work shall not
    /// meet them all.
    pub(super) fn outdated(&mut self, observed: &ObservedSet) -> BTreeSet<Uuid> {
        if self
            .refused
            .take_if(|refusal| refusal.program != observed.installed())
            .is_some()
        {
            self.upgrading = true;
        }
        if !self.upgrading {
            return BTreeSet::new();
        }
        let outdated: Vec<Uuid> = observed
            .runs()
            .filter(|run| run.record.phase == Phase::Mounted && observed.is_outdated(run))
            .map(|run| run.record.assignment_uid)
            .filter(|uid| self.mounter.keeper.holds(*uid))
            .collect();
        // The first rounds know too little: a mount that was not asked yet may have its descriptor fetched by that.
        let asked = observed.runs().all(|run| {
            run.record.phase != Phase::Mounted
                || !run.alive
                || self.prober.latest(run.record.assignment_uid).is_some()
        });
        if outdated.is_empty() && asked {
            self.upgrading = false;
        }
        let well = |uid: &Uuid| {
            self.prober.latest(*uid).is_some_and(|probe| {
                probe.mount == Some(Touched::Answers)
                    && probe
                        .worker
                        .as_ref()
                        .is_ok_and(|status| status.store_error.is_none())
            })
        };
        let next: BTreeSet<Uuid> = outdated.into_iter().filter(well).collect();
        // Gone, or not well for reasons of its own: it says nothing any more about the program.
        self.refused
            .take_if(|refusal| !refusal.was_fatal && !next.contains(&refusal.uid));
        match self.refused {
            None => next,
            Some(refusal) => next.into_iter().filter(|uid| refusal.uid == *uid).collect(),
        }
    }
}
