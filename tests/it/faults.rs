//! S3 misbehaves: what passes is bridged, what stays is told in time, and no byte is ever wrong.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use mooring_tests::folder::{names, path_text, run};
use mooring_tests::programs::rounds;
use mooring_tests::{Folder, eventually, versitygw};
use rustix::process::Signal;
use serde_json::json;

use crate::survival::random_file;

mod away;
mod full;
mod storm;
mod writes;

const EIO: i32 = 5;
const EACCES: i32 = 13;
const ETIMEDOUT: i32 = 110;
const ESTALE: i32 = 116;

/// What a program waits at most for an answer that does not come: the reader's deadline of 60 s, and room for a loaded
/// machine.
const ANSWER_DEADLINE: Duration = Duration::from_secs(100);

/// The same for an upload of which nothing moves: three attempts of 15 s, looked at ten times each, and a loaded machine.
const UPLOAD_SILENCE: Duration = Duration::from_secs(75);

/// After this somebody hangs, and would for ever.
const HANG: Duration = Duration::from_secs(240);

/// Operations that no fault concerns are as quick as ever. Generous, for a loaded machine, and still below the first
/// deadline that a fault could make them wait for.
const UNDISTURBED: Duration = Duration::from_secs(10);

#[test]
fn reads_survive_what_passes() {
    let folder = Folder::start();
    let source = folder.scratch().join("source");
    random_file(&source, 3 << 20);
    let bytes = fs::read(&source).unwrap();
    folder.store.put("calm.txt", "calm");
    let faults = [
        (
            "500",
            2,
            json!({"error": {"status": 500, "code": "InternalError"}}),
        ),
        ("503", 2, json!({"error": {"status": 503, "code": "SlowDown"}})),
        ("reset-before", 2, json!({"no_reply": {}})),
        ("reset-at-byte", 3, json!({"reset": {"at_byte": 70_000}})),
        ("truncated", 3, json!({"truncate": {"at_byte": 100_000}})),
        ("slow", 1, json!({"stall": {"millis": 2000}})),
        ("stalled-before", 1, json!({"stall": {"millis": 60_000}})),
        (
            "stalled-at-byte",
            1,
            json!({"stall": {"millis": 60_000, "at_byte": 100_000}}),
        ),
    ];
    for (name, _, _) in &faults {
        folder.store.put_file(name, &source);
    }
    let set: Vec<_> = faults
        .iter()
        .map(|(name, times, action)| {
            folder.store.fault(&json!({
                "operations": ["GetObject"], "key_prefix": name, "times": times, "action": action,
            }))
        })
        .collect();
    thread::scope(|scope| {
        let readers: Vec<_> = faults
            .iter()
            .map(|(name, _, _)| {
                let (folder, bytes) = (&folder, &bytes);
                scope.spawn(move || {
                    let start = Instant::now();
                    let read = fs::read(folder.at(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert!(read == *bytes, "{name}: wrong bytes");
                    println!("read through «{name}» in {:?}", start.elapsed());
                })
            })
            .collect();
        undisturbed_while(&folder, || readers.iter().any(|reader| !reader.is_finished()));
    });
    for (fault, (name, times, _)) in set.iter().zip(&faults) {
        assert_eq!(fault.hits(), *times, "{name} has happened");
    }
}

#[test]
fn reads_and_uploads_that_cannot_succeed_fail_in_time_and_work_again_afterwards() {
    let folder = Folder::start();
    let source = folder.scratch().join("source");
    random_file(&source, 1 << 20);
    let bytes = fs::read(&source).unwrap();
    folder.store.put("calm.txt", "calm");
    let faults = [
        (
            "500",
            EIO,
            json!({"error": {"status": 500, "code": "InternalError"}}),
        ),
        ("503", EIO, json!({"error": {"status": 503, "code": "SlowDown"}})),
        (
            "403",
            EACCES,
            json!({"error": {"status": 403, "code": "AccessDenied"}}),
        ),
        ("reset", EIO, json!({"no_reply": {}})),
        ("truncated", EIO, json!({"truncate": {"at_byte": 0}})),
        ("stalled", ETIMEDOUT, json!({"stall": {"millis": 600_000}})),
        (
            "body-stalled",
            ETIMEDOUT,
            json!({"stall": {"millis": 600_000, "at_byte": 1000}}),
        ),
    ];
    for (name, _, _) in &faults {
        folder.store.put_file(name, &source);
    }
    let set: Vec<_> = faults
        .iter()
        .map(|(name, _, action)| {
            folder
                .store
                .fault(&json!({"operations": ["GetObject"], "key_prefix": name, "action": action}))
        })
        .collect();
    // Not beside what is undisturbed, as with the questions below.
    folder.store.put("apart/stored", "stored");
    let silent = folder.store.fault(
        &json!({"operations": ["PutObject"], "key_prefix": "apart/", "action": {"stall": {"millis": 600_000}}}),
    );
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut file = File::create(folder.at("apart/written")).unwrap();
            file.write_all(&bytes).unwrap();
            let start = Instant::now();
            let refused = file.sync_all().unwrap_err();
            println!(
                "an upload that nobody answers fails after {:?}: {refused}",
                start.elapsed()
            );
            assert_eq!(refused.raw_os_error(), Some(EIO), "{refused}");
            assert!(start.elapsed() < UPLOAD_SILENCE);
            drop(silent);
            file.sync_all().unwrap();
        });
        let readers: Vec<_> = faults
            .iter()
            .map(|(name, errno, _)| {
                let folder = &folder;
                scope.spawn(move || {
                    let start = Instant::now();
                    let refused = fs::read(folder.at(name)).unwrap_err();
                    println!("«{name}» fails after {:?}: {refused}", start.elapsed());
                    assert_eq!(refused.raw_os_error(), Some(*errno), "{name}: {refused}");
                    assert!(start.elapsed() < ANSWER_DEADLINE, "{name}");
                })
            })
            .collect();
        undisturbed_while(&folder, || {
            !writer.is_finished() || readers.iter().any(|reader| !reader.is_finished())
        });
    });
    drop(set);
    for (name, _, _) in &faults {
        assert!(fs::read(folder.at(name)).unwrap() == bytes, "{name} afterwards");
    }
    assert!(folder.store.get("apart/written").unwrap() == bytes);
}

#[test]
fn questions_that_are_not_answered_fail_in_time() {
    let folder = Folder::start();
    folder.store.put("calm.txt", "calm");
    // Not beside what is undisturbed: the kernel lets nobody make or remove a name in a folder in which it looks one up.
    for name in ["below/refused/a", "below/silent/a", "list/a"] {
        folder.store.put(name, name);
    }
    let faults = [
        json!({"operations": ["HeadObject", "ListObjectsV2"], "key_prefix": "below/refused",
            "action": {"error": {"status": 500, "code": "InternalError"}}}),
        json!({"operations": ["HeadObject", "ListObjectsV2"], "key_prefix": "below/silent", "action": {"stall": {"millis": 600_000}}}),
    ];
    let set: Vec<_> = faults.iter().map(|fault| folder.store.fault(fault)).collect();
    thread::scope(|scope| {
        let askers: Vec<_> = [("below/refused", EIO), ("below/silent", ETIMEDOUT)]
            .into_iter()
            .map(|(name, errno)| {
                let folder = &folder;
                scope.spawn(move || {
                    let start = Instant::now();
                    let refused = fs::metadata(folder.at(name)).unwrap_err();
                    println!(
                        "a question that is {name} fails after {:?}: {refused}",
                        start.elapsed()
                    );
                    assert_eq!(refused.raw_os_error(), Some(errno), "{name}: {refused}");
                    assert!(start.elapsed() < ANSWER_DEADLINE, "{name}");
                })
            })
            .collect();
        undisturbed_while(&folder, || askers.iter().any(|asker| !asker.is_finished()));
    });
    drop(set);
    assert_eq!(names(&folder.at("below/refused")), ["a"]);
    assert_eq!(names(&folder.at("below/silent")), ["a"]);

    // A listing that breaks off is an error, never a shorter folder: neither at its first page nor later.
    folder.store.fill("list/", 2500, 1);
    for pages in [0, 1, 2] {
        let broken = folder.store.fault(
            &json!({"operations": ["ListObjectsV2"], "key_prefix": "list/", "skip": pages,
            "action": {"error": {"status": 500, "code": "InternalError"}}}),
        );
        let refused = fs::read_dir(folder.at("list"))
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .unwrap_err();
        assert_eq!(
            refused.raw_os_error(),
            Some(EIO),
            "after {pages} pages: {refused}"
        );
        drop(broken);
    }
    assert_eq!(names(&folder.at("list")).len(), 2501);
}

#[test]
fn a_checksum_that_the_store_keeps_reveals_wrong_bytes() {
    let folder = Folder::start();
    // boto3 sends a checksum along, and the store tells it to who asks.
    let bytes = vec![7_u8; 200_000];
    let corrupt = json!({"corrupt": {"at_byte": 150_000}});
    for round in 0..rounds(1, 50) {
        // Names of its own, since what was read once may be remembered.
        let [once, always] = ["once", "always"].map(|name| format!("{name}-{round}"));
        for name in [&once, &always] {
            folder.store.put(name, &bytes);
        }
        let fault = folder
            .store
            .fault(&json!({"operations": ["GetObject"], "key_prefix": once, "times": 1, "action": corrupt}));
        assert!(fs::read(folder.at(&once)).unwrap() == bytes);
        assert_eq!(fault.hits(), 1);
        let fault = folder
            .store
            .fault(&json!({"operations": ["GetObject"], "key_prefix": always, "action": corrupt}));
        let refused = fs::read(folder.at(&always)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(EIO), "{refused}");
        drop(fault);
        assert!(fs::read(folder.at(&always)).unwrap() == bytes);
    }
}

#[test]
fn a_store_that_falls_silent_and_comes_back_fails_nothing_on_our_own_store() {
    falls_silent(&Folder::start());
}

#[test]
fn a_store_that_falls_silent_and_comes_back_fails_nothing_on_versitygw() {
    falls_silent(&Folder::on_versitygw());
}

fn falls_silent(folder: &Folder) {
    let source = folder.scratch().join("source");
    let digest = random_file(&source, 64 << 20);
    folder.store.put_file("stored", &source);
    let mut writing = start("cp", &source, &folder.at("written"));
    let mut reading = start("cmp", &source, &folder.at("stored"));
    for _ in 0..3 {
        folder.store.process.signal(Signal::STOP);
        // Not a wait for anything: this is for how long it is silent.
        thread::sleep(Duration::from_millis(1500));
        folder.store.process.signal(Signal::CONT);
        thread::sleep(Duration::from_millis(100));
    }
    assert!(reading.wait().unwrap().success(), "the same bytes");
    assert!(writing.wait().unwrap().success());
    assert_eq!(folder.store.sha256("written").unwrap(), digest);
    assert_eq!(folder.store.unfinished_uploads(), Vec::<String>::new());
}

#[test]
fn a_store_that_is_killed_and_started_again_loses_nothing_that_was_closed() {
    let mut folder = Folder::on_versitygw();
    let source = folder.scratch().join("source");
    let digest = random_file(&source, 64 << 20);
    folder.store.put_file("stored", &source);
    fs::write(folder.at("closed.txt"), "closed").unwrap();
    let mut writing = start("cp", &source, &folder.at("written"));
    let mut reading = start("cmp", &source, &folder.at("stored"));
    folder.store.process.kill();
    let scratch = folder.scratch().to_owned();
    versitygw::restart(&mut folder.store, &scratch);
    // Either may have failed, if the server was away for longer than it is asked again; then it works once more.
    for (program, child, name) in [("cp", &mut writing, "written"), ("cmp", &mut reading, "stored")] {
        let first = child.wait().unwrap().success();
        println!(
            "{program} during the restart: {}",
            if first { "succeeded" } else { "failed" }
        );
        if !first {
            run(program, &[path_text(&source), path_text(&folder.at(name))]);
        }
    }
    assert_eq!(fs::read(folder.at("closed.txt")).unwrap(), b"closed");
    assert_eq!(folder.store.sha256("written").unwrap(), digest);
}

/// Starts `<program> <source> <target>`, which somebody will wait for; it ends also if the mount hangs.
fn start(program: &str, source: &Path, target: &Path) -> Child {
    let command = ["240", program, path_text(source), path_text(target)];
    Command::new("timeout").args(command).spawn().unwrap()
}

#[test]
fn an_open_file_whose_object_is_replaced_is_one_version_or_stale_on_our_own_store() {
    replaced_while_open(&Folder::start());
}

#[test]
fn an_open_file_whose_object_is_replaced_is_one_version_or_stale_on_versitygw() {
    replaced_while_open(&Folder::on_versitygw());
}

fn replaced_while_open(folder: &Folder) {
    // Larger than what is read ahead at first.
    let size = 32 << 20;
    let (old, new) = (vec![b'o'; size], vec![b'n'; size]);
    for (name, newer) in [
        ("replaced", Some(&new)),
        ("cut", Some(&vec![b'n'; 1000])),
        ("removed", None),
    ] {
        folder.store.put(name, &old);
        let mut open = File::open(folder.at(name)).unwrap();
        let mut seen = vec![0; 100_000];
        open.read_exact(&mut seen).unwrap();
        match newer {
            Some(newer) => folder.store.put(name, newer),
            None => folder.store.delete(name),
        }
        match open.read_to_end(&mut seen) {
            Ok(_) => assert_eq!(seen.len(), size, "{name}: the whole old version"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(ESTALE), "{name}: {error}"),
        }
        println!(
            "«{name}» while open: {} of {size} bytes of the old version",
            seen.len()
        );
        assert!(
            seen.iter().all(|&byte| byte == b'o'),
            "{name}: two versions are mixed"
        );
        drop(open);
        let what = format!("«{name}» is seen as it is now");
        eventually(&what, Duration::from_secs(30), || {
            match (fs::read(folder.at(name)), newer) {
                (Ok(now), Some(newer)) if now == *newer => Ok(()),
                (Err(error), None) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                (Ok(now), _) if now.iter().any(|&byte| byte != b'o') => panic!("two versions are mixed"),
                (Ok(now), _) => Err(format!("{} bytes", now.len())),
                (Err(error), _) => Err(error.to_string()),
            }
        });
    }
}

/// Reads, writes and lists what no fault concerns, as long as `going_on`; each step must be quick.
fn undisturbed_while(folder: &Folder, going_on: impl Fn() -> bool) {
    let began = Instant::now();
    let mut rounds = 0;
    let mut slowest = Duration::ZERO;
    while going_on() || rounds == 0 {
        if began.elapsed() > HANG {
            // Frees the threads that hang in the mount, or the story would not end either.
            folder.mount.signal(Signal::KILL);
            panic!("an operation hangs");
        }
        let start = Instant::now();
        assert_eq!(fs::read(folder.at("calm.txt")).unwrap(), b"calm");
        fs::write(folder.at("calm-written.txt"), rounds.to_string()).unwrap();
        names(folder.path());
        fs::remove_file(folder.at("calm-written.txt")).unwrap();
        slowest = slowest.max(start.elapsed());
        assert!(
            slowest < UNDISTURBED,
            "a round of other operations took {slowest:?}"
        );
        rounds += 1;
        thread::sleep(Duration::from_millis(100));
    }
    println!("meanwhile {rounds} rounds of other operations, the slowest in {slowest:?}");
}
