//! What goes on when something dies: no I/O fails that need not, and nothing is unmounted that nobody removed.

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use mooring_tests::programs::{long, rounds};
use mooring_tests::{World, eventually, mounts};

#[test]
fn killing_the_agent_during_a_large_copy_fails_no_io() {
    let mut world = World::start();
    let mut host = world.host();
    let mount = world.activate(&host);
    let source = world.path().join("large");
    let digest = random_file(&source, 1 << 30);

    let mut copy = Command::new("cp")
        .arg(&source)
        .arg(mount.path.join("large"))
        .spawn()
        .unwrap();
    let mut kills = 0;
    while copy.try_wait().unwrap().is_none() {
        host.kill_agent();
        kills += 1;
        host.start();
    }
    assert!(copy.wait().unwrap().success(), "the copy failed");
    assert!(kills > 0, "the copy was over before the agent could be killed");
    println!("the agent was killed {kills} times during a copy of 1 GiB");
    assert_eq!(sha256(&mount.path.join("large")), digest);
    assert_eq!(world.store.sha256("large").unwrap(), digest);
    std::fs::remove_file(source).unwrap();
    world.activation_is(&mount.activation, "ACTIVE");
}

#[test]
fn mounts_serve_while_the_catalog_is_away() {
    let mut world = World::start();
    world.store.put("before.txt", "before");
    let mut host = world.host();
    let mount = world.activate(&host);
    world.kill_catalog();

    let away = Duration::from_secs(if long() { 60 } else { 5 });
    let (start, mut rounds) = (std::time::Instant::now(), 0_u32);
    while start.elapsed() < away {
        assert_eq!(std::fs::read(mount.path.join("before.txt")).unwrap(), b"before");
        std::fs::write(mount.path.join("during.txt"), rounds.to_string()).unwrap();
        rounds += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("{rounds} rounds of reading and writing without a catalog");
    // Also over a restart of the agent, which has nothing but its ledger.
    host.kill_agent();
    let mut agent = host.launch();
    agent.says("mooring-agent runs as ");
    assert_eq!(std::fs::read(mount.path.join("before.txt")).unwrap(), b"before");
    drop(agent);

    world.start_catalog();
    host.start();
    world.activation_is(&mount.activation, "ACTIVE");
}

#[test]
fn a_host_without_its_catalog_mounts_from_the_ledger() {
    let mut world = World::start();
    world.store.put("before.txt", "before");
    let mut host = world.host();
    let mount = world.activate(&host);
    world.kill_catalog();
    let mut took = Vec::new();
    for _ in 0..rounds(2, 50) {
        host.kill_agent();
        // As after a restart of the machine: no mounts, no workers.
        mounts::detach_below(host.folder());
        eventually("the workers are gone", Duration::from_secs(10), || {
            if host.workers().is_empty() {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        });
        let began = std::time::Instant::now();
        host.start();
        world.mounted_at(&mount.path);
        assert_eq!(std::fs::read(mount.path.join("before.txt")).unwrap(), b"before");
        took.push(began.elapsed());
    }
    took.sort();
    println!(
        "{} restarts without a catalog, the mount is back {:?} after the agent starts (median), {:?} (slowest)",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
}

#[test]
fn a_killed_worker_is_replaced_and_nothing_reaches_the_local_disk() {
    let mut world = World::start();
    let host = world.host();
    let mount = world.activate(&host);
    for pid in host.workers() {
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap();
    }
    let (took, ()) = eventually("the folder can be written again", Duration::from_secs(25), || {
        std::fs::write(mount.path.join("after.txt"), "after").map_err(|error| error.to_string())
    });
    println!(
        "the folder was back {} ms after its worker was killed",
        took.as_millis()
    );
    assert_eq!(world.store.get("after.txt").unwrap(), b"after");
}

#[test]
fn an_empty_database_makes_no_host_unmount_anything() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let host = world.host();
    let mount = world.activate(&host);
    let count = rounds(2, 50);
    for _ in 0..count {
        world.kill_catalog();
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _ = std::fs::remove_file(world.path().join("catalog").join(name));
        }
        world.start_catalog();
        still_mounted(&host, &mount.path);
    }
    println!("{count} empty databases, nothing unmounted");
}

#[test]
fn a_restored_database_makes_no_host_unmount_anything() {
    let mut world = World::start();
    world.expect_in_logs("this host holds still");
    world.expect_in_logs("a host has seen a later state than this database has");
    world.store.put("kept.txt", "kept");
    let host = world.host();
    let state = world.path().join("catalog");
    // The backup is older than the activation.
    world.kill_catalog();
    let backup: Vec<(std::path::PathBuf, Vec<u8>)> = ["catalog.db", "catalog.db-wal"]
        .iter()
        .map(|name| state.join(name))
        .filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes)))
        .collect();
    world.start_catalog();
    let mount = world.activate(&host);
    let count = rounds(2, 50);
    for _ in 0..count {
        world.kill_catalog();
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _ = std::fs::remove_file(state.join(name));
        }
        for (path, bytes) in &backup {
            std::fs::write(path, bytes).unwrap();
        }
        world.start_catalog();
        still_mounted(&host, &mount.path);
    }
    println!("{count} times a database from a backup, nothing unmounted");
    eventually(
        "the agent says why it holds still",
        Duration::from_secs(20),
        || {
            let log = host.agent_log();
            if log.contains("holds still") {
                Ok(())
            } else {
                Err(log)
            }
        },
    );
}

/// Looks at a mount for longer than a session takes to be opened and acted upon.
fn still_mounted(host: &mooring_tests::Host, path: &std::path::Path) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        let kept = std::fs::read(path.join("kept.txt"));
        assert_eq!(kept.ok().as_deref(), Some(&b"kept"[..]), "{}", host.agent_log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(mounts::is_mounted(path));
}

/// Writes random bytes to `path`; returns their SHA-256 in hexadecimal.
pub(crate) fn random_file(path: &std::path::Path, size: u64) -> String {
    let mut random = std::fs::File::open("/dev/urandom").unwrap().take(size);
    std::io::copy(&mut random, &mut std::fs::File::create(path).unwrap()).unwrap();
    sha256(path)
}

/// SHA-256 of a file in hexadecimal, as another program computes it.
pub(crate) fn sha256(path: &std::path::Path) -> String {
    let output = Command::new("sha256sum").arg("--").arg(path).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // A name with special characters makes sha256sum begin the line with a backslash.
    let line = String::from_utf8(output.stdout).unwrap();
    line.trim_start_matches('\\')
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}
