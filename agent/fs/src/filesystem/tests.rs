//! The operations over the bucket in memory, without a kernel.

mod moving;
mod names;
mod opened;
mod races;
mod succession;
mod unsaved;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::budget::MemoryBudget;
use crate::handle::{Access, HandleId};
use crate::namespace::inode::ROOT;
use crate::reader::ReaderOptions;
use crate::store::StoreError;
use crate::store::memory::{Call, Fault, MemoryStore};
use crate::succession::Attempt;

struct World {
    store: Arc<MemoryStore>,
    fs: Arc<Filesystem>,
    _staging: tempfile::TempDir,
}

const READ: Access = Access {
    read: true,
    write: false,
    append: false,
};
const WRITE: Access = Access {
    read: true,
    write: true,
    append: false,
};

impl World {
    fn new() -> World {
        World::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> World {
        let store = Arc::new(MemoryStore::new());
        let staging = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            prefix: Prefix::new(""),
            read_only: false,
            metadata_ttl: Duration::from_secs(60),
            presentation: Presentation {
                uid: 1,
                gid: 2,
                file_mode: 0o640,
                dir_mode: 0o750,
            },
            staging: staging.path().to_owned(),
            lock: None,
            memory_bytes: None,
        };
        change(&mut settings);
        let runtime = Handle::current();
        let budget = MemoryBudget::new(64 << 20);
        let reader = Reader::new(store.clone(), budget, ReaderOptions::default(), runtime.clone());
        let parts = Parts {
            store: store.clone(),
            reader,
            runtime,
            recorder: Recorder::default(),
            requests: Arc::default(),
        };
        World {
            store,
            fs: Filesystem::new(settings, parts),
            _staging: staging,
        }
    }

    /// Opens what the kernel asks for once only.
    async fn open(&self, ino: Ino, access: Access, truncate: bool) -> Opened {
        let opened = self.fs.open(ino, access, truncate, &Attempt::unrecorded()).await;
        opened.unwrap()
    }

    fn write_at(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<(), FsError> {
        self.fs.write(handle, offset, data, &Attempt::unrecorded())
    }

    async fn find(&self, path: &str) -> Result<Ino, FsError> {
        let mut at = ROOT;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            at = self.fs.lookup(at, &name(component)).await?.attributes.ino;
        }
        Ok(at)
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let folder = self.find(path).await.unwrap();
        let handle = self.fs.open_folder(folder, &Attempt::unrecorded()).unwrap();
        let mut names = Vec::new();
        let mut position = 0;
        loop {
            let batch = self.fs.list(handle, position).await.unwrap();
            let Some((_, _, after)) = batch.entries.last() else {
                break;
            };
            position = *after;
            names.extend(batch.entries.iter().map(|(name, _, _)| name.as_str().to_owned()));
        }
        self.fs.release_folder(handle);
        names.sort();
        names
    }

    async fn close(&self, handle: HandleId) -> Result<(), FsError> {
        let flushed = self.fs.flush(handle).await;
        self.fs.release(handle);
        flushed
    }

    async fn write(&self, path: &str, bytes: &[u8]) -> Result<(), FsError> {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.find(folder).await?;
        let existing = Existing::Truncate;
        let (_, opened) = self
            .fs
            .create_or_open(folder, &name(file), WRITE, existing, &Attempt::unrecorded())
            .await?;
        self.fs.write(opened.handle, 0, bytes, &Attempt::unrecorded())?;
        self.close(opened.handle).await
    }

    async fn read(&self, path: &str) -> Result<Vec<u8>, FsError> {
        let ino = self.find(path).await?;
        let opened = self.fs.open(ino, READ, false, &Attempt::unrecorded()).await?;
        let bytes = self
            .fs
            .read(opened.handle, 0, 1 << 20)
            .await
            .map(|bytes| bytes.to_vec());
        self.fs.release(opened.handle);
        bytes
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), FsError> {
        let (from_folder, from_name) = from.rsplit_once('/').unwrap_or(("", from));
        let (to_folder, to_name) = to.rsplit_once('/').unwrap_or(("", to));
        let (from, to) = (self.find(from_folder).await?, self.find(to_folder).await?);
        self.fs
            .rename(
                (from, &name(from_name)),
                (to, &name(to_name)),
                false,
                &Attempt::unrecorded(),
            )
            .await
    }

    fn requests(&self, call: Call) -> usize {
        self.store
            .called()
            .iter()
            .filter(|made| made.call == call)
            .count()
    }
}

fn name(text: &str) -> FileName {
    FileName::parse(OsStr::new(text)).unwrap()
}

#[tokio::test]
async fn what_is_written_is_read_and_listed_and_in_the_bucket_after_close() {
    let world = World::new();
    world.write("a.txt", b"hello").await.unwrap();
    assert_eq!(world.store.object("a.txt").unwrap().0, "hello");
    assert_eq!(world.read("a.txt").await.unwrap(), b"hello");
    assert_eq!(world.names("").await, ["a.txt"]);
    world.write("a.txt", b"again").await.unwrap();
    assert_eq!(world.read("a.txt").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_listing_answers_lookups_without_further_requests() {
    let world = World::new();
    for at in 0..50 {
        world.store.insert(&format!("d/{at}"), "x");
    }
    assert_eq!(world.names("d").await.len(), 50);
    let folder = world.find("d").await.unwrap();
    let before = world.store.called().len();
    for at in 0..50 {
        world.fs.lookup(folder, &name(&at.to_string())).await.unwrap();
    }
    let absent = world.fs.lookup(folder, &name("absent")).await;
    assert!(matches!(absent, Err(FsError::NotFound)));
    assert_eq!(world.store.called().len(), before);
}

#[tokio::test]
async fn a_folder_of_many_pages_is_listed_whole() {
    let world = World::new();
    for at in 0..2500 {
        world.store.insert(&format!("d/{at:05}"), "x");
    }
    assert_eq!(world.names("d").await.len(), 2500);
    assert_eq!(world.requests(Call::Head), 1);
}

#[tokio::test]
async fn a_folder_hides_a_file_of_the_same_name_and_reports_it() {
    let world = World::new();
    world.store.insert("both", "file");
    world.store.insert("both/inside", "x");
    world.store.insert("x//y", "x");
    assert_eq!(world.names("").await, ["both", "x"]);
    assert_eq!(world.names("both").await, ["inside"]);
    assert_eq!(world.names("x").await, Vec::<String>::new());
    let (count, mut examples) = world.fs.hidden_keys();
    examples.sort();
    assert_eq!((count, examples), (2, vec!["both".to_owned(), "x//".to_owned()]));
    assert_eq!(
        world
            .fs
            .extended_attribute(ROOT, "user.mooring.hidden_keys")
            .unwrap(),
        b"both"
    );
}

#[tokio::test]
async fn a_mount_below_a_prefix_shows_and_writes_only_there() {
    let world = World::with(|settings| settings.prefix = Prefix::new("team/data"));
    world.store.insert("team/data/in", "x");
    world.store.insert("team/out", "x");
    assert_eq!(world.names("").await, ["in"]);
    world.write("new", b"1").await.unwrap();
    assert_eq!(world.store.keys(), ["team/data/in", "team/data/new", "team/out"]);
}

#[tokio::test]
async fn a_read_only_mount_refuses_every_change() {
    let world = World::with(|settings| settings.read_only = true);
    world.store.insert("d/f", "x");
    let folder = world.find("d").await.unwrap();
    let file = world.find("d/f").await.unwrap();
    let change = AttributeChange {
        size: None,
        mtime: Some(SystemTime::UNIX_EPOCH),
    };
    let f = name("f");
    let results = [
        world.write("new", b"x").await,
        world
            .fs
            .open(file, WRITE, false, &Attempt::unrecorded())
            .await
            .map(|_| ()),
        world.fs.remove_file(folder, &f, &Attempt::unrecorded()).await,
        world
            .fs
            .remove_folder(ROOT, &name("d"), &Attempt::unrecorded())
            .await,
        world
            .fs
            .make_folder(ROOT, &name("n"), &Attempt::unrecorded())
            .await
            .map(|_| ()),
        world.rename("d", "e").await,
        world.fs.set_attributes(file, None, change).await.map(|_| ()),
    ];
    for result in results {
        assert!(matches!(result, Err(FsError::ReadOnly)), "{result:?}");
    }
    assert_eq!(world.store.keys(), ["d/f"]);
}

#[tokio::test]
async fn folders_are_made_kept_and_removed() {
    let world = World::new();
    world
        .fs
        .make_folder(ROOT, &name("d"), &Attempt::unrecorded())
        .await
        .unwrap();
    assert!(matches!(
        world
            .fs
            .make_folder(ROOT, &name("d"), &Attempt::unrecorded())
            .await,
        Err(FsError::Exists)
    ));
    world.write("d/f", b"x").await.unwrap();
    assert!(matches!(
        world
            .fs
            .remove_folder(ROOT, &name("d"), &Attempt::unrecorded())
            .await,
        Err(FsError::NotEmpty)
    ));
    let folder = world.find("d").await.unwrap();
    assert!(matches!(
        world
            .fs
            .remove_folder(folder, &name("f"), &Attempt::unrecorded())
            .await,
        Err(FsError::NotFolder)
    ));
    assert!(matches!(
        world
            .fs
            .remove_file(ROOT, &name("d"), &Attempt::unrecorded())
            .await,
        Err(FsError::IsFolder)
    ));
    world
        .fs
        .remove_file(folder, &name("f"), &Attempt::unrecorded())
        .await
        .unwrap();
    assert_eq!(world.store.keys(), ["d/"]);
    world
        .fs
        .remove_folder(ROOT, &name("d"), &Attempt::unrecorded())
        .await
        .unwrap();
    assert_eq!(world.store.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_folder_that_becomes_empty_stays() {
    let world = World::new();
    world.store.insert("implicit/only", "x");
    let folder = world.find("implicit").await.unwrap();
    world
        .fs
        .remove_file(folder, &name("only"), &Attempt::unrecorded())
        .await
        .unwrap();
    assert_eq!(world.store.keys(), ["implicit/"]);
}

#[tokio::test]
async fn a_folder_that_cannot_be_moved_whole_is_not_moved_at_all() {
    let world = World::new();
    for file in ["d/a", "d/b", "d/c"] {
        world.store.insert(file, "x");
    }
    world.store.plan(
        Call::Copy,
        Fault::Fail(StoreError::Denied {
            code: "AccessDenied".to_owned(),
        }),
    );
    assert!(world.rename("d", "e").await.is_err());
    assert_eq!(world.store.keys(), ["d/a", "d/b", "d/c"]);
    assert_eq!(world.read("d/b").await.unwrap(), b"x");
    world.rename("d", "e").await.unwrap();
    assert_eq!(world.store.keys(), ["e/", "e/a", "e/b", "e/c"]);
}

#[tokio::test]
async fn a_failed_close_says_so_and_the_bytes_stay_until_they_are_uploaded() {
    let world = World::new();
    let (found, opened) = world
        .fs
        .create_or_open(ROOT, &name("f"), WRITE, Existing::Refuse, &Attempt::unrecorded())
        .await
        .unwrap();
    let ino = found.attributes.ino;
    world.write_at(opened.handle, 0, b"precious").unwrap();
    let unreachable = StoreError::Unavailable {
        reason: "no route".to_owned(),
    };
    world.store.plan(Call::Put, Fault::Fail(unreachable));
    assert!(world.fs.flush(opened.handle).await.is_err());
    assert_eq!(
        world.fs.extended_attribute(ino, "user.mooring.state").unwrap(),
        b"dirty"
    );
    assert_eq!(world.fs.release(opened.handle), Some(ino));
    assert_eq!(world.fs.health().writable, Some(false));
    assert_eq!(world.read("f").await.unwrap(), b"precious");
    world.fs.settle(ino).await;
    assert_eq!(world.store.object("f").unwrap().0, "precious");
    assert_eq!(
        world.fs.extended_attribute(ino, "user.mooring.state").unwrap(),
        b"clean"
    );
    assert_eq!(world.fs.activity(), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_size_set_by_path_is_in_the_bucket_at_once() {
    let world = World::new();
    world.store.insert("f", "0123456789");
    let ino = world.find("f").await.unwrap();
    let change = AttributeChange {
        size: Some(4),
        mtime: None,
    };
    world.fs.set_attributes(ino, None, change).await.unwrap();
    assert_eq!(world.store.object("f").unwrap().0, "0123");
}

#[tokio::test]
async fn a_modification_time_is_kept_and_stored_with_the_next_write() {
    let world = World::new();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let change = AttributeChange {
        size: None,
        mtime: Some(time),
    };
    let (found, opened) = world
        .fs
        .create_or_open(ROOT, &name("f"), WRITE, Existing::Refuse, &Attempt::unrecorded())
        .await
        .unwrap();
    world.write_at(opened.handle, 0, b"x").unwrap();
    world
        .fs
        .set_attributes(found.attributes.ino, Some(opened.handle), change)
        .await
        .unwrap();
    world.close(opened.handle).await.unwrap();
    assert_eq!(world.store.object("f").unwrap().1.metadata["mtime"], "1000000");
    assert_eq!(
        world
            .fs
            .get_attributes(found.attributes.ino)
            .await
            .unwrap()
            .attributes
            .mtime,
        time
    );
}

#[tokio::test]
async fn names_that_no_key_can_have_are_refused() {
    let world = World::new();
    let long = "x".repeat(255);
    let mut parent = ROOT;
    for _ in 0..3 {
        parent = world
            .fs
            .make_folder(parent, &name(&long), &Attempt::unrecorded())
            .await
            .unwrap()
            .attributes
            .ino;
    }
    let created = world
        .fs
        .create(parent, &name(&long), WRITE, &Attempt::unrecorded());
    assert!(created.is_ok(), "4 × 255 and three slashes are within 1024 bytes");
    let last = world
        .fs
        .make_folder(parent, &name(&"y".repeat(254)), &Attempt::unrecorded())
        .await
        .unwrap()
        .attributes
        .ino;
    assert!(matches!(
        world.fs.create(last, &name("zz"), WRITE, &Attempt::unrecorded()),
        Err(FsError::NameTooLong)
    ));
    assert!(matches!(
        world.fs.lookup(last, &name("zzzz")).await,
        Err(FsError::NotFound)
    ));
}

#[tokio::test]
async fn inodes_leave_the_table_when_nobody_holds_them() {
    let world = World::new();
    world.store.insert("a/b/c", "x");
    let (a, b, c) = (
        world.find("a").await.unwrap(),
        world.find("a/b").await.unwrap(),
        world.find("a/b/c").await.unwrap(),
    );
    let again = world.find("a/b/c").await.unwrap();
    assert_eq!(c, again, "a number is stable while it is held");
    world.fs.forget(a, 4);
    world.fs.forget(b, 3);
    assert!(world.fs.get_attributes(b).await.is_ok(), "kept for what is below");
    world.fs.forget(c, 2);
    for ino in [a, b, c] {
        assert!(matches!(
            world.fs.get_attributes(ino).await,
            Err(FsError::NotFound)
        ));
    }
    let later = world.find("a").await.unwrap();
    assert!(later > c, "a number is never given out twice");
}

#[tokio::test]
async fn a_listing_after_the_believed_time_shows_what_others_did_to_names_changed_here() {
    let world = World::with(|settings| settings.metadata_ttl = Duration::from_millis(20));
    world.write("mine", b"x").await.unwrap();
    world.write("removed", b"x").await.unwrap();
    world
        .fs
        .remove_file(ROOT, &name("removed"), &Attempt::unrecorded())
        .await
        .unwrap();
    assert_eq!(world.names("").await, ["mine"]);
    world.store.remove("mine");
    world.store.insert("removed", "back");
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(world.names("").await, ["removed"]);
}

#[tokio::test]
async fn everything_that_waits_is_uploaded_at_the_end_although_one_file_fails() {
    let world = World::new();
    for at in 0..20 {
        let file = name(&at.to_string());
        let (_, opened) = world
            .fs
            .create_or_open(ROOT, &file, WRITE, Existing::Refuse, &Attempt::unrecorded())
            .await
            .unwrap();
        world.write_at(opened.handle, 0, b"x").unwrap();
    }
    let refused = StoreError::Denied {
        code: "AccessDenied".to_owned(),
    };
    world.store.plan(Call::Put, Fault::Fail(refused));
    assert!(!world.fs.upload_everything().await);
    assert_eq!(world.store.keys().len(), 19);
    assert!(world.fs.upload_everything().await);
    assert_eq!(world.store.keys().len(), 20);
}

#[tokio::test]
async fn a_small_object_that_somebody_changes_during_an_edit_keeps_both_versions() {
    let world = World::new();
    world.store.insert("f", "0123456789");
    let ino = world.find("f").await.unwrap();
    let opened = world.open(ino, WRITE, false).await;
    world.write_at(opened.handle, 3, b"XY").unwrap();
    while !world.fs.edit(ino).unwrap().missing(0..10).is_empty() {
        tokio::task::yield_now().await;
    }
    world.store.insert("f", "theirs");
    let closed = world.close(opened.handle).await;
    let Err(FsError::Conflict { copy }) = closed else {
        panic!("the race was not noticed: {closed:?}")
    };
    assert_eq!(world.store.object("f").unwrap().0, "theirs");
    assert_eq!(world.store.object(&copy).unwrap().0, "012XY56789");
    assert_eq!(world.read("f").await.unwrap(), b"theirs");
    assert_eq!(world.names("").await, ["f".to_owned(), copy]);
}

#[tokio::test]
async fn a_size_that_cannot_be_set_leaves_the_file_as_it_was() {
    let world = World::new();
    world.store.insert("f", "0123456789");
    let ino = world.find("f").await.unwrap();
    let refused = StoreError::Denied {
        code: "AccessDenied".to_owned(),
    };
    world.store.plan(Call::Put, Fault::Fail(refused));
    let change = AttributeChange {
        size: Some(4),
        mtime: None,
    };
    assert!(world.fs.set_attributes(ino, None, change).await.is_err());
    assert_eq!(world.read("f").await.unwrap(), b"0123456789");
    assert!(world.fs.upload_everything().await);
    assert_eq!(world.store.object("f").unwrap().0, "0123456789");
}
