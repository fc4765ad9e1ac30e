//! Commits over the bucket in memory: races, lost replies, failures, unchanged parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::lost::conflict_key;
use super::*;
use crate::namespace::names::{KEY_BYTES_MAX, NAME_BYTES_MAX};
use crate::store::memory::{Call, Fault, MemoryStore};

const FAR_FUTURE: Duration = Duration::from_secs(4_000_000_000);

struct Bench {
    store: Arc<MemoryStore>,
    writer: Writer,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let store = Arc::new(MemoryStore::new());
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::new(
            store.clone(),
            Staging::without_successor(folder.path().to_owned()),
        );
        Bench {
            store,
            writer,
            _folder: folder,
        }
    }

    async fn commit(&self, key: &str, edit: &Edit) -> Result<Outcome, FsError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        let outcome = self
            .writer
            .commit(&Key::new(key), edit, BTreeMap::new(), now)
            .await;
        if let Ok(Outcome::Stored { version, etag, .. }) = &outcome {
            edit.committed(version.generation, etag.clone());
        }
        outcome
    }

    fn new_file(&self, when: When) -> Edit {
        self.set_clock(when);
        Edit::new_file(self.writer.staging(), ID, Instant::now()).unwrap()
    }

    fn edit_of(&self, key: &str, when: When) -> Edit {
        self.set_clock(when);
        let (bytes, info) = self.store.object(key).unwrap();
        let base = (info.etag, bytes.len() as u64);
        Edit::of_object(self.writer.staging(), base, ID, Instant::now()).unwrap()
    }

    fn set_clock(&self, when: When) {
        if let When::Late = when {
            self.store.set_clock(SystemTime::UNIX_EPOCH + FAR_FUTURE);
        }
    }

    fn text(&self, key: &str) -> String {
        String::from_utf8(self.store.object(key).unwrap().0.to_vec()).unwrap()
    }
}

const ID: uuid::Uuid = uuid::Uuid::from_u128(7);

/// When a file was opened, in comparison with the versions in the bucket.
enum When {
    /// Perhaps before: every other version there is a race.
    Early,
    /// After everything in the bucket was written: what is there was merely not known.
    Late,
}

fn early() -> When {
    When::Early
}

fn late() -> When {
    When::Late
}

fn unreachable() -> StoreError {
    StoreError::Unavailable {
        reason: "no route".to_owned(),
    }
}

#[tokio::test]
async fn an_edit_keeps_the_bytes_that_it_does_not_touch() {
    let bench = Bench::new();
    bench.store.insert("f", "0123456789");
    let edit = bench.edit_of("f", late());
    edit.write(Some(3), b"XY").unwrap();
    edit.write(None, b"end").unwrap();
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.text("f"), "012XY56789end");
    edit.truncate(4).unwrap();
    edit.truncate(6).unwrap();
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.text("f"), "012X\0\0");
    assert!(!edit.is_dirty());
}

#[tokio::test]
async fn a_new_file_does_not_replace_one_that_somebody_made_meanwhile() {
    let bench = Bench::new();
    let edit = bench.new_file(early());
    edit.write(Some(0), b"ours").unwrap();
    bench.store.insert("d/f", "theirs");
    let Ok(Outcome::Lost { copy: Some(copy), .. }) = bench.commit("d/f", &edit).await else {
        panic!("the race was not noticed")
    };
    assert_eq!(bench.text("d/f"), "theirs");
    assert_eq!(bench.text(copy.as_str()), "ours");
    assert_eq!(copy.as_str(), "d/f.mooring-conflict-20260102T030405Z-00000000");
    assert_eq!(bench.writer.conflicts(), 1);
}

#[tokio::test]
async fn a_whole_file_replaces_a_version_that_was_only_not_known_yet() {
    let bench = Bench::new();
    bench.store.insert("f", "old");
    let edit = bench.edit_of("f", late());
    bench
        .store
        .insert("f", "newer, but from before the file was opened");
    edit.truncate(0).unwrap();
    edit.write(Some(0), b"ours").unwrap();
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.text("f"), "ours");
}

#[tokio::test]
async fn whatever_could_be_newer_than_the_opening_is_not_written_over() {
    let bench = Bench::new();
    bench.store.insert("f", "old");
    let edit = bench.edit_of("f", early());
    bench.store.insert("f", "theirs");
    let written = bench.store.object("f").unwrap().1.modified;
    // Their version is of the second in which the file was opened, or of the one before.
    bench.store.set_clock(written + Duration::from_secs(1));
    edit.truncate(0).unwrap();
    edit.write(Some(0), b"ours").unwrap();
    assert!(matches!(bench.commit("f", &edit).await, Ok(Outcome::Lost { .. })));
    assert_eq!(bench.text("f"), "theirs");
}

#[tokio::test]
async fn an_edit_of_bytes_that_are_gone_is_kept_in_parts() {
    let bench = Bench::new();
    bench.store.insert("f", "old old old");
    let edit = bench.edit_of("f", late());
    edit.write(Some(2), b"XY").unwrap();
    edit.write(Some(11), b"end").unwrap();
    bench.store.insert("f", "theirs");
    let Ok(Outcome::Lost { copy: Some(copy), .. }) = bench.commit("f", &edit).await else {
        panic!("the race was not noticed")
    };
    assert_eq!(bench.text("f"), "theirs");
    assert_eq!(
        copy.as_str(),
        "f.mooring-conflict-20260102T030405Z-00000000.parts"
    );
    assert_eq!(bench.text(copy.as_str()), "XYend");
    assert_eq!(
        bench.text(&copy.as_str().replace("parts", "ranges")),
        "2 2\n11 3\n"
    );
}

#[tokio::test]
async fn what_has_no_bytes_of_its_own_leaves_no_copy() {
    let bench = Bench::new();
    bench.store.insert("f", "old old old");
    let edit = bench.edit_of("f", late());
    edit.truncate(3).unwrap();
    bench.store.insert("f", "theirs");
    let lost = bench.commit("f", &edit).await;
    assert!(matches!(lost, Ok(Outcome::Lost { copy: None, .. })), "{lost:?}");
    assert!(!edit.is_dirty());
    assert_eq!(bench.store.keys(), ["f"]);
}

#[tokio::test]
async fn an_edit_of_an_object_that_was_removed_is_kept_in_parts() {
    let bench = Bench::new();
    bench.store.insert("f", "old");
    let edit = bench.edit_of("f", late());
    edit.write(Some(1), b"X").unwrap();
    bench.store.remove("f");
    let lost = bench.commit("f", &edit).await;
    assert!(matches!(lost, Ok(Outcome::Lost { remote: None, .. })), "{lost:?}");
    assert_eq!(bench.store.keys().len(), 2);
}

#[tokio::test]
async fn nothing_is_accepted_that_a_copy_would_not_hold() {
    let bench = Bench::new();
    let edit = bench.new_file(early());
    edit.write(Some(0), b"ours").unwrap();
    bench.store.insert("f", "theirs");
    bench.store.plan(Call::Put, Fault::Delay(Duration::ZERO));
    bench
        .store
        .plan(Call::Put, Fault::Delay(Duration::from_millis(100)));
    let late_write = async {
        while !edit.is_frozen() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(edit.write(Some(4), b"more"), Err(FsError::Changed)));
        assert!(matches!(edit.truncate(0), Err(FsError::Changed)));
    };
    let (lost, ()) = tokio::join!(bench.commit("f", &edit), late_write);
    let Ok(Outcome::Lost { copy: Some(copy), .. }) = lost else {
        panic!("the race was not noticed")
    };
    assert_eq!(bench.text(copy.as_str()), "ours");
    assert!(!edit.is_dirty());
}

#[tokio::test]
async fn a_copy_that_fails_is_tried_again_under_the_same_name() {
    let bench = Bench::new();
    let edit = bench.new_file(early());
    edit.write(Some(0), b"ours").unwrap();
    bench.store.insert("f", "theirs");
    bench.store.plan(Call::Put, Fault::Delay(Duration::ZERO));
    bench.store.plan(Call::Put, Fault::LoseReply(unreachable()));
    assert!(bench.commit("f", &edit).await.is_err());
    assert!(edit.is_dirty());
    assert!(matches!(bench.commit("f", &edit).await, Ok(Outcome::Lost { .. })));
    assert_eq!(bench.store.keys().len(), 2);
}

#[tokio::test]
async fn an_upload_whose_reply_was_lost_is_recognised_later_and_credited_with_what_it_has() {
    let bench = Bench::new();
    let edit = bench.new_file(early());
    edit.write(Some(0), b"11111").unwrap();
    bench.store.plan(Call::Put, Fault::LoseReply(unreachable()));
    assert!(bench.commit("f", &edit).await.is_err());
    assert_eq!(bench.text("f"), "11111");
    edit.write(Some(0), b"222").unwrap();
    bench.store.plan(Call::Head, Fault::Fail(unreachable()));
    assert!(bench.commit("f", &edit).await.is_err());
    assert!(edit.is_dirty());
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.text("f"), "22211");
    assert!(!edit.is_dirty());
    assert_eq!(bench.store.keys(), ["f"]);
}

#[tokio::test]
async fn a_change_of_bytes_below_survives_a_lost_reply() {
    let bench = Bench::new();
    bench.store.insert("f", "0123456789");
    let edit = bench.edit_of("f", early());
    edit.write(Some(2), b"X").unwrap();
    bench.store.plan(Call::Put, Fault::LoseReply(unreachable()));
    assert!(bench.commit("f", &edit).await.is_err());
    edit.write(Some(4), b"Y").unwrap();
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.text("f"), "01X3Y56789");
    assert_eq!(bench.store.keys(), ["f"]);
}

#[tokio::test]
async fn a_store_that_is_busy_with_the_object_is_no_race() {
    let bench = Bench::new();
    bench.store.insert("f", "0123456789");
    let edit = bench.edit_of("f", early());
    edit.write(Some(2), b"X").unwrap();
    bench
        .store
        .plan(Call::Put, Fault::Fail(StoreError::PreconditionFailed));
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.text("f"), "01X3456789");
    assert_eq!(bench.store.keys(), ["f"]);
}

#[tokio::test]
async fn a_file_that_was_removed_meanwhile_comes_back_whole() {
    let bench = Bench::new();
    bench.store.insert("f", "old");
    let edit = bench.edit_of("f", early());
    edit.truncate(0).unwrap();
    edit.write(Some(0), b"ours").unwrap();
    bench.store.remove("f");
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.text("f"), "ours");
}

#[tokio::test]
async fn a_lost_reply_is_no_conflict() {
    let bench = Bench::new();
    let edit = bench.new_file(early());
    edit.write(Some(0), b"ours").unwrap();
    bench
        .store
        .plan(Call::Put, Fault::LoseReply(StoreError::PreconditionFailed));
    assert!(matches!(
        bench.commit("f", &edit).await,
        Ok(Outcome::Stored { .. })
    ));
    assert_eq!(bench.store.keys(), ["f"]);
}

#[tokio::test]
async fn a_store_that_refuses_conditions_is_asked_without() {
    let bench = Bench::new();
    bench.store.plan(Call::Put, Fault::Fail(StoreError::Unsupported));
    let edit = bench.new_file(late());
    edit.write(Some(0), b"ours").unwrap();
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.text("f"), "ours");
}

#[tokio::test]
async fn a_large_edit_copies_what_is_unchanged_and_uploads_the_rest() {
    let bench = Bench::new();
    let old: Vec<u8> = (0..40_000_000_u32).map(|at| (at / 7) as u8).collect();
    bench.store.insert("f", old.clone());
    let edit = bench.edit_of("f", late());
    edit.write(Some(20_000_000), b"changed").unwrap();
    bench.commit("f", &edit).await.unwrap();
    let mut expected = old;
    expected[20_000_000..20_000_007].copy_from_slice(b"changed");
    assert!(
        bench.store.object("f").unwrap().0 == expected,
        "the object is the old one with the change"
    );
    let called = bench.store.called();
    let count = |call| called.iter().filter(|made| made.call == call).count();
    assert_eq!((count(Call::CopyPart), count(Call::UploadPart)), (4, 1));
    assert_eq!(bench.store.uploads(), 0);
}

#[tokio::test]
async fn a_failed_upload_leaves_no_parts_behind_and_the_file_dirty() {
    let bench = Bench::new();
    let edit = bench.new_file(late());
    edit.truncate(30_000_000).unwrap();
    let refused = StoreError::Denied {
        code: "AccessDenied".to_owned(),
    };
    bench.store.plan(Call::UploadPart, Fault::Fail(refused));
    assert!(bench.commit("f", &edit).await.is_err());
    assert_eq!(bench.store.uploads(), 0);
    assert!(edit.is_dirty());
    bench.commit("f", &edit).await.unwrap();
    assert_eq!(bench.store.object("f").unwrap().0.len(), 30_000_000);
}

#[test]
fn the_name_of_a_conflict_copy_keeps_both_limits() {
    for key in [
        "f".to_owned(),
        format!("d/{}", "ä".repeat(127)),
        format!("{}{}", "d/".repeat(500), "x".repeat(24)),
    ] {
        let copy = conflict_key(
            &Key::new(&key),
            SystemTime::UNIX_EPOCH,
            "12345678-aaaa",
            ".ranges",
        );
        let name = copy.as_str().rsplit('/').next().unwrap();
        assert!(
            name.len() <= NAME_BYTES_MAX && copy.as_str().len() <= KEY_BYTES_MAX,
            "{copy:?}"
        );
        assert!(name.contains("mooring-conflict-19700101T000000Z-12345678"));
    }
}
