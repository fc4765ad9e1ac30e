//! The mounts that a host pretends: what it holds is the agent's own type, so that gaps, removals and a catalog that
//! has gone back are judged as on a real host; what becomes of it takes a moment and always succeeds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mooring_agent::ledger::{Gap, Held, Standing};
use mooring_proto::agent::v1 as pb;
use mooring_proto::v1 as people;
use time::OffsetDateTime;

use crate::board::Board;

/// How long a mount takes: about what a real one does.
const MOUNTING: Duration = Duration::from_millis(150);
/// How long its end takes.
const UNMOUNTING: Duration = Duration::from_millis(50);

/// What one host holds, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    held: Held,
    played: BTreeMap<String, Played>,
    told_all: bool,
}

#[derive(Debug)]
struct Played {
    about: About,
    stage: Stage,
}

#[derive(Clone, Debug)]
struct About {
    generation: i64,
    activation: String,
    path: String,
}

#[derive(Debug)]
enum Stage {
    Mounting { until: Instant },
    Mounted { since: OffsetDateTime },
    Unmounting { until: Instant },
}

impl Mounts {
    pub(crate) fn hello(&self, instance: &str) -> pb::Hello {
        pb::Hello {
            protocol_version: 1,
            instance: instance.to_owned(),
            boot_id: instance.to_owned(),
            machine_id: instance.to_owned(),
            facts: Some(facts()),
            realm_uid: self.held.realm_uid.clone(),
            epoch: self.held.epoch,
            revision: self.held.revision,
            held: self
                .held
                .assignments
                .iter()
                .map(|assignment| pb::HeldAssignment {
                    uid: assignment.uid.clone(),
                    generation: assignment.generation,
                    spec_hash: assignment.spec_hash.clone(),
                })
                .collect(),
        }
    }

    pub(crate) fn judge(&self, realm_uid: &str, welcome: &pb::Welcome) -> Standing {
        self.held.judge(realm_uid, welcome)
    }

    pub(crate) fn take_snapshot(&mut self, welcome: &pb::Welcome, snapshot: &pb::Snapshot, board: &Board) {
        self.note(&snapshot.assignments, &snapshot.removals, board);
        self.held = self.held.after_snapshot(welcome, snapshot);
        self.told_all = true;
        self.follow(board);
    }

    pub(crate) fn take_delta(&mut self, delta: &pb::Delta, board: &Board) -> Result<(), Gap> {
        let next = self.held.after_delta(delta)?;
        self.note(&delta.upserts, &delta.removals, board);
        self.held = next;
        self.follow(board);
        Ok(())
    }

    /// Tells the board of what is new to this host.
    fn note(&self, upserts: &[pb::Assignment], removals: &[pb::Removal], board: &Board) {
        for upsert in upserts {
            let known = self.played.get(&upsert.uid);
            if known.is_none_or(|played| played.about.generation != upsert.generation) {
                board.arrived(&about(upsert).activation, false);
            }
        }
        for removal in removals {
            if let Some(played) = self.played.get(&removal.assignment_uid) {
                board.arrived(&played.about.activation, true);
            }
        }
    }

    /// Begins what has been ordered and has not begun.
    fn follow(&mut self, board: &Board) {
        let now = Instant::now();
        for assignment in &self.held.assignments {
            let about = about(assignment);
            let known = self.played.get(&assignment.uid);
            if known.is_some_and(|played| played.about.generation == about.generation) {
                continue;
            }
            if known.is_none() {
                board.mounts.add(1);
            }
            let stage = Stage::Mounting {
                until: now + MOUNTING,
            };
            self.played
                .insert(assignment.uid.clone(), Played { about, stage });
        }
        for removal in self.held.removals.clone() {
            match self.played.get_mut(&removal.assignment_uid) {
                Some(Played {
                    stage: Stage::Unmounting { .. },
                    ..
                }) => {}
                Some(played) => {
                    played.stage = Stage::Unmounting {
                        until: now + UNMOUNTING,
                    };
                }
                None => self.held = self.held.after_removal(&removal.assignment_uid),
            }
        }
    }

    /// When something is done.
    pub(crate) fn due(&self) -> Option<Instant> {
        let ends = self.played.values().filter_map(|played| match played.stage {
            Stage::Mounting { until } | Stage::Unmounting { until } => Some(until),
            Stage::Mounted { .. } => None,
        });
        ends.min()
    }

    /// Ends what is done; answers whether anything was.
    pub(crate) fn turn(&mut self, now: OffsetDateTime, board: &Board) -> bool {
        let instant = Instant::now();
        let mut turned = false;
        let mut gone = Vec::new();
        for (uid, played) in &mut self.played {
            match played.stage {
                Stage::Mounting { until } if until <= instant => {
                    played.stage = Stage::Mounted { since: now };
                    turned = true;
                }
                Stage::Unmounting { until } if until <= instant => gone.push(uid.clone()),
                Stage::Mounting { .. } | Stage::Unmounting { .. } | Stage::Mounted { .. } => {}
            }
        }
        for uid in gone {
            self.played.remove(&uid);
            self.held = self.held.after_removal(&uid);
            board.mounts.subtract(1);
            turned = true;
        }
        turned
    }

    /// What is reported; nothing before the host has been told what it shall have.
    pub(crate) fn report(&self) -> Option<pb::Report> {
        let mounts = self.played.iter().map(|(uid, played)| mount(uid, played));
        self.told_all.then(|| pb::Report {
            revision: self.held.revision,
            mounts: mounts.collect(),
            holding_still: String::new(),
            ban_carried_out: false,
        })
    }

    /// The revision of what is held.
    pub(crate) fn revision(&self) -> i64 {
        self.held.revision
    }
}

fn about(assignment: &pb::Assignment) -> About {
    let spec = assignment.spec.clone().unwrap_or_default();
    About {
        generation: assignment.generation,
        path: format!("/mnt/mooring/{}/{}", spec.project_id, spec.mount_name),
        activation: spec.activation,
    }
}

fn mount(uid: &str, Played { about, stage }: &Played) -> pb::MountReport {
    let (state, since) = match stage {
        Stage::Mounting { .. } => (people::MountState::Mounting, None),
        Stage::Mounted { since } => (people::MountState::Mounted, Some(*since)),
        Stage::Unmounting { .. } => (people::MountState::Unmounting, None),
    };
    let mounted = since.is_some();
    pb::MountReport {
        assignment_uid: uid.to_owned(),
        generation: if mounted { about.generation } else { 0 },
        state: state.into(),
        conditions: conditions(mounted),
        path: about.path.clone(),
        mount_time: since.map(mooring_agent::status::timestamp),
        activation: about.activation.clone(),
    }
}

/// As many as a real host reports, with texts as long.
fn conditions(mounted: bool) -> Vec<people::Condition> {
    use people::{ConditionStatus, ConditionType};
    let (status, reason) = match mounted {
        true => (ConditionStatus::True, "Answers"),
        false => (ConditionStatus::Unknown, "Mounting"),
    };
    let kinds = [
        ConditionType::CredentialReady,
        ConditionType::EndpointReachable,
        ConditionType::Mounted,
        ConditionType::Writable,
        ConditionType::SpecCurrent,
        ConditionType::Healthy,
    ];
    let condition = |kind: ConditionType| people::Condition {
        r#type: kind.into(),
        status: status.into(),
        reason: reason.to_owned(),
        message: "the program that serves the mount answers through it".to_owned(),
        since: None,
    };
    kinds.into_iter().map(condition).collect()
}

/// What every machine of this fleet is.
pub(crate) fn facts() -> pb::HostFacts {
    pb::HostFacts {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_version: "6.12.48+deb13-amd64".to_owned(),
        backends: vec![pb::BackendFact {
            backend: "DEFAULT".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }],
    }
}
