//! The table alone: what is read back, torn ends, growing, and who finds it.

mod length;

use std::path::Path;

use super::log::Log;
use super::record::{Connection, Edit, File, Folder, Inode, Kind, Link, Pinned, Place, Record};
use super::{Attempt, Inheritance, Intent, Outcome, Recorder};

const CONNECTION: Connection = Connection {
    minor: 45,
    readahead_bytes_max: 131_072,
    capabilities: 1 << 39,
};

fn folder(ino: u64, name: &str) -> Inode {
    Inode {
        ino,
        lookups: 1,
        link: Link::At(1, name.to_owned()),
        kind: Kind::Folder {
            changed: (7, 8),
            marker: true,
        },
    }
}

fn edit(id: u128, size: u64, added: &[(u64, u64)]) -> Edit {
    Edit {
        id,
        size,
        base: Some("\"tag\"".to_owned()),
        visible: 100,
        added: added.iter().map(|(start, end)| *start..*end).collect(),
        fetched: false,
        generation: 3,
        committed: 1,
        opened: 5,
        lost_at: None,
        copy: None,
        tried: true,
    }
}

fn file(handle: u64) -> File {
    File {
        handle,
        ino: 3,
        access: (true, false, false),
        lineage: 0,
        opened: 9,
        request: Some(44),
        keep_cache: false,
    }
}

fn place() -> Place {
    Place {
        endpoint: Some("http://localhost:9000".to_owned()),
        region: "us-east-1".to_owned(),
        bucket: "lake".to_owned(),
        path_style: true,
        prefix: "below/".to_owned(),
    }
}

/// Something of everything.
fn records() -> Vec<Record> {
    let pinned = Pinned {
        epoch: 1,
        key: "k".to_owned(),
        etag: "\"tag\"".to_owned(),
        size: 4,
    };
    let listed = |names: &[(&str, u64)]| names.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect();
    vec![
        Record::Connection(CONNECTION),
        Record::Place(place()),
        Record::Inode(folder(2, "d")),
        Record::Inode(folder(9, "gone")),
        Record::Edit(edit(1, 100, &[(0, 10)])),
        Record::Edit(edit(1, 120, &[(10, 20), (50, 60)])),
        Record::Edit(edit(2, 1, &[])),
        Record::File(file(1)),
        Record::FilePinned(1, pinned),
        Record::FileWrote(1),
        Record::File(file(2)),
        Record::Folder(Folder {
            handle: 3,
            ino: 2,
            request: None,
        }),
        Record::Listed(3, listed(&[("old", 1)])),
        Record::ListingBegun(3),
        Record::Listed(3, listed(&[("a", 1), ("b", 2), ("c", 3)])),
        // The kernel had room for two only, and asks on from there.
        Record::Listed(3, listed(&[("c", 3), ("d", 4)])),
        Record::Began(44, Intent::MakeFolder { stamp: 7 }),
        Record::Began(46, Intent::Rename { ino: 2 }),
        Record::Ended(46, Outcome::Done),
        Record::Began(48, Intent::Remove),
        Record::Answered(48),
        Record::UploadBegun("u1".to_owned(), "k".to_owned()),
        Record::UploadBegun("u2".to_owned(), "k".to_owned()),
        Record::UploadOver("u1".to_owned()),
        Record::InodeGone(9),
        Record::EditGone(2),
        Record::FileClosed(2),
    ]
}

fn taken(records: impl IntoIterator<Item = Record>) -> Inheritance {
    let mut inheritance = Inheritance::default();
    records.into_iter().for_each(|record| inheritance.apply(record));
    inheritance
}

fn write(recorder: &Recorder, record: &Record) {
    recorder.note(record);
    recorder.write_down();
}

fn inodes(folder: &Path) -> Vec<u64> {
    Log::read(folder).unwrap().inodes.into_keys().collect()
}

#[test]
fn the_last_record_about_a_thing_counts() {
    let left = taken(records());
    assert_eq!(left.connection, Some(CONNECTION));
    assert_eq!(left.place, Some(place()));
    assert_eq!(left.inodes.keys().copied().collect::<Vec<_>>(), [2]);
    let (edit, present) = &left.edits[&1];
    assert_eq!((left.edits.len(), edit.size), (1, 120));
    assert_eq!(present.ranges().collect::<Vec<_>>(), [0..20, 50..60]);
    let open = &left.files[&1];
    assert!(open.wrote && open.pinned.is_some() && left.files.len() == 1);
    let listed: Vec<&str> = left.folders[&3].1.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(listed, ["a", "b", "c", "d"]);
    assert_eq!(left.requests.keys().copied().collect::<Vec<_>>(), [44, 46]);
    assert_eq!(
        (left.next_ino, left.next_handle),
        (10, 4),
        "no number is given out again"
    );
}

#[test]
fn replaying_a_table_twice_changes_nothing() {
    let once = taken(records());
    let all: Vec<Record> = once.records().collect();
    let twice = taken(all.iter().chain(&all).cloned());
    assert_eq!(format!("{twice:?}"), format!("{once:?}"));
    assert_eq!(twice.records().count(), all.len());
}

#[test]
fn a_table_that_is_written_anew_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let before = taken(records());
    let mut log = Log::begin(folder.path(), before.records()).unwrap();
    let compacted = log.snapshot().unwrap().compact().unwrap();
    // Others go on meanwhile.
    let mut batch = Vec::new();
    Record::Inode(self::folder(20, "later")).write_to(&mut batch);
    log.append(&batch).unwrap();
    log.adopt(compacted).unwrap();
    batch.clear();
    Record::Inode(self::folder(21, "later still")).write_to(&mut batch);
    log.append(&batch).unwrap();
    let after = Log::read(folder.path()).unwrap();
    assert_eq!(after.inodes.keys().copied().collect::<Vec<_>>(), [2, 20, 21]);
    assert_eq!(format!("{:?}", after.edits), format!("{:?}", before.edits));
    assert_eq!(after.folders, before.folders);
    assert_eq!(after.requests, before.requests);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn what_a_dead_worker_was_writing_anew_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    drop(Recorder::begin(folder.path()).unwrap());
    std::fs::write(folder.path().join("table.1"), b"half").unwrap();
    let recorder = Recorder::go_on(folder.path(), &Log::read(folder.path()).unwrap()).unwrap();
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names(), 1);
    recorder.give_up();
    assert_eq!(names(), 0);
}

#[test]
fn a_table_that_cannot_be_written_anew_leaves_nothing_half_done_and_waits_until_it_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = Log::begin(folder.path(), std::iter::empty()).unwrap();
    let mut batch = Vec::new();
    while batch.len() < 1 << 20 {
        Record::Inode(self::folder(2, "grows")).write_to(&mut batch);
    }
    log.append(&batch).unwrap();
    assert!(log.is_long());
    drop(log.snapshot().unwrap().compact().unwrap());
    log.put_off();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(!log.is_long());
    log.append(&batch[..batch.len() / 3]).unwrap();
    assert!(!log.is_long());
    log.append(&batch[..batch.len() / 3]).unwrap();
    assert!(log.is_long());
}

#[test]
fn a_table_that_takes_too_much_room_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::begin(folder.path()).unwrap();
    recorder.limit(4 << 20);
    let name = "n".repeat(200);
    let mut ino = 2;
    let mut grow_to = |inodes: u64| {
        while ino < inodes {
            ino += 1;
            recorder.note(&Record::Inode(self::folder(ino, &name)));
        }
        recorder.write_down();
        if recorder.wants_upkeep() {
            recorder.keep_up();
        }
        recorder.is_on()
    };
    assert!(grow_to(10_000), "2 MiB");
    assert!(!grow_to(30_000), "6 MiB");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_file_goes_when_the_table_has_it_that_it_is_gone_and_not_before() {
    let (folder, staging) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let recorder = Recorder::begin(folder.path()).unwrap();
    let file = |name: &str| {
        let path = staging.path().join(name);
        std::fs::write(&path, b"x").unwrap();
        path
    };
    let first = file("first");
    recorder.note_removal(&Record::EditGone(1), first.clone());
    assert!(first.exists() && !recorder.wants_upkeep());
    recorder.write_down();
    assert!(first.exists() && recorder.wants_upkeep());
    recorder.keep_up();
    assert!(!first.exists());
    let second = file("second");
    recorder.note_removal(&Record::EditGone(2), second.clone());
    recorder.give_up();
    assert!(!second.exists(), "nobody asks for it any more");
    let third = file("third");
    recorder.leave();
    recorder.note_removal(&Record::EditGone(3), third.clone());
    assert!(third.exists(), "somebody else does");
}

#[test]
fn a_batch_that_was_torn_by_a_kill_is_as_if_it_were_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::begin(folder.path()).unwrap();
    write(&recorder, &Record::Inode(self::folder(2, "whole")));
    let path = folder.path().join("table");
    let whole = std::fs::read(&path).unwrap();
    recorder.note(&Record::Inode(self::folder(3, "together")));
    write(&recorder, &Record::Inode(self::folder(4, "with this")));
    let longer = std::fs::read(&path).unwrap();
    for end in whole.len()..longer.len() {
        std::fs::write(&path, &longer[..end]).unwrap();
        assert_eq!(inodes(folder.path()), [2], "cut at {end}");
    }
    let mut wrong = longer.clone();
    *wrong.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &wrong).unwrap();
    assert_eq!(inodes(folder.path()), [2], "other bytes");
    std::fs::write(&path, &longer).unwrap();
    assert_eq!(inodes(folder.path()), [2, 3, 4]);
}

#[test]
fn a_table_of_another_form_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Log::read(folder.path()).is_err(), "there is none");
    std::fs::write(folder.path().join("table"), b"").unwrap();
    assert!(Log::read(folder.path()).is_err(), "it is empty");
    drop(Log::begin(folder.path(), std::iter::empty()).unwrap());
    assert!(Log::read(folder.path()).is_ok());
    let mut log = Log::begin(folder.path(), std::iter::empty()).unwrap();
    log.append(&[0xff, 0xff, 0xff]).unwrap();
    assert!(Log::read(folder.path()).is_err(), "it has records of the future");
}

/// An old worker's table must be read by a new one: what records look like in bytes never changes.
#[test]
fn the_form_of_records_stays() {
    let mut bytes = Vec::new();
    Record::Inode(folder(2, "d")).write_to(&mut bytes);
    assert_eq!(bytes, [2, 2, 1, 1, 1, 1, b'd', 0, 14, 8, 1]);
    bytes.clear();
    Record::Numbers { ino: 3, handle: 4 }.write_to(&mut bytes);
    assert_eq!(bytes, [17, 3, 4]);
    bytes.clear();
    Record::File(file(1)).write_to(&mut bytes);
    assert_eq!(bytes, [6, 1, 3, 1, 0, 0, 0, 9, 1, 44, 0]);
}

#[test]
fn only_a_request_that_is_sent_again_has_a_past() {
    let folder = tempfile::tempdir().unwrap();
    let resent = |unique: u64| unique | 1 << 63;
    let recorder = Recorder::begin(folder.path()).unwrap();
    let ended = Attempt::at(&recorder, 44);
    ended.begin(Intent::Remove);
    ended.end(Outcome::Done);
    Attempt::at(&recorder, 46).begin(Intent::Remove);
    let answered = Attempt::at(&recorder, 48);
    answered.end(Outcome::Done);
    answered.answered();
    recorder.write_down();

    let successor = Recorder::go_on(folder.path(), &Log::read(folder.path()).unwrap()).unwrap();
    assert!(Attempt::at(&successor, 44).outcome().is_none(), "not marked");
    assert_eq!(
        Attempt::at(&successor, resent(44)).outcome(),
        Some(&Outcome::Done)
    );
    let begun = Attempt::at(&successor, resent(46));
    assert!(begun.outcome().is_none() && begun.begun() == Some(&Intent::Remove));
    let unknown = Attempt::at(&successor, resent(48));
    assert!(unknown.is_repeated() && unknown.outcome().is_none() && unknown.begun().is_none());
}

#[test]
fn a_worker_whose_mount_was_made_anew_touches_nothing_of_the_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let old = Recorder::begin(folder.path()).unwrap();
    let new = Recorder::begin(folder.path()).unwrap();
    write(&new, &Record::Inode(self::folder(5, "new")));
    write(&old, &Record::Inode(self::folder(6, "old")));
    old.compact();
    assert_eq!(inodes(folder.path()), [5]);
    old.give_up();
    assert_eq!(inodes(folder.path()), [5]);
    new.give_up();
    assert!(Log::read(folder.path()).is_err());
}

#[test]
fn what_was_noted_is_in_the_table_when_write_down_returns_whoever_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::begin(folder.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let recorder = recorder.clone();
            let path = folder.path().to_owned();
            scope.spawn(move || {
                for round in 0..50 {
                    let ino = 2 + thread * 1000 + round;
                    write(&recorder, &Record::Inode(self::folder(ino, "x")));
                    assert!(Log::read(&path).unwrap().inodes.contains_key(&ino));
                }
            });
        }
        // Written anew all the time meanwhile.
        scope.spawn(|| (0..50).for_each(|_| recorder.compact()));
    });
    assert_eq!(inodes(folder.path()).len(), 200);
}
