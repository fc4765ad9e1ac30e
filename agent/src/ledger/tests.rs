//! Snapshots, deltas, set-back catalogs, and files that were torn.

use super::*;

fn assignment(uid: &str, generation: i64) -> pb::Assignment {
    pb::Assignment {
        uid: uid.to_owned(),
        generation,
        ..Default::default()
    }
}

fn removal(uid: &str) -> pb::Removal {
    pb::Removal {
        assignment_uid: uid.to_owned(),
        revision: 9,
        ..Default::default()
    }
}

fn welcome(realm: &str, epoch: i64, revision: i64) -> pb::Welcome {
    pb::Welcome {
        realm_uid: realm.to_owned(),
        epoch,
        revision,
        heartbeat_interval: None,
    }
}

fn held(uids: &[&str]) -> Held {
    Held {
        realm_uid: "realm".to_owned(),
        epoch: 2,
        revision: 10,
        assignments: uids.iter().map(|uid| assignment(uid, 1)).collect(),
        ..Default::default()
    }
}

fn uids(held: &Held) -> Vec<&str> {
    held.assignments
        .iter()
        .map(|assignment| assignment.uid.as_str())
        .collect()
}

#[test]
fn a_ledger_of_another_installation_is_set_aside_and_one_of_the_same_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let held = Held {
        realm_uid: "first".into(),
        ..Held::default()
    };
    Ledger::open(dir.path())
        .unwrap()
        .change(|_| Ok::<_, LedgerError>(held.clone()))
        .unwrap();
    let aside = Ledger::set_aside_unless_of(dir.path(), "first").unwrap();
    assert_eq!(aside, None);
    assert_eq!(*Ledger::open(dir.path()).unwrap().held(), held);
    let aside = Ledger::set_aside_unless_of(dir.path(), "second").unwrap();
    assert!(aside.unwrap().exists());
    assert_eq!(*Ledger::open(dir.path()).unwrap().held(), Held::default());
}

#[test]
fn a_host_obeys_its_own_realm_at_the_same_or_a_later_state_only() {
    let follows = |held: &Held, welcome| held.judge("realm", &welcome) == Standing::Follow;
    let fresh = Held::default();
    let known = held(&["a"]);
    for (expected, held, welcome) in [
        (true, &fresh, welcome("realm", 1, 5)),
        (false, &fresh, welcome("other", 1, 5)),
        (true, &known, welcome("realm", 2, 10)),
        (true, &known, welcome("realm", 2, 11)),
        (false, &known, welcome("realm", 2, 9)),
        (false, &known, welcome("realm", 1, 99)),
        (true, &known, welcome("realm", 3, 1)),
        (false, &known, welcome("other", 3, 99)),
        (false, &known, welcome("", 3, 99)),
    ] {
        assert_eq!(follows(held, welcome.clone()), expected, "{held:?} {welcome:?}");
    }
}

#[test]
fn a_catalog_that_was_set_back_once_is_not_obeyed_before_the_epoch_rises_however_far_it_goes_on() {
    let known = held(&["a"]);
    assert_eq!(known.after_set_back(&welcome("realm", 2, 10)), None, "it has not");
    assert_eq!(
        known.after_set_back(&welcome("other", 2, 1)),
        None,
        "it is another's"
    );
    let met = known.after_set_back(&welcome("realm", 2, 4)).unwrap();
    assert_eq!(met.after_set_back(&welcome("realm", 2, 5)), None, "it is known");
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.change(|_| Ok::<_, LedgerError>(met)).unwrap();
    let met = Ledger::open(dir.path()).unwrap().held();

    let Standing::HoldStill(reason) = met.judge("realm", &welcome("realm", 2, 99)) else {
        panic!("it follows")
    };
    assert!(reason.contains("from revision 10 to 4"), "{reason}");
    let raised = welcome("realm", 3, 100);
    assert_eq!(met.judge("realm", &raised), Standing::Follow);
    let next = met.after_snapshot(&raised, &pb::Snapshot::default());
    assert_eq!(next.set_back_to, None);
    assert_eq!(next.judge("realm", &welcome("realm", 3, 101)), Standing::Follow);
}

#[test]
fn the_reason_for_holding_still_names_the_remedy() {
    let Standing::HoldStill(reason) = held(&["a"]).judge("realm", &welcome("realm", 1, 1)) else {
        panic!("it follows")
    };
    assert!(reason.contains("raise-epoch"), "{reason}");
}

#[test]
fn what_a_snapshot_does_not_list_is_kept_as_an_orphan() {
    let snapshot = pb::Snapshot {
        revision: 12,
        assignments: vec![assignment("b", 3)],
        removals: vec![],
        ..Default::default()
    };
    let next = held(&["a", "b"]).after_snapshot(&welcome("realm", 2, 12), &snapshot);
    assert_eq!(uids(&next), ["b", "a"]);
    assert_eq!(next.orphans, ["a"]);
    assert_eq!(next.assignments[0].generation, 3);
    assert_eq!(next.revision, 12);
}

#[test]
fn an_empty_snapshot_removes_nothing() {
    let next = held(&["a", "b"]).after_snapshot(&welcome("realm", 3, 1), &pb::Snapshot::default());
    assert_eq!(next.orphans, ["a", "b"]);
    assert!(next.removals.is_empty());
    assert_eq!(next.epoch, 3);
}

#[test]
fn an_orphan_that_is_listed_again_is_an_orphan_no_longer() {
    let orphaned = held(&["a"]).after_snapshot(&welcome("realm", 2, 10), &pb::Snapshot::default());
    let snapshot = pb::Snapshot {
        revision: 11,
        assignments: vec![assignment("a", 1)],
        removals: vec![],
        ..Default::default()
    };
    assert!(
        orphaned
            .after_snapshot(&welcome("realm", 2, 11), &snapshot)
            .orphans
            .is_empty()
    );
}

#[test]
fn a_removal_is_kept_until_it_was_carried_out() {
    let delta = pb::Delta {
        from_revision: 10,
        to_revision: 11,
        upserts: vec![assignment("c", 1)],
        removals: vec![removal("a")],
        ..Default::default()
    };
    let next = held(&["a", "b"]).after_delta(&delta).unwrap();
    assert_eq!(uids(&next), ["a", "b", "c"]);
    assert_eq!(next.removals.len(), 1);
    let done = next.after_removal("a");
    assert_eq!(uids(&done), ["b", "c"]);
    assert!(done.removals.is_empty());
}

#[test]
fn an_unmount_that_was_called_off_too_late_leaves_the_order_to_mount() {
    let ordered = |from: i64, upserts: Vec<pb::Assignment>, removals: Vec<pb::Removal>| pb::Delta {
        from_revision: from,
        to_revision: from + 1,
        upserts,
        removals,
        ..Default::default()
    };
    let removing = held(&["a", "b"])
        .after_delta(&ordered(10, vec![], vec![removal("a")]))
        .unwrap();
    let called_off = removing
        .after_delta(&ordered(11, vec![assignment("a", 1)], vec![]))
        .unwrap();
    assert!(called_off.removals.is_empty());
    // Its task had unmounted it before it heard of that.
    assert_eq!(called_off.after_removal("a"), called_off);
}

#[test]
fn a_pending_removal_survives_a_snapshot_that_no_longer_mentions_it() {
    let delta = pb::Delta {
        from_revision: 10,
        to_revision: 11,
        upserts: vec![],
        removals: vec![removal("a")],
        ..Default::default()
    };
    let next = held(&["a"]).after_delta(&delta).unwrap();
    let next = next.after_snapshot(&welcome("realm", 2, 12), &pb::Snapshot::default());
    assert_eq!(next.removals.len(), 1);
    assert!(next.orphans.is_empty());
}

#[test]
fn a_ban_ends_all_that_is_held_or_seen_at_once_and_once() {
    let draining = pb::Delta {
        from_revision: 10,
        to_revision: 11,
        upserts: vec![],
        removals: vec![pb::Removal {
            grace: Some(prost_types::Duration {
                seconds: 3600,
                nanos: 0,
            }),
            ..removal("a")
        }],
        ..Default::default()
    };
    let held = held(&["a", "b"]).after_delta(&draining).unwrap();
    let seen = ["b".to_owned(), "of-a-record".to_owned()];
    let next = held.after_ban(&seen).unwrap();
    let removed: Vec<_> = next
        .removals
        .iter()
        .map(|removal| removal.assignment_uid.as_str())
        .collect();
    assert_eq!(removed, ["a", "b", "of-a-record"]);
    assert!(next.removals.iter().all(|removal| removal.grace.is_none()));
    assert_eq!(next.after_ban(&seen), None);
}

#[test]
fn a_delta_with_a_gap_is_refused() {
    let delta = pb::Delta {
        from_revision: 11,
        to_revision: 12,
        ..Default::default()
    };
    assert_eq!(held(&["a"]).after_delta(&delta), Err(Gap { from: 11, held: 10 }));
}

#[test]
fn a_ledger_is_found_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    assert_eq!(*ledger.held(), Held::default());
    ledger.change(|_| Ok::<_, LedgerError>(held(&["a"]))).unwrap();
    assert_eq!(*Ledger::open(dir.path()).unwrap().held(), held(&["a"]));
}

#[test]
fn a_torn_or_changed_ledger_is_noticed_and_set_aside() {
    let whole = encode(&held(&["a", "b"]));
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bytes in [&whole[..0], &whole[..7], &whole[..whole.len() - 1], &flipped] {
        let dir = tempfile::tempdir().unwrap();
        files::write_atomic(&dir.path().join("ledger"), bytes, files::PRIVATE).unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!(*ledger.held(), Held::default());
        assert!(dir.path().join("ledger.damaged").exists());
    }
}

#[test]
fn a_change_that_cannot_be_written_has_not_happened() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.change(|_| Ok::<_, LedgerError>(held(&["a"]))).unwrap();
    // The folder goes away: no file system could be fuller.
    std::fs::rename(dir.path(), dir.path().with_extension("gone")).unwrap();
    assert!(ledger.change(|_| Ok::<_, LedgerError>(held(&["b"]))).is_err());
    assert_eq!(*ledger.held(), held(&["a"]));
    std::fs::rename(dir.path().with_extension("gone"), dir.path()).unwrap();
}

#[test]
fn a_ledger_that_is_to_be_wiped_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger.change(|_| Ok::<_, LedgerError>(held(&["a"]))).unwrap();
    ledger.close();
    std::fs::remove_file(dir.path().join("ledger")).unwrap();
    let late = ledger.change(|held| Ok::<_, LedgerError>(held.after_removal("a")));
    assert!(matches!(late, Err(LedgerError::Closed)));
    assert!(!dir.path().join("ledger").exists());
}

#[test]
fn the_bound_on_starts_without_the_catalog_is_that_of_the_last_word() {
    let hour = prost_types::Duration {
        seconds: 3600,
        nanos: 0,
    };
    let snapshot = pb::Snapshot {
        revision: 11,
        offline_max: Some(hour),
        ..Default::default()
    };
    let bounded = held(&["a"]).after_snapshot(&welcome("realm", 2, 11), &snapshot);
    assert_eq!(bounded.offline_bound(), Some(Duration::from_secs(3600)));
    assert_eq!(
        decode(&encode(&bounded)).unwrap(),
        bounded,
        "also after a restart"
    );
    let delta = pb::Delta {
        from_revision: 11,
        to_revision: 12,
        ..Default::default()
    };
    assert_eq!(bounded.after_delta(&delta).unwrap().offline_bound(), None);
}
