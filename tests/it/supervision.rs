//! What becomes of a mount when its worker, its agent or both end, hang or are replaced by another version: the mount
//! stays, open files go on, no operation fails; and where that cannot be, it is said and nobody else is touched.

mod failing;
mod forgotten;
mod hanging;
mod load;
mod manager;

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mooring_tests::programs::{long, program};
use mooring_tests::world::Mounted;
use mooring_tests::{Host, World, eventually, mounts};
use rustix::process::{Pid, Signal, kill_process};

use load::{Apart, Load};
use manager::Manager;

/// How long nobody may be served when a worker is killed: a release build on an idle machine takes a fifth of the target
/// of 500 ms; this is for debug builds beside other stories on two cores.
const PAUSE_MAX: Duration = Duration::from_millis(2500);

/// More than twenty deaths a minute are a crash loop, which is not what is measured here.
const FORGIVEN_BY: Duration = Duration::from_secs(3);

/// A worker that dies sooner after it was to serve is one that cannot: a quick machine does a turn of the load before.
const BEGUN_BY: Duration = Duration::from_millis(400);

#[test]
fn a_worker_killed_again_and_again_fails_no_operation_and_keeps_the_mount() {
    let mut world = World::start();
    Load::prepare(&world.store);
    let host = world.host();
    let mount = world.activate(&host);
    let identity = mount_identity(&mount.path);
    let load = Load::start(&mount.path);

    let mut pauses = Vec::new();
    for _ in 0..if long() { 100 } else { 10 } {
        let begun = Instant::now();
        pauses.push(kill_and_wait(&host, &mount.path));
        load.goes_on();
        while begun.elapsed() < if long() { FORGIVEN_BY } else { BEGUN_BY } {
            load.goes_on();
        }
    }
    let (operations, slowest) = load.ends_well(&world.store);
    pauses.sort();
    let p99 = pauses[(pauses.len() * 99).div_ceil(100) - 1];
    println!(
        "{} kills of the worker during {operations} turns: pause {} ms in the middle, {} ms at p99; slowest turn {} ms",
        pauses.len(),
        pauses[pauses.len() / 2].as_millis(),
        p99.as_millis(),
        slowest.as_millis()
    );
    assert!(p99 <= PAUSE_MAX, "the pause was {p99:?}");
    assert_eq!(mount_identity(&mount.path), identity, "it was mounted anew");
    host.lists("lake", "MOUNTED");
}

#[test]
fn an_agent_that_comes_back_keeps_the_mount_over_the_death_of_its_worker() {
    let mut world = World::start();
    Load::prepare(&world.store);
    let mut host = world.host();
    let mount = world.activate(&host);
    let identity = mount_identity(&mount.path);
    let load = Load::start(&mount.path);
    for round in 0..if long() { 50 } else { 4 } {
        match round % 2 {
            0 => host.kill_agent(),
            _ => host.stop_agent(),
        }
        host.start();
        // The descriptor comes back from the worker, when it is first asked how it does.
        host.agent_has_said("is kept again", round + 1);
        kill_and_wait(&host, &mount.path);
        load.goes_on();
    }
    load.ends_well(&world.store);
    assert_eq!(mount_identity(&mount.path), identity, "it was mounted anew");
}

#[test]
fn a_worker_killed_while_its_agent_is_away_is_mounted_anew_and_nobody_waits_for_ever() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let mount = world.activate(&host);
    let worker = host.worker_of(&mount.path);
    host.kill_agent();
    kill(worker);
    // With nobody left who has the descriptor, the kernel ends the mount at once.
    eventually(
        "every access fails",
        Duration::from_secs(10),
        || match std::fs::metadata(mount.path.join("kept.txt")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    host.start();
    world.mounted_at(&mount.path);
    assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
}

#[test]
#[ignore = "no story: the load of another one, which runs it in a process of its own"]
fn load_apart() {
    load::apart();
}

#[test]
fn what_the_service_manager_keeps_brings_a_mount_over_the_death_of_agent_and_worker_together() {
    let mut world = World::start();
    Load::prepare(&world.store);
    let mut host = world.host();
    host.stop_agent();
    let mut manager = Manager::new(host.folder());
    let mut agent = manager.start(&host);
    manager.hears("READY=1");
    manager.hears("WATCHDOG=1");
    let mount = world.activate(&host);
    manager.hears("FDSTORE=1");
    manager.hears("STATUS=1 mounted");
    let identity = mount_identity(&mount.path);
    let load = Apart::start(&mount.path, world.path());

    for _ in 0..if long() { 50 } else { 3 } {
        let worker = host.worker_of(&mount.path);
        manager.listen();
        agent.kill();
        kill(worker);
        agent = manager.start(&host);
        host.another_worker_of(&mount.path, worker);
    }
    load.ends_well(&world.store);
    assert_eq!(mount_identity(&mount.path), identity, "it was mounted anew");

    // A mount that is no more is kept by nobody.
    world
        .operator
        .mooring(&format!("activations delete {} --grace 0s", mount.activation));
    eventually(
        "it is unmounted",
        Duration::from_secs(20),
        || match mounts::is_mounted(&mount.path) {
            false => Ok(()),
            true => Err("not yet".to_owned()),
        },
    );
    manager.hears("FDSTOREREMOVE=1");
    assert!(manager.store.is_empty(), "{:?}", manager.store);
    agent.stop();
    manager.hears("STOPPING=1");
}

#[test]
fn an_upgrade_replaces_the_workers_one_after_the_other_and_nobody_notices() {
    let mut world = World::start();
    Load::prepare(&world.store);
    let mut host = world.host();
    let installed = install_own_program(&mut host);
    let mount = world.activate(&host);
    world.connector("ml", "pond", "--mode read-write");
    let other = world.activate_connector(&host, "ml", "pond");
    let identities = [mount_identity(&mount.path), mount_identity(&other.path)];
    let load = Load::start(&mount.path);

    let rounds = if long() { 100 } else { 4 };
    for round in 0..rounds {
        put_in_place(&program("mooring-fs"), &installed);
        match round % 2 {
            0 => {
                host.kill_agent();
                host.start();
            }
            _ => host.signal_agent(Signal::HUP),
        }
        eventually(
            "all workers run what is installed",
            Duration::from_secs(40),
            || {
                let wanted = std::fs::metadata(&installed).unwrap().ino();
                let outdated = [&mount.path, &other.path].into_iter().filter(|path| {
                    let exe = format!("/proc/{}/exe", host.worker_of(path));
                    std::fs::metadata(exe).map(|found| found.ino()).ok() != Some(wanted)
                });
                match outdated.count() {
                    0 => Ok(()),
                    count => Err(format!("{count} do not")),
                }
            },
        );
        load.goes_on();
    }
    let (operations, slowest) = load.ends_well(&world.store);
    println!(
        "{rounds} upgrades during {operations} turns, the slowest of which took {} ms",
        slowest.as_millis()
    );
    assert_eq!(
        [mount_identity(&mount.path), mount_identity(&other.path)],
        identities,
        "something was mounted anew"
    );
}

#[test]
fn a_program_that_does_not_run_is_a_condition_with_its_last_words_and_harms_no_live_mount() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let installed = install_own_program(&mut host);
    let mount = world.activate(&host);
    let worker = host.worker_of(&mount.path);
    let broken = host.folder().join("broken");
    std::fs::write(&broken, "#!/bin/sh\necho 'libmissing.so: cannot open'\nexit 1\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    put_in_place(&broken, &installed);

    world.connector("ml", "pond", "--mode read-write");
    world
        .operator
        .mooring("activations create --connector ml/pond --pool desks");
    let pond = host.lists("pond", "FAILED");
    assert!(pond.contains("libmissing.so: cannot open"), "{pond}");
    host.lists_with("pond", "FAILED", "fail one after the other");

    // An upgrade to it is tried, given up and told; the mount goes on with the worker that it has.
    host.signal_agent(Signal::HUP);
    let lake = host.lists("lake", "DEGRADED");
    assert!(
        lake.contains("cannot take this mount over") && lake.contains("libmissing.so"),
        "{lake}"
    );
    assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
    assert_eq!(host.worker_of(&mount.path), worker);

    put_in_place(&program("mooring-fs"), &installed);
    host.lists("lake", "MOUNTED");
    host.lists("pond", "MOUNTED");
    assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
}

/// Kills the worker of the mount at `path`; answers how long nobody was served, once another worker is on record.
fn kill_and_wait(host: &Host, path: &Path) -> Duration {
    let worker = host.worker_of(path);
    let begun = Instant::now();
    kill(worker);
    // The kernel remembers nothing that could answer this.
    rustix::fs::statvfs(path).unwrap_or_else(|error| panic!("statvfs after the kill: {error}"));
    let pause = begun.elapsed();
    host.another_worker_of(path, worker);
    pause
}

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Id and device of the mount: another mount at the same place has others.
fn mount_identity(path: &Path) -> (String, String) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == path.to_str())
        .unwrap_or_else(|| panic!("{} is not mounted", path.display()));
    let mut fields = line.split(' ');
    let id = fields.next().unwrap().to_owned();
    (id, fields.nth(1).unwrap().to_owned())
}

/// Has the host mount with a program of its own, which can be replaced.
fn install_own_program(host: &mut Host) -> PathBuf {
    let installed = host.folder().join("mooring-fs");
    put_in_place(&program("mooring-fs"), &installed);
    host.kill_agent();
    let mut config = std::fs::File::options()
        .append(true)
        .open(host.folder().join("agent.toml"))
        .unwrap();
    writeln!(config, "mooring_fs = {installed:?}").unwrap();
    host.start();
    installed
}

/// A host with two mounts, `lake` and `pond`, that are served by a program of its own.
fn two_mounts(world: &mut World) -> (Host, PathBuf, [Mounted; 2]) {
    let mut host = world.host();
    let installed = install_own_program(&mut host);
    let lake = world.activate(&host);
    world.connector("ml", "pond", "--mode read-write");
    let pond = world.activate_connector(&host, "ml", "pond");
    (host, installed, [lake, pond])
}

/// Puts a copy of `program` in the place of `installed`, as packages do: another file by rename.
fn put_in_place(program: &Path, installed: &Path) {
    let beside = installed.with_extension("new");
    std::fs::copy(program, &beside).unwrap();
    std::fs::rename(&beside, installed).unwrap();
}
