//! What a host asked for was done, and it never heard of it: it asks again, and neither is stranded nor counted twice.

mod proxy;

use std::time::Duration;

use mooring_tests::person::readdressed;
use mooring_tests::programs::rounds;
use mooring_tests::{Host, World, eventually};

use super::{SHORT_LIVES, host_is, join_file, outlast_certificates};
use proxy::Losses;

/// A host that reaches its catalog through a proxy only.
fn join_through(world: &World, proxy: &Losses, name: &str) -> Host {
    let join = readdressed(&join_file(world, name), proxy.address());
    Host::join(world.path(), name, &join, None)
}

fn all_lost(proxy: &Losses, what: &str) {
    eventually(what, Duration::from_secs(60), || match proxy.left() {
        0 => Ok(()),
        left => Err(format!("{left} to come")),
    });
}

#[test]
fn enrolments_whose_replies_are_lost_make_one_host_each() {
    let world = World::start();
    let proxy = Losses::before(world.catalog_address());
    let (count, mut lost) = (rounds(2, 50), 0);
    for round in 0..count {
        let losses = 1 + round % 3;
        proxy.lose(losses);
        lost += losses;
        let host = join_through(&world, &proxy, &format!("lossy-{round}"));
        assert_eq!(proxy.left(), 0);
        host_is(&world, &host, "READY");
        let listed = world.operator.json("hosts list");
        let hosts = listed.as_array().or(listed["hosts"].as_array()).unwrap();
        assert_eq!(
            hosts.len() as u32,
            round + 1,
            "each token made one host: {listed}"
        );
    }
    println!("{count} hosts joined, and {lost} replies to them were lost");
}

#[test]
fn renewals_whose_replies_are_lost_strand_nobody() {
    let mut world = World::with_catalog_config(SHORT_LIVES);
    // On a machine that is busy for the rest of a life.
    world.expect_in_logs("the certificate has expired and is not renewed");
    world.store.put("kept.txt", "kept");
    let proxy = Losses::before(world.catalog_address());
    let host = join_through(&world, &proxy, "lossy");
    let mount = world.activate(&host);
    let renewals = || host.agent_log().matches("certificate renewed").count();
    let count = rounds(1, 50);
    for _ in 0..count {
        let before = renewals();
        proxy.lose(2);
        all_lost(&proxy, "two renewals have lost their replies");
        eventually("it is renewed", Duration::from_secs(30), || {
            match renewals() > before {
                true => Ok(()),
                false => Err(host.agent_log()),
            }
        });
        assert_eq!(std::fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
    }
    host_is(&world, &host, "READY");
    world.activation_is(&mount.activation, "ACTIVE");
    println!("{count} times two renewals in a row lost their replies");
}

#[test]
fn recoveries_whose_replies_are_lost_strand_nobody() {
    let mut world = World::with_catalog_config(SHORT_LIVES);
    world.expect_in_logs("the certificate has expired and is not renewed");
    world.store.put("kept.txt", "kept");
    let proxy = Losses::before(world.catalog_address());
    let count = rounds(2, 10);
    let mut hosts: Vec<Host> = (0..count)
        .map(|number| join_through(&world, &proxy, &format!("lossy-{number}")))
        .collect();
    let mount = world.activate(&hosts[0]);
    for host in &hosts {
        world.mounted_at(&host.path("ml", "lake"));
    }
    let times = rounds(1, 5);
    for time in 1..=times {
        hosts.iter_mut().for_each(Host::stop_agent);
        outlast_certificates(&mount.path);
        // Each asks for a nonce first, and then for a certificate.
        proxy.lose(3 * count);
        hosts.iter_mut().for_each(Host::start);
        all_lost(&proxy, "replies to recoveries are lost");
        for host in &hosts {
            eventually("it has recovered", Duration::from_secs(60), || {
                let log = host.agent_log();
                match log.matches("the host has proved its key").count() >= time as usize {
                    true => Ok(()),
                    false => Err(log),
                }
            });
            host_is(&world, host, "READY");
            let kept = std::fs::read(host.path("ml", "lake").join("kept.txt"));
            assert_eq!(kept.unwrap(), b"kept");
        }
    }
    world.activation_is(&mount.activation, "ACTIVE");
    println!(
        "{} recoveries, and {} replies to them were lost",
        times * count,
        3 * times * count
    );
}
