//! A fleet that joins by itself: machines made by cloud-init, with one join string for all.

use mooring_tests::packages::FIRST;
use mooring_tests::programs::workspace;
use mooring_tests::{Machine, World};
use serde_json::Value;

use super::LAKE;

#[test]
fn a_fleet_joins_by_one_string_in_cloud_init() {
    let mut world = World::with_network();
    world.store.put("there.txt", "there");
    let machines = [world.machine("gpu-1"), world.machine("gpu-2")];
    let join = world.join_file("fleet", "--pool desks --uses 2");
    let join = std::fs::read_to_string(join).unwrap();
    let shipped = std::fs::read_to_string(workspace().join("deploy/cloud-init.yaml")).unwrap();
    let data: Value = serde_norway::from_str(&shipped.replace("JOIN_STRING", join.trim())).unwrap();

    for machine in &machines {
        play(&data, machine);
        assert_eq!(machine.unit("mooring-agent", "ActiveState"), "active");
        assert!(!machine.path("/etc/mooring/host.join").exists());
    }
    let hosts = world.operator.mooring("hosts list");
    for machine in ["gpu-1", "gpu-2"] {
        assert!(hosts.contains(machine), "{hosts}");
    }
    world
        .operator
        .mooring("activations create --connector ml/lake --pool desks");
    for machine in &machines {
        machine.mounted_at(LAKE);
    }
}

/// Does what cloud-init does with these user data, in its order.
fn play(data: &Value, machine: &Machine) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for (section, _) in data.as_object().unwrap() {
        assert!(
            ["write_files", "packages", "runcmd"].contains(&section.as_str()),
            "the story does not know {section}"
        );
    }
    for file in data["write_files"].as_array().unwrap() {
        let path = text(&file["path"]);
        machine.run(&format!(
            "install -D --mode={} /dev/null {path}",
            text(&file["permissions"])
        ));
        std::fs::write(machine.path(&path), text(&file["content"])).unwrap();
        machine.run(&format!("chown {} {path}", text(&file["owner"])));
    }
    for package in data["packages"].as_array().unwrap() {
        machine.install(&text(package), FIRST);
    }
    for command in data["runcmd"].as_array().unwrap() {
        let words: Vec<String> = command.as_array().unwrap().iter().map(text).collect();
        machine.succeeds(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
