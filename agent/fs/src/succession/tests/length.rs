//! The table's length: what is dropped when it is written anew, what is done when it becomes too long, and who goes
//! on where there is no room.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

fn batch(records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    let mut batch = Vec::new();
    records.into_iter().for_each(|record| record.write_to(&mut batch));
    batch
}

/// Notes inodes with long names up to this number, and does what there is to do then.
fn grow_to(recorder: &Recorder, inodes: std::ops::Range<u64>) {
    let name = "n".repeat(200);
    for ino in inodes {
        recorder.note(&Record::Inode(folder(ino, &name)));
    }
    recorder.write_down();
    if recorder.wants_upkeep() {
        recorder.keep_up();
    }
}

#[test]
fn of_each_inode_only_the_last_record_is_written_anew() {
    let place = tempfile::tempdir().unwrap();
    let mut log = Log::begin(place.path(), std::iter::empty()).unwrap();
    for lookups in 1..=100 {
        let inode = |ino| Inode {
            lookups,
            ..folder(ino, "again and again")
        };
        log.append(&batch([Record::Inode(inode(2)), Record::Inode(inode(3))]))
            .unwrap();
    }
    log.append(&batch([Record::InodeGone(3), Record::Inode(folder(4, "d"))]))
        .unwrap();
    log.append(&batch(records())).unwrap();
    let before = Log::read(place.path()).unwrap();
    let long = log.bytes();
    let compacted = log.snapshot().unwrap().compact().unwrap();
    log.adopt(compacted).unwrap();
    let after = Log::read(place.path()).unwrap();
    assert_eq!(after.inodes, before.inodes);
    assert_eq!(after.next_ino, before.next_ino);
    assert_eq!(after.edits.len(), before.edits.len());
    assert!(log.bytes() < long / 4, "{} of {long} bytes", log.bytes());
}

#[test]
fn a_successor_goes_on_behind_the_last_whole_batch() {
    let place = tempfile::tempdir().unwrap();
    let mut dead = Log::begin(place.path(), records().into_iter()).unwrap();
    dead.append(&batch([Record::Inode(folder(20, "whole"))])).unwrap();
    let mut torn = std::fs::File::options()
        .append(true)
        .open(place.path().join("table"))
        .unwrap();
    torn.write_all(&[9, 0, 0, 0, 1, 2]).unwrap();
    let mut log = Log::go_on(place.path()).unwrap();
    log.append(&batch([Record::Inode(folder(21, "later"))])).unwrap();
    let left = Log::read(place.path()).unwrap();
    assert_eq!(left.inodes.keys().copied().collect::<Vec<_>>(), [2, 20, 21]);
    let compacted = log.snapshot().unwrap().compact().unwrap();
    log.adopt(compacted).unwrap();
    log.append(&batch([Record::Inode(folder(22, "later still"))]))
        .unwrap();
    assert_eq!(inodes(place.path()), [2, 20, 21, 22]);
}

#[test]
fn a_log_that_is_gone_is_not_written_anew_again_and_again() {
    let place = tempfile::tempdir().unwrap();
    let mut log = Log::begin(place.path(), std::iter::empty()).unwrap();
    let names = (2..20_000).map(|ino| Record::Inode(folder(ino, "some name of usual length")));
    while !log.is_long() {
        log.append(&batch(names.clone())).unwrap();
    }
    let compacted = log.snapshot().unwrap().compact().unwrap();
    drop(Log::begin(place.path(), std::iter::empty()).unwrap());
    log.adopt(compacted).unwrap();
    assert!(!log.is_long());
    assert!(inodes(place.path()).is_empty(), "it is the other one's");
}

#[test]
fn who_can_make_it_shorter_is_asked_before_it_is_given_up() {
    let place = tempfile::tempdir().unwrap();
    let recorder = Recorder::begin(place.path()).unwrap();
    recorder.limit(4 << 20);
    let asked = Arc::new(AtomicU32::new(0));
    let (counting, relieved) = (Arc::clone(&asked), recorder.clone());
    recorder.is_relieved_by(move || {
        if counting.fetch_add(1, Ordering::Relaxed) == 0 {
            (2..12_000).for_each(|ino| relieved.note(&Record::InodeGone(ino)));
        }
    });
    grow_to(&recorder, 2..8_000);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "1.6 MiB");
    grow_to(&recorder, 8_000..16_000);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "3.2 MiB");
    // It has helped.
    grow_to(&recorder, 16_000..24_000);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    grow_to(&recorder, 24_000..40_000);
    assert!(
        recorder.is_on() && asked.load(Ordering::Relaxed) == 2,
        "too long, but it may help"
    );
    grow_to(&recorder, 40_000..60_000);
    assert!(!recorder.is_on(), "it does not");
}

#[test]
fn upkeep_goes_on_after_one_that_panicked() {
    let place = tempfile::tempdir().unwrap();
    let recorder = Recorder::begin(place.path()).unwrap();
    recorder.limit(1 << 20);
    recorder.is_relieved_by(|| panic!("as a defect would"));
    let upkeep = catch_unwind(AssertUnwindSafe(|| grow_to(&recorder, 2..8_000)));
    assert!(upkeep.is_err());
    recorder.note_removal(&Record::EditGone(1), place.path().join("not there"));
    recorder.write_down();
    assert!(recorder.wants_upkeep());
}

#[test]
fn a_file_of_which_no_log_speaks_goes_with_the_next_upkeep() {
    let (place, staging) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recorder = Recorder::begin(place.path()).unwrap();
    recorder.give_up();
    let path = staging.path().join("late");
    std::fs::write(&path, b"x").unwrap();
    recorder.note_removal(&Record::EditGone(1), path.clone());
    assert!(path.exists(), "nobody is waited for");
    assert!(recorder.wants_upkeep());
    recorder.keep_up();
    assert!(!path.exists());
}

#[test]
fn a_program_that_goes_back_in_a_folder_takes_nothing_from_what_was_given_out() {
    let listed = |names: &[(&str, u64)]| {
        let names = names.iter().map(|(name, at)| ((*name).to_owned(), *at));
        Record::Listed(3, names.collect())
    };
    let opened = Record::Folder(Folder {
        handle: 3,
        ino: 2,
        request: None,
    });
    let given = listed(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let left = taken([opened, given, listed(&[("b", 2), ("c", 3)])]);
    let positions: Vec<u64> = left.folders[&3].1.iter().map(|(_, at)| *at).collect();
    assert_eq!(positions, [1, 2, 3, 4]);
}
