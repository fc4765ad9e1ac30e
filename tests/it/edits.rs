//! Folders, edits and the habits of everyday programs on a mount, each seen from the other side as well.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use mooring_tests::Folder;
use mooring_tests::folder::{names, path_text, run};

use crate::survival::{random_file, sha256};

#[test]
fn folders_and_edits_work_on_our_own_store() {
    folders_and_edits(&Folder::start());
}

#[test]
fn folders_and_edits_work_on_versitygw() {
    folders_and_edits(&Folder::on_versitygw());
}

fn folders_and_edits(folder: &Folder) {
    let store = &folder.store;
    fs::create_dir_all(folder.at("a/b/c")).unwrap();
    fs::write(folder.at("a/b/c/file.txt"), "0123456789").unwrap();
    fs::write(folder.at("a-b"), "sorts before a/").unwrap();
    assert_eq!(names(folder.path()), ["a", "a-b"]);

    // Overwrite in the middle, append, truncate: each seen whole on the other side.
    let file = fs::File::options()
        .write(true)
        .open(folder.at("a/b/c/file.txt"))
        .unwrap();
    file.write_all_at(b"XY", 4).unwrap();
    drop(file);
    assert_eq!(store.get("a/b/c/file.txt").unwrap(), b"0123XY6789");
    let mut file = fs::File::options()
        .append(true)
        .open(folder.at("a/b/c/file.txt"))
        .unwrap();
    file.write_all(b"ab").unwrap();
    // fsync means that the object is in S3.
    file.sync_all().unwrap();
    assert_eq!(store.get("a/b/c/file.txt").unwrap(), b"0123XY6789ab");
    file.set_len(3).unwrap();
    drop(file);
    assert_eq!(store.get("a/b/c/file.txt").unwrap(), b"012");
    run("truncate", &["-s", "5", path_text(&folder.at("a/b/c/file.txt"))]);
    assert_eq!(store.get("a/b/c/file.txt").unwrap(), b"012\0\0");

    // A hole reads as zeros.
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(folder.at("hole"))
        .unwrap();
    file.seek(SeekFrom::Start(1 << 16)).unwrap();
    file.write_all(b"end").unwrap();
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    drop(file);
    assert_eq!(bytes.len(), (1 << 16) + 3);
    assert!(bytes[..1 << 16].iter().all(|&byte| byte == 0));
    assert_eq!(store.get("hole").unwrap(), bytes);

    // Files and folders are renamed; what is not empty is not removed.
    fs::rename(folder.at("a/b/c/file.txt"), folder.at("a/b/moved.txt")).unwrap();
    fs::rename(folder.at("a/b"), folder.at("z")).unwrap();
    assert_eq!(fs::read(folder.at("z/moved.txt")).unwrap(), b"012\0\0");
    assert_eq!(store.get("z/moved.txt").unwrap(), b"012\0\0");
    assert!(store.get("a/b/moved.txt").is_err());
    let refused = fs::remove_dir(folder.at("z")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(39), "ENOTEMPTY, not {refused}");
    fs::remove_file(folder.at("z/moved.txt")).unwrap();
    fs::remove_dir(folder.at("z/c")).unwrap();
    fs::remove_dir(folder.at("z")).unwrap();
    assert_eq!(names(folder.path()), ["a", "a-b", "hole"]);

    // A file takes the place of another one.
    fs::write(folder.at("old"), "old").unwrap();
    fs::write(folder.at("new"), "new").unwrap();
    fs::rename(folder.at("new"), folder.at("old")).unwrap();
    assert_eq!(fs::read(folder.at("old")).unwrap(), b"new");
    assert_eq!(store.get("old").unwrap(), b"new");
    assert!(store.get("new").is_err());
    fs::remove_file(folder.at("old")).unwrap();

    // An open file goes on when its name is gone.
    fs::write(folder.at("unlinked"), "still here").unwrap();
    let mut open = fs::File::open(folder.at("unlinked")).unwrap();
    fs::remove_file(folder.at("unlinked")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    assert!(store.get("unlinked").is_err());
    drop(open);

    // Each file tells how its upload stands.
    let mut file = fs::File::create(folder.at("told")).unwrap();
    file.write_all(b"told").unwrap();
    assert_eq!(attribute(&folder.at("told"), "state"), "dirty");
    drop(file);
    assert_eq!(attribute(&folder.at("told"), "state"), "clean");
    assert_eq!(attribute(&folder.at("told"), "key"), "told");
    let etag = store.head("told").unwrap()["etag"].as_str().unwrap().to_owned();
    assert_eq!(attribute(&folder.at("told"), "etag"), etag.trim_matches('"'));

    // There is room, as programs that look for it want to see.
    let room = run("df", &["--output=avail", "-k", path_text(folder.path())]);
    let room: u64 = room.lines().next_back().unwrap().trim().parse().unwrap();
    assert!(room > 1 << 30, "{room} KiB");
}

#[test]
fn edits_of_a_large_object_change_what_they_name_and_keep_the_rest_on_our_own_store() {
    edits_of_a_large_object(&Folder::start());
}

#[test]
fn edits_of_a_large_object_change_what_they_name_and_keep_the_rest_on_versitygw() {
    edits_of_a_large_object(&Folder::on_versitygw());
}

fn edits_of_a_large_object(folder: &Folder) {
    let expected = folder.scratch().join("expected");
    random_file(&expected, 40 << 20);
    folder.store.put_file("large", &expected);
    let alike = |what: &str| {
        let digest = sha256(&expected);
        assert_eq!(folder.store.sha256("large").unwrap(), digest, "{what}");
        assert_eq!(sha256(&folder.at("large")), digest, "{what}");
    };
    let write = |offset: u64, bytes: &[u8]| {
        for path in [&expected, &folder.at("large")] {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(bytes, offset).unwrap();
        }
    };
    write((20 << 20) + 5, b"in the middle");
    alike("a few bytes in the middle");
    write((8 << 20) - 3, b"over a bound of parts");
    alike("a few bytes over a bound of parts");
    write(40 << 20, b"at the end");
    alike("a few bytes more");
    for path in [&expected, &folder.at("large")] {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(17 << 20).unwrap();
        file.set_len(30 << 20).unwrap();
    }
    alike("cut and extended");
    assert_eq!(folder.store.unfinished_uploads(), Vec::<String>::new());
    if folder.store.control.is_some() {
        let copied = folder.store.requests("UploadPartCopy");
        println!("{copied} parts of 40 MiB edits were copied on the server's side");
        assert!(copied > 0, "unchanged parts are not sent again");
    }
}

#[test]
fn programs_with_habits_work_on_our_own_store() {
    programs_with_habits(&Folder::start());
}

#[test]
fn programs_with_habits_work_on_versitygw() {
    programs_with_habits(&Folder::on_versitygw());
}

fn programs_with_habits(folder: &Folder) {
    let at = |name: &str| path_text(&folder.at(name)).to_owned();
    let source = folder.scratch().join("tree");
    fs::create_dir_all(source.join("sub")).unwrap();
    for number in 0..50 {
        fs::write(source.join(format!("sub/{number}.txt")), number.to_string()).unwrap();
    }
    let source = path_text(&source);
    run("cp", &["-rp", source, &at("copied")]);
    run("diff", &["-r", source, &at("copied")]);
    let kept = fs::metadata(folder.at("copied/sub/7.txt")).unwrap().mtime();
    let original = fs::metadata(format!("{source}/sub/7.txt")).unwrap().mtime();
    assert_eq!(kept, original, "cp -p keeps the time of modification");
    run("rsync", &["-a", source, &at("synced")]);
    run("diff", &["-r", source, &at("synced/tree")]);
    let again = run("rsync", &["-a", "--itemize-changes", source, &at("synced")]);
    assert!(!again.contains(">f"), "nothing is sent a second time:\n{again}");
    let scratch = path_text(folder.scratch());
    let line = format!("tar c -C {scratch} tree | tar x -C {}", path_text(folder.path()));
    run("sh", &["-c", &line]);
    run("diff", &["-r", source, &at("tree")]);
    run("sed", &["-i", "s/1/one/", &at("tree/sub/1.txt")]);
    assert_eq!(fs::read_to_string(folder.at("tree/sub/1.txt")).unwrap(), "one");

    let repository = at("repository");
    let git = |arguments: &[&str]| {
        let person = ["-C", &repository, "-c", "user.name=a", "-c", "user.email=a@b.c"];
        run("git", &[&person, arguments].concat())
    };
    run("git", &["init", "-q", &repository]);
    fs::write(folder.at("repository/file"), "text").unwrap();
    git(&["add", "file"]);
    git(&["commit", "-q", "-m", "first"]);
    assert!(git(&["log", "--oneline"]).contains("first"));
    git(&["fsck", "--strict"]);

    let base = at("base.db");
    let statements = "create table t(x); insert into t values(1),(2);";
    run("sqlite3", &[&base, statements]);
    assert_eq!(run("sqlite3", &[&base, "select sum(x) from t"]).trim(), "3");
    assert_eq!(run("sqlite3", &[&base, "pragma integrity_check"]).trim(), "ok");

    run(
        "rm",
        &["-r", &at("tree"), &at("copied"), &at("synced"), &repository],
    );
    assert_eq!(names(folder.path()), ["base.db"]);
    assert_eq!(
        folder.store.list(""),
        ["base.db"],
        "nothing is left on the other side"
    );
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let folder = Folder::start();
    folder.store.put("fixed.txt", "fixed");
    let still = folder.mount_again("still", &["--read-only"]);
    assert_eq!(fs::read(still.at("fixed.txt")).unwrap(), b"fixed");
    let refusals = [
        fs::write(still.at("new.txt"), "new").unwrap_err(),
        fs::remove_file(still.at("fixed.txt")).unwrap_err(),
        fs::create_dir(still.at("dir")).unwrap_err(),
        fs::rename(still.at("fixed.txt"), still.at("other.txt")).unwrap_err(),
        fs::File::options()
            .append(true)
            .open(still.at("fixed.txt"))
            .unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.raw_os_error(), Some(30), "EROFS, not {refusal}");
    }
    assert_eq!(folder.store.list(""), ["fixed.txt"]);
}

/// One of the attributes that tell what the filesystem knows of a file. Asked for from here: starting a program would
/// close the story's files once in the child, which uploads them.
fn attribute(path: &Path, name: &str) -> String {
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(path, format!("user.mooring.{name}"), &mut value).unwrap();
    String::from_utf8_lossy(&value[..len]).into_owned()
}
