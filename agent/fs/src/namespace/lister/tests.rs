//! Pages of keys, and what readers of the folder get to see.

use std::time::SystemTime;

use super::*;
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
