//! What the kernel is told of names, and for how long it may believe it.

use tokio::time::sleep;

use super::*;
use crate::namespace::directory::NamePages;

#[tokio::test]
async fn that_a_name_is_absent_is_believed_no_longer_than_the_listing_that_says_so() {
    let ttl = Duration::from_secs(5);
    let world = World::with(|settings| settings.metadata_ttl = ttl);
    world.store.insert("there", "x");
    assert_eq!(world.names("").await, ["there"]);
    let waited = Duration::from_millis(200);
    sleep(waited).await;
    let answer = world.fs.lookup_or_absent(ROOT, &name("absent")).await.unwrap();
    let Lookup::Absent { ttl: left } = answer else {
        panic!("something was found: {answer:?}")
    };
    assert!(left > Duration::ZERO && left <= ttl - waited, "{left:?}");
    assert_eq!(world.requests(Call::Head), 0, "the listing has answered");
}

#[test]
fn an_operation_by_path_never_says_that_a_handle_is_stale() {
    let changed = FsError::Store(StoreError::PreconditionFailed);
    assert!(matches!(changed.by_path(), FsError::Busy));
    assert!(matches!(FsError::Changed.by_path(), FsError::Busy));
    assert!(matches!(FsError::NotFound.by_path(), FsError::NotFound));
}

#[tokio::test]
async fn the_kernel_keeps_the_names_of_one_listing_at_a_time_and_of_no_changed_one() {
    let ttl = Duration::from_millis(300);
    let world = World::with(|settings| settings.metadata_ttl = ttl);
    for key in ["a/one", "a/two"] {
        world.store.insert(key, "x");
    }
    let a = world.find("a").await.unwrap();
    let open = || {
        let opened = world.fs.open_folder(a, &Attempt::unrecorded()).unwrap();
        (opened.handle, opened.pages)
    };
    let close = |handle| world.fs.release_folder(handle);
    let (first, pages) = open();
    assert_eq!(pages, NamePages::Fill);
    assert_eq!(world.names_in(a).await, ["one", "two"]);
    let (second, pages) = open();
    assert_eq!(pages, NamePages::Keep, "of the listing that has come meanwhile");
    // Another listing, while the first is still read.
    sleep(ttl).await;
    let (third, pages) = open();
    assert_eq!(pages, NamePages::Unused);
    [first, second, third].into_iter().for_each(close);
    let (fourth, pages) = open();
    assert_eq!(pages, NamePages::Fill);
    close(fourth);
    assert_eq!(world.names_in(a).await, ["one", "two"]);
    let (fifth, pages) = open();
    assert_eq!(pages, NamePages::Keep);
    close(fifth);
    world.write("a/three", b"x").await.unwrap();
    let (sixth, pages) = open();
    assert_eq!(pages, NamePages::Fill, "something was changed");
    let (seventh, pages) = open();
    assert_eq!(pages, NamePages::Keep);
    world
        .fs
        .remove_file(a, &name("one"), &Attempt::unrecorded())
        .await
        .unwrap();
    let (eighth, pages) = open();
    assert_eq!(pages, NamePages::Unused, "somebody reads what was before");
    [sixth, seventh, eighth].into_iter().for_each(close);
}
