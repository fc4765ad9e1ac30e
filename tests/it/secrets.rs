//! A secret is used by hosts and read by nobody.

use mooring_tests::World;

#[test]
fn a_planted_secret_is_found_in_no_log_argv_environment_database_or_listing() {
    let mut world = World::start();
    let host = world.host();
    let mount = world.activate(&host);
    std::fs::write(mount.path.join("used.txt"), "the key works").unwrap();
    let secret = world.store.secret.clone();

    let mut seen = String::new();
    for listing in [
        "secrets list --project ml",
        "secrets get ml/lake-key",
        "secrets list-versions ml/lake-key",
        "connectors get ml/lake",
        "activations list --project ml",
        "audit list projects/ml",
        "mounts list projects/ml",
    ] {
        seen += &world.operator.mooring(&format!("-o yaml {listing}"));
    }
    assert!(!seen.contains(&secret));

    let mut looked_at = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&line).contains("mooring") {
            continue;
        }
        looked_at += 1;
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(entry.path().join(file)).unwrap_or_default();
            assert!(
                !contains(&text, secret.as_bytes()),
                "in {}/{file}",
                entry.path().display()
            );
        }
    }
    assert!(looked_at >= 4, "store, catalog, agent and worker are running");

    // Databases, ledgers, logs, sockets' folders, profiles: all that stands in files.
    let files = world.files_with(&secret);
    assert!(files.is_empty(), "the secret stands in {files:?}");
    // The search finds what is there.
    std::fs::write(world.path().join("control"), &secret).unwrap();
    assert_eq!(world.files_with(&secret).len(), 1);
    std::fs::remove_file(world.path().join("control")).unwrap();
}

#[test]
fn a_wrong_key_is_a_condition_that_names_the_remedy_and_a_new_version_heals_it() {
    let mut world = World::start();
    let wrong = world.path().join("wrong.key");
    std::fs::write(&wrong, "not-the-key-of-this-store").unwrap();
    world.operator.mooring(&format!(
        "connectors create pond --project ml --endpoint {} --bucket lake --access-key-id {} --mode read-write \
         --new-secret-id pond-key --new-secret-key-file {}",
        world.store.endpoint,
        mooring_tests::store::ACCESS_KEY_ID,
        wrong.display(),
    ));
    let host = world.host();
    let answer = world
        .operator
        .json("activations create --connector ml/pond --pool desks");
    let activation = answer["name"].as_str().unwrap().to_owned();
    let (_, message) =
        mooring_tests::eventually("the status tells", std::time::Duration::from_secs(20), || {
            let found = world.operator.json(&format!("activations get {activation}"));
            let message = found["message"].as_str().unwrap_or_default().to_owned();
            if message.to_lowercase().contains("key") {
                Ok(message)
            } else {
                Err(found.to_string())
            }
        });
    println!("a wrong key: {message}");

    let key = world.secret_file();
    world.operator.mooring(&format!(
        "secrets add-version ml/pond-key --secret-access-key-file {}",
        key.display()
    ));
    std::fs::remove_file(key).unwrap();
    let path = host.path("ml", "pond");
    world.mounted_at(&path);
    world.activation_is(&activation, "ACTIVE");
    std::fs::write(path.join("healed.txt"), "healed").unwrap();
    assert_eq!(world.store.get("healed.txt").unwrap(), b"healed");
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
