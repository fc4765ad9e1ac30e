//! What the kernel is told of names, and for how long it may believe it.

use tokio::time::sleep;

use super::*;

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
async fn what_was_removed_here_stays_removed_while_a_listing_that_has_seen_it_goes_on() {
    let ttl = Duration::from_millis(200);
    let world = World::with(|settings| settings.metadata_ttl = ttl);
    for number in 0..1500 {
        world.store.insert(&format!("{number:04}"), "x");
    }
    // The first page comes at once, and what follows takes longer than anything is believed.
    world.store.plan(Call::List, Fault::Delay(Duration::ZERO));
    for _ in 0..30 {
        world.store.plan(Call::List, Fault::Delay(Duration::from_secs(2)));
    }
    let handle = world.fs.open_folder(ROOT, &Attempt::unrecorded()).unwrap();
    let first = world.fs.list(handle, 0).await.unwrap();
    assert!(first.entries.iter().any(|(name, _, _)| name.as_str() == "0001"));
    let removed = name("0001");
    world
        .fs
        .remove_file(ROOT, &removed, &Attempt::unrecorded())
        .await
        .unwrap();
    sleep(ttl + Duration::from_millis(50)).await;
    let found = world.fs.lookup(ROOT, &removed).await;
    assert!(matches!(found, Err(FsError::NotFound)), "{found:?}");
    world.fs.release_folder(handle);
}
