//! The access key of a live mount is exchanged: id and secret in one step, without a remount and without anybody noticing.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mooring_tests::folder::path_text;
use mooring_tests::programs::rounds;
use mooring_tests::store::planted_secret;
use mooring_tests::{Host, World, eventually};

/// Within this a new version of a secret is in use on every host.
const IN_USE: Duration = Duration::from_secs(5);

/// What the store does with the old key.
#[derive(Clone, Copy, Debug)]
enum Old {
    /// Accepts it until the new one is in use, as careful people do.
    AcceptedUntilThen,
    /// Refuses it before the new one is even known to the catalog.
    RefusedAtOnce,
}

/// A connector with a key of its own, mounted.
struct Rotated {
    // Dropped first: the world's folder goes last.
    host: Host,
    world: World,
    keys: Vec<(String, String)>,
}

#[test]
fn a_new_key_reaches_a_live_mount_within_seconds_whatever_becomes_of_the_old_one() {
    let mut rotated = Rotated::start();
    let workers = rotated.host.workers();
    for old in [Old::AcceptedUntilThen, Old::RefusedAtOnce] {
        let (took, operations) = rotated.under_load(|rotated| rotated.rotate(old));
        println!(
            "the old key {old:?}: the new one is in use after {took:?}, {operations} operations, 0 failed"
        );
        assert!(took < IN_USE, "{took:?}");
    }
    assert_eq!(
        rotated.host.workers(),
        workers,
        "the mount goes on in the same process"
    );
    rotated.nothing_leaked();
}

#[test]
fn keys_are_rotated_under_load_without_a_failed_operation() {
    let mut rotated = Rotated::start();
    let workers = rotated.host.workers();
    let count = rounds(5, 50);
    let (figures, operations) = rotated.under_load(|rotated| {
        let mut took: Vec<Duration> = (0..count)
            .map(|round| match round % 2 {
                0 => rotated.rotate(Old::AcceptedUntilThen),
                _ => rotated.rotate(Old::RefusedAtOnce),
            })
            .collect();
        took.sort();
        took
    });
    println!(
        "{count} rotations, {operations} operations, 0 failed; in use after {:?} (median), {:?} (slowest)",
        figures[figures.len() / 2],
        figures[figures.len() - 1]
    );
    assert!(figures.iter().all(|took| *took < IN_USE), "{figures:?}");
    assert_eq!(
        rotated.host.workers(),
        workers,
        "the mount goes on in the same process"
    );
    rotated.nothing_leaked();
}

#[test]
fn a_wrong_new_key_is_seen_where_nobody_uses_the_mount() {
    let rotated = Rotated::start();
    let file = secret_file(rotated.world.path(), &planted_secret());
    rotated.world.operator.mooring(&format!(
        "secrets add-version ml/tide-key --access-key-id AKIDOFNOBODY --secret-access-key-file {}",
        file.display()
    ));
    fs::remove_file(file).unwrap();
    rotated
        .host
        .lists_with("ml/tide", "DEGRADED", "the S3 service refuses the key");
    // The quickest way back.
    rotated
        .world
        .operator
        .mooring("secrets disable-version ml/tide-key/2");
    rotated.host.lists("ml/tide", "MOUNTED");
}

impl Rotated {
    fn start() -> Rotated {
        let mut world = World::start();
        let (id, secret) = ("AKIDROTATED0".to_owned(), planted_secret());
        world.store.accept_key(&id, &secret, false);
        let file = secret_file(world.path(), &secret);
        world.operator.mooring(&format!(
            "connectors create tide --project ml --endpoint {} --bucket {} --access-key-id {id} --mode read-write \
             --new-secret-id tide-key --new-secret-key-file {}",
            world.store.endpoint,
            world.store.bucket,
            file.display(),
        ));
        fs::remove_file(file).unwrap();
        // Before the mount, which would know for a while that they are not there.
        world.store.fill("stored/", 20_000, 1000);
        let host = world.host();
        world.activate_connector(&host, "ml", "tide");
        let keys = vec![(id, secret)];
        Rotated { world, host, keys }
    }

    /// Gives the mount another key; returns how long after the command the store sees it used.
    fn rotate(&mut self, old: Old) -> Duration {
        let store = &self.world.store;
        let (old_id, _) = &self.keys[self.keys.len() - 1];
        let (id, secret) = (format!("AKIDROTATED{}", self.keys.len()), planted_secret());
        store.accept_key(&id, &secret, false);
        store.forget_requests();
        if let Old::RefusedAtOnce = old {
            store.revoke_key(old_id);
        }
        let file = secret_file(self.world.path(), &secret);
        let began = Instant::now();
        self.world.operator.mooring(&format!(
            "secrets add-version ml/tide-key --access-key-id {id} --secret-access-key-file {}",
            file.display()
        ));
        fs::remove_file(file).unwrap();
        let signed = || {
            let log = store.request_log();
            match log.iter().any(|request| request["access_key"] == id.as_str()) {
                true => Ok(()),
                false => Err(format!("{} requests with other keys", log.len())),
            }
        };
        eventually("the new key signs requests", Duration::from_secs(20), signed);
        let took = began.elapsed();
        if let Old::AcceptedUntilThen = old {
            store.revoke_key(old_id);
        }
        self.keys.push((id, secret));
        took
    }

    /// Does something while files of the mount are read, written and looked for; no operation may fail. Returns how many
    /// there were.
    fn under_load<T>(&mut self, work: impl FnOnce(&mut Rotated) -> T) -> (T, u64) {
        let load = Load::start(&self.host.path("ml", "tide"));
        let result = work(self);
        (result, load.ends())
    }

    fn nothing_leaked(&self) {
        for (id, secret) in &self.keys {
            let found = self.world.files_with(secret);
            assert!(found.is_empty(), "the secret of {id} stands in {found:?}");
        }
    }
}

/// Load on a mount, by a program of its own: what is started by who has a file open closes it once more, and would wait for
/// its upload.
struct Load(Child);

/// Reads objects that were not read before, writes files until they are in the store, and asks for names that are not there,
/// each all the time; ends with its standard input, and tells how many operations there were and which have failed.
const LOAD: &str = r#"
import os, sys, threading, time
path, counts, failed, done = sys.argv[1], [0, 0, 0], [], threading.Event()
def read(number):
    with open(f"{path}/stored/{number % 20000:07}", "rb") as file:
        assert len(file.read()) == 1000
def write(number):
    with open(f"{path}/written-{number % 10}", "wb") as file:
        file.write(b"%d" % number)
        file.flush()
        os.fsync(file.fileno())
def look(number):
    try:
        os.stat(f"{path}/absent-{number}/file")
        raise AssertionError("it is there")
    except FileNotFoundError:
        pass
def run(which, operation):
    while not done.is_set():
        try:
            operation(counts[which])
            counts[which] += 1
        except Exception as error:
            failed.append(f"{operation.__name__}: {error}")
        # A load, not a benchmark: on two cores the catalog has to get its turn.
        time.sleep(0.005)
threads = [threading.Thread(target=run, args=each) for each in enumerate([read, write, look])]
for thread in threads: thread.start()
print("loaded", flush=True)
sys.stdin.read()
done.set()
for thread in threads: thread.join()
print(sum(counts), *failed[:5], sep="\n")
"#;

impl Load {
    fn start(path: &Path) -> Load {
        let mut program = Command::new("python3")
            .args(["-c", LOAD, path_text(path)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; "loaded\n".len()];
        program.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        Load(program)
    }

    /// How many operations there were; none has failed.
    fn ends(mut self) -> u64 {
        drop(self.0.stdin.take());
        let mut told = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(self.0.wait().unwrap().success());
        let (count, failed) = told.split_once('\n').unwrap();
        assert_eq!(failed, "", "operations have failed");
        count.parse().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn secret_file(folder: &Path, secret: &str) -> std::path::PathBuf {
    let file = folder.join("rotated.key");
    fs::write(&file, secret).unwrap();
    file
}
