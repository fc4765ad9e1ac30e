//! What was seen, and what is said of it.

use std::path::Path;

use super::*;
use crate::ledger::Held;
use crate::observed::process::Process;

fn order(change: impl FnOnce(&mut agent_pb::Assignment)) -> Order {
    let mut assignment = agent_pb::Assignment {
        uid: Uuid::from_u128(1).to_string(),
        generation: 5,
        spec: Some(agent_pb::AssignmentSpec {
            project_id: "ml".into(),
            mount_name: "a".into(),
            endpoint: "https://s3.example".into(),
            bucket: "data".into(),
            mode: pb::Mode::ReadWrite.into(),
            backend: pb::Backend::Default.into(),
            ..Default::default()
        }),
        credential: Some(agent_pb::SealedCredential::default()),
        ..Default::default()
    };
    change(&mut assignment);
    let held = Held {
        assignments: vec![assignment],
        ..Default::default()
    };
    let set = crate::desired::DesiredSet::of(&held);
    set.orders.into_values().next().unwrap()
}

fn record() -> Record {
    Record {
        assignment_uid: Uuid::from_u128(1),
        generation: 5,
        spec_hash: String::new(),
        boot_id: String::new(),
        phase: Phase::Mounted,
        path: "/m/ml/a".into(),
        worker: Process {
            pid: 1,
            start_time: 1,
        },
        secret_version: String::new(),
        key_fingerprint: Vec::new(),
        activation: String::new(),
        connector: String::new(),
        read_only: false,
        unix_group: None,
        serves: None,
        started_for: None,
        taken_over_by: None,
        succession: None,
        fuse_descriptor: None,
        unit: None,
        keys: None,
        successions: Default::default(),
        mount_time: Some(OffsetDateTime::UNIX_EPOCH),
    }
}

fn good() -> Probe {
    Probe {
        worker: Ok(mooring_control::WorkerStatus::default()),
        mount: Some(Touched::Answers),
    }
}

fn facts<'a>(order: &'a Order, seen: Seen<'a>, probe: Option<&'a Probe>) -> Facts<'a> {
    Facts {
        about: &order.about,
        order: Some(order),
        path: "/m/ml/a".into(),
        seen,
        probe,
        failure: None,
        crash_loop: None,
        succession: Succession::Possible,
        outdated: false,
        removing: false,
        orphan: false,
    }
}

fn describe(facts: &Facts<'_>) -> MountStatus {
    facts.describe(None, OffsetDateTime::UNIX_EPOCH)
}

fn reason(status: &MountStatus, kind: ConditionType) -> (ConditionStatus, &str) {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.kind == kind)
        .unwrap();
    (condition.status, condition.reason.as_str())
}

#[test]
fn a_good_mount_is_mounted_and_every_condition_says_why() {
    let (order, record, probe) = (order(|_| {}), record(), good());
    let status = describe(&facts(&order, Seen::Mounted(&record), Some(&probe)));
    assert_eq!(status.state, MountState::Mounted);
    assert_eq!(status.conditions.len(), 6);
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.status == ConditionStatus::True)
    );
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| !condition.reason.is_empty() && !condition.message.is_empty())
    );
    assert_eq!(status.generation, 5);
}

#[test]
fn a_change_of_the_group_is_told_with_what_to_do_and_a_failed_change_says_that_the_mount_goes_on() {
    let (mut order, record, probe) = (order(|_| {}), record(), good());
    order.about.unix_group = Some("ml-team".into());
    let status = describe(&facts(&order, Seen::Mounted(&record), Some(&probe)));
    assert_eq!(
        reason(&status, ConditionType::SpecCurrent),
        (ConditionStatus::False, "GroupAtNextMount")
    );
    order.about.generation = 6;
    let failure = MountError::Host {
        reason: "GroupUnknown",
        message: "add it: groupadd ml-team".into(),
    };
    let failed = Facts {
        failure: Some(&failure),
        ..facts(&order, Seen::Mounted(&record), Some(&probe))
    };
    let status = describe(&failed);
    assert_eq!(status.state, MountState::Degraded);
    assert_eq!(
        reason(&status, ConditionType::SpecCurrent),
        (ConditionStatus::False, "GroupUnknown")
    );
    let current = &status.conditions[4].message;
    assert!(
        current.contains("groupadd ml-team") && current.contains("goes on"),
        "{current}"
    );
}

#[test]
fn a_read_only_mount_is_not_degraded_by_being_read_only() {
    let order = order(|assignment| {
        if let Some(spec) = assignment.spec.as_mut() {
            spec.mode = pb::Mode::ReadOnly.into();
        }
    });
    let (record, probe) = (record(), good());
    let status = describe(&facts(&order, Seen::Mounted(&record), Some(&probe)));
    assert_eq!(status.state, MountState::Mounted);
    assert_eq!(
        reason(&status, ConditionType::Writable),
        (ConditionStatus::False, "ReadOnly")
    );
}

#[test]
fn what_the_worker_reports_degrades_the_right_condition() {
    let (order, record) = (order(|_| {}), record());
    let failing = |key_refused| Probe {
        worker: Ok(mooring_control::WorkerStatus {
            store_error: Some("403 SignatureDoesNotMatch".into()),
            key_refused,
            ..Default::default()
        }),
        mount: Some(Touched::Answers),
    };
    let unwritable = Probe {
        worker: Ok(mooring_control::WorkerStatus {
            writable: Some(false),
            ..Default::default()
        }),
        mount: Some(Touched::Answers),
    };
    let hanging = Probe {
        mount: Some(Touched::Silent),
        ..good()
    };
    let silent = Probe {
        worker: Err("its worker does not answer".into()),
        mount: None,
    };
    for (probe, kind, expected) in [
        (failing(true), ConditionType::CredentialReady, "KeyRefused"),
        (
            failing(false),
            ConditionType::EndpointReachable,
            "StoreUnavailable",
        ),
        (unwritable, ConditionType::Writable, "StoreRefusesWrites"),
        (hanging, ConditionType::Mounted, "NotAnswering"),
        (silent, ConditionType::Healthy, "WorkerSilent"),
    ] {
        let status = describe(&facts(&order, Seen::Mounted(&record), Some(&probe)));
        assert_eq!(reason(&status, kind), (ConditionStatus::False, expected));
        assert_eq!(status.state, MountState::Degraded, "{expected}");
    }
}

#[test]
fn what_is_not_mounted_is_mounting_until_something_fails() {
    let order_ok = order(|_| {});
    let trying = describe(&facts(&order_ok, Seen::Nothing, None));
    assert_eq!(trying.state, MountState::Mounting);
    let failure = MountError::Store {
        reason: "StoreRefused",
        message: "no such bucket".into(),
    };
    let failed = describe(&Facts {
        failure: Some(&failure),
        ..facts(&order_ok, Seen::Nothing, None)
    });
    assert_eq!(failed.state, MountState::Failed);
    assert_eq!(
        reason(&failed, ConditionType::EndpointReachable).1,
        "StoreRefused"
    );
    assert_eq!(reason(&failed, ConditionType::Mounted).1, "StoreRefused");
    let keyless = order(|assignment| assignment.credential = None);
    let status = describe(&facts(&keyless, Seen::Nothing, None));
    assert_eq!(status.state, MountState::Failed);
    assert_eq!(reason(&status, ConditionType::CredentialReady).1, "NoCredential");
    let foreign = order(|assignment| {
        if let Some(spec) = assignment.spec.as_mut() {
            spec.backend = 77;
        }
    });
    let status = describe(&facts(&foreign, Seen::Nothing, None));
    assert_eq!(status.state, MountState::Failed);
    assert_eq!(reason(&status, ConditionType::Mounted).1, "InvalidOrder");
}

#[test]
fn an_orphan_is_reported_as_such_and_a_removal_too() {
    let (order, record, probe) = (order(|_| {}), record(), good());
    let orphan = Facts {
        orphan: true,
        ..facts(&order, Seen::Mounted(&record), Some(&probe))
    };
    assert_eq!(describe(&orphan).state, MountState::Orphaned);
    let removing = Facts {
        removing: true,
        ..facts(&order, Seen::Mounted(&record), Some(&probe))
    };
    assert_eq!(describe(&removing).state, MountState::Unmounting);
    let gone = describe(&removing).unmounted("Deactivated", OffsetDateTime::UNIX_EPOCH);
    assert_eq!(gone.state, MountState::Unmounted);
    assert_eq!(gone.path, Path::new("/m/ml/a"));
}

#[test]
fn a_condition_keeps_its_moment_while_it_stays_so() {
    let (order, record, probe) = (order(|_| {}), record(), good());
    let facts_now = facts(&order, Seen::Mounted(&record), Some(&probe));
    let before = describe(&facts_now);
    let later = OffsetDateTime::UNIX_EPOCH + time::Duration::HOUR;
    let after = facts_now.describe(Some(&before), later);
    assert_eq!(before, after);
    let dead = Facts {
        seen: Seen::Dead(&record),
        ..facts(&order, Seen::Dead(&record), None)
    };
    let after = dead.describe(Some(&before), later);
    assert!(after.conditions.iter().any(|condition| condition.since == later));
}

#[test]
fn a_kernel_that_cannot_hand_a_mount_on_is_named_and_is_no_trouble() {
    let (order, probe, record) = (order(|_| {}), good(), record());
    let mut facts = facts(&order, Seen::Mounted(&record), Some(&probe));
    facts.succession = Succession::of(false, "6.1.0-28-amd64");
    let status = describe(&facts);
    let healthy = &status.conditions[5];
    assert_eq!(status.state, MountState::Mounted);
    assert_eq!(
        (healthy.status, healthy.reason.as_str()),
        (ConditionStatus::True, "RemountOnCrash")
    );
    assert!(healthy.message.contains("6.1.0-28-amd64"), "{}", healthy.message);
}

#[test]
fn a_crash_loop_is_a_condition_with_the_last_words() {
    let (order, probe, record) = (order(|_| {}), good(), record());
    let mut facts = facts(&order, Seen::Mounted(&record), Some(&probe));
    facts.crash_loop = Some(CrashLoop {
        failures: 4,
        words: Some("out of memory"),
    });
    let status = describe(&facts);
    assert_eq!(status.state, MountState::Degraded);
    assert_eq!(status.conditions[5].reason, "CrashLoop");
    assert!(status.conditions[5].message.contains("out of memory"));
    // It waits for something else, however often that is tried.
    let pending = MountError::Credential {
        reason: "RemountPending",
        message: "somebody uses it".into(),
    };
    facts.failure = Some(&pending);
    assert_ne!(describe(&facts).conditions[5].reason, "CrashLoop");
    facts.failure = None;
    facts.seen = Seen::Dead(&record);
    let mounted = &describe(&facts).conditions[2];
    assert_eq!(mounted.reason, "CrashLoop");
}

#[test]
fn a_mount_that_hangs_names_the_program_to_end_and_what_that_costs() {
    let (order, record) = (order(|_| {}), record());
    let hung = Probe {
        worker: Err("its worker does not answer".into()),
        mount: None,
    };
    let mut facts = facts(&order, Seen::Mounted(&record), Some(&hung));
    let said = |facts: &Facts<'_>| describe(facts).conditions[2].message.clone();
    assert!(said(&facts).contains("kill -9 1") && said(&facts).contains("goes on with open files"));
    facts.succession = Succession::NotKept;
    assert!(said(&facts).contains("kill -9 1") && said(&facts).contains("what is open in it is lost"));
}

#[test]
fn what_a_live_mount_fails_with_is_said_as_what_it_is_and_with_what_a_person_can_do() {
    let (order, record, probe) = (order(|_| {}), record(), good());
    let refused = MountError::UpgradeRefused {
        message: "its table cannot be read".into(),
    };
    let full = MountError::Host {
        reason: "HostError",
        message: "no space left; free some".into(),
    };
    for (failure, reason_of_it, said) in [
        (&refused, "UpgradeRefused", "cannot take this mount over"),
        (&full, "HostError", "no space left; free some. The mount goes on"),
    ] {
        let failed = Facts {
            failure: Some(failure),
            outdated: true,
            ..facts(&order, Seen::Mounted(&record), Some(&probe))
        };
        let status = describe(&failed);
        assert_eq!(status.state, MountState::Degraded);
        assert_eq!(
            reason(&status, ConditionType::Healthy),
            (ConditionStatus::False, reason_of_it)
        );
        assert!(status.conditions[5].message.contains(said), "{status:?}");
    }

    let silent = Probe {
        worker: Err("no record says which worker serves it".into()),
        mount: Some(Touched::Answers),
    };
    let status = describe(&facts(&order, Seen::Unrecorded, Some(&silent)));
    assert!(
        status.conditions[5].message.ends_with("umount /m/ml/a"),
        "{status:?}"
    );
}
