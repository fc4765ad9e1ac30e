//! Uploads from notes, into the bucket in memory.

use super::*;
use crate::store::memory::MemoryStore;
use crate::succession::record;
use crate::unsaved::Carries;
use crate::unsaved::tests::edit_of;
use crate::writer::staging::METADATA_COMMIT;

/// A file that was to become `f`, over this version.
fn noted(folder: &Path, text: &str, base: Option<&str>, carries: Carries) -> (PathBuf, Note) {
    let size = text.len() as u64;
    let edit = record::Edit {
        base: base.map(str::to_owned),
        visible: base.map_or(0, |_| size),
        added: base.map(|_| 0..size).into_iter().collect(),
        ..edit_of(7, size)
    };
    let place = Place {
        endpoint: None,
        region: "us-east-1".to_owned(),
        bucket: "lake".to_owned(),
        path_style: false,
    };
    let note = Note::new(place, "f".to_owned(), carries, edit, SystemTime::UNIX_EPOCH);
    let data = unsaved::kept_path(folder, note.id());
    std::fs::write(&data, text).unwrap();
    (data, note)
}

async fn uploaded(store: &Arc<MemoryStore>, text: &str, base: Option<&str>, carries: Carries) -> Fate {
    let folder = tempfile::tempdir().unwrap();
    let (data, note) = noted(folder.path(), text, base, carries);
    upload(store.clone(), folder.path(), &data, &note, SystemTime::UNIX_EPOCH)
        .await
        .unwrap()
}

fn text_of(store: &MemoryStore, key: &str) -> Vec<u8> {
    store.object(key).unwrap().0.to_vec()
}

#[tokio::test]
async fn what_nobody_has_changed_is_uploaded_and_carries_what_the_object_did() {
    let store = Arc::new(MemoryStore::new());
    let base = store.insert_with("f", "old", &[("who", "me"), ("mtime", "1")]);
    let carries = Carries {
        metadata: None,
        mtime: Some("2".to_owned()),
    };
    assert!(matches!(
        uploaded(&store, "new", Some(&base.0), carries).await,
        Fate::Uploaded
    ));
    let (text, info) = store.object("f").unwrap();
    assert_eq!(text, "new");
    assert_eq!((&*info.metadata["who"], &*info.metadata["mtime"]), ("me", "2"));
}

#[tokio::test]
async fn what_somebody_has_changed_stays_also_where_the_store_ignores_conditions() {
    for ignores in [false, true] {
        let store = Arc::new(MemoryStore::new());
        store.ignore_conditions(ignores);
        let base = store.insert("f", "old");
        store.insert("f", "theirs");
        let fate = uploaded(&store, "ours", Some(&base.0), Carries::default()).await;
        let Fate::KeptBeside(Some(copy)) = fate else {
            panic!("{fate}");
        };
        assert_eq!(text_of(&store, "f"), b"theirs");
        assert_eq!(text_of(&store, copy.as_str()), b"ours");
        // A new file whose name somebody else has used since.
        let fate = uploaded(&store, "new", None, Carries::default()).await;
        assert!(matches!(fate, Fate::KeptBeside(Some(_))), "{fate}");
        assert_eq!(text_of(&store, "f"), b"theirs");
    }
}

#[tokio::test]
async fn what_the_mount_had_uploaded_after_all_is_not_uploaded_once_more() {
    let store = Arc::new(MemoryStore::new());
    let id = uuid::Uuid::from_u128(7);
    let mark = |generation| format!("{id}-{generation}");
    store.insert_with("f", "newer", &[(METADATA_COMMIT, &mark(4))]);
    assert!(matches!(
        uploaded(&store, "new", None, Carries::default()).await,
        Fate::Uploaded
    ));
    assert_eq!(text_of(&store, "f"), b"newer");
    store.insert_with("f", "older", &[(METADATA_COMMIT, &mark(2))]);
    assert!(matches!(
        uploaded(&store, "new", None, Carries::default()).await,
        Fate::Uploaded
    ));
    assert_eq!(text_of(&store, "f"), b"new");
}

#[tokio::test]
async fn an_object_that_was_removed_comes_back() {
    let store = Arc::new(MemoryStore::new());
    let fate = uploaded(&store, "ours", Some("\"gone\""), Carries::default()).await;
    assert!(matches!(fate, Fate::Uploaded), "{fate}");
    assert_eq!(text_of(&store, "f"), b"ours");
}

#[test]
fn a_folder_that_a_worker_holds_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let lock = lock::FolderLock::take(folder.path()).unwrap();
    let refused = hold(folder.path(), &mut Folders::new()).unwrap_err();
    assert!(refused.reason.contains("uploads it by itself"), "{refused}");
    drop(lock);
    let mut folders = Folders::new();
    hold(folder.path(), &mut folders).unwrap();
    hold(folder.path(), &mut folders).unwrap();
}

#[test]
fn a_kept_file_without_a_note_is_named_and_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let unknown = unsaved::kept_path(folder.path(), uuid::Uuid::from_u128(1));
    std::fs::write(&unknown, "x").unwrap();
    let options = RecoverOptions {
        folder: folder.path().to_owned(),
        dry_run: false,
        profile: None,
        ca_file: None,
    };
    let mut said = Vec::new();
    assert!(recover(&options, &mut said).is_err());
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains(&*unknown.to_string_lossy()), "{said}");
    assert!(unknown.exists());
}
