//! How hosts and people join, renew and are refused.

use std::time::Duration;

use mooring_tests::programs::rounds;
use mooring_tests::{Host, Person, World, eventually, mounts};

#[test]
fn a_join_token_lets_one_person_in_once() {
    let world = World::start();
    let join = world.path().join("anna.join");
    world.operator.mooring("users create anna");
    world.operator.mooring(&format!(
        "join-tokens create --user anna --join-string-file {}",
        join.display()
    ));
    let anna = Person::log_in(world.path(), "anna", &join);
    assert!(anna.mooring("auth whoami").contains("users/anna"));

    let thief = Person::nobody(world.path(), "thief");
    let refusal = thief.refused(&format!("login --join-file {}", join.display()));
    assert!(refusal.to_lowercase().contains("token"), "{refusal}");
}

#[test]
fn a_disabled_user_is_refused_at_once_and_welcome_again() {
    let world = World::start();
    let anna = world.person("anna");
    anna.mooring("auth whoami");
    world.operator.mooring("users disable anna");
    anna.refused("auth whoami");
    world.operator.mooring("users enable anna");
    anna.mooring("auth whoami");
}

#[test]
fn a_catalog_with_another_key_is_not_trusted() {
    let world = World::start();
    let other = World::start();
    // The one world's token with the other's address: the pinned key does not match.
    let thief = Person::nobody(world.path(), "lost");
    let wrong = world.path().join("wrong.join");
    world.operator.mooring("users create lost");
    world.operator.mooring(&format!(
        "join-tokens create --user lost --join-string-file {}",
        wrong.display()
    ));
    let moved = mooring_tests::person::readdressed(&wrong, other.catalog_address());
    let refusal = thief.refused(&format!("login --join-file {}", moved.display()));
    assert!(refusal.contains("pin") || refusal.contains("key"), "{refusal}");
}

#[test]
fn certificates_of_hosts_and_people_renew_while_everything_goes_on() {
    let mut world = World::with_catalog_config("certificate_lifetime = \"10s\"");
    world.store.put("kept.txt", "kept");
    let host = world.host();
    let mount = world.activate(&host);
    // Several lifetimes long.
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(25) {
        assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
        world.operator.mooring("auth whoami");
        std::thread::sleep(Duration::from_millis(500));
    }
    eventually("the host is still heard of", Duration::from_secs(10), || {
        let found = world.operator.json(&format!("hosts get hosts/{}", host.id));
        if found["state"] == "HOST_STATE_READY" {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
}

#[test]
fn a_catalog_away_for_longer_than_a_certificate_lives_changes_nothing_on_the_hosts() {
    // The shortest lives that a catalog gives.
    let mut world = World::with_catalog_config("certificate_lifetime = \"5s\"");
    world.store.put("kept.txt", "kept");
    let host = world.host();
    let mount = world.activate(&host);
    let identity = mounts::mount_id(&mount.path);
    world.expect_in_logs("the certificate has expired and is not renewed");
    let count = rounds(1, 50);
    for round in 0..count {
        world.kill_catalog();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_secs(8) {
            assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
            std::fs::write(mount.path.join("during.txt"), round.to_string()).unwrap();
            std::thread::sleep(Duration::from_millis(200));
        }
        world.start_catalog();
        // A person's certificate that has ended renews by itself.
        world.operator.mooring("auth whoami");
        eventually("the host has recovered", Duration::from_secs(60), || {
            let found = world.operator.json(&format!("hosts get hosts/{}", host.id));
            match found["state"] == "HOST_STATE_READY" && proofs(&host) > round as usize {
                true => Ok(()),
                false => Err(format!("{found}\n{}", host.agent_log())),
            }
        });
        assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
    }
    assert_eq!(mounts::mount_id(&mount.path), identity, "it was mounted anew");
    println!("{count} times a catalog away for longer than certificates live: every mount serves");
}

/// How often a host has recovered with its key alone.
fn proofs(host: &Host) -> usize {
    host.agent_log().matches("the host has proved its key").count()
}
