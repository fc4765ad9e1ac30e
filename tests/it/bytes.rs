//! The same bytes through the mount and through boto3, on our own S3 server and on versitygw.

use std::fs;
use std::path::Path;
use std::time::Instant;

use mooring_tests::folder::{path_text, run};
use mooring_tests::{Folder, World};

use crate::survival::{random_file, sha256};

const MIB: u64 = 1 << 20;

#[test]
fn files_of_every_size_come_back_the_same_on_our_own_store() {
    every_size(&Folder::start());
}

#[test]
fn files_of_every_size_come_back_the_same_on_versitygw() {
    every_size(&Folder::on_versitygw());
}

fn every_size(folder: &Folder) {
    let source = folder.scratch().join("source");
    for size in [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 100 * MIB, 1024 * MIB] {
        let digest = random_file(&source, size);
        let written = format!("written-{size}");
        let start = Instant::now();
        run("cp", &[path_text(&source), path_text(&folder.at(&written))]);
        let wrote = start.elapsed();
        assert_eq!(
            folder.store.sha256(&written).unwrap(),
            digest,
            "written, {size} bytes"
        );
        assert_eq!(folder.store.head(&written).unwrap()["size"], size);
        assert_eq!(fs::metadata(folder.at(&written)).unwrap().len(), size);
        fs::remove_file(folder.at(&written)).unwrap();

        let stored = format!("stored-{size}");
        folder.store.put_file(&stored, &source);
        let start = Instant::now();
        run("cmp", &[path_text(&source), path_text(&folder.at(&stored))]);
        println!(
            "{size} bytes: written in {wrote:?}, read in {:?}",
            start.elapsed()
        );
        folder.store.delete(&stored);
    }
    assert_eq!(folder.store.unfinished_uploads(), Vec::<String>::new());
    assert_eq!(folder.store.list(""), Vec::<String>::new());
}

#[test]
fn a_mount_that_an_agent_made_and_boto3_agree_on_our_own_store() {
    through_an_agent(World::start());
}

#[test]
fn a_mount_that_an_agent_made_and_boto3_agree_on_versitygw() {
    through_an_agent(World::on_versitygw());
}

/// What the other stories do by hand, once with all the parts: catalog, agent, sealed key, mount.
fn through_an_agent(mut world: World) {
    let source = world.path().join("source");
    let size = 5 * MIB + 1;
    let digest = random_file(&source, size);
    // Before the mount is looked at: what it has listed it may believe for a while.
    world.store.put_file("stored", &source);
    let host = world.host();
    let folder = world.activate(&host).path;
    assert_eq!(sha256(&folder.join("stored")), digest);
    run("cp", &[path_text(&source), path_text(&folder.join("written"))]);
    assert_eq!(world.store.sha256("written").unwrap(), digest);
    assert_eq!(world.store.head("written").unwrap()["size"], size);
    fs::remove_file(source).unwrap();
}

#[test]
fn names_with_spaces_utf8_and_255_bytes_are_the_same_on_both_sides_of_our_own_store() {
    every_name(&Folder::start());
}

#[test]
fn names_with_spaces_utf8_and_255_bytes_are_the_same_on_both_sides_of_versitygw() {
    every_name(&Folder::on_versitygw());
}

fn every_name(folder: &Folder) {
    let long = "n".repeat(255);
    let wide = "ü".repeat(127);
    let names = [
        "with space",
        " leading",
        "trailing ",
        "größe-日本語-🚢",
        "plus+and&percent%20",
        "quote'\"<>",
        "a=b;c,d@e!",
        "#hash?",
        "back\\slash",
        "tilde~",
        "new\nline",
        long.as_str(),
        wide.as_str(),
    ];
    for (number, name) in names.into_iter().enumerate() {
        fs::write(folder.at(name), name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let stored = folder
            .store
            .get(name)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(stored, name.as_bytes());
        // The other way, with the name as a folder's and as a file's.
        let below = format!("{number} {}/{name}", shortened(name));
        folder.store.put(&below, name);
        assert_eq!(fs::read_to_string(folder.at(&below)).unwrap(), name);
    }
    let mut listed = files_in(folder.path());
    listed.sort();
    let mut expected: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    expected.sort();
    assert_eq!(listed, expected);
    // A mount that has never heard of them lists them alike.
    let other = folder.mount_again("other", &[]);
    let mut listed = files_in(other.path());
    listed.sort();
    assert_eq!(listed, expected);
    let refused = fs::write(folder.at(&"n".repeat(256)), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(36), "ENAMETOOLONG, not {refused}");
}

fn files_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// At most 240 bytes of a name, to leave room for a number before it.
fn shortened(name: &str) -> &str {
    let mut end = name.len().min(240);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}
