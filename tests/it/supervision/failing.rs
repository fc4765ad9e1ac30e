//! An upgrade to a program that says it can go on with a mount, and then cannot: after the old worker's end. One failure
//! costs nobody anything, and a program that always fails costs one mount its open files, not all.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use mooring_tests::programs::program;
use mooring_tests::{Holder, World, eventually};
use rustix::process::Signal;

use super::{install_own_program, mount_identity, put_in_place, two_mounts};

/// Ends the program by a signal at the first byte that it writes to a file: it greets and prepares before that.
const DIES_AT_THE_FIRST_WRITE: &str = "ulimit -f 0";

#[test]
fn an_upgrade_whose_first_successor_dies_after_the_old_workers_end_is_noticed_by_nobody() {
    let mut world = World::start();
    let mut host = world.host();
    let installed = install_own_program(&mut host);
    let lake = world.activate(&host);
    let identity = mount_identity(&lake.path);
    let worker = host.worker_of(&lake.path);
    let mut holder = Holder::open(&lake.path.join("open.txt"));
    assert_eq!(holder.write("before, "), Ok(()));

    // Whoever is started next finds the program itself in its place.
    let beside = host.folder().join("mooring-fs-2");
    put_in_place(&program("mooring-fs"), &beside);
    let wrapper = format!(
        "#!/bin/sh\nmv {} {}\n{DIES_AT_THE_FIRST_WRITE}\nexec {1} \"$@\"\n",
        beside.display(),
        installed.display()
    );
    install_script(&wrapper, &installed);
    host.signal_agent(Signal::HUP);
    host.agent_has_said("a successor has failed; another one tries", 1);
    host.another_worker_of(&lake.path, worker);
    assert_eq!(holder.write("after"), Ok(()));
    assert_eq!(holder.close(), Ok(()));
    assert_eq!(world.store.get("open.txt").unwrap(), b"before, after");
    assert_eq!(mount_identity(&lake.path), identity, "mounted anew");
    host.lists("lake", "MOUNTED");
}

#[test]
fn a_program_that_fails_after_it_has_ended_a_worker_meets_one_mount_and_not_all() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let (host, installed, [lake, pond]) = two_mounts(&mut world);
    let both = [&lake.path, &pond.path];
    let identities = both.map(|path| mount_identity(path));
    let workers = both.map(|path| host.worker_of(path));
    let mut holders = [&lake.path.join("a.txt"), &pond.path.join("b.txt")].map(|path| Holder::open(path));
    for holder in &mut holders {
        assert_eq!(holder.write("before, "), Ok(()));
    }

    let wrapper = format!(
        "#!/bin/sh\n{DIES_AT_THE_FIRST_WRITE}\nexec {} \"$@\"\n",
        program("mooring-fs").display()
    );
    install_script(&wrapper, &installed);
    host.signal_agent(Signal::HUP);
    host.agent_has_said("UpgradeRefused", 1);
    // It is made anew with the same program again and again; meanwhile there are many rounds in which another one could
    // be met.
    let met = eventually("one of them fails", Duration::from_secs(40), || {
        let listing = host.listing();
        let failed = both.map(|path| {
            let is_failed = |line: &str| {
                line.split_whitespace()
                    .take(2)
                    .eq([path.to_str().unwrap(), "FAILED"])
            };
            listing.lines().any(is_failed)
        });
        match failed {
            [true, false] => Ok(0),
            [false, true] => Ok(1),
            other => Err(format!("{other:?}")),
        }
    })
    .1;
    host.agent_has_said("step begins", 8);
    let other = 1 - met;
    assert_eq!(host.worker_of(both[other]), workers[other]);
    assert_eq!(mount_identity(both[other]), identities[other]);
    assert_eq!(fs::read(both[other].join("kept.txt")).unwrap(), b"kept");
    assert_eq!(holders[other].write("during, "), Ok(()));
    assert!(holders[met].write("lost").is_err(), "there is no mount any more");

    put_in_place(&program("mooring-fs"), &installed);
    eventually("both run what is installed", Duration::from_secs(60), || {
        let wanted = fs::metadata(&installed).unwrap().ino();
        let runs =
            |path| fs::metadata(format!("/proc/{}/exe", host.worker_of(path))).map(|found| found.ino());
        match both.iter().all(|path| runs(path).ok() == Some(wanted)) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });
    assert_eq!(holders[other].write("after"), Ok(()));
    assert_eq!(holders[other].sync(), Ok(()));
    let key = ["a.txt", "b.txt"][other];
    assert_eq!(world.store.get(key).unwrap(), b"before, during, after");
    assert_eq!(mount_identity(both[other]), identities[other], "mounted anew");
    host.lists("lake", "MOUNTED");
    host.lists("pond", "MOUNTED");
}

/// Puts a script in the place of `installed`, as packages do.
fn install_script(text: &str, installed: &Path) {
    let script = installed.with_extension("sh");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    put_in_place(&script, installed);
}
