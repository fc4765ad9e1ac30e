//! A mount outlives its process: workers are killed one after the other while programs use the mount, each is
//! succeeded by another on the same descriptor, and no program sees an error.
//!
//! The stories know the mount, the worker's socket and the store, and nothing of how a worker remembers.

mod keeper;
mod load;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use mooring_tests::folder::{names, scratch};
use mooring_tests::programs::rounds;
use mooring_tests::store::Store;

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

#[test]
fn no_operation_fails_while_workers_are_killed_under_load() {
    let scratch = scratch();
    let store = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
    load::prepare(&store);
    let mut keeper = Keeper::mount(scratch.path(), &store);
    let load = Load::start(keeper.path(), scratch.path());
    let mut pauses = Vec::new();
    for round in 0..rounds(10, 100) {
        // Not in step with anything.
        load.run_for(Duration::from_millis(150 + u64::from(round * 37 % 200)));
        pauses.push(load.pause_of(|| keeper.succeed()));
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
