//! Renames, and what others do here and in the bucket while one is on its way.

use tokio::time::sleep;

use super::super::moves::COPY_LONG;
use super::succession::{Place, once};
use super::*;
use crate::store::Key;
use crate::writer::rename::delete_moved;

const COPY_TIME: Duration = Duration::from_millis(600);
const MEANWHILE: Duration = Duration::from_millis(150);

fn slow(world: &World, call: Call) {
    world.store.plan(call, Fault::Delay(COPY_TIME));
}

async fn make_folder(world: &World, parent: Ino, text: &str) -> Result<Found, FsError> {
    world
        .fs
        .make_folder(parent, &name(text), &Attempt::unrecorded())
        .await
}

#[tokio::test]
async fn what_others_change_in_a_folder_while_it_is_moved_is_kept_and_shown() {
    let world = World::new();
    for key in ["d/a", "d/b", "d/c"] {
        world.store.insert(key, "old");
    }
    slow(&world, Call::Copy);
    let others = async {
        sleep(MEANWHILE).await;
        world.store.insert("d/b", "theirs");
        world.store.insert("d/new", "theirs");
    };
    let (moved, ()) = tokio::join!(world.rename("d", "e"), others);
    moved.unwrap();
    assert_eq!(world.store.keys(), ["d/b", "d/new", "e/", "e/a", "e/b", "e/c"]);
    assert_eq!(world.store.object("d/b").unwrap().0, "theirs");
    assert_eq!(world.names("").await, ["d", "e"]);
    assert_eq!(world.names("d").await, ["b", "new"]);
}

#[tokio::test]
async fn what_is_removed_and_made_in_a_folder_while_it_is_moved_happens_where_it_is_then() {
    let world = World::new();
    for key in ["d/a", "d/b", "d/sub/"] {
        world.store.insert(key, "");
    }
    let folder = world.find("d").await.unwrap();
    slow(&world, Call::Copy);
    let meanwhile = async {
        sleep(MEANWHILE).await;
        let (file, sub) = (name("a"), name("sub"));
        let attempt = Attempt::unrecorded();
        tokio::join!(
            world.fs.remove_file(folder, &file, &attempt),
            world.fs.remove_folder(folder, &sub, &attempt),
            make_folder(&world, folder, "made"),
        )
    };
    let (moved, (removed, removed_folder, made)) = tokio::join!(world.rename("d", "e"), meanwhile);
    moved.unwrap();
    removed.unwrap();
    removed_folder.unwrap();
    made.unwrap();
    assert_eq!(world.store.keys(), ["e/", "e/b", "e/made/"]);
    assert_eq!(world.names("e").await, ["b", "made"]);
}

#[tokio::test]
async fn a_folder_moved_into_one_that_is_being_moved_goes_along() {
    let world = World::new();
    world.store.insert("p/keep", "1");
    world.store.insert("a/x/f", "2");
    let (p, a) = (world.find("p").await.unwrap(), world.find("a").await.unwrap());
    let x = name("x");
    slow(&world, Call::Copy);
    let into = async {
        sleep(MEANWHILE).await;
        world
            .fs
            .rename((a, &x), (p, &x), false, &Attempt::unrecorded())
            .await
    };
    let (outer, inner) = tokio::join!(world.rename("p", "q"), into);
    outer.unwrap();
    inner.unwrap();
    assert_eq!(world.read("q/x/f").await.unwrap(), b"2");
    let keys = world.store.keys();
    assert!(!keys.iter().any(|key| key.starts_with("p/")), "{keys:?}");
}

#[tokio::test]
async fn a_slow_upload_and_a_move_hold_up_nothing_elsewhere() {
    let world = World::new();
    world.store.insert("d/a", "x");
    slow(&world, Call::Put);
    let began = tokio::time::Instant::now();
    let elsewhere = async {
        sleep(MEANWHILE).await;
        let moved = world.rename("d", "e").await;
        let written = world.write("unrelated", b"x").await;
        (moved, written, began.elapsed())
    };
    let (uploaded, (moved, written, took)) = tokio::join!(world.write("slow", b"x"), elsewhere);
    uploaded.unwrap();
    moved.unwrap();
    written.unwrap();
    assert!(took < COPY_TIME, "they waited for an upload: {took:?}");
}

#[tokio::test]
async fn a_move_that_fails_leaves_no_copies_behind() {
    let world = World::new();
    for at in 0..10 {
        world.store.insert(&format!("d/{at}"), "x");
    }
    world.store.insert("e/", "");
    // It fails, as far as anybody can tell, but its copy is there.
    let lost = StoreError::Unavailable {
        reason: "reset".to_owned(),
    };
    world.store.plan(Call::Copy, Fault::LoseReply(lost));
    for _ in 0..5 {
        slow(&world, Call::Copy);
    }
    let before = world.store.keys();
    assert!(world.rename("d", "e").await.is_err());
    assert_eq!(world.store.keys(), before);
    world.rename("d", "e").await.unwrap();
    assert_eq!(world.names("").await, ["e"]);
    assert_eq!(world.names("e").await.len(), 10);
}

#[tokio::test]
async fn a_file_renamed_over_one_that_is_being_uploaded_replaces_it() {
    let world = World::new();
    world.write("new", b"new").await.unwrap();
    slow(&world, Call::Put);
    let replace = async {
        sleep(MEANWHILE).await;
        world.rename("new", "target").await
    };
    let (uploaded, replaced) = tokio::join!(world.write("target", b"old"), replace);
    uploaded.unwrap();
    replaced.unwrap();
    assert_eq!(world.store.keys(), ["target"]);
    assert_eq!(world.read("target").await.unwrap(), b"new");
}

#[tokio::test]
async fn what_is_written_to_a_file_while_another_replaces_it_does_not_come_after() {
    let world = World::new();
    world.write("new", b"new").await.unwrap();
    world.write("target", b"old").await.unwrap();
    let target = world.find("target").await.unwrap();
    let opened = world.open(target, WRITE, false).await;
    slow(&world, Call::Copy);
    let write = async {
        sleep(MEANWHILE).await;
        world.write_at(opened.handle, 0, b"late").unwrap();
        world.close(opened.handle).await
    };
    let (replaced, closed) = tokio::join!(world.rename("new", "target"), write);
    replaced.unwrap();
    closed.unwrap();
    assert_eq!(world.store.keys(), ["target"]);
    assert_eq!(world.read("target").await.unwrap(), b"new");
}

#[tokio::test]
async fn a_file_that_somebody_replaces_during_a_long_copy_is_kept_under_its_old_name() {
    let world = World::new();
    world.store.insert("f", "old");
    assert_eq!(world.names("").await, ["f"]);
    let long = COPY_LONG + MEANWHILE;
    world.store.plan(Call::Copy, Fault::Delay(long));
    // The fake copies when the delay has passed: what it copies then must still be the old version.
    world.store.plan(Call::Head, Fault::Delay(2 * MEANWHILE));
    let others = async {
        sleep(long + MEANWHILE).await;
        world.store.insert("f", "theirs");
    };
    let (moved, ()) = tokio::join!(world.rename("f", "g"), others);
    moved.unwrap();
    assert_eq!(world.store.object("f").unwrap().0, "theirs");
    assert_eq!(world.store.object("g").unwrap().0, "old");
    assert_eq!(world.names("").await, ["f", "g"]);
}

#[tokio::test]
async fn what_somebody_makes_under_the_old_name_while_a_worker_dies_is_kept_also_in_the_same_second() {
    for theirs in [true, false] {
        let place = Place::new();
        place.store.stand_still();
        place.store.insert("f", "old");
        let old = place.first();
        old.lookup(ROOT, &name("f")).await.unwrap();
        place
            .store
            .plan(Call::Delete, Fault::Delay(Duration::from_secs(600)));
        let (dying, attempt) = (Arc::clone(&old), once(&old, 2));
        let mut renaming = tokio::task::JoinSet::new();
        renaming.spawn(async move {
            let (from, to) = (name("f"), name("g"));
            dying.rename((ROOT, &from), (ROOT, &to), false, &attempt).await
        });
        while !place
            .store
            .called()
            .iter()
            .any(|called| called.call == Call::Delete)
        {
            tokio::task::yield_now().await;
        }
        old.recorder().leave();
        renaming.shutdown().await;
        if theirs {
            place.store.insert("f", "theirs");
        }
        let new = place.succeed(old);
        let again = place.again(&new, 2);
        new.rename((ROOT, &name("f")), (ROOT, &name("g")), false, &again)
            .await
            .unwrap();
        assert_eq!(place.store.object("g").unwrap().0, "old");
        let left = place.store.object("f").map(|(text, _)| text);
        assert_eq!(left, theirs.then(|| "theirs".into()));
    }
}

#[tokio::test]
async fn of_a_folder_that_was_copied_only_what_was_certainly_there_before_is_deleted() {
    let store = MemoryStore::new();
    let (old, new) = (Key::new("d/"), Key::new("e/"));
    store.insert("d/copied", "old");
    store.insert("between", "");
    store.insert("between", "");
    store.insert("e/copied", "old");
    // Its source was written in the same second or the next one, and nobody knows which version was copied.
    store.insert("e/changed", "old");
    store.insert("d/changed", "theirs");
    assert_eq!(delete_moved(&store, &old, &new, true).await.unwrap(), 1);
    assert_eq!(store.keys(), ["between", "d/changed", "e/changed", "e/copied"]);
    store.stand_still();
    store.insert("e/changed", "old");
    store.insert("d/changed", "theirs");
    assert_eq!(delete_moved(&store, &old, &new, true).await.unwrap(), 1);
}
