//! Mounts: what hosts observe. A report tells all of a host's mounts; this file says what of it is news.
//!
//! Only a change of state, generation, folder or of a condition's status or reason is a change of state and takes a
//! revision. Texts may count seconds or bytes: they are kept, but they are no news.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use uuid::Uuid;

pub use super::activation::MountState;

/// What a condition speaks of, in the order in which they are told to people: causes before effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The host has a usable key.
    CredentialReady,
    /// The S3 service answers the host.
    EndpointReachable,
    /// The folder is mounted, and its program answers through the mount.
    Mounted,
    /// The folder can be written to.
    Writable,
    /// What is mounted is what the catalog asks for.
    SpecCurrent,
    /// Nothing else is wrong.
    Healthy,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody knows.
    Unknown,
}

impl ConditionType {
    const ALL: [Self; 6] = [
        Self::CredentialReady,
        Self::EndpointReachable,
        Self::Mounted,
        Self::Writable,
        Self::SpecCurrent,
        Self::Healthy,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CredentialReady => "CREDENTIAL_READY",
            Self::EndpointReachable => "ENDPOINT_REACHABLE",
            Self::Mounted => "MOUNTED",
            Self::Writable => "WRITABLE",
            Self::SpecCurrent => "SPEC_CURRENT",
            Self::Healthy => "HEALTHY",
        }
    }

    /// Reads what [`ConditionType::as_str`] wrote.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl ConditionStatus {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "TRUE",
            Self::False => "FALSE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// Reads what [`ConditionStatus::as_str`] wrote.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::True, Self::False, Self::Unknown]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// Something that is or is not true of a mount, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// What it speaks of.
    pub kind: ConditionType,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// Why, in a sentence that names the cause and the remedy.
    pub message: String,
    /// Since when.
    pub since: Option<OffsetDateTime>,
}

/// What a host has said of one mount.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObservedMount {
    /// The assignment that it makes true.
    pub assignment_uid: Uuid,
    /// Resource name of the activation, as the host knows it.
    pub activation: String,
    /// Generation that is mounted.
    pub generation: i64,
    /// How it is.
    pub state: MountState,
    /// The folder.
    pub path: String,
    /// What is true of it.
    pub conditions: Vec<Condition>,
    /// Since when it is mounted.
    pub mount_time: Option<OffsetDateTime>,
}

impl ObservedMount {
    /// The most important condition that does not hold, in one sentence; empty when all is well. A read-only mount is
    /// not writable, and that is no trouble.
    pub fn message(&self) -> String {
        message_of(&self.conditions)
    }

    /// Whether `self` after `before` is a change of state.
    fn differs_in_state(&self, before: &Self) -> bool {
        let facts = |mount: &Self| {
            let mut conditions: Vec<_> = mount
                .conditions
                .iter()
                .map(|condition| (condition.kind, condition.status, condition.reason.clone()))
                .collect();
            conditions.sort_by_key(|(kind, ..)| *kind);
            (mount.generation, mount.state, mount.path.clone(), conditions)
        };
        facts(self) != facts(before)
    }
}

/// The most important condition that does not hold, as [`ObservedMount::message`].
pub fn message_of(conditions: &[Condition]) -> String {
    let mut broken: Vec<&Condition> = conditions
        .iter()
        .filter(|condition| condition.status == ConditionStatus::False && !condition.message.is_empty())
        .filter(|condition| condition.kind != ConditionType::Writable || condition.reason != "ReadOnly")
        .collect();
    broken.sort_by_key(|condition| condition.kind);
    broken
        .first()
        .map(|condition| condition.message.clone())
        .unwrap_or_default()
}

/// What the catalog orders one host, as far as a report has to be held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ordered {
    /// To have it mounted.
    Mounted,
    /// To unmount it, since this revision.
    Removed {
        /// The revision of the removal.
        revision: i64,
    },
}

/// What a report changes in the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Rows to write because their state has changed.
    pub changed: Vec<ObservedMount>,
    /// Rows to write of which only texts or times have changed.
    pub touched: Vec<ObservedMount>,
    /// Rows to drop: the host holds them no longer.
    pub dropped: Vec<Uuid>,
    /// Removals that are carried out: their tombstones may go.
    pub carried_out: Vec<Uuid>,
}

impl Digest {
    /// Whether it takes a revision.
    pub fn is_change_of_state(&self) -> bool {
        !(self.changed.is_empty() && self.dropped.is_empty() && self.carried_out.is_empty())
    }

    /// Whether there is nothing to write at all.
    pub fn is_empty(&self) -> bool {
        !self.is_change_of_state() && self.touched.is_empty()
    }
}

/// When a report was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedAt {
    /// The revision of the host's ledger.
    pub ledger_revision: i64,
    /// The same of the report before on the same stream; 0 for none. What is ordered by then and not reported now is
    /// not there; of newer orders the host may not have looked at its mounts yet.
    pub settled_revision: i64,
    /// The host obeys another catalog or an older state of this one: what it says of its mounts is believed, but it
    /// carries no order out.
    pub holds_still: bool,
    /// The host is banned and says that it has carried that out. It is told nothing after a ban, and mounts nothing ever
    /// again: what it does not report any more is gone, whatever revision its ledger ended at, and whomever it obeyed.
    pub ban_carried_out: bool,
}

/// Holds a host's report against what is stored of it and what is ordered.
pub fn digest_report(
    stored: &BTreeMap<Uuid, ObservedMount>,
    ordered: &BTreeMap<Uuid, Ordered>,
    reported: Vec<ObservedMount>,
    at: ReportedAt,
) -> Digest {
    let ReportedAt {
        ledger_revision,
        settled_revision,
        holds_still,
        ban_carried_out,
    } = at;
    let (ledger_revision, settled_revision, holds_still) = match ban_carried_out {
        true => (i64::MAX, i64::MAX, false),
        false => (ledger_revision, settled_revision, holds_still),
    };
    let mut digest = Digest::default();
    let mut held = BTreeMap::new();
    for mut mount in reported {
        let uid = mount.assignment_uid;
        // Only the catalog knows what it lists; an agent that has not yet seen the newest state may say otherwise.
        match ordered.get(&uid) {
            None if mount.state != MountState::Unmounted => mount.state = MountState::Orphaned,
            Some(Ordered::Removed { revision }) if mount.state == MountState::Unmounted => {
                if !holds_still && *revision <= ledger_revision {
                    digest.carried_out.push(uid);
                }
            }
            None | Some(Ordered::Mounted | Ordered::Removed { .. }) => {}
        }
        held.insert(uid, mount);
    }
    for (uid, order) in ordered {
        if let Ordered::Removed { revision } = order
            && !held.contains_key(uid)
            && *revision <= settled_revision
            && !holds_still
        {
            digest.carried_out.push(*uid);
        }
    }
    // What is unmounted is nothing that a host has, unless it shall have it.
    held.retain(|uid, mount| {
        mount.state != MountState::Unmounted || matches!(ordered.get(uid), Some(Ordered::Mounted))
    });
    digest.dropped = stored
        .keys()
        .filter(|uid| !held.contains_key(uid))
        .copied()
        .collect();
    for (uid, mount) in held {
        match stored.get(&uid) {
            Some(before) if !mount.differs_in_state(before) => {
                if mount != *before {
                    digest.touched.push(mount);
                }
            }
            Some(_) | None => digest.changed.push(mount),
        }
    }
    digest
}

#[cfg(test)]
mod tests;
