//! A mount outlives its process: workers are killed one after the other while programs use the mount, each is
//! succeeded by another on the same descriptor, and no program sees an error.
//!
//! The stories know the mount, the worker's socket and the store, and nothing of how a worker remembers.

mod keeper;
mod load;
mod many;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mooring_tests::eventually;
use mooring_tests::folder::{names, scratch};
use mooring_tests::programs::rounds;
use mooring_tests::store::Store;
use serde_json::json;

use self::keeper::Keeper;
use self::load::Load;

/// Five times what is promised, since other stories run at the same time.
const PAUSE_P99_MAX: Duration = Duration::from_millis(5 * 500);

#[test]
fn what_was_open_goes_on_when_the_worker_is_killed_and_inode_numbers_stay() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    store.put("read", b"0123456789");
    store.put("edited", b"0123456789");
    let mut keeper = Keeper::mount(scratch.path(), &store);

    fs::create_dir(keeper.at("d")).unwrap();
    let read = File::open(keeper.at("read")).unwrap();
    let edited = OpenOptions::new().write(true).open(keeper.at("edited")).unwrap();
    edited.write_all_at(b"ab", 2).unwrap();
    let mut appended = OpenOptions::new()
        .create(true)
        .append(true)
        .open(keeper.at("appended"))
        .unwrap();
    appended.write_all(b"one").unwrap();
    let mut removed = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(keeper.at("removed"))
        .unwrap();
    removed.write_all(b"still here").unwrap();
    fs::remove_file(keeper.at("removed")).unwrap();
    let stored_and_removed = File::open(keeper.at("read")).unwrap();
    let numbers = |keeper: &Keeper| {
        ["d", "read", "edited", "appended"].map(|name| fs::metadata(keeper.at(name)).unwrap().ino())
    };
    let before = numbers(&keeper);

    keeper.succeed();

    assert_eq!(numbers(&keeper), before);
    let mut bytes = [0; 10];
    read.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123456789");
    edited.write_all_at(b"yz", 8).unwrap();
    appended.write_all(b"two").unwrap();
    removed.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    removed.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    assert_eq!(
        fs::create_dir(keeper.at("d")).unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );

    keeper.succeed();

    drop((edited, appended, removed));
    fs::remove_file(keeper.at("read")).unwrap();
    stored_and_removed.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123456789");
    keeper.succeed();
    stored_and_removed.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123456789");
    drop((read, stored_and_removed));

    assert_eq!(store.get("edited").unwrap(), b"01ab4567yz");
    assert_eq!(store.get("appended").unwrap(), b"onetwo");
    assert_eq!(names(keeper.path()), ["appended", "d", "edited"]);
    keeper.unmount();
}

#[test]
fn a_folder_that_is_read_while_workers_die_shows_each_name_once() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    let expected: Vec<String> = (0..300).map(|number| format!("name-{number:04}")).collect();
    expected
        .iter()
        .for_each(|name| store.put(&format!("big/{name}"), b"x"));
    let mut keeper = Keeper::mount(scratch.path(), &store);
    // A name that exists only here so far comes from elsewhere than those of the store.
    let mut waiting = File::create(keeper.at("big/waiting")).unwrap();
    waiting.write_all(b"x").unwrap();

    let mut reading = load::Reading::of(&keeper.at("big"));
    let mut seen = Vec::new();
    let mut pieces = 0;
    while let Some(piece) = reading.piece() {
        seen.extend(piece);
        pieces += 1;
        if pieces % 5 == 1 {
            keeper.succeed();
        }
    }
    assert!(pieces > 10, "it was read in {pieces} pieces only");
    seen.sort();
    let mut expected = expected;
    expected.push("waiting".to_owned());
    assert_eq!(seen, expected);
    drop((waiting, reading));
    keeper.unmount();
}

/// Has the worker killed when a change has had its effect in the store, and nobody knows.
fn kill_between_effect_and_answer(
    store: &Store,
    keeper: &mut Keeper,
    operation: &str,
    change: impl FnOnce(&Path) -> io::Result<()> + Send,
) {
    let _lost = store
        .fault(&json!({"operations": [operation], "times": 1, "action": {"no_reply": {"when": "after"}}}));
    // The worker's own second attempt does not get so far.
    let _stuck = store.fault(
        &json!({"operations": [operation], "skip": 1, "times": 1, "action": {"stall": {"millis": 60_000}}}),
    );
    store.forget_requests();
    let path = keeper.path().to_owned();
    std::thread::scope(|scope| {
        let changing = scope.spawn(move || change(&path));
        eventually(
            "the change is tried again",
            Duration::from_secs(20),
            || match store.requests(operation) {
                0 | 1 => Err("it is not".to_owned()),
                _ => Ok(()),
            },
        );
        keeper.succeed();
        changing
            .join()
            .unwrap()
            .unwrap_or_else(|error| panic!("{operation}: {error}"));
    });
}

/// truncate(2), not ftruncate(2): there is no handle that a successor would find.
fn truncate_by_path(path: &Path, size: u64) -> io::Result<()> {
    let done = Command::new("perl")
        .args(["-e", "truncate($ARGV[0], $ARGV[1]) or die $!"])
        .arg(path)
        .arg(size.to_string())
        .output()?;
    match done.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&done.stderr))),
    }
}

#[test]
fn a_change_that_had_reached_the_store_is_neither_refused_nor_done_twice() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    let keys = [
        "removed",
        "moved",
        "over",
        "replaced",
        "tree/one",
        "tree/two",
        "cut",
        "emptied file",
    ];
    for key in keys {
        store.put(key, key);
    }
    store.put("emptied/", b"");
    let mut keeper = Keeper::mount(scratch.path(), &store);
    let delete = "DeleteObject";

    kill_between_effect_and_answer(&store, &mut keeper, "PutObject", |mount| {
        fs::create_dir(mount.join("made"))
    });
    assert!(fs::metadata(keeper.at("made")).unwrap().is_dir());
    kill_between_effect_and_answer(&store, &mut keeper, delete, |mount| {
        fs::remove_file(mount.join("removed"))
    });
    kill_between_effect_and_answer(&store, &mut keeper, delete, |mount| {
        fs::remove_dir(mount.join("emptied"))
    });
    kill_between_effect_and_answer(&store, &mut keeper, "CopyObject", |mount| {
        fs::rename(mount.join("moved"), mount.join("moved once"))
    });
    kill_between_effect_and_answer(&store, &mut keeper, delete, |mount| {
        fs::rename(mount.join("moved once"), mount.join("moved twice"))
    });
    let replaced = File::open(keeper.at("replaced")).unwrap();
    kill_between_effect_and_answer(&store, &mut keeper, "CopyObject", |mount| {
        fs::rename(mount.join("over"), mount.join("replaced"))
    });
    let mut text = String::new();
    (&replaced).read_to_string(&mut text).unwrap();
    assert_eq!(text, "replaced", "who has it open goes on with the old bytes");
    kill_between_effect_and_answer(&store, &mut keeper, "CopyObject", |mount| {
        fs::rename(mount.join("tree"), mount.join("tree once"))
    });
    // Several at once.
    kill_between_effect_and_answer(&store, &mut keeper, "DeleteObjects", |mount| {
        fs::rename(mount.join("tree once"), mount.join("tree twice"))
    });
    kill_between_effect_and_answer(&store, &mut keeper, "PutObject", |mount| {
        fs::write(mount.join("written"), b"once")
    });
    kill_between_effect_and_answer(&store, &mut keeper, "PutObject", |mount| {
        truncate_by_path(&mount.join("cut"), 2)
    });
    kill_between_effect_and_answer(&store, &mut keeper, "PutObject", |mount| {
        truncate_by_path(&mount.join("emptied file"), 0)
    });
    kill_between_effect_and_answer(&store, &mut keeper, "PutObject", |mount| {
        let (kind, mode) = (rustix::fs::FileType::RegularFile, rustix::fs::Mode::RUSR);
        Ok(rustix::fs::mknodat(
            rustix::fs::CWD,
            mount.join("node"),
            kind,
            mode,
            0,
        )?)
    });

    drop(replaced);
    let expected = [
        ("cut", "cu"),
        ("emptied file", ""),
        ("made/", ""),
        ("moved twice", "moved"),
        ("node", ""),
        ("replaced", "over"),
        ("tree twice/", ""),
        ("tree twice/one", "tree/one"),
        ("tree twice/two", "tree/two"),
        ("written", "once"),
    ];
    assert_eq!(store.list(""), expected.map(|(key, _)| key));
    for (key, bytes) in expected {
        assert_eq!(store.get(key).unwrap(), bytes.as_bytes(), "{key}");
    }
    assert_eq!(
        names(keeper.path()),
        [
            "cut",
            "emptied file",
            "made",
            "moved twice",
            "node",
            "replaced",
            "tree twice",
            "written"
        ]
    );
    keeper.unmount();
}

#[test]
fn no_operation_fails_when_workers_are_asked_to_end_under_load() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    load::prepare(&store);
    let mut keeper = Keeper::mount(scratch.path(), &store);
    let mount = keeper.path().to_owned();
    let load = Load::start(&mount, scratch.path());
    for _ in 0..rounds(4, 20) {
        load.run_for(Duration::from_millis(200));
        load::pause_of(&mount, || keeper.succeed_after_signal());
        load.check();
    }
    let done = load.stop();
    done.verify(&store);
    keeper.unmount();
}

#[test]
fn no_operation_fails_while_workers_are_killed_under_load() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    load::prepare(&store);
    let mut keeper = Keeper::mount(scratch.path(), &store);
    let mount = keeper.path().to_owned();
    let load = Load::start(&mount, scratch.path());
    let mut pauses = Vec::new();
    for round in 0..rounds(10, 100) {
        // Half of the deaths come while requests are waiting in the store, half at any moment of their handling.
        let slow = if round % 2 == 0 { 15 } else { 0 };
        let latency = json!({"put_millis": slow, "delete_millis": slow, "list_millis": slow / 3, "head_millis": slow / 3});
        store.shape(&json!({ "latency": latency }));
        // Not in step with anything.
        load.run_for(Duration::from_millis(150 + u64::from(round * 37 % 200)));
        pauses.push(load::pause_of(&mount, || keeper.succeed()));
        load.check();
    }
    load.run_for(Duration::from_millis(500));
    let done = load.stop();
    pauses.sort();
    let at = |share: usize| pauses[(pauses.len() * share / 100).min(pauses.len() - 1)];
    println!(
        "{} deaths: pause p50 {:?}, p99 {:?}; operations: {}",
        pauses.len(),
        at(50),
        at(99),
        done.summary()
    );
    done.verify(&store);
    keeper.unmount();
    assert!(at(99) <= PAUSE_P99_MAX, "the longest pauses: {pauses:?}");
}
