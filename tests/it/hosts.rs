//! What several hosts under one catalog do, and who may enter what on one host.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mooring_tests::{World, eventually, mounts};

#[test]
fn two_hosts_in_two_networks_share_a_connector_and_come_back_alone() {
    let mut world = World::with_network();
    let mut one = world.host();
    let mut two = world.host();
    let mount = world.activate(&one);
    let other = two.path("ml", "lake");
    world.mounted_at(&other);

    std::fs::write(mount.path.join("from-one.txt"), "written on one").unwrap();
    eventually(
        "a file written on one host is read on the other",
        Duration::from_secs(20),
        || {
            let text =
                std::fs::read_to_string(other.join("from-one.txt")).map_err(|error| error.to_string())?;
            if text == "written on one" {
                Ok(())
            } else {
                Err(text)
            }
        },
    );

    for host in [&mut one, &mut two] {
        host.kill_agent();
        for pid in host.workers() {
            Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()
                .unwrap();
        }
        host.start();
        let path = host.path("ml", "lake");
        let (took, ()) = eventually(
            "a killed host has its mount back",
            Duration::from_secs(25),
            || {
                std::fs::read_to_string(path.join("from-one.txt"))
                    .map(drop)
                    .map_err(|error| error.to_string())
            },
        );
        println!("{} is back after {} ms", host.id, took.as_millis());
    }
    world.activation_is(&mount.activation, "ACTIVE");
}

#[test]
fn a_bare_mount_point_refuses_a_write_even_by_root() {
    let mut world = World::start();
    let mut host = world.host();
    let mount = world.activate(&host);
    // Nothing mounts it again while the agent is away.
    host.kill_agent();
    mounts::detach_below(&mount.path);
    assert!(!mounts::is_mounted(&mount.path));
    let refused = std::fs::write(mount.path.join("lost.txt"), "lost").unwrap_err();
    println!("a write by root to the bare mount point: {refused}");
    host.start();
    world.mounted_at(&mount.path);
    assert!(world.store.list("lost").is_empty());
}

#[test]
fn a_group_enters_its_own_project_and_not_the_other() {
    let mut world = World::start();
    world.store.put("shared.txt", "for the group");
    world.operator.mooring("projects create web --community research");
    world.operator.run(&[
        "pools",
        "update",
        "desks",
        "--project-groups",
        "projects/ml=mooring-a",
        "--project-groups",
        "projects/web=mooring-b",
    ]);
    world.connector("web", "lake", "");
    let host = world.host();
    let ml = world.activate_connector(&host, "ml", "lake");
    let web = world.activate_connector(&host, "web", "lake");
    // Temporary folders are for their owner only; the story is about what is below.
    open_the_way(&host.mount_root());

    let anna = 61001;
    assert_eq!(
        as_user(anna, &["cat", ml.path.join("shared.txt").to_str().unwrap()]).unwrap(),
        "for the group"
    );
    let written = as_user(
        anna,
        &[
            "sh",
            "-c",
            &format!("echo mine > {}/by-anna.txt", ml.path.display()),
        ],
    );
    assert!(written.is_ok(), "{written:?}");
    assert_eq!(world.store.get("by-anna.txt").unwrap(), b"mine\n");
    let refused = as_user(anna, &["ls", web.path.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");
    let refused = as_user(65534, &["ls", ml.path.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");

    let status = as_user(
        anna,
        &[
            mooring_tests::programs::program("mooring-agent")
                .to_str()
                .unwrap(),
            "status",
            "--config",
            host.folder().join("agent.toml").to_str().unwrap(),
        ],
    );
    if let Ok(text) = status {
        assert!(text.contains("/ml/lake") && !text.contains("/web/lake"), "{text}");
    }
}

/// Lets every user pass the folders above `folder`.
fn open_the_way(folder: &Path) {
    for above in folder.ancestors().take_while(|above| above.parent().is_some()) {
        let mode = std::fs::metadata(above).unwrap().permissions().mode();
        let _ = std::fs::set_permissions(above, std::fs::Permissions::from_mode(mode | 0o011));
    }
}

/// Runs a command as a user whose group has the same number.
fn as_user(uid: u32, command: &[&str]) -> Result<String, String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .uid(uid)
        .gid(uid)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}
