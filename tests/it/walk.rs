//! The main job from end to end, quickly: what `tests/run fast` plays.

use mooring_tests::World;

/// Five times the one second that a warm host may take from the command to the folder.
const ACTIVATION_MAX: std::time::Duration = std::time::Duration::from_secs(5);

#[test]
fn a_connector_becomes_a_folder_on_a_host() {
    let mut world = World::start();
    world.store.put("reports/a.csv", "1,2\n");
    let host = world.host();
    let mount = world.activate(&host);
    println!("from activate to a mounted folder: {} ms", mount.took.as_millis());
    assert!(mount.took < ACTIVATION_MAX);

    assert_eq!(std::fs::read(mount.path.join("reports/a.csv")).unwrap(), b"1,2\n");
    std::fs::write(mount.path.join("reports/b.csv"), "3,4\n").unwrap();
    assert_eq!(world.store.get("reports/b.csv").unwrap(), b"3,4\n");

    let activation = world.activation_is(&mount.activation, "ACTIVE");
    assert_eq!(activation["mountedHosts"], 1);
    world
        .operator
        .mooring(&format!("activations delete {} --wait", mount.activation));
    assert!(!mount.path.exists(), "the folder is gone after it was unmounted");
}
