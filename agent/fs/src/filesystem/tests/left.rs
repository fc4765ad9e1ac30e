//! What a mount leaves to the next one: listings.

use std::path::Path;

use super::*;

const DELAY: Duration = Duration::from_millis(700);

/// A mount of a bucket, over what others have left in a folder.
fn mount(store: &Arc<MemoryStore>, folder: &Path) -> World {
    let index = Index::open(folder, &"one key").unwrap();
    World::over(Arc::clone(store), index, |_| {})
}

/// Waits until something of `path` is left, or nothing.
async fn left(folder: &Path, path: &str, wanted: bool) {
    for _ in 0..1000 {
        if Index::open(folder, &"one key").unwrap().may_have(path) == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{path:?} is left: {}", !wanted);
}

#[tokio::test]
async fn a_folder_is_shown_at_once_after_a_restart_and_verified_meanwhile() {
    let (store, folder) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
    for key in ["a/one", "a/two", "a/three/x", "b"] {
        store.insert(key, "text");
    }
    let before = mount(&store, folder.path());
    assert_eq!(before.names("a").await, ["one", "three", "two"]);
    left(folder.path(), "a", true).await;
    store.remove("a/one");
    store.insert("a/four", "new");

    let after = mount(&store, folder.path());
    let a = after.find("a").await.unwrap();
    store.plan(Call::List, Fault::Delay(DELAY));
    let begun = Instant::now();
    assert_eq!(after.names_in(a).await, ["one", "three", "two"]);
    assert!(begun.elapsed() < DELAY, "it waits for no store");
    // A name is no matter of what was left.
    let gone = after.fs.lookup(a, &name("one")).await;
    assert!(matches!(gone, Err(FsError::NotFound)), "{gone:?}");
    assert!(after.fs.lookup(a, &name("four")).await.is_ok());
    tokio::time::sleep(DELAY + Duration::from_millis(300)).await;
    assert_eq!(after.names("a").await, ["four", "three", "two"]);
}

#[tokio::test]
async fn what_was_left_is_verified_again_after_a_failure() {
    let (store, folder) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
    store.insert("a/one", "text");
    assert_eq!(mount(&store, folder.path()).names("a").await, ["one"]);
    left(folder.path(), "a", true).await;

    let after = mount(&store, folder.path());
    let a = after.find("a").await.unwrap();
    store.plan(Call::List, Fault::Fail(StoreError::DeadlineExceeded));
    store.insert("a/two", "text");
    assert_eq!(after.names_in(a).await, ["one"]);
    let asked = || {
        store
            .called()
            .iter()
            .filter(|called| called.call == Call::List)
            .count()
    };
    let before = asked();
    for _ in 0..1000 {
        if after.names_in(a).await == ["one", "two"] {
            assert!(asked() > before && after.fs.lookup(a, &name("two")).await.is_ok());
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}", after.names("a").await);
}

#[tokio::test]
async fn a_change_that_was_made_here_is_never_missed_after_a_restart() {
    let (store, folder) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
    for key in ["a/x/1", "a/x/2", "b/1", "c/1", "d/1"] {
        store.insert(key, "text");
    }
    let before = mount(&store, folder.path());
    for path in ["", "a", "a/x", "b", "c", "d"] {
        before.names(path).await;
        left(folder.path(), path, true).await;
    }
    // By a mount that has listed it, by one that has not, and by one that has not but knows the folder.
    before.write("b/2", b"new").await.unwrap();
    left(folder.path(), "b", false).await;
    let other = mount(&store, folder.path());
    other.write("c/2", b"new").await.unwrap();
    left(folder.path(), "c", false).await;
    let d = other.find("d").await.unwrap();
    other
        .fs
        .remove_file(d, &name("1"), &Attempt::unrecorded())
        .await
        .unwrap();
    left(folder.path(), "d", false).await;
    left(folder.path(), "a", true).await;
    // Below a folder that moves everything has another name.
    let (from, to) = (name("a"), name("e"));
    let (from, to) = ((ROOT, &from), (ROOT, &to));
    let moved = other.fs.rename(from, to, false, &Attempt::unrecorded()).await;
    moved.unwrap();
    for path in ["", "a", "a/x"] {
        left(folder.path(), path, false).await;
    }
    let after = mount(&store, folder.path());
    assert_eq!(after.names("").await, ["b", "c", "d", "e"]);
    assert_eq!(after.names("c").await, ["1", "2"]);
}

#[tokio::test]
async fn with_another_key_nothing_is_left() {
    let (store, folder) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
    store.insert("a/one", "text");
    let before = mount(&store, folder.path());
    before.names("a").await;
    left(folder.path(), "a", true).await;
    before.fs.seen_by_another_key();
    left(folder.path(), "a", false).await;
    before.names("").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!Index::open(folder.path(), &"one key").unwrap().may_have(""));
}
