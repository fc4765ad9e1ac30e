//! A filesystem that goes on where another has stopped, without a kernel.

use super::unsaved::whereabouts;
use super::*;
use crate::succession::log::Log;
use crate::succession::{Inheritance, Recorder};

/// Where a worker keeps what its successor needs.
pub(super) struct Place {
    pub(super) store: Arc<MemoryStore>,
    pub(super) table: tempfile::TempDir,
    pub(super) staging: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Place {
        Place {
            store: Arc::new(MemoryStore::new()),
            table: tempfile::tempdir().unwrap(),
            staging: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn parts(&self, recorder: Recorder) -> (Settings, Parts) {
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
            lock: None,
            memory_bytes: None,
        };
        let options = ReaderOptions::default();
        let budget = MemoryBudget::new(64 << 20);
        let parts = Parts {
            store: self.store.clone(),
            reader: Reader::new(self.store.clone(), budget, options, runtime.clone()),
            runtime,
            recorder,
            requests: Arc::default(),
        };
        (settings, parts)
    }

    pub(super) fn first(&self) -> Arc<Filesystem> {
        let (settings, parts) = self.parts(Recorder::begin(self.table.path()).unwrap());
        Filesystem::new(settings, parts)
    }

    /// The worker is gone; another one goes on with what it has written down.
    pub(super) fn succeed(&self, dead: Arc<Filesystem>) -> Arc<Filesystem> {
        dead.recorder().leave();
        drop(dead);
        let left: Inheritance = Log::read(self.table.path()).unwrap();
        let recorder = Recorder::go_on(self.table.path(), &left).unwrap();
        let (settings, parts) = self.parts(recorder);
        let next = Filesystem::going_on(settings, parts, &left).unwrap();
        next.take_up(&left);
        next
    }

    /// Names of the staging files.
    pub(super) fn staged(&self) -> Vec<std::path::PathBuf> {
        let found = std::fs::read_dir(self.staging.path()).unwrap();
        found.map(|entry| entry.unwrap().path()).collect()
    }

    /// The attempt at a request that the kernel has sent again.
    pub(super) fn again(&self, filesystem: &Filesystem, request: u64) -> Attempt {
        Attempt::at(filesystem.recorder(), request | 1 << 63)
    }
}

pub(super) fn once(filesystem: &Filesystem, request: u64) -> Attempt {
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
    assert!(place.staged().is_empty(), "{:?}", place.staged());
}

#[tokio::test]
async fn a_file_whose_upload_was_not_written_down_any_more_is_there_for_the_successor() {
    let place = Place::new();
    let old = place.first();
    let (found, opened) = old.create(ROOT, &name("f"), WRITE, &once(&old, 2)).unwrap();
    old.write(opened.handle, 0, b"bytes", &once(&old, 4)).unwrap();
    old.release(opened.handle);
    old.write_down();
    old.commit(found.attributes.ino).await.unwrap();
    old.drop_edit(found.attributes.ino);

    let new = place.succeed(old);
    assert_eq!(new.lookup(ROOT, &name("f")).await.unwrap().attributes.size, 5);
    assert!(new.upload_everything().await);
    new.stop(Duration::from_secs(5)).await;
    assert_eq!(place.store.object("f").unwrap().0, "bytes");
    assert_eq!(new.lookup(ROOT, &name("f")).await.unwrap().attributes.size, 5);
    assert!(place.staged().is_empty(), "{:?}", place.staged());
}

#[tokio::test]
async fn bytes_that_somebody_took_away_are_missed_by_whoever_wrote_them_and_by_nobody_else() {
    let place = Place::new();
    place.store.insert("old", "0123456789");
    let old = place.first();
    let (_, created) = old.create(ROOT, &name("new"), WRITE, &once(&old, 2)).unwrap();
    old.write(created.handle, 0, b"gone", &once(&old, 4)).unwrap();
    let ino = old.lookup(ROOT, &name("old")).await.unwrap().attributes.ino;
    let changed = old.open(ino, WRITE, false, &once(&old, 6)).await.unwrap();
    old.write(changed.handle, 0, b"gone", &once(&old, 8)).unwrap();
    old.write_down();
    for file in place.staged() {
        std::fs::remove_file(file).unwrap();
    }

    let new = place.succeed(old);
    for handle in [created.handle, changed.handle] {
        let written = new.write(handle, 4, b"tail", &once(&new, 10));
        assert!(matches!(written, Err(FsError::Changed)), "{written:?}");
        let flushed = new.flush(handle).await;
        assert!(matches!(flushed, Err(FsError::Changed)), "{flushed:?}");
    }
    assert_eq!(place.store.object("old").unwrap().0, "0123456789");
    let again = new.open(ino, WRITE, false, &once(&new, 12)).await.unwrap();
    assert_eq!(&new.read(again.handle, 0, 20).await.unwrap()[..], b"0123456789");
    assert!(new.lookup(ROOT, &name("new")).await.is_err());
    let (_, anew) = new.create(ROOT, &name("new"), WRITE, &once(&new, 14)).unwrap();
    new.write(anew.handle, 0, b"anew", &once(&new, 16)).unwrap();
    new.flush(anew.handle).await.unwrap();
    assert_eq!(place.store.object("new").unwrap().0, "anew");
}

#[tokio::test]
async fn who_cannot_open_a_staging_file_leaves_everything_to_the_next_one() {
    let place = Place::new();
    let old = place.first();
    let mut handles = Vec::new();
    for file in ["a", "b", "c"] {
        let (_, opened) = old.create(ROOT, &name(file), WRITE, &once(&old, 2)).unwrap();
        old.write(opened.handle, 0, file.as_bytes(), &once(&old, 4))
            .unwrap();
        handles.push(opened.handle);
    }
    old.write_down();
    old.recorder().leave();
    drop(old);
    let staged = place.staged();
    assert_eq!(staged.len(), 3);
    let hidden = place.table.path().join("hidden");
    std::fs::rename(&staged[0], &hidden).unwrap();
    std::fs::create_dir(&staged[0]).unwrap();

    let left = Log::read(place.table.path()).unwrap();
    let recorder = Recorder::go_on(place.table.path(), &left).unwrap();
    let (settings, parts) = place.parts(recorder);
    assert!(Filesystem::going_on(settings, parts, &left).is_err());
    std::fs::remove_dir(&staged[0]).unwrap();
    std::fs::rename(&hidden, &staged[0]).unwrap();

    let left = Log::read(place.table.path()).unwrap();
    let recorder = Recorder::go_on(place.table.path(), &left).unwrap();
    let (settings, parts) = place.parts(recorder);
    let next = Filesystem::going_on(settings, parts, &left).unwrap();
    for (handle, file) in handles.into_iter().zip(["a", "b", "c"]) {
        next.flush(handle).await.unwrap();
        assert_eq!(place.store.object(file).unwrap().0, file);
    }
}

#[tokio::test]
async fn a_mount_that_ends_takes_nothing_of_the_one_in_its_place() {
    let place = Place::new();
    let lingering = place.first();
    let (_, opened) = lingering
        .create(ROOT, &name("old"), WRITE, &once(&lingering, 2))
        .unwrap();
    let of_lingering = place.staged();
    let other = Place {
        store: Arc::new(MemoryStore::new()),
        table: tempfile::tempdir().unwrap(),
        staging: tempfile::tempdir_in(place.staging.path()).unwrap(),
    };
    // Both in one folder is the worse case.
    let (mut settings, parts) = other.parts(Recorder::begin(other.table.path()).unwrap());
    settings.staging = place.staging.path().to_owned();
    let present = Filesystem::new(settings, parts);
    let (_, kept) = present
        .create(ROOT, &name("new"), WRITE, &once(&present, 2))
        .unwrap();
    present
        .write(kept.handle, 0, b"bytes", &once(&present, 4))
        .unwrap();

    lingering.flush(opened.handle).await.unwrap();
    lingering.leave_nothing(&whereabouts());
    assert!(!of_lingering[0].exists());
    let staged = place.staged().into_iter().filter(|path| path.is_file());
    assert_eq!(staged.count(), 1, "that of the present mount");
}

#[tokio::test]
async fn staging_files_go_with_their_edits_also_when_nobody_can_succeed() {
    let place = Place::new();
    let alone = place.first();
    let (_, opened) = alone.create(ROOT, &name("f"), WRITE, &once(&alone, 2)).unwrap();
    alone.recorder().give_up();
    alone.flush(opened.handle).await.unwrap();
    assert_eq!(place.staged().len(), 1);
    alone.release(opened.handle);
    alone.recorder().keep_up();
    assert!(place.staged().is_empty());
}

#[tokio::test]
async fn a_file_that_was_being_cut_never_shows_zeros_in_place_of_what_it_held() {
    let place = Place::new();
    let old = place.first();
    let (found, opened) = old.create(ROOT, &name("f"), WRITE, &once(&old, 2)).unwrap();
    old.write(opened.handle, 0, b"0123456789", &once(&old, 4))
        .unwrap();
    old.write_down();
    let change = AttributeChange {
        size: Some(4),
        mtime: None,
    };
    let cut = old.set_attributes(found.attributes.ino, Some(opened.handle), change);
    cut.await.unwrap();
    // Killed before the reply.
    let new = place.succeed(old);
    new.flush(opened.handle).await.unwrap();
    assert_eq!(place.store.object("f").unwrap().0, "0123");
}

#[tokio::test]
async fn a_size_that_was_set_by_path_is_known_for_ones_own_when_the_request_comes_again() {
    let place = Place::new();
    place.store.insert("f", "0123456789");
    let old = place.first();
    let ino = old.lookup(ROOT, &name("f")).await.unwrap().attributes.ino;
    old.write_down();
    let change = AttributeChange {
        size: Some(4),
        mtime: None,
    };
    old.set_attributes(ino, None, change).await.unwrap();
    // Killed before the reply: nothing was written down since the upload was begun.
    let new = place.succeed(old);
    new.set_attributes(ino, None, change).await.unwrap();
    assert_eq!(place.store.object("f").unwrap().0, "0123");
    assert_eq!(place.store.keys(), ["f"]);
}

#[tokio::test]
async fn an_empty_file_that_was_made_is_known_for_ones_own_when_the_request_comes_again() {
    let place = Place::new();
    let old = place.first();
    old.make_file(ROOT, &name("f"), &once(&old, 2)).await.unwrap();
    let new = place.succeed(old);
    new.make_file(ROOT, &name("f"), &place.again(&new, 2))
        .await
        .unwrap();
    assert_eq!(place.store.keys(), ["f"]);
}

#[tokio::test]
async fn an_upload_that_could_not_be_given_up_is_left_to_the_successor() {
    let place = Place::new();
    let old = place.first();
    let (_, opened) = old.create(ROOT, &name("f"), WRITE, &once(&old, 2)).unwrap();
    old.write(opened.handle, 17 << 20, b"far", &once(&old, 4))
        .unwrap();
    let away = || {
        Fault::Fail(StoreError::Refused {
            code: "Away".to_owned(),
        })
    };
    place.store.plan(Call::UploadPart, away());
    place.store.plan(Call::AbortUpload, away());
    assert!(old.flush(opened.handle).await.is_err());
    old.write_down();
    assert_eq!(place.store.uploads(), 1);
    let new = place.succeed(old);
    new.flush(opened.handle).await.unwrap();
    new.stop(Duration::from_secs(5)).await;
    assert_eq!(place.store.uploads(), 0);
    assert!(Log::read(place.table.path()).unwrap().uploads.is_empty());
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

    // A program may also go back.
    let position = given[0].1;
    let first = worker.list(handle, given[2].1).await.unwrap();
    let back = worker.list(handle, position).await.unwrap();
    let again: Vec<(&str, u64)> = back
        .entries
        .iter()
        .map(|(name, _, after)| (name.as_str(), *after))
        .collect();
    let expected = given[1..].iter().map(|(name, after)| (name.as_str(), *after));
    let expected: Vec<(&str, u64)> = expected.collect();
    assert_eq!(again[..2], expected);
    let on = worker.list(handle, given[2].1).await.unwrap();
    let positions = |batch: &crate::handle::Batch| -> Vec<(String, u64)> {
        let entries = batch.entries.iter();
        entries
            .map(|(name, _, after)| (name.as_str().to_owned(), *after))
            .collect()
    };
    assert_eq!(positions(&on), positions(&first));
}

#[tokio::test]
async fn a_large_folder_is_read_on_while_the_successor_still_lists_it() {
    let place = Place::new();
    (0..1500).for_each(|number| {
        place.store.insert(&format!("name-{number:04}"), "");
    });
    let old = place.first();
    let handle = old.open_folder(ROOT, &once(&old, 2)).unwrap();
    // To the end, so that nothing more is asked by this one.
    let mut position = 0;
    while let Some((_, _, after)) = old.list(handle, position).await.unwrap().entries.last() {
        position = *after;
    }
    let batch = old.list(handle, 0).await.unwrap();
    let given = batch.entries[..10].iter();
    let given: Vec<_> = given.map(|(name, _, after)| (name.clone(), *after)).collect();
    old.note_listed(handle, given.clone());
    // The kernel is told of names with their attributes, so nothing is asked of the store for them.
    for (name, _) in &given {
        old.lookup(ROOT, name).await.unwrap();
    }
    old.write_down();
    place.store.plan(Call::List, Fault::Delay(Duration::ZERO));
    place
        .store
        .plan(Call::List, Fault::Delay(Duration::from_secs(600)));

    let new = place.succeed(old);
    // The last reply had not reached the kernel.
    let from = given[5].1;
    let read = tokio::time::timeout(Duration::from_secs(30), new.list(handle, from));
    let batch = read.await.expect("it does not wait for all pages").unwrap();
    assert_eq!(batch.entries[0].0.as_str(), "name-0006");
    let from = batch.entries.last().unwrap().2;
    let read = tokio::time::timeout(Duration::from_secs(30), new.list(handle, from));
    let batch = read.await.expect("nor for the second").unwrap();
    assert_eq!(batch.entries[0].0.as_str(), "name-0010");
}
