//! What an agent has noted is lost, cannot be read by another program, or is no longer true: no mount hangs for that, none
//! that works is ended for it, and nobody is told what is not so.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mooring_tests::folder::run;
use mooring_tests::programs::program;
use mooring_tests::{Holder, Host, World, eventually};
use rustix::process::Signal;

use super::{install_own_program, kill, mount_identity, put_in_place, two_mounts};

#[test]
fn a_mount_of_which_the_run_folder_tells_nothing_any_more_is_made_anew_when_its_worker_dies() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let host = world.host();
    let mount = world.activate(&host);
    host.lists("lake", "MOUNTED");
    let worker = host.worker_of(&mount.path);

    // Somebody has tidied up too well.
    let runs = host.folder().join("run").display().to_string();
    run("rm", &["--recursive", "--one-file-system", "--", &runs]);
    host.agent_has_said("the local socket; it is made again", 1);
    host.agent_has_said("nothing in the run folder tells any more who serves", 1);
    assert_eq!(fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");

    kill(worker);
    eventually("the folder is back", Duration::from_secs(30), || {
        // By a program that can be ended: nobody may wait for ever.
        let read = Command::new("timeout")
            .args(["--signal=KILL", "2", "cat"])
            .arg(mount.path.join("kept.txt"))
            .output()
            .unwrap();
        match read.stdout == b"kept" {
            true => Ok(()),
            false => Err(format!("{read:?}")),
        }
    });
    assert_ne!(host.worker_of(&mount.path), worker);
    host.lists("lake", "MOUNTED");
}

#[test]
fn an_upgrade_to_a_program_that_cannot_go_on_with_a_mount_ends_no_worker() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let (host, installed, [lake, pond]) = two_mounts(&mut world);
    let both = [&lake.path, &pond.path];
    let identities = both.map(|path| mount_identity(path));
    let workers = both.map(|path| host.worker_of(path));
    let mut holder = Holder::open(&lake.path.join("open.txt"));
    assert_eq!(holder.write("before, "), Ok(()));

    // As if another release had written it.
    let tables = both.map(|path| Table::of(&host, path));
    tables.iter().for_each(Table::spoil);
    put_in_place(&program("mooring-fs"), &installed);
    host.signal_agent(Signal::HUP);
    host.agent_has_said("UpgradeRefused", 1);
    let listing = host.lists_with("lake", "DEGRADED", "cannot take this mount over");
    assert!(!listing.contains("CrashLoop"), "{listing}");
    // It has met one mount, and not all.
    host.lists("pond", "MOUNTED");
    assert_eq!(both.map(|path| host.worker_of(path)), workers);
    assert_eq!(holder.write("during, "), Ok(()));

    tables.iter().for_each(Table::restore);
    eventually("both run what is installed", Duration::from_secs(60), || {
        let wanted = fs::metadata(&installed).unwrap().ino();
        let runs =
            |path| fs::metadata(format!("/proc/{}/exe", host.worker_of(path))).map(|found| found.ino());
        match both.iter().all(|path| runs(path).ok() == Some(wanted)) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });
    host.lists("lake", "MOUNTED");
    assert_eq!(holder.write("after"), Ok(()));
    assert_eq!(holder.close(), Ok(()));
    assert_eq!(world.store.get("open.txt").unwrap(), b"before, during, after");
    assert_eq!(both.map(|path| mount_identity(path)), identities, "mounted anew");
}

#[test]
fn a_refused_upgrade_does_not_outlive_the_mount_that_has_refused_it() {
    let mut world = World::start();
    let (host, installed, [lake, pond]) = two_mounts(&mut world);
    let both = [&lake.path, &pond.path];
    let identities = both.map(|path| mount_identity(path));
    let tables = both.map(|path| Table::of(&host, path));
    tables.iter().for_each(Table::spoil);
    put_in_place(&program("mooring-fs"), &installed);
    host.signal_agent(Signal::HUP);
    let refused = eventually("one of them is refused", Duration::from_secs(40), || {
        let listing = host.listing();
        let lines = both.map(|path| listing.lines().find(|line| line.contains(path.to_str().unwrap())));
        let refused =
            |line: &Option<&str>| line.is_some_and(|line| line.contains("cannot take this mount over"));
        lines.iter().position(refused).ok_or(listing)
    })
    .1;
    let other = 1 - refused;
    tables[other].restore();
    let ended = [&lake.activation, &pond.activation][refused];
    world
        .operator
        .mooring(&format!("activations delete {ended} --wait"));

    eventually("the other one is upgraded", Duration::from_secs(40), || {
        let wanted = fs::metadata(&installed).unwrap().ino();
        let runs = fs::metadata(format!("/proc/{}/exe", host.worker_of(both[other])));
        match runs.map(|found| found.ino()).ok() == Some(wanted) {
            true => Ok(()),
            false => Err(host.listing()),
        }
    });
    assert_eq!(mount_identity(both[other]), identities[other], "mounted anew");
}

#[test]
fn a_mount_that_somebody_takes_away_while_it_is_used_is_neither_ended_nor_taken_for_mounted() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let installed = install_own_program(&mut host);
    let mount = world.activate(&host);
    let worker = host.worker_of(&mount.path);
    let mut holder = Holder::open(&mount.path.join("open.txt"));
    assert_eq!(holder.write("before, "), Ok(()));

    let served = host.agent_log().matches("mount serves").count();

    // And what should mount it again cannot, for a while.
    let aside = installed.with_extension("aside");
    fs::rename(&installed, &aside).unwrap();
    let path = mount.path.display().to_string();
    run("umount", &["--lazy", &path]);
    host.lists_with("lake", "FAILED", "cannot be run (No such file or directory");
    // Tried again and again, it is never said to serve.
    host.agent_has_said("step begins", 6);
    assert!(!host.listing().contains("MOUNTED "), "{}", host.listing());
    assert_eq!(host.agent_log().matches("mount serves").count(), served);
    assert_eq!(holder.write("during, "), Ok(()));

    fs::rename(&aside, &installed).unwrap();
    world.mounted_at(&mount.path);
    assert_eq!(fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
    assert_ne!(host.worker_of(&mount.path), worker);
    assert_eq!(holder.write("after"), Ok(()));
    assert_eq!(holder.close(), Ok(()));
    eventually(
        "what was written there is in the store",
        Duration::from_secs(15),
        || match world.store.get("open.txt") {
            Ok(bytes) if bytes == b"before, during, after" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
}

#[test]
fn a_worker_that_somebody_starts_again_does_not_take_the_place_of_the_one_that_serves() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let host = world.host();
    let mount = world.activate(&host);
    host.lists("lake", "MOUNTED");
    let worker = host.worker_of(&mount.path);
    let record = host.record_of(&mount.path).unwrap();
    let run = host.folder().join("run");
    let run = run.join(record["assignment_uid"].as_str().unwrap());
    let serving = fs::metadata(run.join("control.sock")).unwrap().ino();

    // As by its unit.
    let line = fs::read_to_string(format!("/proc/{worker}/cmdline")).unwrap();
    let mut words = line.split_terminator('\0');
    let mut again = Command::new(words.next().unwrap()).args(words).spawn().unwrap();
    eventually("it listens", Duration::from_secs(10), || {
        match run.join("next.sock").exists() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });
    assert_eq!(fs::metadata(run.join("control.sock")).unwrap().ino(), serving);
    host.lists("lake", "MOUNTED");
    let mut holder = Holder::open(&mount.path.join("open.txt"));
    assert_eq!(holder.write("line, "), Ok(()));
    // It can still be told to go on with another one.
    kill(worker);
    host.another_worker_of(&mount.path, worker);
    assert_eq!(holder.write("line"), Ok(()));
    assert_eq!(holder.close(), Ok(()));
    assert_eq!(world.store.get("open.txt").unwrap(), b"line, line");
    world
        .operator
        .mooring(&format!("activations delete {} --wait", mount.activation));
    again.kill().unwrap();
    again.wait().unwrap();
}

/// What a worker keeps for its successor.
struct Table {
    path: PathBuf,
    begins: [u8; 4],
}

impl Table {
    fn of(host: &Host, mount: &Path) -> Table {
        let record = host.record_of(mount).unwrap();
        let path = Path::new(record["succession"].as_str().unwrap()).join("table");
        let mut begins = [0; 4];
        fs::File::open(&path)
            .unwrap()
            .read_exact_at(&mut begins, 0)
            .unwrap();
        Table { path, begins }
    }

    fn spoil(&self) {
        self.write(&self.begins.map(|byte| !byte));
    }

    fn restore(&self) {
        self.write(&self.begins);
    }

    fn write(&self, begins: &[u8]) {
        let file = fs::File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(begins, 0).unwrap();
    }
}
