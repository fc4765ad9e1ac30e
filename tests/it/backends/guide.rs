//! The table of differences in the operator's guide.

use std::collections::BTreeMap;

use super::scene::Backend;

const GUIDE: &str = include_str!("../../../deploy/README.md");

/// Holds a cell of the table against what a story has seen.
///
/// # Panics
/// When the guide says something else, or nothing.
pub(super) fn says(row: &str, backend: Backend, seen: &str) {
    let table = table();
    let Some(cells) = table.get(row) else {
        panic!(
            "the table «Other backends» of deploy/README.md has no row «{row}», only {:?}",
            table.keys()
        );
    };
    assert_eq!(
        cells[backend as usize], seen,
        "«{row}» of {backend:?} in deploy/README.md"
    );
}

fn table() -> BTreeMap<&'static str, [&'static str; 3]> {
    let (_, section) = GUIDE
        .split_once("## Other backends")
        .expect("the guide has a section on backends");
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .filter_map(|line| {
            let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
            let [row, default, geesefs, s3fs] = cells[..] else {
                return None;
            };
            Some((row, [default, geesefs, s3fs]))
        })
        .collect()
}
