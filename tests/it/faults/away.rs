//! S3 is away altogether: nobody hangs, what needs no S3 is answered, everything else fails at once after the first has
//! waited in vain, and goes on when it is back.

use std::fs;
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mooring_tests::bystander::disk_free;
use mooring_tests::folder::names;
use mooring_tests::process::suspend;
use mooring_tests::programs::rounds;
use mooring_tests::{Folder, Holder, eventually, versitygw};
use rustix::process::Signal;

use super::EIO;

/// The first to meet a silent endpoint waits 5 s before it is asked whether it lives, and 5 s for that answer; a loaded
/// machine may take longer.
const FIRST: Duration = Duration::from_secs(20);

/// Everybody after that: half a second for another question, and a loaded machine.
const NEXT: Duration = Duration::from_secs(3);

#[test]
fn a_silent_endpoint_is_waited_for_once_and_used_again_when_it_is_back() {
    let folder = Folder::with(&["--metadata-ttl", "100ms"]);
    folder.store.put("stored.txt", "stored");
    let mut firsts = Vec::new();
    for round in 0..rounds(1, 50) {
        names(folder.path());
        let mut writer = Holder::open(&folder.at("kept.txt"));
        let text = format!("kept {round}");
        assert_eq!(writer.write(&text), Ok(()));
        suspend(folder.store.process.pid());

        disk_free(folder.path());
        firsts.push(first_fails(&folder));
        next_fail_at_once(&folder);
        // Its fsync and its close fail in no time, too.
        let began = Instant::now();
        assert_eq!(writer.sync(), Err(EIO));
        assert_eq!(writer.close(), Err(EIO));
        println!("fsync and close fail within {:?}", began.elapsed());
        assert!(began.elapsed() < NEXT, "{:?}", began.elapsed());
        disk_free(folder.path());

        folder.store.process.signal(Signal::CONT);
        goes_on(&folder);
        let uploaded = || match folder.store.get("kept.txt") {
            Ok(bytes) if bytes == text.as_bytes() => Ok(()),
            other => Err(format!("{other:?}")),
        };
        eventually("what was closed is uploaded", Duration::from_secs(30), uploaded);
        fs::remove_file(folder.at("kept.txt")).unwrap();
    }
    tell_firsts("a silent endpoint", firsts);
}

#[test]
fn an_endpoint_that_refuses_connections_is_asked_for_seconds_once_and_used_again_when_it_is_back() {
    let scratch = mooring_tests::folder::scratch();
    let store = versitygw::start(scratch.path(), "lake");
    let mut folder = Folder::over(|_| store, &["--metadata-ttl", "100ms"]);
    folder.store.put("stored.txt", "stored");
    let mut firsts = Vec::new();
    for _ in 0..rounds(1, 50) {
        names(folder.path());
        folder.store.process.kill();

        disk_free(folder.path());
        firsts.push(first_fails(&folder));
        next_fail_at_once(&folder);
        disk_free(folder.path());

        versitygw::restart(&mut folder.store, scratch.path());
        goes_on(&folder);
    }
    tell_firsts("an endpoint that is not there", firsts);
}

#[test]
fn a_program_that_waits_for_a_silent_endpoint_can_be_killed_within_seconds() {
    let folder = Folder::with(&["--metadata-ttl", "100ms"]);
    folder.store.put("stored.txt", "stored");
    suspend(folder.store.process.pid());
    let mut waiting = Command::new("ls")
        .arg(folder.at("absent"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    println!("a killed program that waited ends after {:?}", began.elapsed());
    assert!(began.elapsed() < FIRST, "{:?}", began.elapsed());
    folder.store.process.signal(Signal::CONT);
    goes_on(&folder);
}

/// How long the first question to an endpoint took to fail, each time.
fn tell_firsts(what: &str, mut firsts: Vec<Duration>) {
    firsts.sort();
    let slowest = firsts[firsts.len() - 1];
    println!(
        "{} times, the first question to {what} fails after {:?} (median), {slowest:?} (slowest)",
        firsts.len(),
        firsts[firsts.len() / 2]
    );
    assert!(slowest < FIRST, "{slowest:?}");
}

/// Looks up names until it is not known any more that they are absent; returns how long the first one took that failed.
fn first_fails(folder: &Folder) -> Duration {
    for number in 0.. {
        let began = Instant::now();
        let refused = fs::metadata(folder.at(&format!("early-{number}"))).unwrap_err();
        if refused.kind() != ErrorKind::NotFound {
            assert_eq!(refused.raw_os_error(), Some(EIO), "{refused}");
            return began.elapsed();
        }
        assert!(number < 10_000, "names are known to be absent for ever");
        thread::sleep(Duration::from_millis(20));
    }
    unreachable!("the loop ends by itself");
}

/// Looks a name up that nobody knows, which must fail; returns how long that took.
fn fails(folder: &Folder, name: &str) -> Duration {
    let began = Instant::now();
    let refused = fs::metadata(folder.at(name)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(EIO), "{name}: {refused}");
    began.elapsed()
}

fn next_fail_at_once(folder: &Folder) {
    let mut slowest = Duration::ZERO;
    for name in ["absent-2", "absent-3", "absent-4"] {
        slowest = slowest.max(fails(folder, name));
    }
    let began = Instant::now();
    let listing = fs::read_dir(folder.path()).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    assert_eq!(listing.unwrap_err().raw_os_error(), Some(EIO));
    slowest = slowest.max(began.elapsed());
    println!("the next ones fail within {slowest:?}");
    assert!(slowest < NEXT, "{slowest:?}");
}

fn goes_on(folder: &Folder) {
    let (took, ()) = eventually(
        "the mount works again",
        Duration::from_secs(10),
        || match fs::read(folder.at("stored.txt")) {
            Ok(bytes) if bytes == b"stored" => Ok(()),
            Ok(_) => Err("other bytes".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    );
    println!("it goes on {took:?} after the endpoint is back");
    fs::write(folder.at("after.txt"), "after").unwrap();
    assert_eq!(folder.store.get("after.txt").unwrap(), b"after");
}
