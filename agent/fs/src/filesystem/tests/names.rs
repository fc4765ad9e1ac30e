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
