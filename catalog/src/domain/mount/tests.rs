//! Reports against what is stored and ordered.

use super::*;

fn uid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn mount(n: u128, state: MountState) -> ObservedMount {
    ObservedMount {
        assignment_uid: uid(n),
        activation: "projects/ml/activations/a".into(),
        generation: 1,
        state,
        path: "/mnt/mooring/ml/a".into(),
        conditions: vec![],
        mount_time: None,
    }
}

fn condition(kind: ConditionType, status: ConditionStatus, reason: &str, message: &str) -> Condition {
    Condition {
        kind,
        status,
        reason: reason.into(),
        message: message.into(),
        since: None,
    }
}

fn stored(mounts: impl IntoIterator<Item = ObservedMount>) -> BTreeMap<Uuid, ObservedMount> {
    mounts
        .into_iter()
        .map(|mount| (mount.assignment_uid, mount))
        .collect()
}

fn wanted(n: u128) -> BTreeMap<Uuid, Ordered> {
    BTreeMap::from([(uid(n), Ordered::Mounted)])
}

fn removed(n: u128, revision: i64) -> BTreeMap<Uuid, Ordered> {
    BTreeMap::from([(uid(n), Ordered::Removed { revision })])
}

fn at(revision: i64, holds_still: bool) -> ReportedAt {
    ReportedAt {
        ledger_revision: revision,
        settled_revision: revision,
        holds_still,
        ban_carried_out: false,
    }
}

#[test]
fn a_heartbeat_that_repeats_itself_is_no_news() {
    let seen = mount(1, MountState::Mounted);
    let digest = digest_report(&stored([seen.clone()]), &wanted(1), vec![seen], at(5, false));
    assert!(digest.is_empty());
}

#[test]
fn a_text_that_changes_is_kept_and_takes_no_revision() {
    let mut before = mount(1, MountState::Mounted);
    before.conditions.push(condition(
        ConditionType::Healthy,
        ConditionStatus::True,
        "Idle",
        "0 files wait",
    ));
    let mut after = before.clone();
    after.conditions[0].message = "3 files wait".into();
    let digest = digest_report(&stored([before]), &wanted(1), vec![after.clone()], at(5, false));
    assert_eq!(digest.touched, [after]);
    assert!(!digest.is_change_of_state());
}

#[test]
fn state_generation_and_conditions_are_news() {
    let before = mount(1, MountState::Mounting);
    let changes: [fn(&mut ObservedMount); 3] = [
        |m| m.state = MountState::Mounted,
        |m| m.generation = 2,
        |m| {
            m.conditions.push(condition(
                ConditionType::Mounted,
                ConditionStatus::True,
                "Answers",
                "",
            ))
        },
    ];
    for change in changes {
        let mut after = before.clone();
        change(&mut after);
        let digest = digest_report(
            &stored([before.clone()]),
            &wanted(1),
            vec![after.clone()],
            at(5, false),
        );
        assert_eq!(digest.changed, [after]);
        assert!(digest.is_change_of_state());
    }
}

#[test]
fn what_is_held_but_not_listed_is_orphaned() {
    let digest = digest_report(
        &stored([]),
        &BTreeMap::new(),
        vec![mount(1, MountState::Mounted)],
        at(5, false),
    );
    assert_eq!(digest.changed[0].state, MountState::Orphaned);
    // And is forgotten once the host has it no longer.
    let digest = digest_report(&stored(digest.changed), &BTreeMap::new(), vec![], at(5, false));
    assert_eq!(digest.dropped, [uid(1)]);
}

#[test]
fn a_removal_is_carried_out_when_the_host_has_read_it_and_holds_the_mount_no_longer() {
    let seen = stored([mount(1, MountState::Mounted)]);
    let gone = |reported, ledger, still| {
        digest_report(&seen, &removed(1, 7), reported, at(ledger, still)).carried_out
    };
    assert_eq!(gone(vec![], 7, false), [uid(1)]);
    assert_eq!(gone(vec![mount(1, MountState::Unmounted)], 7, false), [uid(1)]);
    assert!(
        gone(vec![], 6, false).is_empty(),
        "the report was on its way before the removal"
    );
    assert!(
        gone(vec![], 7, true).is_empty(),
        "a host that holds still obeys nobody"
    );
    let early = ReportedAt {
        settled_revision: 6,
        ..at(7, false)
    };
    let at_once = |reported| digest_report(&seen, &removed(1, 7), reported, early).carried_out;
    assert!(
        at_once(vec![]).is_empty(),
        "the host may not have looked at its mounts since it read the removal"
    );
    assert_eq!(at_once(vec![mount(1, MountState::Unmounted)]), [uid(1)]);
    assert!(gone(vec![mount(1, MountState::Unmounting)], 7, false).is_empty());
    assert!(gone(vec![mount(1, MountState::Mounted)], 7, false).is_empty());
}

#[test]
fn a_host_that_has_carried_out_its_ban_is_behind_no_order_whatever_its_ledger_ended_at() {
    let seen = stored([mount(1, MountState::Mounted)]);
    let last = ReportedAt {
        ban_carried_out: true,
        ..at(3, true)
    };
    let digest = digest_report(&seen, &removed(1, 1_000_000), vec![], last);
    assert_eq!((digest.carried_out, digest.dropped), (vec![uid(1)], vec![uid(1)]));
}

#[test]
fn a_wanted_mount_that_is_reported_unmounted_stays_in_the_list() {
    let digest = digest_report(
        &stored([]),
        &wanted(1),
        vec![mount(1, MountState::Unmounted)],
        at(5, false),
    );
    assert_eq!(digest.changed.len(), 1);
}

#[test]
fn the_message_names_the_first_cause_and_not_its_effects() {
    let mut seen = mount(1, MountState::Failed);
    seen.conditions = vec![
        condition(
            ConditionType::Mounted,
            ConditionStatus::False,
            "NotStarted",
            "not mounted",
        ),
        condition(
            ConditionType::CredentialReady,
            ConditionStatus::False,
            "NoKey",
            "there is no key",
        ),
        condition(
            ConditionType::Writable,
            ConditionStatus::False,
            "ReadOnly",
            "the mode is READ_ONLY",
        ),
    ];
    assert_eq!(seen.message(), "there is no key");
    seen.conditions.remove(1);
    seen.conditions.remove(0);
    assert_eq!(seen.message(), "");
}
