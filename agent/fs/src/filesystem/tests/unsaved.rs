//! What is left of bytes that are not in the store when their worker ends, in order or not, and nobody succeeds it.

use super::succession::{Place, once};
use super::*;
use crate::options::TidyOptions;
use crate::succession::log::Log;
use crate::succession::record::Record;
use crate::tidy::tidy;
use crate::unsaved::{self, Note};
use crate::writer::staging::lock::FolderLock;

/// Where the objects of these tests are said to be.
pub(super) fn whereabouts() -> unsaved::Place {
    unsaved::Place {
        endpoint: Some("http://localhost:9000".to_owned()),
        region: "us-east-1".to_owned(),
        bucket: "lake".to_owned(),
        path_style: true,
    }
}

/// As on a host: all staging folders in one, all tables in another, under the same names.
struct Cache {
    staging: tempfile::TempDir,
    tables: tempfile::TempDir,
}

impl Cache {
    fn new() -> Cache {
        Cache {
            staging: tempfile::tempdir().unwrap(),
            tables: tempfile::tempdir().unwrap(),
        }
    }

    fn place(&self, name: &str) -> Place {
        let named = |all: &tempfile::TempDir| {
            let mut builder = tempfile::Builder::new();
            builder.prefix(name).rand_bytes(0).tempdir_in(all.path()).unwrap()
        };
        Place {
            store: Arc::new(MemoryStore::new()),
            table: named(&self.tables),
            staging: named(&self.staging),
        }
    }

    /// Tidies up, and answers what it says.
    fn tidy(&self, keep: &[&str]) -> String {
        let options = TidyOptions {
            staging: self.staging.path().to_owned(),
            tables: self.tables.path().to_owned(),
            keep: keep.iter().map(Into::into).collect(),
            ended: Vec::new(),
        };
        let mut said = Vec::new();
        tidy(&options, &mut said).unwrap();
        String::from_utf8(said).unwrap()
    }
}

fn notes(folder: &std::path::Path) -> Vec<Note> {
    let found = unsaved::find(folder).unwrap();
    let mut notes: Vec<Note> = found.notes.iter().map(|path| Note::read(path).unwrap()).collect();
    notes.sort_by(|one, other| one.key.cmp(&other.key));
    notes
}

/// Killed, and nobody goes on with it.
fn kill(dead: Arc<Filesystem>) {
    dead.recorder().leave();
    drop(dead);
}

fn create(fs: &Filesystem, file: &str, text: &str) -> HandleId {
    let (_, opened) = fs.create(ROOT, &name(file), WRITE, &once(fs, 2)).unwrap();
    fs.write(opened.handle, 0, text.as_bytes(), &once(fs, 4)).unwrap();
    opened.handle
}

#[tokio::test]
async fn of_a_killed_worker_notes_are_kept_of_what_is_not_in_the_store_and_nothing_else() {
    let cache = Cache::new();
    let place = cache.place("killed");
    place.store.insert("theirs", "0123456789");
    let dead = place.first();
    dead.recorder()
        .note(&Record::Place(whereabouts().record("below/")));
    create(&dead, "open", "half");
    let closed = create(&dead, "closed", "all of it");
    dead.release(closed);
    let stored = create(&dead, "stored", "safe");
    dead.flush(stored).await.unwrap();
    create(&dead, "removed", "unwanted");
    dead.remove_file(ROOT, &name("removed"), &once(&dead, 6))
        .await
        .unwrap();
    let ino = dead.lookup(ROOT, &name("theirs")).await.unwrap().attributes.ino;
    let change = AttributeChange {
        size: None,
        mtime: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7)),
    };
    let opened = dead.open(ino, WRITE, false, &once(&dead, 8)).await.unwrap();
    dead.write(opened.handle, 2, b"OURS", &once(&dead, 10)).unwrap();
    dead.set_attributes(ino, Some(opened.handle), change)
        .await
        .unwrap();
    dead.write_down();
    kill(dead);
    assert_eq!(place.staged().len(), 5);

    assert_eq!(cache.tidy(&["killed"]), "", "it may be succeeded");
    assert_eq!(place.staged().len(), 5);
    let said = cache.tidy(&[]);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(said.contains("lake/below/open: 4 bytes are kept in"), "{said}");
    let notes = notes(cache.staging.path());
    let keys: Vec<&str> = notes.iter().map(|note| note.key.as_str()).collect();
    assert_eq!(keys, ["below/closed", "below/open", "below/theirs"]);
    assert_eq!(notes[0].edit.size, 9);
    assert_eq!(notes[0].carries.metadata, Some(Default::default()));
    assert_eq!(notes[2].edit.added.first(), Some(&(2..6)));
    assert_eq!(
        notes[2].edit.base.as_deref(),
        Some(&*place.store.object("theirs").unwrap().1.etag.0)
    );
    assert_eq!(notes[2].carries.metadata, Some(Default::default()));
    assert_eq!(notes[2].carries.mtime.as_deref(), Some("7"));
    assert_eq!(notes[2].place, whereabouts());
    assert_eq!(place.staged().len(), 6, "three files and their notes");
    assert!(!place.table.path().exists());
    assert_eq!(cache.tidy(&[]), "");
    assert_eq!(place.staged().len(), 6, "what is a person's stays");
}

#[tokio::test]
async fn a_live_worker_loses_nothing_to_who_tidies_up() {
    let cache = Cache::new();
    let place = cache.place("alive");
    let alive = place.first();
    let handle = create(&alive, "f", "bytes");
    alive.write_down();
    let lock = FolderLock::take(place.staging.path()).unwrap();
    assert_eq!(cache.tidy(&[]), "");
    assert!(Log::read(place.table.path()).is_ok());
    alive.flush(handle).await.unwrap();
    assert_eq!(place.store.object("f").unwrap().0, "bytes");
    drop(lock);
}

#[test]
fn what_no_table_tells_of_goes_but_for_what_is_a_persons() {
    let cache = Cache::new();
    let id = "5c0e1b8e-8c1f-4a4e-9d6b-0b5e6a0c1d2e";
    let other = "00000000-8c1f-4a4e-9d6b-0b5e6a0c1d2e";
    let kept = |folder: &str, file: &str| cache.staging.path().join(folder).join(file).exists();
    for (folder, files) in [
        ("booted", vec![id.to_owned(), format!("{other}.unsaved.json.new")]),
        ("unsaved", vec![id.to_owned(), format!("{other}.unsaved")]),
        ("noted", vec![id.to_owned(), format!("{id}.unsaved.json")]),
        ("spoilt", vec![id.to_owned()]),
    ] {
        std::fs::create_dir(cache.staging.path().join(folder)).unwrap();
        for file in files {
            std::fs::write(cache.staging.path().join(folder).join(file), b"x").unwrap();
        }
    }
    std::fs::create_dir(cache.tables.path().join("spoilt")).unwrap();
    std::fs::write(cache.tables.path().join("spoilt/table"), b"of another version").unwrap();
    cache.tidy(&[]);
    assert!(!cache.staging.path().join("booted").exists());
    assert!(!kept("unsaved", id) && kept("unsaved", &format!("{other}.unsaved")));
    assert!(kept("noted", id), "a note tells of it");
    assert!(
        kept("spoilt", &format!("{id}.unsaved")),
        "nobody can tell what it is"
    );
    assert!(!cache.tables.path().join("spoilt").exists());
}

#[tokio::test]
async fn what_could_not_be_uploaded_is_kept_when_its_mount_ends() {
    let place = Place::new();
    let last = place.first();
    let (_, stored) = last.create(ROOT, &name("a"), WRITE, &once(&last, 2)).unwrap();
    last.flush(stored.handle).await.unwrap();
    create(&last, "b", "only here");
    last.leave_nothing(&whereabouts());
    drop(last);
    ends_with_one_kept(&place);
}

#[tokio::test]
async fn what_could_not_be_uploaded_is_kept_also_where_nobody_could_have_succeeded() {
    let place = Place::new();
    let last = place.first();
    // As on kernels that do not send requests again.
    last.recorder().give_up();
    let (_, stored) = last.create(ROOT, &name("a"), WRITE, &once(&last, 2)).unwrap();
    last.flush(stored.handle).await.unwrap();
    create(&last, "b", "only here");
    assert!(place.staged().is_empty(), "staging files have no names");
    last.note_unsaved(&whereabouts());
    assert_eq!(notes(place.staging.path()).len(), 1, "however the process ends");
    last.leave_nothing(&whereabouts());
    drop(last);
    ends_with_one_kept(&place);
}

fn ends_with_one_kept(place: &Place) {
    let notes = notes(place.staging.path());
    assert_eq!(notes.len(), 1);
    assert_eq!((notes[0].key.as_str(), notes[0].edit.size), ("b", 9));
    let kept = unsaved::kept_path(place.staging.path(), notes[0].id());
    assert_eq!(std::fs::read(kept).unwrap(), b"only here");
    assert_eq!(place.staged().len(), 2, "{:?}", place.staged());
    assert!(Log::read(place.table.path()).is_err());
}

#[tokio::test]
async fn notes_follow_the_file_and_go_with_what_they_tell_of() {
    let place = Place::new();
    let worker = place.first();
    let handle = create(&worker, "f", "bytes");
    worker.note_unsaved(&whereabouts());
    worker.write(handle, 5, b" and more", &once(&worker, 6)).unwrap();
    worker.note_unsaved(&whereabouts());
    assert_eq!(notes(place.staging.path())[0].edit.size, 14);
    worker.flush(handle).await.unwrap();
    worker.note_unsaved(&whereabouts());
    assert!(notes(place.staging.path()).is_empty(), "it is in the store");
    worker.write(handle, 0, b"B", &once(&worker, 8)).unwrap();
    worker.note_unsaved(&whereabouts());
    worker.write_down();
    // Who goes on with it will change it: what was noted would be uploaded for what it is then.
    let next = place.succeed(worker);
    assert!(notes(place.staging.path()).is_empty());
    next.flush(handle).await.unwrap();
    assert_eq!(place.store.object("f").unwrap().0, "Bytes and more");
}

#[tokio::test]
async fn a_staging_folder_that_somebody_has_removed_is_made_again() {
    for succeeded in [true, false] {
        let place = Place::new();
        let worker = place.first();
        if !succeeded {
            worker.recorder().give_up();
        }
        std::fs::remove_dir(place.staging.path()).unwrap();
        let handle = create(&worker, "f", "bytes");
        worker.flush(handle).await.unwrap();
        assert_eq!(place.store.object("f").unwrap().0, "bytes");
    }
}

#[tokio::test]
async fn what_is_half_written_is_not_uploaded_where_somebody_goes_on_with_it() {
    let place = Place::new();
    let worker = place.first();
    create(&worker, "open", "half");
    let closed = create(&worker, "closed", "whole");
    worker.release(closed);
    assert!(worker.upload_closed().await);
    assert_eq!(place.store.keys(), ["closed"]);
    assert!(worker.upload_everything().await);
    assert_eq!(place.store.keys(), ["closed", "open"]);
}
