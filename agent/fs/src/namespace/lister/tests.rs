//! Pages of keys, and what readers of the folder get to see.

use std::time::SystemTime;

use super::*;
use crate::store::memory::{Call, MemoryStore};
use crate::store::{ETag, Key, ObjectInfo};

fn object(key: &str) -> (Key, ObjectInfo) {
    let info = ObjectInfo {
        size: 1,
        etag: ETag("e".to_owned()),
        modified: SystemTime::UNIX_EPOCH,
        metadata: Default::default(),
    };
    (Key::new(key), info)
}

/// Feeds pages given as keys (folders end in a slash) and tells what came out, in order.
fn check(pages: &[&[&str]], expected: &[&str], hidden_expected: &[&str]) {
    let log = HiddenLog::default();
    let mut sorting = Sorting::default();
    let mut out = Vec::new();
    let mut show = |(name, entry): (FileName, Entry)| {
        let slash = if entry == Entry::Folder { "/" } else { "" };
        out.push(format!("{}{slash}", name.as_str()));
    };
    for page in pages {
        let (folders, objects): (Vec<&str>, Vec<&str>) =
            page.iter().partition(|key| key.len() > 2 && key.ends_with('/'));
        let page = ListPage {
            objects: objects.iter().map(|key| object(key)).collect(),
            prefixes: folders.iter().map(|key| Key::new(*key)).collect(),
            next: None,
        };
        sorting.take(page, "p/", &log, &mut show);
    }
    sorting.held.drain(..).for_each(&mut show);
    assert_eq!(out, expected);
    assert_eq!(log.report().1, hidden_expected);
}

#[test]
fn files_and_folders_come_once_each() {
    check(&[&["p/", "p/a", "p/b/", "p/c"]], &["a", "b/", "c"], &["p/"]);
}

#[test]
fn a_key_that_is_also_a_folder_is_shown_as_the_folder_also_across_pages() {
    check(
        &[&["p/a", "p/a-b"], &["p/a.c", "p/a/", "p/b"]],
        &["a-b", "a.c", "a/", "b"],
        &["p/a"],
    );
}

#[test]
fn keys_that_are_no_names_are_reported() {
    check(&[&["p/../", "p//", "p/ok"]], &["ok"], &["p/../", "p//"]);
}

/// A folder of several pages: files, folders, and files whose name a folder has, too, with other keys between them.
fn large(store: &MemoryStore) -> Vec<String> {
    let mut expected = Vec::new();
    for number in 0..6000 {
        let hidden = number % 500 == 0;
        store.insert(&format!("p/{number:05}"), "x");
        expected.push(format!("{number:05}{}", if hidden { "/" } else { "" }));
        if number % 7 == 0 {
            store.insert(&format!("p/{number:05}d/inside"), "x");
            expected.push(format!("{number:05}d/"));
        }
        if hidden {
            store.insert(&format!("p/{number:05}/inside"), "x");
            // What lies between the file and the folder is more than a page.
            for between in 0..1200 {
                store.insert(&format!("p/{number:05}-{between:04}"), "x");
                expected.push(format!("{number:05}-{between:04}"));
            }
        }
    }
    expected.sort();
    expected
}

/// Lists it, and compares.
async fn lists(store: MemoryStore, expected: &[String], divisible: &AtomicBool) -> usize {
    let store = Arc::new(store);
    let any: Arc<dyn ObjectStore> = Arc::clone(&store) as Arc<dyn ObjectStore>;
    let (log, lister) = (HiddenLog::default(), Lister::new(Instant::now(), 0));
    let listed = lister.run(&any, "p/", &log, divisible).await.unwrap();
    let shown = |(name, entry): &(FileName, Entry)| {
        let slash = if *entry == Entry::Folder { "/" } else { "" };
        format!("{}{slash}", name.as_str())
    };
    let mut run: Vec<String> = listed.run.entries().iter().map(shown).collect();
    let mut read = Vec::new();
    while let found @ [_, ..] = &lister.entries(read.len(), 333).await.unwrap()[..] {
        read.extend(found.iter().map(shown));
    }
    run.sort();
    read.sort();
    assert_eq!(run, expected);
    assert_eq!(read, expected, "what readers are told");
    assert_eq!(log.report().0, 12, "files that a folder hides");
    store
        .called()
        .iter()
        .filter(|called| called.call == Call::List)
        .count()
}

#[tokio::test]
async fn a_large_folder_is_listed_in_several_places_at_once_and_each_name_comes_once() {
    let store = MemoryStore::new();
    let expected = large(&store);
    let divisible = AtomicBool::new(true);
    let asked = lists(store, &expected, &divisible).await;
    let pages = expected.len().div_ceil(1000);
    assert!(divisible.into_inner());
    assert!(
        asked > pages && asked < 2 * pages + 10,
        "{asked} requests for {pages} pages"
    );
}

#[tokio::test]
async fn a_store_that_does_not_begin_where_it_is_asked_to_is_listed_page_after_page_from_then_on() {
    let divisible = AtomicBool::new(true);
    for further in [true, false] {
        let store = MemoryStore::new();
        let expected = large(&store);
        store.ignore_start_after();
        let asked = lists(store, &expected, &divisible).await;
        let pages = expected.len().div_ceil(1000);
        assert_eq!(asked > pages, further, "{asked} requests for {pages} pages");
        assert!(!divisible.load(Ordering::Relaxed));
    }
}
