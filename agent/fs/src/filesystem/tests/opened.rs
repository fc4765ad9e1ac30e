//! Files that are open while their names change or go.

use super::*;

#[tokio::test]
async fn an_open_file_that_is_removed_or_replaced_keeps_its_bytes() {
    let world = World::new();
    world.store.insert("f", "first");
    world.store.insert("g", "second");
    let ino = world.find("f").await.unwrap();
    let opened = world.open(ino, READ, false).await;
    world.rename("g", "f").await.unwrap();
    assert_eq!(world.fs.read(opened.handle, 0, 100).await.unwrap(), "first");
    assert_eq!(world.read("f").await.unwrap(), b"second");
    world
        .fs
        .remove_file(ROOT, &name("f"), &Attempt::unrecorded())
        .await
        .unwrap();
    assert_eq!(world.fs.read(opened.handle, 0, 100).await.unwrap(), "first");
    world.fs.release(opened.handle);
    assert_eq!(world.store.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn bytes_of_an_open_file_outlive_its_removal_also_if_its_writer_is_released_meanwhile() {
    for replaced in [false, true] {
        let world = World::new();
        let (found, writing) = world
            .fs
            .create_or_open(ROOT, &name("f"), WRITE, Existing::Refuse, &Attempt::unrecorded())
            .await
            .unwrap();
        world.write_at(writing.handle, 0, b"first").unwrap();
        world.fs.flush(writing.handle).await.unwrap();
        let reading = world.open(found.attributes.ino, READ, false).await;
        world.store.insert("g", "second");
        for call in [Call::Delete, Call::Copy] {
            world.store.plan(call, Fault::Delay(Duration::from_millis(50)));
        }
        let removal = async {
            if replaced {
                world.rename("g", "f").await.unwrap();
            } else {
                world
                    .fs
                    .remove_file(ROOT, &name("f"), &Attempt::unrecorded())
                    .await
                    .unwrap();
            }
        };
        // The kernel releases some time after the close.
        let release = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            world.fs.release(writing.handle);
        };
        tokio::join!(removal, release);
        let read = world.fs.read(reading.handle, 0, 100).await.unwrap();
        assert_eq!(read, "first", "replaced: {replaced}");
        world.fs.release(reading.handle);
    }
}

#[tokio::test]
async fn an_open_file_follows_its_renames() {
    let world = World::new();
    world.store.insert("d/f", "bytes");
    let ino = world.find("d/f").await.unwrap();
    let opened = world.open(ino, READ, false).await;
    assert_eq!(world.fs.read(opened.handle, 0, 2).await.unwrap(), "by");
    world.rename("d/f", "d/g").await.unwrap();
    world.rename("d", "e").await.unwrap();
    assert_eq!(world.fs.read(opened.handle, 0, 100).await.unwrap(), "bytes");
    assert_eq!(world.store.keys(), ["e/", "e/g"]);
    assert_eq!(world.names("").await, ["e"]);
    assert_eq!(world.names("e").await, ["g"]);
}

#[tokio::test]
async fn a_reader_never_mixes_two_versions() {
    let world = World::with(|settings| settings.metadata_ttl = Duration::ZERO);
    world.store.insert("f", vec![b'a'; 30_000_000]);
    let ino = world.find("f").await.unwrap();
    let opened = world.open(ino, READ, false).await;
    assert_eq!(world.fs.read(opened.handle, 0, 4).await.unwrap(), "aaaa");
    world.store.insert("f", vec![b'b'; 30_000_000]);
    let late = world.fs.read(opened.handle, 29_000_000, 4).await;
    assert!(matches!(late, Err(FsError::Changed)), "{late:?}");
    assert_eq!(&world.read("f").await.unwrap()[..4], b"bbbb");
}

#[tokio::test]
async fn a_file_that_is_only_written_to_is_removed_without_being_downloaded() {
    let world = World::new();
    world.store.insert("f", vec![7; 100_000]);
    let only = Access { read: false, ..WRITE };
    let ino = world.find("f").await.unwrap();
    let attempt = Attempt::unrecorded();
    let handle = world.fs.open(ino, only, false, &attempt).await.unwrap().handle;
    world.fs.remove_file(ROOT, &name("f"), &attempt).await.unwrap();
    world
        .fs
        .write(handle, 50_000, b"nobody reads this", &attempt)
        .unwrap();
    world.close(handle).await.unwrap();
    let gets = world
        .store
        .called()
        .into_iter()
        .filter(|called| called.call == Call::Get);
    assert_eq!(gets.count(), 0);
    assert!(world.store.object("f").is_none());
}
