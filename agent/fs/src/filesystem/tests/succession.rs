//! A filesystem that goes on where another has stopped, without a kernel.

use super::*;
use crate::succession::log::Log;
use crate::succession::{Inheritance, Recorder};

/// Where a worker keeps what its successor needs.
struct Place {
    store: Arc<MemoryStore>,
    table: tempfile::TempDir,
    staging: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place {
            store: Arc::new(MemoryStore::new()),
            table: tempfile::tempdir().unwrap(),
            staging: tempfile::tempdir().unwrap(),
        }
    }

    fn parts(&self, recorder: Recorder) -> (Settings, Parts) {
        let runtime = Handle::current();
        let settings = Settings {
            prefix: Prefix::new(""),
            read_only: false,
            metadata_ttl: Duration::from_secs(60),
            presentation: Presentation {
                uid: 1,
                gid: 2,
                file_mode: 0o640,
                dir_mode: 0o750,
            },
            staging: self.staging.path().to_owned(),
        };
        let options = ReaderOptions::default();
        let budget = MemoryBudget::new(64 << 20);
        let parts = Parts {
            store: self.store.clone(),
            reader: Reader::new(self.store.clone(), budget, options, runtime.clone()),
            runtime,
            recorder,
        };
        (settings, parts)
    }

    fn first(&self) -> Arc<Filesystem> {
        let (settings, parts) = self.parts(Recorder::begin(self.table.path()).unwrap());
        Filesystem::new(settings, parts)
    }

    /// The worker is gone; another one goes on with what it has written down.
    fn succeed(&self, dead: Arc<Filesystem>) -> Arc<Filesystem> {
        dead.recorder().leave();
        drop(dead);
        let left: Inheritance = Log::read(self.table.path()).unwrap();
        let recorder = Recorder::go_on(self.table.path(), left.clone()).unwrap();
        let (settings, parts) = self.parts(recorder);
        let next = Filesystem::going_on(settings, parts, &left);
        next.take_up(&left);
        next
    }

    /// The attempt at a request that the kernel has sent again.
    fn again(&self, filesystem: &Filesystem, request: u64) -> Attempt {
        Attempt::at(filesystem.recorder(), request | 1 << 63)
    }
}

fn once(filesystem: &Filesystem, request: u64) -> Attempt {
    Attempt::at(filesystem.recorder(), request)
}

#[tokio::test]
async fn bytes_that_were_written_and_told_are_there_and_those_that_were_not_told_are_not() {
    let place = Place::new();
    let old = place.first();
    let appends = Access {
        append: true,
        ..WRITE
    };
    let (found, opened) = old.create(ROOT, &name("f"), appends, &once(&old, 2)).unwrap();
    old.write(opened.handle, 0, b"told", &once(&old, 4)).unwrap();
    old.write_down();
    // Killed before this is written down: the kernel sends it again.
    old.write(opened.handle, 0, b" twice", &once(&old, 6)).unwrap();

    let new = place.succeed(old);
    assert_eq!(new.found(found.attributes.ino).unwrap().attributes.size, 4);
    let earlier = place.again(&new, 4);
    assert!(earlier.outcome().is_some());
    new.write(opened.handle, 0, b"told", &earlier).unwrap();
    new.write(opened.handle, 0, b" once", &place.again(&new, 6))
        .unwrap();
    new.flush(opened.handle).await.unwrap();
    assert_eq!(place.store.object("f").unwrap().0, "told once");
}

#[tokio::test]
async fn a_file_that_had_been_created_is_opened_by_the_same_request_and_refused_to_another() {
    let place = Place::new();
    let old = place.first();
    let file = name("f");
    let created = old
        .create_or_open(ROOT, &file, WRITE, Existing::Refuse, &once(&old, 2))
        .await;
    let (found, opened) = created.unwrap();
    old.write_down();

    let new = place.succeed(old);
    let again = new
        .create_or_open(ROOT, &file, WRITE, Existing::Refuse, &place.again(&new, 2))
        .await;
    assert_eq!(again.unwrap().1, opened);
    let other = new
        .create_or_open(ROOT, &file, WRITE, Existing::Refuse, &place.again(&new, 8))
        .await;
    assert!(matches!(other, Err(FsError::Exists)));
    assert_eq!(
        new.lookup(ROOT, &file).await.unwrap().attributes.ino,
        found.attributes.ino
    );
}

#[tokio::test]
async fn a_staged_file_that_nobody_has_open_is_uploaded_by_the_successor() {
    let place = Place::new();
    let old = place.first();
    let (_, opened) = old.create(ROOT, &name("f"), WRITE, &once(&old, 2)).unwrap();
    old.write(opened.handle, 0, b"bytes", &once(&old, 4)).unwrap();
    old.release(opened.handle);
    old.write_down();
    assert!(place.store.object("f").is_none());

    let new = place.succeed(old);
    assert!(new.upload_everything().await);
    assert_eq!(place.store.object("f").unwrap().0, "bytes");
    new.stop(Duration::from_secs(5)).await;
    let left: Vec<_> = std::fs::read_dir(place.staging.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_upload_in_parts_that_died_with_its_worker_is_given_up() {
    let place = Place::new();
    let old = place.first();
    let (_, opened) = old.create(ROOT, &name("f"), WRITE, &once(&old, 2)).unwrap();
    old.write(opened.handle, 17 << 20, b"far", &once(&old, 4))
        .unwrap();
    let slow = Fault::Delay(Duration::from_secs(600));
    place.store.plan(Call::UploadPart, slow);
    let filesystem = Arc::clone(&old);
    let mut uploading = tokio::task::JoinSet::new();
    uploading.spawn(async move { filesystem.flush(opened.handle).await });
    while place.store.uploads() == 0 || Log::read(place.table.path()).unwrap().uploads.is_empty() {
        tokio::task::yield_now().await;
    }
    old.recorder().leave();
    drop(uploading);

    let new = place.succeed(old);
    new.flush(opened.handle).await.unwrap();
    new.stop(Duration::from_secs(5)).await;
    assert_eq!(place.store.uploads(), 0);
    assert_eq!(place.store.object("f").unwrap().1.size, (17 << 20) + 3);
}

#[tokio::test]
async fn a_folder_that_was_read_in_part_goes_on_from_every_position_that_was_given_out() {
    let place = Place::new();
    for key in ["a", "b-c", "b/x", "d", "e"] {
        place.store.insert(key, "");
    }
    let old = place.first();
    let handle = old.open_folder(ROOT, &once(&old, 2)).unwrap();
    let batch = old.list(handle, 0).await.unwrap();
    let given: Vec<(FileName, u64)> = batch.entries[..3]
        .iter()
        .map(|(name, _, after)| (name.clone(), *after))
        .collect();
    old.note_listed(handle, given.clone());
    old.write_down();

    let mut worker = old;
    for (at, (_, position)) in given.iter().enumerate() {
        worker = place.succeed(worker);
        let mut names: Vec<String> = given[..=at]
            .iter()
            .map(|(name, _)| name.as_str().to_owned())
            .collect();
        let mut position = *position;
        loop {
            let batch = worker.list(handle, position).await.unwrap();
            let Some((_, _, after)) = batch.entries.last() else {
                break;
            };
            position = *after;
            names.extend(batch.entries.iter().map(|(name, _, _)| name.as_str().to_owned()));
        }
        names.sort();
        assert_eq!(names, ["a", "b", "b-c", "d", "e"], "from entry {at}");
    }
}
