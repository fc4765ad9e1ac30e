//! Keys: nowhere to be read, exchanged under a live mount, and wrong.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use mooring_tests::eventually;
use mooring_tests::store::planted_secret;

use super::guide::says;
use super::scene::{Backend, Connectors, Scene, files_below};

/// A key that is exchanged is in use within this time.
const IN_USE: Duration = Duration::from_secs(5);

pub(super) fn nowhere(backend: Backend) {
    let scene = Scene::start(backend, "", |_| {});
    fs::write(scene.path.join("used.txt"), "the key works").unwrap();
    let secret = scene.world.store.secret.clone();
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{file}", scene.program())).unwrap();
        assert!(!text.is_empty() || file == "environ");
        assert!(!String::from_utf8_lossy(&text).contains(&secret), "in its {file}");
    }
    let files = scene.world.files_with(&secret);
    assert!(files.is_empty(), "on disk: {files:?}");

    let keys = scene.host.folder().join("run/keys");
    let held: Vec<_> = files_below(&keys)
        .into_iter()
        .filter(|path| fs::read_to_string(path).unwrap().contains(&secret))
        .collect();
    match backend {
        Backend::Default => assert!(held.is_empty(), "{held:?}"),
        Backend::Geesefs | Backend::S3fs => {
            assert_eq!(held.len(), 1, "{held:?}");
            assert_eq!(
                fs::metadata(&held[0]).unwrap().permissions().mode() & 0o777,
                0o600
            );
            assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o700);
            let memory = rustix::fs::statfs(&keys).unwrap().f_type;
            assert_eq!(memory, 0x0102_1994, "keys are in memory");
        }
    }
    scene
        .world
        .operator
        .mooring(&format!("activations delete {} --wait", scene.activation));
    eventually("the key is gone with the mount", Duration::from_secs(15), || {
        let left = files_below(&keys);
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("{left:?}")),
        }
    });
}

pub(super) fn exchanged(backend: Backend) {
    let scene = Scene::start(backend, "", |world| world.store.put("kept.txt", "kept"));
    let program = scene.program();
    let mut open = fs::File::open(scene.path.join("kept.txt")).unwrap();
    let (id, secret) = ("AKIDSECOND", planted_secret());
    scene.world.store.accept_key(id, &secret, false);
    let file = scene.world.path().join("second.key");
    fs::write(&file, &secret).unwrap();
    let begun = Instant::now();
    scene.world.operator.mooring(&format!(
        "secrets add-version ml/pond-key --access-key-id {id} --secret-access-key-file {}",
        file.display()
    ));
    fs::remove_file(file).unwrap();
    if backend == Backend::S3fs {
        let pending = scene.condition_is("CREDENTIAL_READY", "RemountPending");
        assert!(pending.message.contains("fuser"), "{pending:?}");
        assert_eq!(scene.program(), program, "nobody is interrupted");
        fs::write(scene.path.join("still.txt"), "by the old key").unwrap();
        open.read_to_string(&mut String::new()).unwrap();
        drop(open);
        scene.condition_is("CREDENTIAL_READY", "AcceptedAtMount");
        assert_ne!(scene.program(), program);
    }
    if backend != Backend::S3fs {
        eventually("the new key signs requests", IN_USE, || {
            // No operation fails meanwhile.
            fs::write(scene.path.join("probe.txt"), "x").unwrap();
            let log = scene.world.store.request_log();
            match log.iter().any(|request| request["access_key"] == id) {
                true => Ok(()),
                false => Err(format!("{} requests with the old one", log.len())),
            }
        });
        println!("{backend:?}: the new key is in use after {:?}", begun.elapsed());
        assert_eq!(scene.program(), program, "the mount goes on");
    }
    // Now the old one may go. Whatever is asked from here on is asked with the new one, or fails.
    scene.world.store.revoke_key(mooring_tests::store::ACCESS_KEY_ID);
    fs::write(scene.path.join("after.txt"), "by the new key").unwrap();
    assert_eq!(fs::read(scene.path.join("after.txt")).unwrap(), b"by the new key");
    says(
        "another key",
        backend,
        match backend {
            Backend::Default => "at once",
            Backend::Geesefs => "within 5 s",
            Backend::S3fs => "mounted anew when nobody uses it; `RemountPending` until then",
        },
    );
}

pub(super) fn wrong(backend: Backend) {
    let scene = Scene::unmounted(backend, |world| {
        world.connector_with("pond", &backend, "read-write", &[]);
        let wrong = world.path().join("wrong.key");
        fs::write(&wrong, "not-the-key-of-this-store").unwrap();
        world.operator.mooring(&format!(
            "secrets add-version ml/pond-key --secret-access-key-file {}",
            wrong.display()
        ));
    });
    let activation = scene.activate();
    let refused = scene.condition_is("CREDENTIAL_READY", "KeyRefused");
    assert!(refused.message.contains("key"), "{refused:?}");
    let write = fs::write(scene.path.join("x"), "x");
    assert!(write.is_err(), "a bare folder takes no files");

    let key = scene.world.secret_file();
    scene.world.operator.mooring(&format!(
        "secrets add-version ml/pond-key --secret-access-key-file {}",
        key.display()
    ));
    fs::remove_file(key).unwrap();
    scene.world.mounted_at(&scene.path);
    scene.world.activation_is(&activation, "ACTIVE");
    fs::write(scene.path.join("healed.txt"), "healed").unwrap();
    assert_eq!(scene.world.store.get("healed.txt").unwrap(), b"healed");
    scene
        .world
        .operator
        .mooring(&format!("activations delete {activation} --wait"));

    scene
        .world
        .operator
        .mooring("connectors update ml/pond --bucket no-such-bucket");
    let activation = scene.activate();
    let missing = match backend {
        Backend::Default => scene.condition_is("ENDPOINT_REACHABLE", "StoreRefused"),
        Backend::Geesefs | Backend::S3fs => scene.condition_is("ENDPOINT_REACHABLE", "BucketMissing"),
    };
    assert!(missing.message.contains("bucket"), "{missing:?}");
    assert!(fs::write(scene.path.join("x"), "x").is_err());
    scene
        .world
        .operator
        .mooring(&format!("activations delete {activation} --wait"));
}
