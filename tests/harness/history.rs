//! What hosts were told, over time: a recorder that follows their ledgers while a story breaks things, and a checker that
//! compares all it has seen with the catalog's record of changes.
//!
//! The ledger is replaced whole, by rename, before it is acted on. So whatever the recorder reads was true, also when the
//! agent is killed at that moment, and what it has missed in between was overwritten by something newer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mooring_proto::agent::v1 as pb;
use prost::Message;
use serde_json::Value;

use crate::Host;

/// An fsync takes longer than that, so that hardly a state is missed.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Magic, checksum and length before the body.
const LEDGER_HEAD_BYTES: usize = 8 + 4 + 8;

/// What a ledger says, as far as it is checked.
#[derive(Clone, PartialEq, Message)]
struct Held {
    #[prost(int64, tag = "2")]
    epoch: i64,
    #[prost(int64, tag = "3")]
    revision: i64,
    #[prost(message, repeated, tag = "4")]
    assignments: Vec<pb::Assignment>,
    #[prost(string, repeated, tag = "5")]
    orphans: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    removals: Vec<pb::Removal>,
}

/// Follows the ledgers of some hosts, until it is asked what it has seen.
pub struct Recorder {
    enough: Arc<AtomicBool>,
    followers: Vec<(String, JoinHandle<Vec<Held>>)>,
}

/// What the ledgers of some hosts have said, one after the other.
pub struct History {
    hosts: BTreeMap<String, Vec<Held>>,
}

/// A change of an activation, as the catalog has recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place among all changes.
    pub revision: i64,
    /// Its name.
    pub activation: String,
    /// Whether it was made, or ended.
    pub made: bool,
}

impl Recorder {
    /// Begins to follow.
    pub fn start(hosts: &[&Host]) -> Recorder {
        let enough = Arc::new(AtomicBool::new(false));
        let followers = hosts
            .iter()
            .map(|host| {
                let ledger = host.folder().join("state/ledger");
                let enough = Arc::clone(&enough);
                let follower = std::thread::spawn(move || follow(&ledger, &enough));
                (host.id.clone(), follower)
            })
            .collect();
        Recorder { enough, followers }
    }

    /// Ends and tells.
    pub fn finish(self) -> History {
        self.enough.store(true, Ordering::Relaxed);
        let hosts = self
            .followers
            .into_iter()
            .map(|(host, follower)| (host, follower.join().expect("it only reads a file")))
            .collect();
        History { hosts }
    }
}

/// The revision that a host's ledger has reached.
pub fn revision_of(host: &Host) -> i64 {
    read(&host.folder().join("state/ledger")).map_or(0, |held| held.revision)
}

fn follow(ledger: &Path, enough: &AtomicBool) -> Vec<Held> {
    let mut seen: Vec<Held> = Vec::new();
    loop {
        let last = enough.load(Ordering::Relaxed);
        if let Some(held) = read(ledger)
            && seen.last() != Some(&held)
        {
            seen.push(held);
        }
        if last {
            return seen;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn read(ledger: &Path) -> Option<Held> {
    let bytes = std::fs::read(ledger).ok()?;
    Some(Held::decode(bytes.get(LEDGER_HEAD_BYTES..)?).expect("a ledger is replaced whole"))
}

/// The changes of activations among the audit events of a project, oldest first.
pub fn changes(events: &Value) -> Vec<Change> {
    let mut changes: Vec<Change> = events["auditEvents"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| {
            let made = match event["method"].as_str()? {
                "Activate" => true,
                "Deactivate" => false,
                _ => return None,
            };
            Some(Change {
                revision: event["revision"].as_str()?.parse().ok()?,
                activation: event["resource"].as_str()?.to_owned(),
                made,
            })
        })
        .collect();
    changes.sort_by_key(|change| change.revision);
    changes
}

impl History {
    /// How many different states were seen, of all hosts.
    pub fn states(&self) -> usize {
        self.hosts.values().map(Vec::len).sum()
    }

    /// Everything that must not be in a history. Nothing, if all is well.
    pub fn faults(&self, changes: &[Change]) -> Vec<String> {
        let mut faults = Vec::new();
        for (host, states) in &self.hosts {
            let mut fault = |text: String| faults.push(format!("{host}: {text}"));
            states
                .windows(2)
                .for_each(|pair| goes_on(&pair[0], &pair[1], &mut fault));
            nothing_comes_back(states, &mut fault);
            for state in states {
                nothing_is_missing(state, changes, &mut fault);
            }
        }
        faults
    }
}

/// Neither the whole nor an assignment goes back; what is called alike is alike.
fn goes_on(before: &Held, after: &Held, fault: &mut impl FnMut(String)) {
    if (after.epoch, after.revision) < (before.epoch, before.revision) {
        fault(format!(
            "it went back from epoch {}, revision {} to {}, {}",
            before.epoch, before.revision, after.epoch, after.revision
        ));
    }
    for then in &before.assignments {
        let Some(now) = after.assignments.iter().find(|now| now.uid == then.uid) else {
            continue;
        };
        if now.generation < then.generation {
            fault(format!(
                "{} went back from generation {} to {}",
                now.uid, then.generation, now.generation
            ));
        }
        if now.generation == then.generation && now.spec_hash != then.spec_hash {
            fault(format!(
                "{} changed within generation {}",
                now.uid, now.generation
            ));
        }
    }
}

/// An assignment that was removed is never seen again: it would be mounted after its end.
fn nothing_comes_back(states: &[Held], fault: &mut impl FnMut(String)) {
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    let mut here: BTreeSet<&str> = BTreeSet::new();
    for state in states {
        let now: BTreeSet<&str> = state.assignments.iter().map(|one| one.uid.as_str()).collect();
        for uid in now.intersection(&gone) {
            fault(format!(
                "{uid} was gone, and is back at revision {}",
                state.revision
            ));
        }
        gone.extend(here.difference(&now));
        here = now;
    }
}

/// A host at a revision holds all that was made until then and has not ended, and is told of every end.
fn nothing_is_missing(state: &Held, changes: &[Change], fault: &mut impl FnMut(String)) {
    let wished = changes
        .iter()
        .filter(|change| change.revision <= state.revision)
        .fold(BTreeMap::new(), |mut wished, change| {
            wished.insert(change.activation.as_str(), change.made);
            wished
        });
    let removing = |uid: &String| {
        state
            .removals
            .iter()
            .any(|removal| removal.assignment_uid == *uid)
    };
    for (activation, wanted) in wished {
        // An activation of the same name may have ended just before.
        let held = state.assignments.iter().find(|one| {
            let of = one.spec.as_ref().map(|spec| spec.activation.as_str());
            of == Some(activation) && !removing(&one.uid)
        });
        match (wanted, held) {
            (true, None) => fault(format!("{activation} is missing at revision {}", state.revision)),
            (true, Some(held)) if state.orphans.contains(&held.uid) => fault(format!(
                "{activation} is wished at revision {}, and an orphan",
                state.revision
            )),
            (false, Some(held)) if !state.orphans.contains(&held.uid) => fault(format!(
                "{activation} has ended, and is still held at revision {}",
                state.revision
            )),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(uid: &str, generation: i64, hash: &str) -> pb::Assignment {
        pb::Assignment {
            uid: uid.to_owned(),
            generation,
            spec_hash: hash.to_owned(),
            spec: Some(pb::AssignmentSpec {
                activation: format!("a-{uid}"),
                ..pb::AssignmentSpec::default()
            }),
            ..pb::Assignment::default()
        }
    }

    fn held(revision: i64, assignments: &[pb::Assignment]) -> Held {
        Held {
            epoch: 1,
            revision,
            assignments: assignments.to_vec(),
            ..Held::default()
        }
    }

    fn faults(states: &[Held], changes: &[Change]) -> String {
        let hosts = BTreeMap::from([("h".to_owned(), states.to_vec())]);
        History { hosts }.faults(changes).join("; ")
    }

    fn change(revision: i64, uid: &str, made: bool) -> Change {
        Change {
            revision,
            activation: format!("a-{uid}"),
            made,
        }
    }

    #[test]
    fn a_history_without_a_gap_passes() {
        let mut ending = held(8, &[assignment("x", 1, "1"), assignment("y", 2, "2")]);
        ending.removals.push(pb::Removal {
            assignment_uid: "x".to_owned(),
            ..pb::Removal::default()
        });
        let states = [
            held(4, &[]),
            held(6, &[assignment("x", 1, "1"), assignment("y", 1, "1")]),
            ending,
            held(8, &[assignment("y", 2, "2")]),
        ];
        let changes = [change(5, "x", true), change(6, "y", true), change(8, "x", false)];
        assert_eq!(faults(&states, &changes), "");
    }

    #[test]
    fn going_back_is_a_fault() {
        let back = [held(5, &[]), held(4, &[])];
        assert!(faults(&back, &[]).contains("went back from epoch 1, revision 5"));
        let back = [
            held(5, &[assignment("x", 2, "2")]),
            held(6, &[assignment("x", 1, "1")]),
        ];
        assert!(faults(&back, &[]).contains("x went back from generation 2 to 1"));
        let other = [
            held(5, &[assignment("x", 2, "2")]),
            held(6, &[assignment("x", 2, "3")]),
        ];
        assert!(faults(&other, &[]).contains("x changed within generation 2"));
    }

    #[test]
    fn coming_back_is_a_fault() {
        let x = [assignment("x", 1, "1")];
        let states = [held(5, &x), held(6, &[]), held(7, &x)];
        assert_eq!(faults(&states, &[]), "h: x was gone, and is back at revision 7");
    }

    #[test]
    fn a_gap_is_a_fault() {
        let made = [change(5, "x", true)];
        assert_eq!(faults(&[held(4, &[])], &made), "");
        assert_eq!(faults(&[held(5, &[])], &made), "h: a-x is missing at revision 5");
        let ended = [change(5, "x", true), change(7, "x", false)];
        let still = [held(7, &[assignment("x", 1, "1")])];
        assert_eq!(
            faults(&still, &ended),
            "h: a-x has ended, and is still held at revision 7"
        );
        let mut orphaned = held(6, &[assignment("x", 1, "1")]);
        orphaned.orphans.push("x".to_owned());
        assert!(faults(&[orphaned], &made).contains("wished at revision 6, and an orphan"));
    }
}
