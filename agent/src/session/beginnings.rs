//! Reports that say nothing but that mounts begin. Most mounts are there within a moment, and the next report says both: a
//! fleet that is told of one change sends half as many reports so.
//!
//! Invariant: nothing waits but mounts that were added and are MOUNTING, and not for longer than [`WAIT`]. What begins to
//! end waits for nothing: the catalog takes a mount for gone by the second report of the same orders that lacks it.

use std::collections::HashMap;
use std::time::Duration;

use mooring_proto::agent::v1 as pb;
use mooring_proto::v1::MountState;
use tokio::time::Instant;

/// How long such a report waits.
pub const WAIT: Duration = Duration::from_millis(500);

/// What was said on one stream, to tell what only begins.
#[derive(Debug, Default)]
pub struct Beginnings {
    said: Option<pb::Report>,
    waits_since: Option<Instant>,
}

impl Beginnings {
    /// Until when a report waits; `None` for one that is to be said now.
    pub fn waits_until(&mut self, report: &pb::Report, now: Instant) -> Option<Instant> {
        if !self.only_begins(report) {
            return None;
        }
        let until = *self.waits_since.get_or_insert(now) + WAIT;
        (now < until).then_some(until)
    }

    /// Notes that a report was said.
    pub fn said(&mut self, report: pb::Report) {
        self.said = Some(report);
        self.waits_since = None;
    }

    fn only_begins(&self, report: &pb::Report) -> bool {
        let Some(said) = &self.said else {
            return false;
        };
        if report.ban_carried_out || report.holding_still != said.holding_still {
            return false;
        }
        let known = said.mounts.iter();
        let mut known: HashMap<&str, &pb::MountReport> = known
            .map(|mount| (mount.assignment_uid.as_str(), mount))
            .collect();
        let mut begin = 0;
        for mount in &report.mounts {
            match known.remove(mount.assignment_uid.as_str()) {
                Some(before) if before == mount => {}
                None if mount.state() == MountState::Mounting => begin += 1,
                Some(_) | None => return false,
            }
        }
        begin > 0 && known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(mounts: &[(&str, MountState)]) -> pb::Report {
        let mount = |(uid, state): &(&str, MountState)| pb::MountReport {
            assignment_uid: (*uid).to_owned(),
            state: (*state).into(),
            ..pb::MountReport::default()
        };
        pb::Report {
            mounts: mounts.iter().map(mount).collect(),
            ..pb::Report::default()
        }
    }

    #[test]
    fn only_what_was_added_and_is_mounting_waits_and_not_for_long() {
        use MountState::{Failed, Mounted, Mounting, Unmounting};
        let begun = Instant::now();
        let mut beginnings = Beginnings::default();
        let first = report(&[("a", Mounting)]);
        assert_eq!(
            beginnings.waits_until(&first, begun),
            None,
            "the first never waits"
        );
        beginnings.said(report(&[("a", Mounted)]));
        for said_now in [
            vec![("a", Mounted)],
            vec![],
            vec![("a", Unmounting)],
            vec![("a", Mounted), ("b", Mounted)],
            vec![("a", Mounted), ("b", Failed)],
            vec![("b", Mounting)],
        ] {
            let said_now = report(&said_now);
            assert_eq!(beginnings.waits_until(&said_now, begun), None, "{said_now:?}");
        }
        let still = pb::Report {
            holding_still: "gone back".into(),
            ..report(&[("a", Mounted), ("b", Mounting)])
        };
        assert_eq!(beginnings.waits_until(&still, begun), None);
        let begins = report(&[("a", Mounted), ("b", Mounting)]);
        assert_eq!(beginnings.waits_until(&begins, begun), Some(begun + WAIT));
        let more = report(&[("a", Mounted), ("b", Mounting), ("c", Mounting)]);
        assert_eq!(
            beginnings.waits_until(&more, begun + WAIT / 2),
            Some(begun + WAIT),
            "counted from the first of them"
        );
        assert_eq!(beginnings.waits_until(&more, begun + WAIT), None);
        beginnings.said(more);
        let next = report(&[("a", Mounted), ("b", Mounting), ("c", Mounting), ("d", Mounting)]);
        assert!(beginnings.waits_until(&next, begun + WAIT).is_some());
    }
}
