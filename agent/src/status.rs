//! What this host says of its mounts: states and conditions, each with its reason, derived from what was ordered and
//! what was seen. Pure; how it is sent is the business of the session and the local socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mooring_proto::agent::v1 as agent_pb;
use mooring_proto::local::v1 as local_pb;
use mooring_proto::v1 as pb;
use mooring_proto::v1::{ConditionStatus, ConditionType, MountState};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::backends::Foreign;
use crate::desired::{About, Order};
use crate::facts;
use crate::mounter::MountError;
use crate::mounter::through::Touched;
use crate::observed::Seen;
use crate::observed::record::{Phase, Record};
use crate::probe::Probe;

mod conditions;

/// All mounts of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostStatus {
    /// Whether every mount has been looked at since the agent began: before that, nothing is worth reporting.
    pub ready: bool,
    /// The ledger's revision that the mounts were held against.
    pub revision: i64,
    /// By assignment.
    pub mounts: BTreeMap<Uuid, MountStatus>,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountStatus {
    /// Whose it is.
    pub about: About,
    /// Where it is or shall be.
    pub path: PathBuf,
    /// The generation that is mounted; 0 for none.
    pub generation: i64,
    /// How it is.
    pub state: MountState,
    /// What is true of it, one of each type.
    pub conditions: Vec<Condition>,
    /// Since when it is mounted.
    pub mount_time: Option<OffsetDateTime>,
}

/// Something that is or is not true of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it speaks of.
    pub kind: ConditionType,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// One CamelCase word.
    pub reason: String,
    /// Cause and remedy.
    pub message: String,
    /// Since when it is so.
    pub since: OffsetDateTime,
}

impl HostStatus {
    /// One line for people: how many mounts there are, and how many of them are not as they should be.
    pub fn summary(&self) -> String {
        let count = |wanted: MountState| {
            let states = self.mounts.values().map(|mount| mount.state);
            states.filter(|state| *state == wanted).count()
        };
        let mut parts = vec![format!("{} mounted", count(MountState::Mounted))];
        for state in [
            MountState::Degraded,
            MountState::Failed,
            MountState::Mounting,
            MountState::Unmounting,
            MountState::Orphaned,
        ] {
            let name = state
                .as_str_name()
                .trim_start_matches("MOUNT_STATE_")
                .to_lowercase();
            if count(state) > 0 {
                parts.push(format!("{} {name}", count(state)));
            }
        }
        parts.join(", ")
    }
}

/// Reason of an end that nobody ordered: a person has unmounted an orphan.
pub const BY_HAND: &str = "UnmountedByHand";

/// Reason of the end of an orphan whose place a new order has taken.
pub const TAKEN_OVER: &str = "TakenOver";

/// All that is known of one assignment.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Whose it is.
    pub about: &'a About,
    /// The order, unless only a record tells of the mount.
    pub order: Option<&'a Order>,
    /// Where it is or shall be.
    pub path: PathBuf,
    /// What lies there.
    pub seen: Seen<'a>,
    /// How it answers.
    pub probe: Option<&'a Probe>,
    /// Why the last step failed, if it did.
    pub failure: Option<&'a MountError>,
    /// Whether its workers fail one after the other.
    pub crash_loop: Option<CrashLoop<'a>>,
    /// What the death of its worker would mean.
    pub succession: Succession,
    /// Its worker runs another program than the installed one.
    pub outdated: bool,
    /// A removal is under way.
    pub removing: bool,
    /// The catalog does not list it.
    pub orphan: bool,
}

/// Workers of one mount that fail one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashLoop<'a> {
    /// How many in a row.
    pub failures: u32,
    /// What the last one has said, if one that served has died.
    pub words: Option<&'a str>,
}

/// What the death of a mount's worker would mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Succession {
    /// Another one goes on, and nobody notices.
    Possible,
    /// A new mount, since this kernel does not send again what a dead worker has not answered. Its release.
    KernelTooOld(String),
    /// A new mount, since the worker is of a version that cannot be succeeded, or its descriptor is not at hand.
    NotKept,
    /// A new mount, since the program is not ours and holds its connection alone.
    Alone(Foreign),
}

impl Succession {
    /// Of a mount whose descriptor is `kept`, or not, on a kernel of this release.
    pub fn of(kept: bool, kernel_release: &str) -> Succession {
        match (kept, facts::kernel_sends_again(kernel_release)) {
            (true, _) => Succession::Possible,
            (false, true) => Succession::NotKept,
            (false, false) => Succession::KernelTooOld(kernel_release.to_owned()),
        }
    }
}

impl Facts<'_> {
    /// States and conditions as of `now`; what was so in `before` keeps its moment.
    pub fn describe(&self, before: Option<&MountStatus>, now: OffsetDateTime) -> MountStatus {
        let mut found = conditions::of(self, now);
        for condition in &mut found {
            let same = before
                .into_iter()
                .flat_map(|before| &before.conditions)
                .find(|old| old.kind == condition.kind && old.status == condition.status);
            if let Some(same) = same {
                condition.since = same.since;
            }
        }
        let record = self.mounted();
        MountStatus {
            about: self.about.clone(),
            path: self.path.clone(),
            generation: record.map_or(0, |record| record.generation),
            state: self.state(&found),
            conditions: found,
            mount_time: record.and_then(|record| record.mount_time),
        }
    }

    /// The record of a mount that is there, whether it answers or not.
    fn mounted(&self) -> Option<&Record> {
        match &self.seen {
            Seen::Mounted(record) if record.phase == Phase::Mounted => Some(record),
            Seen::Mounted(_)
            | Seen::Nothing
            | Seen::Dead(_)
            | Seen::Unmounted(_)
            | Seen::Lingering(_)
            | Seen::Left(_)
            | Seen::Unrecorded
            | Seen::Foreign(_) => None,
        }
    }

    /// Whether what is mounted is what is ordered.
    fn is_current(&self) -> bool {
        self.mounted().is_some_and(|record| {
            record.generation == self.about.generation && record.spec_hash == self.about.spec_hash
        })
    }

    fn is_mounted(&self) -> bool {
        self.mounted().is_some() || self.seen == Seen::Unrecorded
    }

    fn state(&self, conditions: &[Condition]) -> MountState {
        let is_false = |kind| {
            conditions
                .iter()
                .any(|condition| condition.kind == kind && condition.status == ConditionStatus::False)
        };
        if self.removing {
            return MountState::Unmounting;
        }
        if self.orphan {
            return MountState::Orphaned;
        }
        if self.is_mounted() {
            let read_only = self.about.mode != pb::Mode::ReadWrite;
            let trouble = is_false(ConditionType::CredentialReady)
                || is_false(ConditionType::EndpointReachable)
                || is_false(ConditionType::Mounted)
                || is_false(ConditionType::Healthy)
                || (is_false(ConditionType::Writable) && !read_only)
                || is_false(ConditionType::SpecCurrent);
            return if trouble {
                MountState::Degraded
            } else {
                MountState::Mounted
            };
        }
        let stuck = self.failure.is_some()
            || matches!(self.seen, Seen::Foreign(_))
            || self
                .order
                .is_some_and(|order| order.spec.as_ref().map_or(true, |spec| spec.credential.is_none()));
        if stuck {
            MountState::Failed
        } else {
            MountState::Mounting
        }
    }

    fn touched(&self) -> Option<&Touched> {
        self.probe.and_then(|probe| probe.mount.as_ref())
    }
}

impl MountStatus {
    /// The same mount after its end; `reason` is the removal's, or [`BY_HAND`].
    pub fn unmounted(mut self, reason: &str, now: OffsetDateTime) -> MountStatus {
        let message = match reason {
            BY_HAND => "unmounted by hand on this host",
            TAKEN_OVER => "a new order for the same folder has taken its place",
            _ => "unmounted, as the catalog has ordered",
        };
        self.state = MountState::Unmounted;
        self.generation = 0;
        self.mount_time = None;
        self.conditions = vec![Condition {
            kind: ConditionType::Mounted,
            status: ConditionStatus::False,
            reason: if reason.is_empty() { "Removed" } else { reason }.to_owned(),
            message: message.to_owned(),
            since: now,
        }];
        self
    }

    /// What the catalog is told.
    pub fn to_report(&self) -> agent_pb::MountReport {
        agent_pb::MountReport {
            assignment_uid: self.about.uid.to_string(),
            generation: self.generation,
            state: self.state.into(),
            conditions: self.conditions.iter().map(Condition::to_pb).collect(),
            path: self.path.display().to_string(),
            mount_time: self.mount_time.map(timestamp),
            activation: self.about.activation.clone(),
        }
    }

    /// What programs on this host are told.
    pub fn to_local(&self) -> local_pb::LocalMount {
        local_pb::LocalMount {
            path: self.path.display().to_string(),
            activation: self.about.activation.clone(),
            connector: self.about.connector.clone(),
            state: self.state.into(),
            mode: self.about.mode.into(),
            backend: self.about.backend.into(),
            conditions: self.conditions.iter().map(Condition::to_pb).collect(),
            mount_time: self.mount_time.map(timestamp),
        }
    }
}

impl Condition {
    fn to_pb(&self) -> pb::Condition {
        pb::Condition {
            r#type: self.kind.into(),
            status: self.status.into(),
            reason: self.reason.clone(),
            message: self.message.clone(),
            since: Some(timestamp(self.since)),
        }
    }
}

/// The wire's form of a moment.
pub fn timestamp(moment: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: moment.unix_timestamp(),
        nanos: moment.nanosecond().cast_signed(),
    }
}

#[cfg(test)]
mod tests;
