//! The same bytes through the mount and through boto3, on our own S3 server and on versitygw.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mooring_tests::World;

use crate::survival::{random_file, sha256};

const MIB: u64 = 1 << 20;

#[test]
fn files_of_every_size_come_back_the_same_on_our_own_store() {
    every_size(World::start());
}

#[test]
fn files_of_every_size_come_back_the_same_on_versitygw() {
    every_size(World::on_versitygw());
}

fn every_size(mut world: World) {
    let host = world.host();
    let folder = world.activate(&host).path;
    let source = world.path().join("source");
    for size in [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 100 * MIB, 1024 * MIB] {
        let digest = random_file(&source, size);
        let start = std::time::Instant::now();
        fs::copy(&source, folder.join(format!("written-{size}"))).unwrap();
        let wrote = start.elapsed();
        assert_eq!(
            world.store.sha256(&format!("written-{size}")).unwrap(),
            digest,
            "written, {size} bytes"
        );
        assert_eq!(
            world.store.head(&format!("written-{size}")).unwrap()["size"],
            size
        );

        world.store.put_file(&format!("stored-{size}"), &source);
        let start = std::time::Instant::now();
        assert_eq!(
            sha256(&folder.join(format!("stored-{size}"))),
            digest,
            "read, {size} bytes"
        );
        println!(
            "{size} bytes: written in {wrote:?}, read in {:?}",
            start.elapsed()
        );
        world.store.delete(&format!("stored-{size}"));
        fs::remove_file(folder.join(format!("written-{size}"))).unwrap();
    }
    fs::remove_file(source).unwrap();
    assert_eq!(world.store.unfinished_uploads(), Vec::<String>::new());
    assert_eq!(world.store.list(""), Vec::<String>::new());
}

#[test]
fn names_with_spaces_utf8_and_255_bytes_are_the_same_on_both_sides_of_our_own_store() {
    every_name(World::start());
}

#[test]
fn names_with_spaces_utf8_and_255_bytes_are_the_same_on_both_sides_of_versitygw() {
    every_name(World::on_versitygw());
}

fn every_name(mut world: World) {
    let host = world.host();
    let folder = world.activate(&host).path;
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
        long.as_str(),
        wide.as_str(),
    ];
    for name in names {
        fs::write(folder.join(name), name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            world
                .store
                .get(name)
                .unwrap_or_else(|error| panic!("{name}: {error}")),
            name.as_bytes()
        );
        let stored = format!(
            "dir of {name}",
            name = &name[..name.len().min(8).min(boundary(name))]
        );
        world.store.put(&format!("{stored}/{name}"), name);
        assert_eq!(fs::read_to_string(folder.join(&stored).join(name)).unwrap(), name);
    }
    let mut listed: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    listed.sort();
    let mut expected: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    expected.sort();
    assert_eq!(listed, expected);
    let refused = fs::write(folder.join("n".repeat(256)), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(36), "ENAMETOOLONG, not {refused}");
}

/// The last character boundary of `name` within its first 8 bytes.
fn boundary(name: &str) -> usize {
    (0..=name.len().min(8))
        .rev()
        .find(|&at| name.is_char_boundary(at))
        .unwrap_or(0)
}

#[test]
fn folders_and_edits_work_on_our_own_store() {
    let world = World::start();
    folders_and_edits(world);
}

#[test]
fn folders_and_edits_work_on_versitygw() {
    folders_and_edits(World::on_versitygw());
}

fn folders_and_edits(mut world: World) {
    let host = world.host();
    let folder = world.activate(&host).path;

    fs::create_dir_all(folder.join("a/b/c")).unwrap();
    fs::write(folder.join("a/b/c/file.txt"), "0123456789").unwrap();
    fs::write(folder.join("a-b"), "sorts before a/").unwrap();
    assert_eq!(names(&folder), ["a", "a-b"]);

    // Overwrite in the middle, append, truncate: each seen whole on the other side.
    let file = fs::File::options()
        .write(true)
        .open(folder.join("a/b/c/file.txt"))
        .unwrap();
    file.write_all_at(b"XY", 4).unwrap();
    drop(file);
    assert_eq!(world.store.get("a/b/c/file.txt").unwrap(), b"0123XY6789");
    let mut file = fs::File::options()
        .append(true)
        .open(folder.join("a/b/c/file.txt"))
        .unwrap();
    file.write_all(b"ab").unwrap();
    // fsync means that the object is in S3.
    file.sync_all().unwrap();
    assert_eq!(world.store.get("a/b/c/file.txt").unwrap(), b"0123XY6789ab");
    file.set_len(3).unwrap();
    drop(file);
    assert_eq!(world.store.get("a/b/c/file.txt").unwrap(), b"012");

    // A hole reads as zeros.
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(folder.join("hole"))
        .unwrap();
    file.seek(SeekFrom::Start(1 << 16)).unwrap();
    file.write_all(b"end").unwrap();
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    drop(file);
    assert_eq!(bytes.len(), (1 << 16) + 3);
    assert!(bytes[..1 << 16].iter().all(|&byte| byte == 0));
    assert_eq!(world.store.get("hole").unwrap(), bytes);

    // Files and folders are renamed; what is not empty is not removed.
    fs::rename(folder.join("a/b/c/file.txt"), folder.join("a/b/moved.txt")).unwrap();
    fs::rename(folder.join("a/b"), folder.join("z")).unwrap();
    assert_eq!(fs::read(folder.join("z/moved.txt")).unwrap(), b"012");
    assert_eq!(world.store.get("z/moved.txt").unwrap(), b"012");
    assert!(world.store.get("a/b/moved.txt").is_err());
    let refused = fs::remove_dir(folder.join("z")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(39), "ENOTEMPTY, not {refused}");
    fs::remove_file(folder.join("z/moved.txt")).unwrap();
    fs::remove_dir(folder.join("z/c")).unwrap();
    fs::remove_dir(folder.join("z")).unwrap();
    assert_eq!(names(&folder), ["a", "a-b", "hole"]);

    // An open file goes on when its name is gone.
    fs::write(folder.join("unlinked"), "still here").unwrap();
    let mut open = fs::File::open(folder.join("unlinked")).unwrap();
    fs::remove_file(folder.join("unlinked")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");

    // Each file tells how its upload stands.
    let state = command(
        "getfattr",
        &[
            "--only-values",
            "-n",
            "user.mooring.state",
            path(&folder.join("a-b")),
        ],
    );
    assert_eq!(state.trim(), "clean");
}

#[test]
fn programs_with_habits_work_on_a_mount() {
    let mut world = World::start();
    let host = world.host();
    let folder = world.activate(&host).path;
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();

    let source = world.path().join("tree");
    fs::create_dir_all(source.join("sub")).unwrap();
    for number in 0..50 {
        fs::write(source.join(format!("sub/{number}.txt")), number.to_string()).unwrap();
    }
    command("cp", &["-rp", path(&source), &at("copied")]);
    command("diff", &["-r", path(&source), &at("copied")]);
    command("rsync", &["-a", path(&source), &at("synced")]);
    command("diff", &["-r", path(&source), &at("synced/tree")]);
    command(
        "sh",
        &[
            "-c",
            &format!(
                "tar c -C {0} tree | tar x -C {1}",
                path(world.path()),
                path(&folder)
            ),
        ],
    );
    command("diff", &["-r", path(&source), &at("tree")]);
    command("sed", &["-i", "s/1/one/", &at("tree/sub/1.txt")]);
    assert_eq!(fs::read_to_string(folder.join("tree/sub/1.txt")).unwrap(), "one");
    command("git", &["init", "-q", &at("repository")]);
    fs::write(folder.join("repository/file"), "text").unwrap();
    command("git", &["-C", &at("repository"), "add", "file"]);
    command(
        "git",
        &[
            "-C",
            &at("repository"),
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.c",
            "commit",
            "-q",
            "-m",
            "first",
        ],
    );
    assert!(command("git", &["-C", &at("repository"), "log", "--oneline"]).contains("first"));
    command("git", &["-C", &at("repository"), "fsck", "--strict"]);
    command(
        "sqlite3",
        &[&at("base.db"), "create table t(x); insert into t values(1),(2); "],
    );
    assert_eq!(
        command("sqlite3", &[&at("base.db"), "select sum(x) from t"]).trim(),
        "3"
    );
    command(
        "rm",
        &["-r", &at("tree"), &at("copied"), &at("synced"), &at("repository")],
    );
    assert_eq!(names(&folder), ["base.db"]);
}

#[test]
fn keys_that_are_no_file_names_are_reported_and_harmless() {
    let mut world = World::start();
    // boto3 and the server keep keys as they are typed.
    for key in [
        "fine.txt",
        "a//b",
        "../up.txt",
        "dot/./x",
        "both",
        "both/inside.txt",
    ] {
        world.store.put(key, key);
    }
    let host = world.host();
    let folder = world.activate(&host).path;
    assert_eq!(fs::read_to_string(folder.join("fine.txt")).unwrap(), "fine.txt");
    assert_eq!(
        fs::read_to_string(folder.join("both/inside.txt")).unwrap(),
        "both/inside.txt"
    );
    let top = names(&folder);
    assert!(!top.contains(&"..".to_owned()), "{top:?}");
    let hidden = command(
        "getfattr",
        &["--only-values", "-n", "user.mooring.hidden_keys", path(&folder)],
    );
    assert!(hidden.contains("../up.txt") || hidden.contains(".."), "{hidden}");
}

#[test]
fn a_read_only_connector_refuses_every_change() {
    let mut world = World::start();
    world.store.put("fixed.txt", "fixed");
    world.connector("ml", "still", "--mode read-only");
    let host = world.host();
    let folder = world.activate_connector(&host, "ml", "still").path;
    assert_eq!(fs::read(folder.join("fixed.txt")).unwrap(), b"fixed");
    let refusals = [
        fs::write(folder.join("new.txt"), "new").unwrap_err(),
        fs::remove_file(folder.join("fixed.txt")).unwrap_err(),
        fs::create_dir(folder.join("dir")).unwrap_err(),
        fs::rename(folder.join("fixed.txt"), folder.join("other.txt")).unwrap_err(),
        fs::File::options()
            .append(true)
            .open(folder.join("fixed.txt"))
            .unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.raw_os_error(), Some(30), "EROFS, not {refusal}");
    }
    assert_eq!(world.store.list(""), ["fixed.txt"]);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a program that must succeed; returns its output.
fn command(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
