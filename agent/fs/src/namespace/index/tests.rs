use std::time::Instant;

use super::*;
use crate::namespace::names::FileName;
use crate::namespace::runs::{Entry, ObjectVersion, Run};
use crate::store::ETag;

fn listed(names: &[&str]) -> Listed {
    let entry = |name: &&str| {
        let entry = match name.strip_suffix('/') {
            Some(_) => Entry::Folder,
            None => Entry::File(Arc::new(ObjectVersion {
                size: name.len() as u64,
                etag: ETag(format!("\"{name}\"")),
                modified: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5),
            })),
        };
        (FileName::of_component(name.trim_end_matches('/')).unwrap(), entry)
    };
    Listed {
        run: Arc::new(Run::new(names.iter().map(entry).collect())),
        marker: true,
        hidden: vec!["a//b".to_owned()],
    }
}

/// What the next mount finds of a folder, once it is as wanted; the writing is done by another thread.
fn settled(folder: &Path, path: &str, is_there: bool) -> Option<Found> {
    let begun = Instant::now();
    loop {
        let found = Index::open(folder, &"one key").unwrap().load(path, clock::wall());
        if found.is_some() == is_there || begun.elapsed() > Duration::from_secs(10) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_listing_is_found_again_as_it_was_once_and_by_the_same_eyes_only() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), &"one key").unwrap();
    let names = ["data/", "data-1", "data-10", "grün", "grüßen", "x"];
    index.keep("a/b", listed(&names), clock::wall());
    assert!(
        !index.may_have("a/b") && index.load("a/b", clock::wall()).is_none(),
        "it knows better"
    );
    let found = settled(folder.path(), "a/b", true).unwrap();
    assert_eq!(found.listed.run.entries(), listed(&names).run.entries());
    assert!(found.listed.marker && found.age < Duration::from_secs(10));
    assert_eq!(found.listed.hidden, ["a//b"]);
    let again = Index::open(folder.path(), &"one key").unwrap();
    assert!(!again.may_have("a") && again.may_have("a/b"));
    assert!(again.load("a/b", clock::wall()).is_some());
    assert!(!again.may_have("a/b") && again.load("a/b", clock::wall()).is_none());
    let another = Index::open(folder.path(), &"another key").unwrap();
    assert!(!another.may_have("a/b") && another.load("a/b", clock::wall()).is_none());
}

#[test]
fn what_is_outdated_is_gone_also_for_the_next_mount() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), &"one key").unwrap();
    for path in ["", "a", "b", "c"] {
        index.keep(path, listed(&["x"]), clock::wall());
    }
    assert!(settled(folder.path(), "c", true).is_some());
    let again = Index::open(folder.path(), &"one key").unwrap();
    again.outdate("a");
    index.outdate("b");
    assert!(again.load("a", clock::wall()).is_none());
    assert!(settled(folder.path(), "a", false).is_none());
    assert!(settled(folder.path(), "b", false).is_none());
    assert!(settled(folder.path(), "", true).is_some());
    again.end();
    assert!(again.load("c", clock::wall()).is_none());
    assert!(settled(folder.path(), "c", false).is_none());
    assert!(settled(folder.path(), "", false).is_none());
    again.keep("d", listed(&["x"]), clock::wall());
    assert_eq!(*again.0.as_ref().unwrap().there.lock(), HashMap::new());
}

#[test]
fn what_is_old_torn_or_of_another_folder_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), &"one key").unwrap();
    let old = clock::wall() - STALE_MAX - Duration::from_secs(1);
    index.keep("old", listed(&["x"]), old);
    index.keep("future", listed(&["x"]), clock::wall() + Duration::from_secs(60));
    index.keep("good", listed(&["x", "y"]), clock::wall());
    assert!(settled(folder.path(), "good", true).is_some());
    assert!(settled(folder.path(), "old", false).is_none());
    assert!(settled(folder.path(), "future", false).is_none());
    let inner = index.0.as_ref().unwrap();
    let whole = std::fs::read(inner.file(hash_of(&"good"))).unwrap();
    for cut in 0..whole.len() {
        assert!(format::decode(&whole[..cut], "good").is_none(), "{cut}");
    }
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 4;
        assert!(format::decode(&wrong, "good").is_none(), "{at}");
    }
    std::fs::write(inner.file(hash_of(&"another")), &whole).unwrap();
    assert!(settled(folder.path(), "another", false).is_none());
}
