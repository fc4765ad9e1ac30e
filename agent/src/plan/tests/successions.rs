//! Workers that have died, or run an older program, on mounts whose descriptor is kept.

use super::*;

fn serving(record: &mut Record) {
    let set = desired(&[assignment(1, "a")]);
    let spec = set.orders[&uid(1)].spec.as_ref().unwrap();
    record.serves = Some(spec.serving(Mode::ReadWrite));
}

fn kept(numbers: &[u128]) -> Memory {
    Memory {
        kept: numbers.iter().map(|number| uid(*number)).collect(),
        ..Memory::default()
    }
}

fn steps_with(desired: &DesiredSet, observed: &ObservedSet, memory: &Memory) -> Vec<Step> {
    plan(desired, observed, memory, Path::new(ROOT), Instant::now()).steps
}

fn dead(change: impl FnOnce(&mut Record)) -> ObservedSet {
    let run = run(1, "a", false, |record| {
        serving(record);
        change(record);
    });
    ObservedSet::of(&mounted(&["a"]), vec![run])
}

#[test]
fn a_dead_worker_is_succeeded_if_the_mount_is_kept_and_serves_what_is_ordered() {
    let want = desired(&[assignment(1, "a")]);
    assert_eq!(
        steps_with(&want, &dead(|_| {}), &kept(&[1])),
        [Action::Succeed.on(uid(1))]
    );
    assert_eq!(
        steps_with(&want, &dead(|record| record.generation = 4), &kept(&[1])),
        [Action::Succeed.on(uid(1))],
        "a change that needs no new mount"
    );
    for (what, observed, memory) in [
        ("nothing is kept", dead(|_| {}), kept(&[])),
        (
            "it serves something else",
            dead(|record| record.serves = None),
            kept(&[1]),
        ),
        (
            "it was never announced",
            dead(|record| record.phase = Phase::Launching),
            kept(&[1]),
        ),
    ] {
        assert_eq!(
            steps_with(&want, &observed, &memory),
            [Action::Start.on(uid(1))],
            "{what}"
        );
        assert_eq!(
            can_be_succeeded(uid(1), &want, &observed),
            what == "nothing is kept",
            "{what}"
        );
    }
}

#[test]
fn a_removal_lets_a_successor_upload_first() {
    let want = removing(1, desired(&[assignment(1, "a")]));
    assert_eq!(
        steps_with(&want, &dead(|_| {}), &kept(&[1])),
        [Action::Succeed.on(uid(1))]
    );
    assert_eq!(
        steps_with(&want, &dead(|_| {}), &kept(&[])),
        [Action::Stop.on(uid(1))]
    );
}

#[test]
fn older_programs_are_replaced_one_after_the_other_and_only_where_that_interrupts_nobody() {
    let want = desired(&[assignment(1, "a"), assignment(2, "b"), assignment(3, "c")]);
    let runs = |number: u128, name: &str| run(number, name, true, |_| {});
    let observed = ObservedSet::of(
        &mounted(&["a", "b", "c"]),
        vec![runs(1, "a"), runs(2, "b"), runs(3, "c")],
    );
    let memory = |busy: &[u128], upgrading| Memory {
        outdated: [uid(1), uid(2), uid(3)].into(),
        busy: busy.iter().map(|one| (uid(*one), PathBuf::new())).collect(),
        upgrading,
        ..kept(&[2, 3])
    };
    assert_eq!(
        steps_with(&want, &observed, &memory(&[], false)),
        [Action::Upgrade.on(uid(2))]
    );
    assert_eq!(
        steps_with(&want, &observed, &memory(&[2], false)),
        [Action::Upgrade.on(uid(3))]
    );
    assert_eq!(steps_with(&want, &observed, &memory(&[2], true)), []);
    let removed = removing(2, want.clone());
    assert_eq!(
        steps_with(&removed, &observed, &memory(&[], false)),
        [Action::Stop.on(uid(2)), Action::Upgrade.on(uid(3))]
    );
}

#[test]
fn without_the_catalog_for_too_long_nothing_is_started_and_what_is_live_goes_on() {
    let want = desired(&[assignment(1, "a"), assignment(2, "b")]);
    let offline = Memory {
        offline: true,
        ..kept(&[1])
    };
    assert_eq!(steps_with(&want, &ObservedSet::default(), &offline), []);
    assert_eq!(
        steps_with(&want, &dead(|_| {}), &offline),
        [Action::Succeed.on(uid(1))]
    );
    let live = ObservedSet::of(&mounted(&["a"]), vec![run(1, "a", true, |_| {})]);
    assert_eq!(steps_with(&want, &live, &offline), []);
    assert_eq!(
        steps_with(&removing(1, want), &live, &offline),
        [Action::Stop.on(uid(1))],
        "an order to unmount counts"
    );
}
