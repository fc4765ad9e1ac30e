//! Coalescing, as stories of one stream.

use super::*;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn report(revision: i64, state: mooring_proto::v1::MountState) -> pb::Report {
    let mount = pb::MountReport {
        assignment_uid: Uuid::from_u128(1).to_string(),
        state: state.into(),
        path: "/mnt/\u{7}x".into(),
        ..pb::MountReport::default()
    };
    pb::Report {
        revision,
        mounts: vec![mount],
        holding_still: String::new(),
        ban_carried_out: false,
    }
}

#[test]
fn of_several_reports_only_the_newest_is_taken() {
    let mut reports = Reports::default();
    reports.take(report(1, mooring_proto::v1::MountState::Mounting), NOW);
    reports.take(report(1, mooring_proto::v1::MountState::Mounted), NOW);
    let Due { mounts, .. } = reports.next(Instant::now()).unwrap();
    assert_eq!(mounts[0].state, MountState::Mounted);
    assert_eq!(mounts[0].path, "/mnt/x", "control characters are left out");
    assert!(reports.next(Instant::now()).is_none());
}

#[test]
fn a_report_that_repeats_the_last_is_not_looked_at_unless_that_failed() {
    let mut reports = Reports::default();
    let same = || report(3, mooring_proto::v1::MountState::Mounted);
    reports.take(same(), NOW);
    assert_eq!(reports.next(Instant::now()).unwrap().at.settled_revision, 0);
    // The second of its revision: what it lacks is not there.
    reports.take(same(), NOW);
    assert_eq!(reports.next(Instant::now()).unwrap().at.settled_revision, 3);
    reports.take(same(), NOW);
    assert!(reports.due().is_none());
    reports.failed(None);
    reports.take(same(), NOW);
    assert!(reports.next(Instant::now()).is_some());
}

#[test]
fn what_a_host_says_but_once_is_due_again_when_it_could_not_be_written() {
    let mut reports = Reports::default();
    let carried_out = pb::Report {
        ban_carried_out: true,
        ..pb::Report::default()
    };
    reports.take(carried_out, NOW);
    let Due { mounts, at, .. } = reports.next(Instant::now()).unwrap();
    reports.failed(Some((mounts, at)));
    assert!(reports.due().is_some());
    assert!(reports.next(Instant::now()).unwrap().at.ban_carried_out);
}

#[test]
fn reports_rest_between_each_other() {
    let mut reports = Reports::default();
    reports.take(report(1, mooring_proto::v1::MountState::Mounting), NOW);
    let start = Instant::now();
    assert!(reports.due().unwrap() <= Instant::now());
    reports.next(start).unwrap();
    reports.take(report(1, mooring_proto::v1::MountState::Mounted), NOW);
    assert_eq!(reports.due().unwrap(), start + REST_MIN);
}

#[test]
fn a_mount_that_flaps_is_taken_once_a_second_and_one_that_has_calmed_down_at_once() {
    use mooring_proto::v1::MountState::{Degraded, Mounted};
    let mut reports = Reports::default();
    let mut now = Instant::now();
    let mut taken = 0;
    let begun = now;
    for state in [Mounted, Degraded].into_iter().cycle().take(2000) {
        reports.take(report(1, state), NOW);
        if reports.due().is_some_and(|due| due <= now) {
            reports.next(now).unwrap();
            taken += 1;
        }
        now += Duration::from_millis(10);
    }
    assert!((20..=25).contains(&taken), "{taken} within {:?}", now - begun);
    now += 2 * REST_MAX;
    reports.take(report(2, Mounted), NOW);
    reports.next(now).unwrap();
    reports.take(report(2, Degraded), NOW);
    assert_eq!(reports.due().unwrap(), now + REST_MIN);
}

#[test]
fn the_first_report_and_one_that_says_the_same_of_the_mounts_may_be_known() {
    use mooring_proto::v1::MountState::{Mounted, Mounting};
    let mut reports = Reports::default();
    for (revision, state, is_news) in [(1, Mounting, false), (1, Mounted, true), (2, Mounted, false)] {
        reports.take(report(revision, state), NOW);
        assert_eq!(reports.next(Instant::now()).unwrap().is_news, is_news);
    }
}

#[test]
fn what_a_host_refused_is_a_failed_mount_until_new_orders_come() {
    let mut reports = Reports::default();
    let uid = Uuid::from_u128(9);
    reports.refused(uid, 2, "unknown backend".into());
    reports.take(pb::Report::default(), NOW);
    let Due { mounts, .. } = reports.next(Instant::now()).unwrap();
    assert_eq!(
        (mounts[0].assignment_uid, mounts[0].state),
        (uid, MountState::Failed)
    );
    assert_eq!(mounts[0].message(), "unknown backend");
}

#[test]
fn a_time_from_the_future_is_dropped() {
    let at = |seconds| prost_types::Timestamp {
        seconds,
        nanos: 1_234,
    };
    assert_eq!(moment(at(-5), NOW).unwrap().nanosecond(), 1_000);
    assert!(moment(at(100_000), NOW).is_none());
}

#[test]
fn a_report_that_only_says_that_mounts_begin_to_end_waits_for_their_end() {
    use mooring_proto::v1::MountState::{Degraded, Failed, Mounted, Mounting, Unmounting};
    let nothing = pb::Report {
        mounts: vec![],
        ..report(1, Mounted)
    };
    let waits = |before: pb::Report, then: &[pb::Report]| {
        let mut reports = Reports::default();
        reports.take(before, NOW);
        let begun = Instant::now() - Duration::from_secs(10);
        reports.next(begun).unwrap();
        for report in then {
            reports.take(report.clone(), NOW);
        }
        reports.due().unwrap() > Instant::now()
    };
    assert!(waits(report(1, Mounted), &[report(2, Unmounting)]));
    assert!(waits(report(1, Degraded), &[report(2, Unmounting)]));
    // What begins to be mounted its host has waited with.
    assert!(!waits(nothing.clone(), &[report(2, Mounting)]));
    assert!(!waits(nothing.clone(), &[report(2, Failed)]));
    // What has ended waits for nothing.
    assert!(!waits(
        report(1, Mounted),
        &[report(2, Unmounting), nothing.clone()]
    ));
    // Nor does trouble, nor what was said before the host was heard of.
    assert!(!waits(report(1, Mounted), &[report(1, Degraded)]));
    assert!(!waits(report(1, Mounted), std::slice::from_ref(&nothing)));
    let of_two = |first, second| {
        let mut both = report(2, first);
        both.mounts.extend(report(2, second).mounts);
        both.mounts[1].assignment_uid = Uuid::from_u128(2).to_string();
        both
    };
    let mounted = of_two(Mounted, Mounted);
    assert!(waits(mounted.clone(), &[of_two(Mounted, Unmounting)]));
    assert!(!waits(mounted, &[of_two(Degraded, Unmounting)]));
    let mut first = Reports::default();
    first.take(report(1, Mounting), NOW);
    assert!(first.due().unwrap() <= Instant::now());
    let last = pb::Report {
        ban_carried_out: true,
        ..report(2, Unmounting)
    };
    assert!(!waits(report(1, Mounted), &[last]));
}

#[test]
fn what_begins_to_end_waits_no_longer_than_its_first_word() {
    use mooring_proto::v1::MountState::{Mounted, Unmounting};
    let mut reports = Reports::default();
    reports.take(report(1, Mounted), NOW);
    reports.next(Instant::now() - Duration::from_secs(10)).unwrap();
    reports.take(report(2, Unmounting), NOW);
    let due = reports.due().unwrap();
    assert!(due <= Instant::now() + PARTING_WAIT);
    for revision in 3..6 {
        reports.take(report(revision, Unmounting), NOW);
        assert_eq!(reports.due().unwrap(), due);
    }
    assert_eq!(reports.next(due).unwrap().mounts.len(), 1);
    assert!(reports.due().is_none());
}
