//! Programs that mount by themselves, and an agent that dies, is mistaken or is called off around them.

use std::fs;
use std::time::Duration;

use mooring_tests::eventually;
use mooring_tests::store::planted_secret;

use super::scene::{Backend, Scene, files_below, kill};

/// What an agent leaves that dies between the start of a program and the note of it.
fn started_and_not_noted(backend: Backend) {
    let mut scene = Scene::start(backend, "", |world| world.store.put("kept.txt", "kept"));
    let program = scene.program();
    // Even if somebody uses it already, it would never get another key, and nobody would see its end.
    let open = fs::File::open(scene.path.join("kept.txt")).unwrap();
    scene.host.kill_agent();
    let mut record = scene.host.record_of(&scene.path).unwrap();
    record["worker"] = serde_json::json!({"pid": 0, "start_time": 0});
    record["phase"] = "launching".into();
    let uid = record["assignment_uid"].as_str().unwrap();
    let noted = scene.host.folder().join("run").join(uid).join("record.json");
    fs::write(noted, record.to_string()).unwrap();

    scene.host.start();
    eventually(
        "one program serves, and is noted",
        Duration::from_secs(30),
        || match scene.host.workers()[..] {
            [now] if now != program && now == scene.host.worker_of(&scene.path) => Ok(()),
            ref others => Err(format!("{others:?}, before it {program}")),
        },
    );
    drop(open);
    scene.world.mounted_at(&scene.path);
    assert_eq!(fs::read(scene.path.join("kept.txt")).unwrap(), b"kept");
    eventually(
        "the key of the first one is gone",
        Duration::from_secs(15),
        || {
            let keys = fs::read_dir(scene.host.folder().join("run/keys")).unwrap();
            match keys.count() {
                1 => Ok(()),
                count => Err(format!("keys of {count} mounts")),
            }
        },
    );
}

#[test]
fn a_geesefs_that_was_started_and_not_noted_is_ended_before_another_one_is() {
    started_and_not_noted(Backend::Geesefs);
}

#[test]
fn an_s3fs_that_was_started_and_not_noted_is_ended_before_another_one_is() {
    started_and_not_noted(Backend::S3fs);
}

#[test]
fn a_program_that_dies_soon_after_each_mount_is_a_crash_loop() {
    let scene = Scene::start(Backend::S3fs, "", |world| world.store.put("kept.txt", "kept"));
    let mut before = 0;
    for _ in 0..4 {
        let program = scene.host.worker_of(&scene.path).max(1);
        let (_, program) = eventually("another one serves", Duration::from_secs(20), || {
            match scene.host.workers()[..] {
                [now] if now != before => Ok(now),
                ref others => Err(format!("{others:?}, {program} is noted")),
            }
        });
        before = program;
        // It does serve in between.
        eventually("it answers", Duration::from_secs(20), || {
            fs::read(scene.path.join("kept.txt")).map_err(|error| error.to_string())
        });
        kill(program);
    }
    scene.host.lists_with("pond", "DEGRADED", "times in a row");
    scene.world.mounted_at(&scene.path);
}

#[test]
fn a_key_that_s3fs_cannot_be_given_takes_no_mount_away() {
    let scene = Scene::start(Backend::S3fs, "", |world| world.store.put("kept.txt", "kept"));
    let program = scene.program();
    let file = scene.world.path().join("second.key");
    fs::write(&file, format!("{}:colon", planted_secret())).unwrap();
    scene.world.operator.mooring(&format!(
        "secrets add-version ml/pond-key --secret-access-key-file {}",
        file.display()
    ));
    fs::remove_file(file).unwrap();
    let unusable = scene.condition_is("CREDENTIAL_READY", "KeyUnusable");
    assert!(unusable.message.contains("colons"), "{unusable:?}");
    // Nobody uses it, so nothing else would have kept it.
    assert_eq!(scene.program(), program);
    assert_eq!(fs::read(scene.path.join("kept.txt")).unwrap(), b"kept");
    assert_eq!(files_below(&scene.host.folder().join("run/keys")).len(), 1);
}
