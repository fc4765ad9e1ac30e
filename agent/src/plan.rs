//! What to do next: a pure function of what shall be, what is, and what is under way. No I/O, no clock.
//!
//! A worker that died is succeeded on the same mount if its descriptor is kept; one of an older program is replaced in
//! the same way, one mount after the other.
//!
//! Invariants: only a removal unmounts for good (or a person, by hand, what is an orphan; or a new order for an orphan's
//! place); a mount that serves what was ordered is never touched; nothing is started where another assignment's mount
//! still lies; whatever has a task under way gets no second one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use uuid::Uuid;

use crate::desired::{About, DesiredSet, Order, Spec};
use crate::observed::record::{Phase, Record};
use crate::observed::{ObservedSet, Seen};

/// What the reconciler knows besides.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Assignments with a task under way, and the folder it works on.
    pub busy: BTreeMap<Uuid, PathBuf>,
    /// When an assignment may be tried again.
    pub retry_at: BTreeMap<Uuid, Instant>,
    /// Assignments whose mount was found to have nobody behind it.
    pub disconnected: BTreeSet<Uuid>,
    /// Assignments whose mount outlives its worker.
    pub kept: BTreeSet<Uuid>,
    /// Of these, the ones that do well and whose worker runs another program than the installed one.
    pub outdated: BTreeSet<Uuid>,
    /// A worker is being replaced for that reason; the next one waits until that is done.
    pub upgrading: bool,
    /// The catalog was away for longer than mounts may be started without it.
    pub offline: bool,
}

/// What to do now, and when to look again at the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps, in the order in which they are to be begun: stops before starts.
    pub steps: Vec<Step>,
    /// When something that must wait may be tried.
    pub wake_at: Option<Instant>,
}

/// One thing to do for one assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The assignment.
    pub uid: Uuid,
    /// What to do.
    pub action: Action,
}

/// What can be done for an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Unmount for good, by a removal; or clear away after a person who has unmounted an orphan.
    Stop,
    /// A removal that finds nothing to unmount is done.
    Finish,
    /// Forget a run of which nothing is left.
    Sweep,
    /// Take a dead mount away that cannot be made anew, or that nobody orders: without it people find a guarded folder
    /// instead of an error that never ends.
    Clear,
    /// Unmount what was ordered before, then mount what is ordered now.
    Restart,
    /// What is mounted serves the new order too: only its name and the folder's group change.
    Relabel,
    /// Take over the live mount of an orphan, which serves just this.
    Adopt {
        /// Whose mount it is.
        orphan: Uuid,
    },
    /// Unmount an orphan, since this order is for its place and serves something else.
    Evict {
        /// Whose mount it is.
        orphan: Uuid,
    },
    /// Forget an orphan that has no mount, since another order is for its place.
    Supersede,
    /// Give the worker another key.
    SetCredential,
    /// Give the mount of a dead worker to another one.
    Succeed,
    /// Replace the worker of a live mount by one of the installed program.
    Upgrade,
    /// Clear away what a dead worker or agent left, if anything, and mount.
    Start,
}

impl Action {
    /// The action as a step for one assignment.
    pub fn on(self, uid: Uuid) -> Step {
        Step { uid, action: self }
    }
}

/// Decides.
pub fn plan(
    desired: &DesiredSet,
    observed: &ObservedSet,
    memory: &Memory,
    mount_root: &Path,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    let mut taken: BTreeSet<PathBuf> = memory.busy.values().cloned().collect();
    for uid in desired.removals.keys() {
        if memory.busy.contains_key(uid) {
            continue;
        }
        match place_of(*uid, desired, observed, mount_root) {
            None => plan.steps.push(Action::Finish.on(*uid)),
            // Somebody evicts it at this moment; when that is done, another's mount may lie there.
            Some(place) if memory.busy.values().any(|path| *path == place) => {}
            // Its worker has died with bytes that wait for their upload, perhaps: a successor uploads them.
            Some(_) if memory.kept.contains(uid) && can_be_succeeded(*uid, desired, observed) => {
                plan.when(memory.retry_at.get(uid), now, Action::Succeed.on(*uid));
            }
            Some(place) => {
                plan.when(memory.retry_at.get(uid), now, Action::Stop.on(*uid));
                taken.insert(place);
            }
        }
    }
    plan.steps
        .extend(sweeps(desired, observed, memory).map(|uid| Action::Sweep.on(uid)));
    for uid in corpses(desired, observed, memory) {
        plan.when(memory.retry_at.get(&uid), now, Action::Clear.on(uid));
    }
    let mut starts = Vec::new();
    let claimed = claimed(desired, mount_root);
    for (uid, order) in &desired.orders {
        if memory.busy.contains_key(uid) || desired.removals.contains_key(uid) {
            continue;
        }
        if desired.orphans.contains(uid) && unmounted_by_hand(*uid, observed) {
            plan.when(memory.retry_at.get(uid), now, Action::Stop.on(*uid));
            continue;
        }
        if desired.orphans.contains(uid)
            && let Some(place) = place_of(*uid, desired, observed, mount_root)
            && claimed.contains(&place)
        {
            if observed.owner(&place) != Some(*uid) {
                plan.steps.push(Action::Supersede.on(*uid));
            }
            continue;
        }
        match step_for(*uid, order, observed, memory, mount_root) {
            // What is live goes on, also with another worker.
            Some((step, _)) if matches!(step.action, Action::Start | Action::Restart) && memory.offline => {}
            Some((step, path)) if matches!(step.action, Action::Start | Action::Restart) => {
                let step = match observed.owner(&path).filter(|owner| owner != uid) {
                    None => Some(step),
                    Some(owner) => take_over(owner, order, &path, desired, observed, step.action)
                        .map(|action| action.on(*uid)),
                };
                if let Some(step) = step
                    && taken.insert(path)
                {
                    starts.push((*uid, step));
                }
            }
            Some((step, _)) => plan.when(memory.retry_at.get(uid), now, step),
            None => {}
        }
    }
    for (uid, step) in starts {
        plan.when(memory.retry_at.get(&uid), now, step);
    }
    upgrade_one(&mut plan, desired, memory, now);
    plan
}

/// One after the other: a program that does not work shall meet one mount, and not all. Whatever else is to be done for
/// a mount comes first.
fn upgrade_one(plan: &mut Plan, desired: &DesiredSet, memory: &Memory, now: Instant) {
    if memory.upgrading {
        return;
    }
    let busy = |uid: &Uuid| {
        memory.busy.contains_key(uid)
            || desired.removals.contains_key(uid)
            || plan.steps.iter().any(|step| step.uid == *uid)
    };
    let due = |uid: &Uuid| memory.retry_at.get(uid).is_none_or(|at| *at <= now);
    let ready = |uid: &&Uuid| memory.kept.contains(*uid) && desired.orders.contains_key(*uid) && !busy(uid);
    let next = memory.outdated.iter().find(|uid| ready(uid) && due(uid)).copied();
    plan.steps.extend(next.map(|uid| Action::Upgrade.on(uid)));
}

/// Whether the worker of `uid` has died on a mount that another one can go on with: it must serve what is ordered.
pub fn can_be_succeeded(uid: Uuid, desired: &DesiredSet, observed: &ObservedSet) -> bool {
    let (Some(order), Some(record)) = (desired.orders.get(&uid), observed.record(uid)) else {
        return false;
    };
    let Ok(spec) = &order.spec else { return false };
    spec.credential.is_some()
        && record.phase == Phase::Mounted
        && matches!(observed.seen(uid, &record.path), Seen::Dead(_))
        && serves(record, &order.about, spec)
}

impl Plan {
    /// Adds a step, or the moment from which it may be taken.
    fn when(&mut self, retry_at: Option<&Instant>, now: Instant, step: Step) {
        match retry_at {
            Some(at) if *at > now => self.wake_at = Some(self.wake_at.map_or(*at, |wake| wake.min(*at))),
            _ => self.steps.push(step),
        }
    }
}

/// Where an assignment's mount is or shall be: by its record if there is one, else by its order.
pub fn place_of(
    uid: Uuid,
    desired: &DesiredSet,
    observed: &ObservedSet,
    mount_root: &Path,
) -> Option<PathBuf> {
    let recorded = observed.record(uid).map(|record| record.path.clone());
    recorded.or_else(|| {
        let order = desired.orders.get(&uid)?;
        Some(order.spec.as_ref().ok()?.place.path(mount_root))
    })
}

/// What one ordered assignment needs, and the folder that it needs for it.
fn step_for(
    uid: Uuid,
    order: &Order,
    observed: &ObservedSet,
    memory: &Memory,
    mount_root: &Path,
) -> Option<(Step, PathBuf)> {
    // What cannot be mounted as ordered leaves alone what is mounted from before.
    let spec = order.spec.as_ref().ok()?;
    let wanted = spec.place.path(mount_root);
    let at = observed
        .record(uid)
        .map_or(wanted.as_path(), |record| record.path.as_path());
    let credential = spec.credential.as_ref()?;
    let step = match observed.seen(uid, at) {
        Seen::Dead(record)
            if memory.kept.contains(&uid)
                && record.phase == Phase::Mounted
                && serves(record, &order.about, spec) =>
        {
            Action::Succeed.on(uid)
        }
        Seen::Nothing | Seen::Left(_) | Seen::Lingering(_) | Seen::Unmounted(_) | Seen::Dead(_) => {
            Action::Start.on(uid)
        }
        Seen::Mounted(record) if record.phase == Phase::Launching => Action::Start.on(uid),
        Seen::Mounted(record) if !is_current(record, &order.about) => {
            if record.path == wanted && serves(record, &order.about, spec) {
                Action::Relabel.on(uid)
            } else {
                Action::Restart.on(uid)
            }
        }
        Seen::Mounted(record)
            if record.secret_version != credential.secret_version
                || record.key_fingerprint != credential.fingerprint =>
        {
            Action::SetCredential.on(uid)
        }
        Seen::Mounted(_) => return None,
        Seen::Unrecorded if memory.disconnected.contains(&uid) => Action::Start.on(uid),
        Seen::Unrecorded | Seen::Foreign(_) => return None,
    };
    Some((step, wanted))
}

/// Whether a mount was made for this very order.
fn is_current(record: &Record, about: &About) -> bool {
    record.generation == about.generation && record.spec_hash == about.spec_hash
}

/// Whether a mount serves what is ordered, for whomever it was made. The group is left out on purpose: the project's
/// folder decides who enters, and it can be given to another group without a new mount.
fn serves(record: &Record, about: &About, spec: &Spec) -> bool {
    record.serves.as_ref() == Some(&spec.serving(about.mode))
}

/// The places of all orders that the catalog stands by.
fn claimed(desired: &DesiredSet, mount_root: &Path) -> BTreeSet<PathBuf> {
    let listed = |uid: &Uuid| !desired.orphans.contains(uid) && !desired.removals.contains_key(uid);
    desired
        .orders
        .iter()
        .filter(|(uid, _)| listed(uid))
        .filter_map(|(_, order)| Some(order.spec.as_ref().ok()?.place.path(mount_root)))
        .collect()
}

/// What becomes of the mount of `owner`, which lies where `order` is to be mounted: nothing as long as it is ordered
/// itself or is being removed; if nobody orders it any more, it is taken over, or ended when it serves something else.
fn take_over(
    owner: Uuid,
    order: &Order,
    path: &Path,
    desired: &DesiredSet,
    observed: &ObservedSet,
    wanted: Action,
) -> Option<Action> {
    let orphan = desired.orphans.contains(&owner) || !desired.orders.contains_key(&owner);
    if !orphan || desired.removals.contains_key(&owner) {
        return None;
    }
    let spec = order.spec.as_ref().ok()?;
    let adoptable = matches!(observed.seen(owner, path), Seen::Mounted(record)
        if record.phase == Phase::Mounted && serves(record, &order.about, spec));
    // With a mount of its own elsewhere, the order cannot take over a second one.
    Some(match wanted == Action::Start && adoptable {
        true => Action::Adopt { orphan: owner },
        false => Action::Evict { orphan: owner },
    })
}

/// Whether a person has unmounted it: it was mounted since the boot, and its mount is gone although nobody ordered that.
/// What is ordered is mounted again; an orphan is not, since nobody else could end it.
fn unmounted_by_hand(uid: Uuid, observed: &ObservedSet) -> bool {
    observed.record(uid).is_some_and(|record| {
        record.phase == Phase::Mounted
            && matches!(
                observed.seen(uid, &record.path),
                Seen::Left(_) | Seen::Unmounted(_)
            )
    })
}

/// Runs of which nothing is left and which nobody wants.
fn sweeps<'a>(
    desired: &'a DesiredSet,
    observed: &'a ObservedSet,
    memory: &'a Memory,
) -> impl Iterator<Item = Uuid> + 'a {
    observed
        .runs()
        .map(|run| &run.record)
        .filter(|record| !memory.busy.contains_key(&record.assignment_uid))
        .filter(|record| {
            let wanted = desired.orders.contains_key(&record.assignment_uid)
                || desired.removals.contains_key(&record.assignment_uid);
            !wanted || record.phase == Phase::Detached
        })
        .filter(|record| matches!(observed.seen(record.assignment_uid, &record.path), Seen::Left(_)))
        .map(|record| record.assignment_uid)
}

/// Dead mounts that no start clears away: nothing is ordered there, or what is ordered cannot be mounted.
fn corpses<'a>(
    desired: &'a DesiredSet,
    observed: &'a ObservedSet,
    memory: &'a Memory,
) -> impl Iterator<Item = Uuid> + 'a {
    let mountable = |uid: Uuid| {
        let spec = desired.orders.get(&uid).map(|order| order.spec.as_ref());
        !memory.offline && matches!(spec, Some(Ok(spec)) if spec.credential.is_some())
    };
    observed
        .runs()
        .map(|run| &run.record)
        .filter(|record| matches!(observed.seen(record.assignment_uid, &record.path), Seen::Dead(_)))
        .map(|record| record.assignment_uid)
        .filter(move |uid| {
            !memory.busy.contains_key(uid)
                && !memory.kept.contains(uid)
                && !desired.removals.contains_key(uid)
                && !mountable(*uid)
        })
}

#[cfg(test)]
mod tests;
