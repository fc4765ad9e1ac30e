//! What the reconciler tells: one status of all mounts, replaced only when something in it has changed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mooring_proto::v1::{Backend, Mode};
use uuid::Uuid;

use super::Reconciler;
use crate::backends::Foreign;
use crate::desired::{About, DesiredSet};
use crate::mounter::MountError;
use crate::observed::record::{Phase, Record};
use crate::observed::{ObservedSet, Seen};
use crate::offline;
use crate::plan;
use crate::status::{Facts, HostStatus, MountStatus, Succession};

/// After this time the first status is told even if a mount has not answered: then its silence is the news.
const FIRST_STATUS_PATIENCE: Duration = Duration::from_secs(6);

/// How long an unmount is reported. The catalog may be away when it happens; later it tells from the missing report.
const GONE_REPORTED_FOR: Duration = Duration::from_secs(600);

impl Reconciler {
    /// Publishes how everything is.
    pub(super) fn publish(
        &mut self,
        desired: &DesiredSet,
        observed: &ObservedSet,
        offline: Option<Duration>,
        now: Instant,
    ) {
        let before = self.status.borrow().clone();
        let waiting = observed
            .runs()
            .map(|run| &run.record)
            .filter(|record| record.phase == Phase::Mounted)
            .filter(|record| {
                matches!(
                    observed.seen(record.assignment_uid, &record.path),
                    Seen::Mounted(_)
                )
            })
            .any(|record| self.prober.latest(record.assignment_uid).is_none());
        if !before.ready && waiting && now.duration_since(self.born) < FIRST_STATUS_PATIENCE {
            return;
        }
        let wall = self.clock.now();
        let mut status = HostStatus {
            ready: true,
            revision: desired.revision,
            ..HostStatus::default()
        };
        let not_started = offline.map(|silence| offline_too_long(silence, desired.offline_bound));
        for (uid, order) in &desired.orders {
            let path = plan::place_of(*uid, desired, observed, &self.mounter.mount_root).unwrap_or_default();
            let seen = observed.seen(*uid, &path);
            let is_live = matches!(seen, Seen::Mounted(_)) || desired.removals.contains_key(uid);
            let not_started = not_started.as_ref().filter(|_| !is_live);
            let facts = Facts {
                about: &order.about,
                order: Some(order),
                seen,
                probe: self.prober.latest(*uid),
                failure: not_started.or_else(|| self.troubles.error(*uid)),
                crash_loop: self.troubles.crash_loop(*uid, now),
                succession: self.succession(&order.about),
                outdated: observed.has_outdated_worker(*uid),
                removing: desired.removals.contains_key(uid),
                orphan: desired.orphans.contains(uid),
                path,
            };
            status
                .mounts
                .insert(*uid, facts.describe(before.mounts.get(uid), wall));
        }
        // Mounts of which only the records tell: the ledger was lost, or belonged to another installation.
        for record in observed.runs().map(|run| &run.record) {
            let uid = record.assignment_uid;
            let seen = observed.seen(uid, &record.path);
            let there = matches!(seen, Seen::Mounted(_) | Seen::Dead(_));
            if !there || status.mounts.contains_key(&uid) || self.gone.contains_key(&uid) {
                continue;
            }
            let about = about(record);
            let facts = Facts {
                about: &about,
                order: None,
                path: record.path.clone(),
                seen,
                probe: self.prober.latest(uid),
                failure: None,
                crash_loop: None,
                succession: self.succession(&about),
                outdated: observed.has_outdated_worker(uid),
                removing: desired.removals.contains_key(&uid),
                orphan: true,
            };
            status
                .mounts
                .insert(uid, facts.describe(before.mounts.get(&uid), wall));
        }
        // A removal that has left the ledger this very moment; its task is not settled yet.
        for uid in self.running.keys() {
            if let (false, Some(mount)) = (status.mounts.contains_key(uid), before.mounts.get(uid)) {
                status.mounts.insert(*uid, mount.clone());
            }
        }
        self.gone.retain(|uid, (_, since)| {
            now.duration_since(*since) < GONE_REPORTED_FOR && !desired.orders.contains_key(uid)
        });
        for (uid, (mount, _)) in &self.gone {
            status.mounts.entry(*uid).or_insert_with(|| mount.clone());
        }
        let said = status.summary();
        let changed = self.status.send_if_modified(|current| {
            let changed = *current != status;
            if changed {
                *current = status;
            }
            changed
        });
        if changed {
            self.notifier.status(&said);
        }
        if !before.ready {
            self.notifier.ready();
        }
    }

    fn succession(&self, about: &About) -> Succession {
        match Foreign::of(about.backend) {
            Some(program) => Succession::Alone(program),
            None => Succession::of(self.mounter.keeper.holds(about.uid), &self.kernel_release),
        }
    }

    /// Keeps an unmount for the reports to come.
    pub(super) fn remember_gone(&mut self, uid: Uuid, path: PathBuf, reason: &str, now: Instant) {
        if self.gone.contains_key(&uid) {
            // The catalog repeats a removal until it has heard that it is done.
            return;
        }
        let known = self.status.borrow().mounts.get(&uid).cloned();
        let mount = known.unwrap_or_else(|| MountStatus {
            about: nameless(uid),
            path,
            generation: 0,
            state: mooring_proto::v1::MountState::Unmounted,
            conditions: Vec::new(),
            mount_time: None,
        });
        self.gone
            .insert(uid, (mount.unmounted(reason, self.clock.now()), now));
    }
}

/// Why nothing is started.
fn offline_too_long(silence: Duration, bound: Option<Duration>) -> MountError {
    MountError::Host {
        reason: offline::REASON,
        message: format!(
            "it is not mounted because this host was without its catalog for {} s, and its pool allows {} s (offline_max); it is \
             mounted when the catalog answers: check this host's network, and whether the catalog still accepts it",
            silence.as_secs(),
            bound.unwrap_or_default().as_secs()
        ),
    }
}

/// What a record tells of an order that is not at hand.
fn about(record: &Record) -> About {
    About {
        uid: record.assignment_uid,
        generation: record.generation,
        spec_hash: record.spec_hash.clone(),
        activation: record.activation.clone(),
        connector: record.connector.clone(),
        mode: if record.read_only {
            Mode::ReadOnly
        } else {
            Mode::ReadWrite
        },
        backend: record.foreign().map_or(Backend::Default, Foreign::backend),
        unix_group: record.unix_group.clone(),
    }
}

/// A removal of something that this host never had.
fn nameless(uid: Uuid) -> About {
    About {
        uid,
        generation: 0,
        spec_hash: String::new(),
        activation: String::new(),
        connector: String::new(),
        mode: Mode::Unspecified,
        backend: Backend::Unspecified,
        unix_group: None,
    }
}
