//! Order, pages, delimiters, and what a page costs.

use std::time::Instant;

use time::OffsetDateTime;

use super::*;
use crate::object::{Attributes, Checksums, Facts};
use crate::storage::Content;

fn object() -> Arc<Object> {
    let facts = Facts {
        etag: String::new(),
        modified: OffsetDateTime::UNIX_EPOCH,
        attributes: Attributes::default(),
        checksums: Checksums::default(),
        parts: Vec::new(),
    };
    Arc::new(Object {
        content: Content::default(),
        facts,
    })
}

fn index(keys: impl IntoIterator<Item = impl AsRef<str>>) -> Index {
    let mut index = Index::default();
    let object = object();
    for key in keys {
        index.insert(key.as_ref(), object.clone());
    }
    index
}

/// All pages, as keys and common prefixes in the order in which they were told.
fn walk(index: &Index, prefix: &str, delimiter: &str, from: Position, entries_max: usize) -> Vec<String> {
    let mut told = Vec::new();
    let mut next = Some(from);
    while let Some(from) = next {
        let page = index.page(&PageRequest {
            prefix,
            delimiter,
            from,
            entries_max,
        });
        let entries = page.objects.len() + page.common_prefixes.len();
        assert!(entries <= entries_max, "{entries} on a page of {entries_max}");
        assert!(entries > 0 || page.next.is_none(), "an empty page is the last");
        told.extend(page.objects.into_iter().map(|(key, _)| key));
        told.extend(page.common_prefixes);
        next = page.next;
    }
    told
}

/// The same for every size of pages.
fn check(keys: &[&str], prefix: &str, delimiter: &str, from: Position, expected: &[&str]) {
    let index = index(keys);
    for entries_max in 1..=keys.len() + 1 {
        let mut told = walk(&index, prefix, delimiter, from.clone(), entries_max);
        told.sort();
        assert_eq!(told, expected, "pages of {entries_max}");
    }
}

fn after(key: &str) -> Position {
    Position::After(key.to_owned())
}

#[test]
fn keys_come_in_the_order_of_their_bytes() {
    let index = index(["a/b", "a-b", "a", "é", "Z", "a b", "\u{10FFFF}"]);
    let told = walk(&index, "", "", Position::Start, 2);
    assert_eq!(told, ["Z", "a", "a b", "a-b", "a/b", "é", "\u{10FFFF}"]);
}

#[test]
fn a_delimiter_rolls_up_what_is_behind_it() {
    let keys = ["a", "a-b", "a/1", "a/2", "a/c/3", "b/1", "c"];
    check(&keys, "", "/", Position::Start, &["a", "a-b", "a/", "b/", "c"]);
    check(&keys, "a/", "/", Position::Start, &["a/1", "a/2", "a/c/"]);
    check(&keys, "a", "/", Position::Start, &["a", "a-b", "a/"]);
    check(&keys, "a/", "", Position::Start, &["a/1", "a/2", "a/c/3"]);
    check(&keys, "x", "/", Position::Start, &[]);
    check(&["a::1", "a::2", "b"], "", "::", Position::Start, &["a::", "b"]);
}

#[test]
fn a_prefix_at_the_end_of_the_key_space_is_passed_as_well() {
    let last = "\u{10FFFF}/";
    check(
        &["a", "\u{10FFFF}/1", "\u{10FFFF}/2"],
        "",
        "/",
        Position::Start,
        &["a", last],
    );
}

#[test]
fn start_after_is_exclusive_and_needs_no_such_key() {
    let keys = ["a", "b/1", "b/2", "c"];
    check(&keys, "", "", after("a"), &["b/1", "b/2", "c"]);
    check(&keys, "", "", after("b"), &["b/1", "b/2", "c"]);
    check(&keys, "b/", "", after("a"), &["b/1", "b/2"]);
    check(&keys, "b/", "", after("b/1"), &["b/2"]);
    check(&keys, "b/", "", after("c"), &[]);
}

#[test]
fn start_after_within_a_folder_passes_the_folder() {
    let keys = ["a", "b/1", "b/2", "c"];
    check(&keys, "", "/", after("b"), &["b/", "c"]);
    check(&keys, "", "/", after("b/"), &["c"]);
    check(&keys, "", "/", after("b/1"), &["c"]);
    check(&keys, "b/", "/", after("b/1"), &["b/2"]);
}

#[test]
fn a_page_of_a_hundred_thousand_keys_costs_as_much_as_one_of_ten() {
    // Counted by the clock, since nothing else sees a scan; the bound is a hundred times what was measured.
    let flat = index((0..100_000).map(|number| format!("flat/{number:07}")));
    let started = Instant::now();
    for at in 0..100 {
        let page = flat.page(&PageRequest {
            prefix: "flat/",
            delimiter: "/",
            from: after(&format!("flat/{:07}", at * 1000)),
            entries_max: 10,
        });
        assert_eq!(page.objects.len(), 10);
    }
    let folders = index((0..100_000).map(|number| format!("{}/{number:07}", number / 10_000)));
    for _ in 0..100 {
        let page = folders.page(&PageRequest {
            prefix: "",
            delimiter: "/",
            from: Position::Start,
            entries_max: 1000,
        });
        assert_eq!(page.common_prefixes.len(), 10);
        assert!(page.next.is_none());
    }
    assert!(
        started.elapsed().as_millis() < 1000,
        "200 pages took {:?}",
        started.elapsed()
    );
}
