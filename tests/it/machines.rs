//! Machines with a real systemd: what packages, units and reboots do to hosts, and that they do nothing to mounts.

mod fleet;
mod foreign;
mod installing;
mod outliving;

use std::path::Path;

use mooring_tests::packages::FIRST;
use mooring_tests::{Machine, World, mounts};

/// Where connector `lake` of project `ml` is mounted on every machine.
const LAKE: &str = "/mnt/mooring/ml/lake";

/// The package is installed and the machine joins pool `desks` of the world's catalog.
fn joins(world: &World, machine: &Machine) {
    let join = world.join_file("machine", "--pool desks");
    machine.install("mooring-agent", FIRST);
    give_join_string(machine, &join);
    machine.run("systemctl start mooring-agent");
}

/// Puts a join string where the shipped configuration looks for it.
fn give_join_string(machine: &Machine, join: &Path) {
    let inside = machine.path("/etc/mooring/host.join");
    std::fs::copy(join, &inside).unwrap();
    machine.run("chmod 600 /etc/mooring/host.join");
}

/// Connector `lake` is activated, and mounted on the machine. Returns the activation's name.
fn activated(world: &World, machine: &Machine) -> String {
    let answer = world
        .operator
        .json("activations create --connector ml/lake --pool desks");
    machine.mounted_at(LAKE);
    answer["name"].as_str().unwrap().to_owned()
}

/// The id that the kernel has given to the mount: another mount at the same place has another one.
fn mount_id(machine: &Machine) -> u64 {
    assert!(machine.mount_line(LAKE).is_some(), "it is not mounted");
    mounts::mount_id(&machine.path(LAKE)).unwrap()
}
