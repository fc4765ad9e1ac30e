//! Uploads, folders, renames and removals while S3 misbehaves: whatever has succeeded is there once and right, and what has
//! failed says so.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use mooring_tests::folder::{names, path_text};
use mooring_tests::{Folder, eventually};
use serde_json::{Value, json};

use super::{ANSWER_DEADLINE, EACCES, EIO, undisturbed_while};
use crate::survival::random_file;

/// One way in which an upload goes wrong: name, size of the file, the operation that is hit, how often, and how.
type UploadFault = (&'static str, u64, &'static str, u64, Value);

#[test]
fn writes_survive_what_passes() {
    let folder = Folder::start();
    folder.store.put("calm.txt", "calm");
    let error = |status: u16, code: &str, when: &str| json!({"error": {"status": status, "code": code, "when": when}});
    let (small, large) = (100_000, 20 << 20);
    let faults: Vec<UploadFault> = vec![
        (
            "put-500",
            small,
            "PutObject",
            2,
            error(500, "InternalError", "before"),
        ),
        (
            "put-500-done",
            small,
            "PutObject",
            1,
            error(500, "InternalError", "after"),
        ),
        ("put-503", small, "PutObject", 2, error(503, "SlowDown", "before")),
        (
            "put-lost",
            small,
            "PutObject",
            1,
            json!({"no_reply": {"when": "before"}}),
        ),
        (
            "put-reply-lost",
            small,
            "PutObject",
            1,
            json!({"no_reply": {"when": "after"}}),
        ),
        (
            "put-cut",
            small,
            "PutObject",
            2,
            json!({"reset_request": {"at_byte": 50_000}}),
        ),
        (
            "put-silent",
            small,
            "PutObject",
            1,
            json!({"stall": {"millis": 60_000}}),
        ),
        (
            "begin-500",
            large,
            "CreateMultipartUpload",
            1,
            error(500, "InternalError", "after"),
        ),
        (
            "part-500",
            large,
            "UploadPart",
            2,
            error(500, "InternalError", "before"),
        ),
        (
            "part-reply-lost",
            large,
            "UploadPart",
            2,
            json!({"no_reply": {"when": "after"}}),
        ),
        (
            "part-cut",
            large,
            "UploadPart",
            2,
            json!({"reset_request": {"at_byte": 1 << 20}}),
        ),
        (
            "end-500",
            large,
            "CompleteMultipartUpload",
            1,
            error(500, "InternalError", "before"),
        ),
        (
            "end-500-done",
            large,
            "CompleteMultipartUpload",
            1,
            error(500, "InternalError", "after"),
        ),
        (
            "end-reply-lost",
            large,
            "CompleteMultipartUpload",
            1,
            json!({"no_reply": {"when": "after"}}),
        ),
        (
            "end-200-error",
            large,
            "CompleteMultipartUpload",
            1,
            json!({"error_in_body": {"code": "InternalError"}}),
        ),
        (
            "end-200-error-done",
            large,
            "CompleteMultipartUpload",
            1,
            json!({"error_in_body": {"code": "InternalError", "when": "after"}}),
        ),
    ];
    // First as new files, then over what is there: both have conditions that a lost reply must not trip over.
    for round in ["new", "over what is there"] {
        // Silence does not depend on what is there, and takes half a minute.
        let faults: Vec<&UploadFault> = faults
            .iter()
            .filter(|(name, ..)| round == "new" || *name != "put-silent")
            .collect();
        let set: Vec<_> = faults
            .iter()
            .map(|(name, _, operation, times, action)| {
                folder.store.fault(&json!({
                    "operations": [operation], "key_prefix": format!("{name}."), "times": times, "action": action,
                }))
            })
            .collect();
        thread::scope(|scope| {
            let writers: Vec<_> = faults
                .iter()
                .map(|(name, size, _, _, _)| {
                    let folder = &folder;
                    scope.spawn(move || {
                        let source = folder.scratch().join(name);
                        let digest = random_file(&source, *size);
                        let start = Instant::now();
                        let key = format!("{name}.bin");
                        copy(&source, &folder.at(&key))
                            .unwrap_or_else(|told| panic!("{name}, {round}: {told}"));
                        println!("written through «{name}», {round}, in {:?}", start.elapsed());
                        assert_eq!(folder.store.sha256(&key).unwrap(), digest, "{name}, {round}");
                        fs::remove_file(source).unwrap();
                    })
                })
                .collect();
            undisturbed_while(&folder, || writers.iter().any(|writer| !writer.is_finished()));
        });
        for (fault, (name, _, _, times, _)) in set.iter().zip(&faults) {
            assert_eq!(fault.hits(), *times, "{name} has happened, {round}");
        }
    }
    let mut expected: Vec<String> = faults.iter().map(|(name, ..)| format!("{name}.bin")).collect();
    expected.push("calm.txt".to_owned());
    expected.sort();
    assert_eq!(folder.store.list(""), expected, "no copies beside them");
    // An upload that was begun twice because of a lost reply stays for the bucket's own rule.
    let unfinished = folder.store.unfinished_uploads();
    assert!(
        unfinished.iter().all(|key| key == "begin-500.bin"),
        "{unfinished:?}"
    );
}

#[test]
fn names_are_made_moved_and_removed_through_what_passes() {
    let folder = Folder::start();
    folder.store.put("calm.txt", "calm");
    let lost = json!({"no_reply": {"when": "after"}});
    let late = json!({"error_in_body": {"code": "InternalError"}});
    for (operation, action) in [
        ("PutObject", &lost),
        ("CopyObject", &lost),
        ("CopyObject", &late),
        ("DeleteObject", &lost),
        ("DeleteObjects", &lost),
    ] {
        let what = format!("{operation} with {action}");
        let told = |error: std::io::Error| -> () { panic!("{what}: {error}") };
        let fault = |prefix: &str| {
            folder.store.fault(&json!({
                "operations": [operation], "key_prefix": prefix, "times": 1, "action": action,
            }))
        };
        // A folder, a file in it, both renamed, both removed; the fault hits each step that makes such a request.
        let _in_folder = fault("");
        fs::create_dir(folder.at("folder")).unwrap_or_else(told);
        let _at_file = fault("");
        fs::write(folder.at("folder/file"), "file").unwrap_or_else(told);
        let _at_rename = fault("");
        fs::rename(folder.at("folder/file"), folder.at("folder/renamed")).unwrap_or_else(told);
        assert_eq!(names(&folder.at("folder")), ["renamed"], "{what}");
        let _at_move = fault("");
        fs::rename(folder.at("folder"), folder.at("moved")).unwrap_or_else(told);
        assert_eq!(fs::read(folder.at("moved/renamed")).unwrap(), b"file", "{what}");
        assert_eq!(folder.store.get("moved/renamed").unwrap(), b"file", "{what}");
        let _at_removal = fault("");
        fs::remove_file(folder.at("moved/renamed")).unwrap_or_else(told);
        let _at_last = fault("");
        fs::remove_dir(folder.at("moved")).unwrap_or_else(told);
        assert_eq!(names(folder.path()), ["calm.txt"], "{what}");
        assert_eq!(folder.store.list(""), ["calm.txt"], "{what}");
    }
}

#[test]
fn writes_that_cannot_succeed_say_so_and_are_uploaded_later() {
    let folder = Folder::start();
    folder.store.put("calm.txt", "calm");
    let error = |status: u16, code: &str| json!({"error": {"status": status, "code": code}});
    let faults = [
        ("500", EIO, "PutObject", 100_000, error(500, "InternalError")),
        ("403", EACCES, "PutObject", 100_000, error(403, "AccessDenied")),
        (
            "end-500",
            EIO,
            "CompleteMultipartUpload",
            20 << 20,
            error(500, "InternalError"),
        ),
    ];
    // Each program that another thread starts meanwhile closes the files on its way, and small as they still may be then,
    // they are put.
    let set: Vec<_> = faults
        .iter()
        .map(|(name, _, operation, _, action)| {
            let operations = [operation, "PutObject"];
            folder
                .store
                .fault(&json!({"operations": operations, "key_prefix": name, "action": action}))
        })
        .collect();
    let digests: Vec<String> = thread::scope(|scope| {
        let writers: Vec<_> = faults
            .iter()
            .map(|(name, errno, _, size, _)| {
                let folder = &folder;
                scope.spawn(move || {
                    let source = folder.scratch().join(name);
                    let digest = random_file(&source, *size);
                    let start = Instant::now();
                    let mut file = File::create(folder.at(name)).unwrap();
                    file.write_all(&fs::read(&source).unwrap()).unwrap();
                    let refused = file.sync_all().unwrap_err();
                    println!("fsync of «{name}» fails after {:?}: {refused}", start.elapsed());
                    assert_eq!(refused.raw_os_error(), Some(*errno), "{name}: {refused}");
                    drop(file);
                    let told = copy(&source, &folder.at(name)).unwrap_err();
                    println!("cp says: {told}");
                    assert!(start.elapsed() < ANSWER_DEADLINE, "{name}");
                    // What was written is not lost: it is here, and tried again.
                    assert!(
                        fs::read(folder.at(name)).unwrap() == fs::read(&source).unwrap(),
                        "{name}"
                    );
                    digest
                })
            })
            .collect();
        undisturbed_while(&folder, || writers.iter().any(|writer| !writer.is_finished()));
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    assert_eq!(folder.store.list(""), ["calm.txt"]);
    drop(set);
    for ((name, ..), digest) in faults.iter().zip(digests) {
        let what = format!("«{name}» is uploaded when the store takes it");
        eventually(&what, Duration::from_secs(90), || {
            if folder.store.sha256(name)? == digest {
                Ok(())
            } else {
                Err("another version".to_owned())
            }
        });
    }
    eventually(
        "no upload is left unfinished",
        Duration::from_secs(10),
        || match folder.store.unfinished_uploads() {
            none if none.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );
}

/// `cp`, which checks what closing a file says.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let output = Command::new("cp")
        .args([path_text(from), path_text(to)])
        .output()
        .unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
