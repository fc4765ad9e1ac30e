//! A host's reports, coalesced: of those that come while one is being taken only the newest counts, one that repeats
//! the last is not looked at, one that only says that mounts begin to end waits a moment for their end, and what the host
//! has refused is told with them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use mooring_proto::agent::v1 as pb;

use crate::api::words;
use crate::domain::activation::MountState;
use crate::domain::mount::{Condition, ConditionStatus, ConditionType, ObservedMount, ReportedAt};
use crate::ops::session::Orders;

/// Reports of one host are taken no closer together than this.
const REST_MIN: Duration = Duration::from_millis(100);
/// With each report that comes right behind the last, the rest is twice as long, up to this: mounts that come up are told
/// of at once, and one that flaps for long costs a write a second.
const REST_MAX: Duration = Duration::from_secs(1);
/// The rest is at least so long for each mount of the report: what one host says takes a tenth of the writers' time at most.
const REST_PER_MOUNT: Duration = Duration::from_micros(500);
/// How long a report waits that only says that mounts begin to end: most are gone within it, and the next report says both.
/// A fleet that is told of one change costs half as many writes so. What begins to be mounted the hosts themselves wait
/// with; an unmount they say at once, since a mount counts as gone by the second report of the same orders that lacks it.
const PARTING_WAIT: Duration = Duration::from_millis(500);
/// Mounts of one host that are kept: far more than a kernel likes to have.
const MOUNTS_MAX: usize = 10_000;
/// Conditions of one mount that are kept; there are six types.
const CONDITIONS_MAX: usize = 16;
/// Longest text that is kept: a path has at most 4096 bytes.
const TEXT_CHARS_MAX: usize = 4096;

#[derive(Default)]
pub(super) struct Reports {
    /// The newest report that was not taken yet.
    pending: Option<Pending>,
    /// Since when a report waits, perhaps not the newest.
    waits_since: Option<Instant>,
    /// When the last was taken, and for how long there is rest after it.
    rest: Option<(Instant, Duration)>,
    /// What was taken last.
    taken: Option<Gist>,
    /// The ledger revision of the report before the pending one.
    settled_revision: i64,
    /// Assignments that the host has refused, by generation.
    refused: BTreeMap<Uuid, (i64, String)>,
}

/// A report that is to be taken now.
pub(super) struct Due {
    pub(super) mounts: Vec<ObservedMount>,
    pub(super) at: ReportedAt,
    /// It says something else of the mounts than the last one on this stream. Of the first it is not known.
    pub(super) is_news: bool,
}

struct Pending {
    mounts: Vec<ObservedMount>,
    gist: Gist,
    /// Against what was taken last, nothing is new in it but mounts that begin to end.
    only_parts: bool,
}

/// As much of a report as tells it from another. Ten thousand streams keep one each, with all their mounts.
#[derive(Clone, PartialEq)]
struct Gist {
    mounts: Vec<Mark>,
    at: ReportedAt,
}

#[derive(Clone, Copy, PartialEq)]
struct Mark {
    uid: Uuid,
    state: MountState,
    /// Of all that is said of the mount.
    digest: u64,
}

impl Mark {
    fn of(mount: &ObservedMount) -> Self {
        let mut hasher = DefaultHasher::new();
        mount.hash(&mut hasher);
        Self {
            uid: mount.assignment_uid,
            state: mount.state,
            digest: hasher.finish(),
        }
    }
}

impl Gist {
    fn of(mounts: &[ObservedMount], at: ReportedAt) -> Self {
        Self {
            mounts: mounts.iter().map(Mark::of).collect(),
            at,
        }
    }

    /// Whether nothing is new since `before` but that mounts begin to end, and when it was said.
    fn only_parts_since(&self, before: &Self) -> bool {
        if self.at.ban_carried_out || self.at.holds_still != before.at.holds_still {
            return false;
        }
        let mut left: BTreeMap<Uuid, &Mark> = before.mounts.iter().map(|mark| (mark.uid, mark)).collect();
        let mut part = 0;
        for now in &self.mounts {
            match left.remove(&now.uid) {
                Some(before) if before == now => {}
                Some(before) if before.state.is_mounted() && now.state == MountState::Unmounting => part += 1,
                Some(_) | None => return false,
            }
        }
        part > 0 && left.is_empty()
    }
}

impl Reports {
    /// Takes in a report; an older one that waits is forgotten.
    pub(super) fn take(&mut self, report: pb::Report, now: OffsetDateTime) {
        let pb::Report {
            revision,
            mounts,
            holding_still,
            ban_carried_out,
        } = report;
        let mut mounts: Vec<ObservedMount> = mounts
            .into_iter()
            .take(MOUNTS_MAX)
            .filter_map(|mount| observed(mount, now))
            .collect();
        if !self.refused.is_empty() {
            let places = mounts.iter().enumerate();
            let places: BTreeMap<Uuid, usize> = places
                .map(|(place, mount)| (mount.assignment_uid, place))
                .collect();
            for (uid, (generation, message)) in &self.refused {
                match places.get(uid) {
                    Some(place) if mounts[*place].state.is_mounted() => {}
                    Some(place) => mounts[*place] = refusal(*uid, *generation, message),
                    None => mounts.push(refusal(*uid, *generation, message)),
                }
            }
        }
        let at = ReportedAt {
            ledger_revision: revision,
            settled_revision: self.settled_revision.min(revision),
            holds_still: !holding_still.is_empty(),
            ban_carried_out,
        };
        self.settled_revision = revision;
        let gist = Gist::of(&mounts, at);
        if self.taken.as_ref() == Some(&gist) {
            self.pending = None;
            self.waits_since = None;
            return;
        }
        let before = self.taken.as_ref();
        self.pending = Some(Pending {
            only_parts: before.is_some_and(|before| gist.only_parts_since(before)),
            mounts,
            gist,
        });
        self.waits_since.get_or_insert_with(Instant::now);
    }

    /// Notes that the host cannot take an assignment.
    pub(super) fn refused(&mut self, assignment_uid: Uuid, generation: i64, message: String) {
        if self.refused.len() < MOUNTS_MAX {
            self.refused.insert(assignment_uid, (generation, message));
        }
    }

    /// New orders answer refusals of older ones.
    pub(super) fn sent(&mut self, orders: &Orders) {
        for sealed in &orders.assignments {
            self.refused.remove(&sealed.assignment.uid);
        }
        for removal in &orders.removals {
            self.refused.remove(&removal.uid);
        }
    }

    /// When the pending report is to be taken.
    pub(super) fn due(&self) -> Option<Instant> {
        let pending = self.pending.as_ref()?;
        let rested = self.rest.map_or_else(Instant::now, |(taken, rest)| taken + rest);
        Some(match self.waits_since {
            Some(since) if pending.only_parts => rested.max(since + PARTING_WAIT),
            Some(_) | None => rested,
        })
    }

    /// The report to take now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Due> {
        let Pending { mounts, gist, .. } = self.pending.take()?;
        self.waits_since = None;
        let least = REST_MIN.max(REST_PER_MOUNT * u32::try_from(mounts.len()).unwrap_or(u32::MAX));
        let rest = match self.rest {
            Some((taken, rest)) if now < taken + 2 * rest => least.max((2 * rest).min(REST_MAX)),
            Some(_) | None => least,
        };
        self.rest = Some((now, rest));
        let at = gist.at;
        let is_news = self
            .taken
            .as_ref()
            .is_some_and(|before| before.mounts != gist.mounts);
        self.taken = Some(gist);
        Some(Due { mounts, at, is_news })
    }

    /// The report that was taken last was not written: the same one will be looked at again. One that is never said
    /// again is given back as `last`.
    pub(super) fn failed(&mut self, last: Option<(Vec<ObservedMount>, ReportedAt)>) {
        self.taken = None;
        if let Some((mounts, at)) = last.filter(|_| self.pending.is_none()) {
            let gist = Gist::of(&mounts, at);
            self.pending = Some(Pending {
                mounts,
                gist,
                only_parts: false,
            });
            self.waits_since = Some(Instant::now());
        }
    }
}

fn observed(mount: pb::MountReport, now: OffsetDateTime) -> Option<ObservedMount> {
    let pb::MountReport {
        assignment_uid,
        generation,
        state,
        conditions,
        path,
        mount_time,
        activation,
    } = mount;
    Some(ObservedMount {
        assignment_uid: Uuid::try_parse(&assignment_uid).ok()?,
        activation: text(activation),
        generation,
        state: words::mount_state_of(state),
        path: text(path),
        conditions: conditions
            .into_iter()
            .take(CONDITIONS_MAX)
            .filter_map(|given| condition(given, now))
            .collect(),
        mount_time: mount_time.and_then(|time| moment(time, now)),
    })
}

fn condition(condition: mooring_proto::v1::Condition, now: OffsetDateTime) -> Option<Condition> {
    let mooring_proto::v1::Condition {
        r#type,
        status,
        reason,
        message,
        since,
    } = condition;
    Some(Condition {
        kind: words::condition_type_of(r#type)?,
        status: words::condition_status_of(status),
        reason: text(reason),
        message: text(message),
        since: since.and_then(|since| moment(since, now)),
    })
}

/// A time of the host's clock, in the precision that is stored. One that is ahead of ours is dropped.
fn moment(time: prost_types::Timestamp, now: OffsetDateTime) -> Option<OffsetDateTime> {
    const CLOCKS_APART_MAX: time::Duration = time::Duration::minutes(5);
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos.div_euclid(1000) * 1000).ok()?;
    (moment <= now + CLOCKS_APART_MAX).then_some(moment)
}

fn text(text: String) -> String {
    words::kept(text, TEXT_CHARS_MAX)
}

fn refusal(assignment_uid: Uuid, generation: i64, message: &str) -> ObservedMount {
    ObservedMount {
        assignment_uid,
        activation: String::new(),
        generation,
        state: MountState::Failed,
        path: String::new(),
        conditions: vec![Condition {
            kind: ConditionType::SpecCurrent,
            status: ConditionStatus::False,
            reason: "Refused".into(),
            message: message.to_owned(),
            since: None,
        }],
        mount_time: None,
    }
}

#[cfg(test)]
mod tests;
