//! Several versions of a file, several handles, and answers that never came.

use std::collections::BTreeMap;

use super::*;
use crate::store::{Key, UploadBody, WriteCondition};

fn unreachable() -> StoreError {
    StoreError::Unavailable {
        reason: "no route".to_owned(),
    }
}

fn denied() -> StoreError {
    StoreError::Denied {
        code: "AccessDenied".to_owned(),
    }
}

#[tokio::test]
async fn a_handle_whose_edit_lost_a_race_is_stale_until_it_is_closed() {
    let world = World::new();
    world.store.insert("f", "first");
    let ino = world.find("f").await.unwrap();
    let writer = world.open(ino, WRITE, true).await.handle;
    let other = world.open(ino, WRITE, false).await.handle;
    world.write_at(writer, 0, b"11111").unwrap();
    world.store.insert("f", "theirs, and longer");
    let Err(FsError::Conflict { copy }) = world.fs.sync(writer).await else {
        panic!("the race was not noticed")
    };
    for handle in [writer, other] {
        assert!(matches!(
            world.write_at(handle, 5, b"22222"),
            Err(FsError::Changed)
        ));
        assert!(matches!(world.fs.read(handle, 0, 5).await, Err(FsError::Changed)));
    }
    assert!(matches!(world.fs.flush(writer).await, Err(FsError::Changed)));
    assert!(matches!(world.fs.sync(writer).await, Err(FsError::Changed)));
    world.close(other).await.unwrap();
    assert_eq!(world.fs.release(writer), None);
    assert_eq!(world.store.object("f").unwrap().0, "theirs, and longer");
    assert_eq!(world.store.object(&copy).unwrap().0, "11111");
    world.write("f", b"after").await.unwrap();
    assert_eq!(world.store.object("f").unwrap().0, "after");
    assert_eq!(world.fs.activity(), (0, 0, 0, 1));
}

#[tokio::test]
async fn who_waits_while_another_handle_loses_the_race_is_told() {
    let world = World::new();
    world.store.insert("f", "first");
    let ino = world.find("f").await.unwrap();
    let a = world.open(ino, WRITE, true).await.handle;
    let b = world.open(ino, WRITE, false).await.handle;
    world.write_at(a, 0, b"1").unwrap();
    world.write_at(b, 1, b"2").unwrap();
    world.store.insert("f", "theirs");
    let (first, second) = tokio::join!(world.fs.sync(a), world.fs.sync(b));
    for told in [first, second] {
        assert!(matches!(told, Err(FsError::Conflict { .. })), "{told:?}");
    }
    assert_eq!(world.store.keys().len(), 2);
}

#[tokio::test]
async fn what_was_read_before_somebody_elses_change_is_not_written_over_it() {
    let world = World::new();
    world.store.insert("f", "v1");
    let ino = world.find("f").await.unwrap();
    let handle = world.open(ino, WRITE, false).await.handle;
    assert_eq!(world.fs.read(handle, 0, 10).await.unwrap(), "v1");
    world.store.insert("f", "v1 REMOTE");
    world.write_at(handle, 0, b"v1 mine").unwrap();
    let closed = world.close(handle).await;
    assert!(matches!(closed, Err(FsError::Conflict { .. })), "{closed:?}");
    assert_eq!(world.store.object("f").unwrap().0, "v1 REMOTE");
}

#[tokio::test]
async fn a_handle_does_not_write_into_a_version_that_it_was_not_opened_with() {
    let world = World::with(|settings| settings.metadata_ttl = Duration::ZERO);
    world.store.insert("f", "v1");
    let ino = world.find("f").await.unwrap();
    let handle = world.open(ino, WRITE, false).await.handle;
    world.store.insert("f", "v2");
    world.fs.get_attributes(ino).await.unwrap();
    assert!(matches!(world.write_at(handle, 1, b"X"), Err(FsError::Changed)));
    world.close(handle).await.unwrap();
    assert_eq!(world.store.object("f").unwrap().0, "v2");
}

#[tokio::test]
async fn two_versions_never_share_the_kernels_pages() {
    let world = World::with(|settings| settings.metadata_ttl = Duration::ZERO);
    world.store.insert("f", "aaaa");
    let ino = world.find("f").await.unwrap();
    let old = world.open(ino, READ, false).await.handle;
    assert_eq!(world.fs.read(old, 0, 2).await.unwrap(), "aa");
    world.store.insert("f", "bbbb");
    world.fs.get_attributes(ino).await.unwrap();
    // Nobody has opened the new version yet: the pages are of the old one.
    assert_eq!(world.fs.read(old, 2, 2).await.unwrap(), "aa");
    let new = world.open(ino, READ, false).await;
    assert!(!new.keep_cache);
    assert!(matches!(world.fs.read(old, 0, 4).await, Err(FsError::Changed)));
    assert_eq!(world.fs.read(new.handle, 0, 4).await.unwrap(), "bbbb");
    let again = world.open(ino, READ, false).await;
    assert!(again.keep_cache);
    assert_eq!(world.fs.read(again.handle, 0, 4).await.unwrap(), "bbbb");
}

#[tokio::test]
async fn a_reader_of_an_older_version_does_not_see_an_edit_of_a_newer_one() {
    let world = World::with(|settings| settings.metadata_ttl = Duration::ZERO);
    world.store.insert("f", "aaaa");
    let ino = world.find("f").await.unwrap();
    let old = world.open(ino, READ, false).await.handle;
    world.store.insert("f", "bbbb");
    let writer = world.open(ino, WRITE, false).await.handle;
    world.write_at(writer, 0, b"c").unwrap();
    assert!(matches!(world.fs.read(old, 0, 4).await, Err(FsError::Changed)));
    world.close(writer).await.unwrap();
    assert!(matches!(world.fs.read(old, 0, 4).await, Err(FsError::Changed)));
    assert_eq!(world.read("f").await.unwrap(), b"cbbb");
}

#[tokio::test]
async fn pages_written_here_are_kept_for_the_next_opening() {
    let world = World::new();
    world.write("f", b"bytes").await.unwrap();
    let ino = world.find("f").await.unwrap();
    assert!(world.open(ino, READ, false).await.keep_cache);
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_not_there() {
    let world = World::new();
    world.store.plan(Call::Put, Fault::Fail(denied()));
    assert!(
        world
            .fs
            .make_file(ROOT, &name("f"), &Attempt::unrecorded())
            .await
            .is_err()
    );
    assert!(matches!(world.find("f").await, Err(FsError::NotFound)));
    assert_eq!(world.fs.activity(), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_size_that_cannot_be_set_does_not_cost_what_was_waiting_before() {
    let world = World::new();
    let (found, opened) = world
        .fs
        .create(ROOT, &name("f"), WRITE, &Attempt::unrecorded())
        .unwrap();
    let ino = found.attributes.ino;
    world.write_at(opened.handle, 0, b"precious").unwrap();
    world.store.plan(Call::Put, Fault::Fail(denied()));
    assert!(world.close(opened.handle).await.is_err());
    world.store.plan(Call::Put, Fault::Fail(denied()));
    let change = AttributeChange {
        size: Some(4),
        mtime: None,
    };
    assert!(world.fs.set_attributes(ino, None, change).await.is_err());
    assert!(world.fs.upload_everything().await);
    assert_eq!(world.store.object("f").unwrap().0, "prec");
}

#[tokio::test]
async fn a_size_that_cannot_be_set_leaves_the_time_as_it_was() {
    let world = World::new();
    world.store.insert("f", "0123456789");
    let ino = world.find("f").await.unwrap();
    let before = world.fs.get_attributes(ino).await.unwrap().attributes;
    world.store.plan(Call::Put, Fault::Fail(denied()));
    let change = AttributeChange {
        size: Some(4),
        mtime: Some(SystemTime::UNIX_EPOCH),
    };
    assert!(world.fs.set_attributes(ino, None, change).await.is_err());
    assert_eq!(world.fs.get_attributes(ino).await.unwrap().attributes, before);
}

#[tokio::test]
async fn metadata_that_cannot_be_asked_for_now_is_not_dropped() {
    let world = World::new();
    let metadata = BTreeMap::from([("color".to_owned(), "red".to_owned())]);
    let body = UploadBody::Bytes("0123456789".into());
    let key = Key::new("f");
    let put = world.store.put(&key, body, &metadata, WriteCondition::None);
    put.await.unwrap();
    // A listing does not tell it.
    assert_eq!(world.names("").await, ["f"]);
    let ino = world.find("f").await.unwrap();
    let handle = world.open(ino, WRITE, false).await.handle;
    world.write_at(handle, 0, b"X").unwrap();
    world.store.plan(Call::Head, Fault::Fail(unreachable()));
    assert!(world.fs.flush(handle).await.is_err());
    world.close(handle).await.unwrap();
    let (bytes, info) = world.store.object("f").unwrap();
    assert_eq!(
        (&bytes[..], info.metadata["color"].as_str()),
        (&b"X123456789"[..], "red")
    );
}

#[tokio::test]
async fn bytes_that_an_operation_needs_stay_although_a_handle_is_closed_meanwhile() {
    let world = World::new();
    world.store.insert("f", "0123456789");
    let ino = world.find("f").await.unwrap();
    let held = world.fs.hold(ino).unwrap();
    let edit = world.fs.edit(ino).unwrap();
    let reader = world.open(ino, READ, false).await.handle;
    world.fs.release(reader);
    edit.truncate(4).unwrap();
    world.fs.commit(ino).await.unwrap();
    assert_eq!(world.store.object("f").unwrap().0, "0123");
    drop(held);
    assert!(world.fs.namespace.table().file(ino).unwrap().edit.is_none());
}

#[tokio::test]
async fn a_size_set_by_path_does_not_cut_what_somebody_else_has_written() {
    let world = World::new();
    world.store.insert("f", "0123456789");
    let ino = world.find("f").await.unwrap();
    world.store.insert("f", "theirs");
    let change = AttributeChange {
        size: Some(4),
        mtime: None,
    };
    let cut = world.fs.set_attributes(ino, None, change).await;
    assert!(matches!(cut, Err(FsError::Changed)), "{cut:?}");
    assert_eq!(world.store.object("f").unwrap().0, "theirs");
    assert_eq!(world.store.keys(), ["f"]);
    assert_eq!(world.read("f").await.unwrap(), b"theirs");
}

#[tokio::test]
async fn a_removed_file_does_not_come_back_although_its_upload_seemed_to_fail() {
    let world = World::new();
    let (_, opened) = world
        .fs
        .create(ROOT, &name("f"), WRITE, &Attempt::unrecorded())
        .unwrap();
    world.store.plan(Call::Put, Fault::LoseReply(unreachable()));
    assert!(world.close(opened.handle).await.is_err());
    assert_eq!(world.store.keys(), ["f"]);
    world
        .fs
        .remove_file(ROOT, &name("f"), &Attempt::unrecorded())
        .await
        .unwrap();
    assert_eq!(world.store.keys(), Vec::<String>::new());
}
