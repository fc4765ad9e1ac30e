//! S3 is away altogether: nobody hangs, what needs no S3 is answered, everything else fails at once after the first has
//! waited in vain, and goes on when it is back.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mooring_tests::folder::{names, path_text, run};
use mooring_tests::{Folder, eventually, versitygw};
use rustix::process::Signal;

use super::EIO;

/// The first to meet a silent endpoint waits 5 s before it is asked whether it lives, and 5 s for that answer; a loaded
/// machine may take longer.
const FIRST: Duration = Duration::from_secs(20);

/// Everybody after that: half a second for another question, and a loaded machine.
const NEXT: Duration = Duration::from_secs(3);

/// `df` asks nobody.
const DF: Duration = Duration::from_secs(1);

#[test]
fn a_silent_endpoint_is_waited_for_once_and_used_again_when_it_is_back() {
    let folder = Folder::with(&["--metadata-ttl", "100ms"]);
    folder.store.put("stored.txt", "stored");
    names(folder.path());
    let writer = Writer::start(&folder);
    folder.store.process.signal(Signal::STOP);

    disk_free(&folder);
    let first = first_fails(&folder);
    println!("the first question to a silent endpoint fails after {first:?}");
    assert!(first < FIRST, "{first:?}");
    next_fail_at_once(&folder);
    writer.fails_at_once();
    disk_free(&folder);

    folder.store.process.signal(Signal::CONT);
    goes_on(&folder);
    eventually(
        "what was closed is uploaded",
        Duration::from_secs(30),
        || match folder.store.get("kept.txt") {
            Ok(bytes) if bytes == b"kept" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

#[test]
fn an_endpoint_that_refuses_connections_is_asked_for_seconds_once_and_used_again_when_it_is_back() {
    let scratch = mooring_tests::folder::scratch();
    let store = versitygw::start(scratch.path(), "lake");
    let mut folder = Folder::over(|_| store, &["--metadata-ttl", "100ms"]);
    folder.store.put("stored.txt", "stored");
    names(folder.path());
    folder.store.process.kill();

    disk_free(&folder);
    let first = first_fails(&folder);
    println!("the first question to an endpoint that is not there fails after {first:?}");
    assert!(first < FIRST, "{first:?}");
    next_fail_at_once(&folder);
    disk_free(&folder);

    versitygw::restart(&mut folder.store, scratch.path());
    goes_on(&folder);
}

#[test]
fn a_program_that_waits_for_a_silent_endpoint_can_be_killed_within_seconds() {
    let folder = Folder::with(&["--metadata-ttl", "100ms"]);
    folder.store.put("stored.txt", "stored");
    folder.store.process.signal(Signal::STOP);
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

/// A program that writes `kept` to the file it is given, waits for a line, tells how fsync goes, and ends. A program of its
/// own, since whatever is started by who has a file open closes it once more, and waits for its upload.
const WRITER: &str = "
import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
os.write(file, b'kept')
print('written', flush=True)
sys.stdin.readline()
try:
    os.fsync(file)
except OSError as error:
    print(error.errno, flush=True)
";

struct Writer {
    program: Child,
    says: BufReader<ChildStdout>,
}

impl Writer {
    fn start(folder: &Folder) -> Writer {
        let mut program = Command::new("python3")
            .args(["-c", WRITER, path_text(&folder.at("kept.txt"))])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(program.stdout.take().unwrap());
        let mut writer = Writer { program, says };
        assert_eq!(writer.says(), "written");
        writer
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Its fsync and its close must fail in no time.
    fn fails_at_once(mut self) {
        let began = Instant::now();
        writeln!(self.program.stdin.take().unwrap()).unwrap();
        assert_eq!(self.says(), EIO.to_string());
        assert!(self.program.wait().unwrap().success());
        println!("fsync and close fail within {:?}", began.elapsed());
        assert!(began.elapsed() < NEXT, "{:?}", began.elapsed());
    }
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

fn disk_free(folder: &Folder) {
    let began = Instant::now();
    run("df", &[path_text(folder.path())]);
    let took = began.elapsed();
    println!("df answers within {took:?}");
    assert!(took < DF, "df takes {took:?}");
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
