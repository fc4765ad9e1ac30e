//! Which programs a host has, and what becomes of a host without one.

use std::fs;
use std::time::Duration;

use mooring_tests::eventually;

use super::scene::{Backend, Connectors, Scene};

#[test]
fn a_host_without_a_backend_says_how_to_get_it_and_installing_it_is_all_it_takes() {
    let scene = Scene::unmounted(Backend::S3fs, |world| {
        world.connector_with("pond", &Backend::S3fs, "read-write", &[]);
    });
    let shown = || {
        let host = scene.world.operator.json(&format!("hosts get {}", scene.host.id));
        let backends = host["backends"].as_array().cloned().unwrap_or_default();
        let texts: Vec<String> = backends
            .iter()
            .map(|backend| {
                let name = backend["backend"].as_str().unwrap_or_default();
                let version = backend["version"].as_str().unwrap_or_default();
                format!("{} {version}", name.trim_start_matches("BACKEND_"))
            })
            .collect();
        texts
    };
    let all = shown();
    println!("the host has {all:?}");
    for wanted in ["DEFAULT ", "GEESEFS 0.43.8", "S3FS 1."] {
        assert!(
            all.iter().any(|text| text.starts_with(wanted)),
            "{wanted}: {all:?}"
        );
    }

    scene.host.uninstall("s3fs");
    let activation = scene.activate();
    let missing = scene.condition_is("MOUNTED", "BackendMissing");
    assert!(missing.message.contains("apt install s3fs"), "{missing:?}");
    let shown_is = |count: usize| {
        eventually("the catalog knows", Duration::from_secs(25), || {
            let found = shown();
            match found.len() == count {
                true => Ok(()),
                false => Err(format!("{found:?}")),
            }
        })
    };
    shown_is(2);
    assert!(
        fs::write(scene.path.join("x"), "x").is_err(),
        "a bare folder takes no files"
    );

    scene.host.install("s3fs");
    scene.world.mounted_at(&scene.path);
    scene.world.activation_is(&activation, "ACTIVE");
    shown_is(3);
}
