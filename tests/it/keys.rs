//! Keys that others put into a bucket, and what becomes of those that cannot be files.

use std::fs;

use mooring_tests::Folder;
use mooring_tests::folder::{names, path_text, run};

#[test]
fn keys_that_are_no_file_names_are_reported_and_harmless() {
    let folder = Folder::start();
    let long = format!("deep/{}", "x".repeat(256));
    // boto3 and the server keep keys as they are typed.
    for key in [
        "fine.txt",
        "a//b",
        "a/b",
        "../up.txt",
        "dot/./x",
        "dot/y",
        "both",
        "both/inside.txt",
        "/leading",
        long.as_str(),
        "deep/fine",
    ] {
        folder.store.put(key, key);
    }
    assert_eq!(fs::read_to_string(folder.at("fine.txt")).unwrap(), "fine.txt");
    assert_eq!(
        fs::read_to_string(folder.at("both/inside.txt")).unwrap(),
        "both/inside.txt"
    );
    assert_eq!(
        names(folder.path()),
        ["a", "both", "deep", "dot", "fine.txt"],
        "a folder hides a file of its name"
    );
    assert_eq!(names(&folder.at("a")), ["b"]);
    assert_eq!(fs::read_to_string(folder.at("a/b")).unwrap(), "a/b");
    assert_eq!(names(&folder.at("dot")), ["y"]);
    assert_eq!(names(&folder.at("deep")), ["fine"]);
    let hidden = |name: &str| {
        let path = folder.at(name);
        let arguments = [
            "--only-values",
            "-n",
            "user.mooring.hidden_keys",
            path_text(&path),
        ];
        run("getfattr", &arguments)
    };
    let top = hidden("");
    for key in ["../", "/", "both"] {
        assert!(top.lines().any(|line| line == key), "{key} is missing in {top}");
    }
    assert_eq!(hidden("a"), "a//");
    assert_eq!(hidden("dot"), "dot/./");
    assert_eq!(hidden("deep"), long);

    // What is hidden is not deleted by accident with what is shown.
    fs::remove_file(folder.at("a/b")).unwrap();
    let refused = fs::remove_dir(folder.at("a")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(39), "ENOTEMPTY, not {refused}");
    assert_eq!(folder.store.get("a//b").unwrap(), b"a//b");
    assert_eq!(folder.store.get("../up.txt").unwrap(), b"../up.txt");
}

#[test]
fn a_mount_shows_its_prefix_and_leaves_the_rest_alone() {
    let folder = Folder::start();
    for key in ["data/in.txt", "data-out.txt", "out.txt"] {
        folder.store.put(key, key);
    }
    let below = folder.mount_prefix("below", "data");
    assert_eq!(names(below.path()), ["in.txt"]);
    fs::write(below.at("new.txt"), "new").unwrap();
    assert_eq!(folder.store.get("data/new.txt").unwrap(), b"new");
    assert_eq!(
        folder.store.list(""),
        ["data-out.txt", "data/in.txt", "data/new.txt", "out.txt"]
    );
}

#[test]
fn a_large_folder_is_listed_without_a_question_for_each_entry() {
    // A machine with other work may take longer than the usual 5 s.
    let folder = Folder::with(&["--metadata-ttl", "60s"]);
    folder.store.fill("many/", 10_000, 10);
    folder.store.forget_requests();
    let start = std::time::Instant::now();
    let listing = run("ls", &["-l", path_text(&folder.at("many"))]);
    println!("ls -l of 10,000 files: {:?}", start.elapsed());
    assert_eq!(
        listing.lines().filter(|line| line.starts_with("-rw")).count(),
        10_000
    );
    let (lists, heads) = (
        folder.store.requests("ListObjectsV2"),
        folder.store.requests("HeadObject"),
    );
    println!("{lists} listings, {heads} heads");
    assert!(heads <= 3, "{heads} requests for single objects");
    // Where to divide the folder is guessed, and some guesses find nothing.
    assert!(lists <= 25, "{lists} listings for 10 pages");

    // Reading them asks for each object's bytes and nothing else.
    folder.store.forget_requests();
    for number in 0..100 {
        let bytes = fs::read(folder.at(&format!("many/{number:07}"))).unwrap();
        assert_eq!(bytes.len(), 10);
    }
    let heads = folder.store.requests("HeadObject");
    let gets = folder.store.requests("GetObject");
    println!("100 files read: {gets} gets, {heads} heads");
    assert_eq!((gets, heads), (100, 0));
}
