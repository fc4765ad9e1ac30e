//! What becomes of live mounts when orders change around them: nothing stops that could not be started again, and
//! whatever a person is told to do leads on.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use mooring_tests::{Host, World, eventually, mounts, programs::program};

/// A group in the user database of every machine, and one in none.
const GROUP: &str = "daemon";
const NO_GROUP: &str = "mooring-no-such-group";

#[test]
fn a_changed_group_interrupts_no_open_file_whether_the_host_knows_it_or_not() {
    let mut world = World::start();
    let host = world.host();
    let mount = world.activate(&host);
    let workers = host.workers();
    let mut open = std::fs::File::create(mount.path.join("open.txt")).unwrap();
    open.write_all(b"before, ").unwrap();

    map(&world, NO_GROUP);
    let condition = current(&world, &host, "GroupUnknown");
    assert!(
        condition.contains(&format!("groupadd {NO_GROUP}")) && condition.contains("goes on"),
        "{condition}"
    );
    still_serves(&host, &mount.path, &workers);

    map(&world, GROUP);
    let condition = current(&world, &host, "GroupAtNextMount");
    assert!(condition.contains("umount "), "{condition}");
    still_serves(&host, &mount.path, &workers);
    open.write_all(b"after").unwrap();
    drop(open);
    assert_eq!(world.store.get("open.txt").unwrap(), b"before, after");

    // The folder follows at once, and the files when a person lets it be mounted again.
    let stat = |path: &Path| {
        let output = Command::new("stat")
            .args(["-c", "%G %a"])
            .arg(path)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(stat(mount.path.parent().unwrap()), format!("{GROUP} 750"));
    assert_eq!(stat(&mount.path), "root 700");
    assert!(
        Command::new("umount")
            .arg(&mount.path)
            .status()
            .unwrap()
            .success()
    );
    eventually(
        "it is mounted again with its group",
        Duration::from_secs(20),
        || match stat(&mount.path) {
            found if mounts::is_mounted(&mount.path) && found == format!("{GROUP} 770") => Ok(()),
            found => Err(found),
        },
    );
    current(&world, &host, "Current");
}

#[test]
fn a_deleted_host_enrols_anew_and_its_mounts_go_on_without_interruption() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let mount = world.activate(&host);
    let workers = host.workers();
    let mut open = std::fs::File::create(mount.path.join("open.txt")).unwrap();
    open.write_all(b"before, ").unwrap();
    let join = world.path().join("again.join");
    let token = format!(
        "join-tokens create --pool desks --join-string-file {}",
        join.display()
    );
    world.operator.mooring(&token);

    host.stop_agent();
    let refused = enroll(&host, &join);
    assert!(
        !refused.status.success(),
        "a host that is accepted is enrolled twice"
    );
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("hosts delete"), "{refused}");

    world
        .operator
        .mooring(&format!("hosts delete {} --force", host.id));
    let enrolled = enroll(&host, &join);
    assert!(enrolled.status.success(), "{enrolled:?}");
    let said = String::from_utf8_lossy(&enrolled.stdout).into_owned();
    assert!(said.contains("enrols anew") && said.contains(" now"), "{said}");

    host.start();
    world.activation_is(&mount.activation, "ACTIVE");
    current(&world, &host, "Current");
    still_serves(&host, &mount.path, &workers);
    open.write_all(b"after").unwrap();
    drop(open);
    assert_eq!(world.store.get("open.txt").unwrap(), b"before, after");

    // It is an ordinary mount now: it ends when it is told to.
    world
        .operator
        .mooring(&format!("activations delete {}", mount.activation));
    gone(&mount.path);
}

#[test]
fn an_orphan_makes_room_for_an_order_of_something_else() {
    let mut world = World::start();
    let host = world.host();
    let before = backup(&mut world);
    let mount = world.activate(&host);
    std::fs::write(mount.path.join("of-the-orphan.txt"), "written").unwrap();
    let workers = host.workers();

    // A backup from before the activation: what is mounted is nobody's any more.
    restore(&mut world, &before);
    current(&world, &host, "Orphaned");
    still_serves(&host, &mount.path, &workers);

    // The same connector, in another mode, is something else.
    world
        .operator
        .mooring("activations create --connector ml/lake --pool desks --mode read-only");
    eventually(
        "the new order is mounted",
        Duration::from_secs(30),
        || match std::fs::write(mount.path.join("no.txt"), "no") {
            Err(error) if error.raw_os_error() == Some(30) => Ok(()),
            other => Err(format!("{other:?}\n{}", host.agent_log())),
        },
    );
    current(&world, &host, "Current");
    assert_eq!(
        std::fs::read(mount.path.join("of-the-orphan.txt")).unwrap(),
        b"written"
    );
}

#[test]
fn an_orphan_goes_on_without_interruption_when_the_same_is_activated_again() {
    let mut world = World::start();
    let host = world.host();
    let before = backup(&mut world);
    let mount = world.activate(&host);
    let workers = host.workers();
    restore(&mut world, &before);
    let condition = current(&world, &host, "Orphaned");
    assert!(condition.contains("activate a connector"), "{condition}");
    let activation = world.activate(&host).activation;
    world.activation_is(&activation, "ACTIVE");
    current(&world, &host, "Current");
    still_serves(&host, &mount.path, &workers);
}

/// Maps project `ml` to a group on pool `desks`.
fn map(world: &World, group: &str) {
    let mapping = format!("projects/ml={group}");
    world
        .operator
        .run(&["pools", "update", "desks", "--project-groups", &mapping]);
}

/// Waits until the only mount of a host gives this reason for its spec being current or not; returns the message.
fn current(world: &World, host: &Host, reason: &str) -> String {
    let (_, message) = eventually(
        &format!("the mount says {reason}"),
        Duration::from_secs(30),
        || {
            let listed = world.operator.json(&format!("mounts list hosts/{}", host.id));
            let mounts = listed.as_array().or(listed["mounts"].as_array());
            let found = mounts
                .into_iter()
                .flatten()
                .filter(|mount| mount["state"] != "MOUNT_STATE_UNMOUNTED")
                .flat_map(|mount| mount["conditions"].as_array().into_iter().flatten())
                .find(|condition| {
                    condition["type"] == "CONDITION_TYPE_SPEC_CURRENT" && condition["reason"] == reason
                });
            match found {
                Some(condition) => Ok(condition["message"].as_str().unwrap_or_default().to_owned()),
                None => Err(format!("{listed}\n{}", host.agent_log())),
            }
        },
    );
    message
}

/// The mount answers, and the same processes serve it as before.
fn still_serves(host: &Host, path: &Path, workers: &[u32]) {
    mounts::answers(path).unwrap();
    assert_eq!(host.workers(), workers, "{}", host.agent_log());
}

fn gone(path: &Path) {
    eventually("it is unmounted", Duration::from_secs(20), || {
        if mounts::is_mounted(path) {
            Err("still mounted".to_owned())
        } else {
            Ok(())
        }
    });
}

fn enroll(host: &Host, join: &Path) -> Output {
    Command::new(program("mooring-agent"))
        .arg("enroll")
        .arg("--config")
        .arg(host.folder().join("agent.toml"))
        .arg("--join-file")
        .arg(join)
        .output()
        .unwrap()
}

/// The catalog's database, as of now.
fn backup(world: &mut World) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    world.kill_catalog();
    let state = world.path().join("catalog");
    let files = ["catalog.db", "catalog.db-wal"]
        .map(|name| state.join(name))
        .into_iter()
        .filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?)))
        .collect();
    world.start_catalog();
    files
}

/// Puts a backup in the place of the database, and says that it shall count.
fn restore(world: &mut World, backup: &[(std::path::PathBuf, Vec<u8>)]) {
    world.kill_catalog();
    let state = world.path().join("catalog");
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(state.join(name));
    }
    for (path, bytes) in backup {
        std::fs::write(path, bytes).unwrap();
    }
    let raised = Command::new(program("mooring-catalog"))
        .arg("raise-epoch")
        .arg("--config")
        .arg(world.path().join("catalog.toml"))
        .output()
        .unwrap();
    assert!(raised.status.success(), "{raised:?}");
    world.start_catalog();
}
