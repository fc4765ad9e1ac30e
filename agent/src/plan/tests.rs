//! What is found and what is wanted, as tables, and the steps that follow.

use std::time::Duration;

use mooring_proto::agent::v1 as pb;
use mooring_proto::v1::{Backend, Mode};

use super::*;
use crate::desired::Removal;
use crate::ledger::Held;
use crate::observed::Run;
use crate::observed::process::Process;
use crate::observed::record::Record;

mod successions;

const ROOT: &str = "/mnt/mooring";

fn uid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn assignment(number: u128, name: &str) -> pb::Assignment {
    pb::Assignment {
        uid: uid(number).to_string(),
        generation: 5,
        spec_hash: "five".to_owned(),
        spec: Some(pb::AssignmentSpec {
            project_id: "ml".to_owned(),
            mount_name: name.to_owned(),
            endpoint: "https://s3.example".to_owned(),
            bucket: "data".to_owned(),
            mode: Mode::ReadWrite.into(),
            backend: Backend::Default.into(),
            ..Default::default()
        }),
        credential: Some(pb::SealedCredential {
            secret_version: "v1".to_owned(),
            ..Default::default()
        }),
    }
}

fn desired(assignments: &[pb::Assignment]) -> DesiredSet {
    DesiredSet::of(&Held {
        assignments: assignments.to_vec(),
        ..Default::default()
    })
}

fn removing(number: u128, mut set: DesiredSet) -> DesiredSet {
    let removal = Removal {
        reason: "Deactivated".to_owned(),
        grace: Duration::ZERO,
    };
    set.removals.insert(uid(number), removal);
    set
}

fn run(number: u128, name: &str, alive: bool, change: impl FnOnce(&mut Record)) -> Run {
    let mut record = Record {
        assignment_uid: uid(number),
        generation: 5,
        spec_hash: "five".to_owned(),
        boot_id: String::new(),
        phase: Phase::Mounted,
        path: Path::new(ROOT).join("ml").join(name),
        worker: Process {
            pid: 1,
            start_time: 1,
        },
        secret_version: "v1".to_owned(),
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
        mount_time: None,
    };
    change(&mut record);
    Run {
        record,
        alive,
        program: None,
    }
}

fn mounted(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("41 40 0:50 / {ROOT}/ml/{name} rw - fuse.mooring mooring rw\n"))
        .collect()
}

fn steps(desired: &DesiredSet, observed: &ObservedSet) -> Vec<Step> {
    let now = Instant::now();
    plan(desired, observed, &Memory::default(), Path::new(ROOT), now).steps
}

#[test]
fn each_thing_that_can_be_found_has_its_step() {
    let want = desired(&[assignment(1, "a")]);
    let a = || mounted(&["a"]);
    let table: [(&str, String, Vec<Run>, Vec<Step>); 13] = [
        ("nothing", String::new(), vec![], vec![Action::Start.on(uid(1))]),
        (
            "serves what was ordered",
            a(),
            vec![run(1, "a", true, |_| {})],
            vec![],
        ),
        (
            "an older generation",
            a(),
            vec![run(1, "a", true, |r| r.generation = 4)],
            vec![Action::Restart.on(uid(1))],
        ),
        (
            "another key",
            a(),
            vec![run(1, "a", true, |r| r.secret_version = "v0".into())],
            vec![Action::SetCredential.on(uid(1))],
        ),
        (
            "another access key id in the same version",
            a(),
            vec![run(1, "a", true, |r| r.key_fingerprint = vec![1])],
            vec![Action::SetCredential.on(uid(1))],
        ),
        (
            "a dead worker",
            a(),
            vec![run(1, "a", false, |_| {})],
            vec![Action::Start.on(uid(1))],
        ),
        (
            "a record from before a reboot",
            String::new(),
            vec![run(1, "a", false, |_| {})],
            vec![Action::Start.on(uid(1))],
        ),
        (
            "unmounted by hand",
            String::new(),
            vec![run(1, "a", true, |_| {})],
            vec![Action::Start.on(uid(1))],
        ),
        (
            "an agent died while launching",
            a(),
            vec![run(1, "a", true, |r| r.phase = Phase::Launching)],
            vec![Action::Start.on(uid(1))],
        ),
        (
            "a detached worker still uploads",
            String::new(),
            vec![run(1, "a", true, |r| r.phase = Phase::Detached)],
            vec![Action::Start.on(uid(1))],
        ),
        ("a mount without a record", a(), vec![], vec![]),
        (
            "a mount of someone else",
            format!("41 40 0:50 / {ROOT}/ml/a rw - ext4 /dev/x rw\n"),
            vec![],
            vec![],
        ),
        (
            "a renamed mount",
            mounted(&["old"]),
            vec![run(1, "old", true, |r| r.generation = 4)],
            vec![Action::Restart.on(uid(1))],
        ),
    ];
    for (what, mountinfo, runs, expected) in table {
        assert_eq!(
            steps(&want, &ObservedSet::of(&mountinfo, runs)),
            expected,
            "{what}"
        );
    }
}

#[test]
fn an_empty_order_book_unmounts_nothing() {
    let observed = ObservedSet::of(&mounted(&["a"]), vec![run(1, "a", true, |_| {})]);
    assert_eq!(steps(&DesiredSet::default(), &observed), []);
}

#[test]
fn a_removal_stops_what_is_there_and_is_done_when_nothing_is() {
    let observed = ObservedSet::of(&mounted(&["a"]), vec![run(1, "a", true, |_| {})]);
    let both = removing(1, desired(&[assignment(1, "a")]));
    assert_eq!(steps(&both, &observed), [Action::Stop.on(uid(1))]);
    let unheard = removing(9, DesiredSet::default());
    assert_eq!(
        steps(&unheard, &ObservedSet::default()),
        [Action::Finish.on(uid(9))]
    );
}

#[test]
fn stops_come_before_starts_and_a_place_is_taken_by_one_mount_at_a_time() {
    let observed = ObservedSet::of(&mounted(&["a"]), vec![run(1, "a", true, |_| {})]);
    let want = removing(
        1,
        desired(&[assignment(1, "a"), assignment(2, "a"), assignment(3, "b")]),
    );
    assert_eq!(
        steps(&want, &observed),
        [Action::Stop.on(uid(1)), Action::Start.on(uid(3))]
    );
    let twice = desired(&[assignment(2, "c"), assignment(3, "c")]);
    assert_eq!(steps(&twice, &ObservedSet::default()), [Action::Start.on(uid(2))]);
}

#[test]
fn what_has_a_task_gets_no_second_one_and_keeps_its_place() {
    let want = desired(&[assignment(1, "a"), assignment(2, "a")]);
    let memory = Memory {
        busy: [(uid(1), Path::new(ROOT).join("ml/a"))].into(),
        ..Default::default()
    };
    let plan = plan(
        &want,
        &ObservedSet::default(),
        &memory,
        Path::new(ROOT),
        Instant::now(),
    );
    assert_eq!(plan.steps, []);
}

#[test]
fn what_failed_waits_for_its_moment_and_delays_no_other() {
    let now = Instant::now();
    let later = now + Duration::from_secs(3);
    let want = desired(&[assignment(1, "a"), assignment(2, "b")]);
    let memory = Memory {
        retry_at: [(uid(1), later)].into(),
        ..Default::default()
    };
    let waiting = plan(&want, &ObservedSet::default(), &memory, Path::new(ROOT), now);
    assert_eq!(waiting.steps, [Action::Start.on(uid(2))]);
    assert_eq!(waiting.wake_at, Some(later));
    let due = plan(&want, &ObservedSet::default(), &memory, Path::new(ROOT), later);
    assert_eq!(due.steps.len(), 2);
}

#[test]
fn without_a_key_nothing_is_started_and_nothing_is_stopped() {
    let mut keyless = assignment(1, "a");
    keyless.credential = None;
    let want = desired(&[keyless]);
    assert_eq!(steps(&want, &ObservedSet::default()), []);
    let observed = ObservedSet::of(&mounted(&["a"]), vec![run(1, "a", true, |r| r.generation = 4)]);
    assert_eq!(steps(&want, &observed), []);
}

#[test]
fn an_order_that_cannot_be_carried_out_leaves_the_old_mount_alone() {
    let mut foreign = assignment(1, "a");
    foreign.generation = 6;
    if let Some(spec) = foreign.spec.as_mut() {
        spec.backend = 77;
    }
    let observed = ObservedSet::of(&mounted(&["a"]), vec![run(1, "a", true, |_| {})]);
    assert_eq!(steps(&desired(&[foreign]), &observed), []);
}

#[test]
fn a_mount_with_nobody_behind_it_is_replaced_even_without_a_record() {
    let memory = Memory {
        disconnected: [uid(1)].into(),
        ..Default::default()
    };
    let observed = ObservedSet::of(&mounted(&["a"]), vec![]);
    let plan = plan(
        &desired(&[assignment(1, "a")]),
        &observed,
        &memory,
        Path::new(ROOT),
        Instant::now(),
    );
    assert_eq!(plan.steps, [Action::Start.on(uid(1))]);
}

#[test]
fn a_run_of_which_nothing_is_left_is_forgotten() {
    let gone = vec![run(1, "a", false, |record| record.phase = Phase::Detached)];
    assert_eq!(
        steps(&DesiredSet::default(), &ObservedSet::of("", gone)),
        [Action::Sweep.on(uid(1))]
    );
    let busy = vec![run(1, "a", true, |record| record.phase = Phase::Detached)];
    assert_eq!(steps(&DesiredSet::default(), &ObservedSet::of("", busy)), []);
}

/// What the worker of [`run`] serves when it serves what [`assignment`] orders.
fn serving() -> Option<crate::observed::record::Serving> {
    let order = Order::of(&assignment(1, "a")).unwrap();
    Some(order.spec.unwrap().serving(order.about.mode))
}

#[test]
fn a_changed_order_interrupts_a_mount_only_if_it_serves_something_else() {
    type Case = (&'static str, fn(&mut Record), Vec<Step>);
    let want = desired(&[assignment(1, "a")]);
    let table: [Case; 5] = [
        (
            "another group",
            |r| (r.generation, r.unix_group) = (4, Some("old".into())),
            vec![Action::Relabel.on(uid(1))],
        ),
        (
            "a restored catalog has counted the same generation twice",
            |r| r.spec_hash = "other".into(),
            vec![Action::Relabel.on(uid(1))],
        ),
        (
            "the same, and another bucket",
            |r| {
                r.spec_hash = "other".into();
                r.serves.as_mut().unwrap().bucket = "other".into();
            },
            vec![Action::Restart.on(uid(1))],
        ),
        (
            "another mode",
            |r| {
                r.generation = 4;
                r.serves.as_mut().unwrap().read_only = true;
            },
            vec![Action::Restart.on(uid(1))],
        ),
        (
            "a record that does not say what is served",
            |r| (r.generation, r.serves) = (4, None),
            vec![Action::Restart.on(uid(1))],
        ),
    ];
    for (what, change, expected) in table {
        let mounted_now = run(1, "a", true, |record| {
            record.serves = serving();
            change(record);
        });
        let observed = ObservedSet::of(&mounted(&["a"]), vec![mounted_now]);
        assert_eq!(steps(&want, &observed), expected, "{what}");
    }
}

#[test]
fn an_order_for_an_orphans_place_takes_its_mount_over_or_ends_it_and_never_waits_for_ever() {
    type Case = (&'static str, DesiredSet, String, Vec<Run>, Vec<Step>);
    let both = || {
        let mut set = desired(&[assignment(1, "a"), assignment(2, "a")]);
        set.orphans.insert(uid(1));
        set
    };
    let same = |alive| run(1, "a", alive, |record| record.serves = serving());
    let adopt = vec![Action::Adopt { orphan: uid(1) }.on(uid(2))];
    let evict = vec![Action::Evict { orphan: uid(1) }.on(uid(2))];
    let table: [Case; 6] = [
        (
            "the same",
            both(),
            mounted(&["a"]),
            vec![same(true)],
            adopt.clone(),
        ),
        (
            "the same, of which only the record tells",
            desired(&[assignment(2, "a")]),
            mounted(&["a"]),
            vec![same(true)],
            adopt,
        ),
        (
            "something else",
            both(),
            mounted(&["a"]),
            vec![run(1, "a", true, |_| {})],
            evict.clone(),
        ),
        ("a dead worker", both(), mounted(&["a"]), vec![same(false)], evict),
        (
            "nothing is mounted any more",
            both(),
            String::new(),
            vec![],
            vec![Action::Supersede.on(uid(1)), Action::Start.on(uid(2))],
        ),
        (
            "the orphan is being removed",
            removing(1, desired(&[assignment(1, "a"), assignment(2, "a")])),
            mounted(&["a"]),
            vec![same(true)],
            vec![Action::Stop.on(uid(1))],
        ),
    ];
    for (what, want, mountinfo, runs, expected) in table {
        assert_eq!(
            steps(&want, &ObservedSet::of(&mountinfo, runs)),
            expected,
            "{what}"
        );
    }
}

#[test]
fn an_orphan_keeps_its_mount_while_the_new_order_cannot_be_carried_out() {
    let mut keyless = assignment(2, "a");
    keyless.credential = None;
    let mut want = desired(&[assignment(1, "a"), keyless]);
    want.orphans.insert(uid(1));
    let observed = ObservedSet::of(&mounted(&["a"]), vec![run(1, "a", true, |_| {})]);
    assert_eq!(steps(&want, &observed), []);
}

#[test]
fn a_place_that_is_being_cleared_is_not_mounted_on_in_the_same_round() {
    let left = vec![run(1, "a", false, |_| {})];
    let want = removing(1, desired(&[assignment(1, "a"), assignment(2, "a")]));
    assert_eq!(
        steps(&want, &ObservedSet::of("", left)),
        [Action::Stop.on(uid(1))]
    );
}

#[test]
fn an_orphan_is_mounted_after_a_reboot_but_not_after_a_person_has_unmounted_it() {
    let mut want = desired(&[assignment(1, "a")]);
    want.orphans.insert(uid(1));
    let mounted_before = || vec![run(1, "a", false, |_| {})];
    let table = [
        (String::new(), vec![], vec![Action::Start.on(uid(1))]),
        (mounted(&["a"]), vec![run(1, "a", true, |_| {})], vec![]),
        (mounted(&["a"]), mounted_before(), vec![Action::Start.on(uid(1))]),
        (String::new(), mounted_before(), vec![Action::Stop.on(uid(1))]),
        (
            String::new(),
            vec![run(1, "a", true, |_| {})],
            vec![Action::Stop.on(uid(1))],
        ),
    ];
    for (mountinfo, runs, expected) in table {
        assert_eq!(
            steps(&want, &ObservedSet::of(&mountinfo, runs)),
            expected,
            "{mountinfo}"
        );
    }
}

#[test]
fn a_dead_mount_that_cannot_be_made_anew_is_cleared_away_and_one_that_can_is_started() {
    let unusable = || {
        let mut assignment = assignment(1, "a");
        assignment.spec.as_mut().unwrap().backend = 99;
        desired(&[assignment])
    };
    let keyless = || {
        let mut assignment = assignment(1, "a");
        assignment.credential = None;
        desired(&[assignment])
    };
    let found = |alive| ObservedSet::of(&mounted(&["a"]), vec![run(1, "a", alive, |_| {})]);
    let clear = [Action::Clear.on(uid(1))];
    for (what, want) in [
        ("no key", keyless()),
        ("an order of a newer catalog", unusable()),
        ("nobody orders it", DesiredSet::default()),
    ] {
        assert_eq!(steps(&want, &found(false)), clear, "{what}");
        assert_eq!(steps(&want, &found(true)), [], "{what}, and it serves");
    }
    assert_eq!(
        steps(&desired(&[assignment(1, "a")]), &found(false)),
        [Action::Start.on(uid(1))]
    );
    let offline = Memory {
        offline: true,
        ..Memory::default()
    };
    let want = desired(&[assignment(1, "a")]);
    assert_eq!(
        plan(&want, &found(false), &offline, Path::new(ROOT), Instant::now()).steps,
        clear,
        "nothing is started without the catalog"
    );
    assert_eq!(
        steps(&removing(1, DesiredSet::default()), &found(false)),
        [Action::Stop.on(uid(1))]
    );
    // What is cleared away is not started again, and not forgotten while it is ordered.
    let cleared = ObservedSet::of(
        "",
        vec![run(1, "a", false, |record| record.phase = Phase::Launching)],
    );
    assert_eq!(steps(&keyless(), &cleared), []);
    assert_eq!(
        steps(&DesiredSet::default(), &cleared),
        [Action::Sweep.on(uid(1))]
    );
}
