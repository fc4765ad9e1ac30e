//! One suite of stories for all three backends: what a mount promises whoever serves it. Where they differ, the table
//! «Other backends» in deploy/README.md says how, and each story holds its cells against what it has seen.

mod guide;
mod keys;
mod life;
mod programs;
mod scene;
mod unnoted;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use mooring_tests::bystander::Holder;
use mooring_tests::eventually;
use mooring_tests::folder::names;
use serde_json::json;

use guide::says;
use scene::{Backend, Connectors, SOON, Scene};

/// How long the store takes for a PUT where it matters who waits.
const PUT_MILLIS: u64 = 1500;

/// Each story once for each backend, side by side.
macro_rules! on_each_backend {
    ($($story:path as $name:ident),* $(,)?) => {
        mod default {
            $(#[test] fn $name() { $story(super::Backend::Default); })*
        }
        mod geesefs {
            $(#[test] fn $name() { $story(super::Backend::Geesefs); })*
        }
        mod s3fs {
            $(#[test] fn $name() { $story(super::Backend::S3fs); })*
        }
    };
}

on_each_backend! {
    super::bytes_go_both_ways as bytes_go_both_ways,
    super::a_read_only_mount_of_a_prefix as a_read_only_mount_of_a_prefix_shows_that_and_refuses_writes,
    super::cache_size as a_cache_of_a_size_is_given_to_the_program_or_refused,
    super::somebody_else as somebody_else_changes_what_is_open_here,
    super::keys::nowhere as the_key_stands_in_no_argv_environment_log_or_file_on_disk,
    super::keys::exchanged as a_new_key_reaches_a_live_mount,
    super::keys::wrong as a_wrong_key_or_bucket_is_a_condition_and_never_a_folder_to_write_to,
    super::life::killed as a_killed_program_is_seen_and_the_folder_comes_back,
    super::life::agent_and_catalog as a_mount_outlives_the_agent_and_the_catalog,
    super::life::deactivated as what_is_deactivated_leaves_nothing,
    super::life::store_away as df_and_unmounting_do_not_wait_for_a_store_that_is_away,
}

fn bytes_go_both_ways(backend: Backend) {
    let scene = Scene::start(backend, "", |world| {
        world.store.put("before/a b ü.txt", "typed elsewhere");
        world.store.put("before/large", vec![7_u8; 6 << 20]);
    });
    let (store, at) = (&scene.world.store, |name: &str| scene.path.join(name));
    assert_eq!(scene.file_system(), backend.file_system());
    assert_eq!(fs::read(at("before/a b ü.txt")).unwrap(), b"typed elsewhere");
    assert_eq!(fs::read(at("before/large")).unwrap(), vec![7_u8; 6 << 20]);

    // Synced means in the store, whoever serves.
    let large: Vec<u8> = (0_u32..6 << 18).flat_map(u32::to_le_bytes).collect();
    for (name, bytes) in [("new.txt", &b"typed here"[..]), ("empty", b""), ("large", &large)] {
        let mut file = fs::File::create(at(name)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
        assert_eq!(store.get(name).unwrap(), bytes, "{name}");
    }
    let mut file = fs::File::options().append(true).open(at("new.txt")).unwrap();
    file.write_all(b", and more").unwrap();
    file.sync_all().unwrap();
    assert_eq!(store.get("new.txt").unwrap(), b"typed here, and more");
    drop(file);

    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/inside"), "1").unwrap();
    fs::write(at("empty"), "").unwrap();
    assert_eq!(
        names(&scene.path),
        ["before", "empty", "folder", "large", "new.txt"]
    );
    fs::rename(at("new.txt"), at("folder/moved.txt")).unwrap();
    fs::rename(at("folder"), at("moved")).unwrap();
    assert_eq!(names(&at("moved")), ["inside", "moved.txt"]);
    eventually("the renamed file is in the store, and only there", SOON, || {
        let (old, new) = (store.list("folder/"), store.list("moved/"));
        match old.is_empty() && new.contains(&"moved/moved.txt".to_owned()) {
            true => Ok(()),
            false => Err(format!("{old:?}, {new:?}")),
        }
    });
    assert_eq!(store.get("moved/moved.txt").unwrap(), b"typed here, and more");
    for file in ["moved/inside", "moved/moved.txt", "large"] {
        fs::remove_file(at(file)).unwrap();
    }
    fs::remove_dir(at("moved")).unwrap();
    eventually("what was removed is gone from the store", SOON, || {
        let left = store.list("");
        match left
            .iter()
            .all(|key| key.starts_with("before/") || key == "empty")
        {
            true => Ok(()),
            false => Err(format!("{left:?}")),
        }
    });

    // And closed? A store that takes its time shows who waits for it.
    store.shape(&json!({"latency": {"put_millis": PUT_MILLIS}}));
    let begun = Instant::now();
    fs::write(at("closed.txt"), "closed").unwrap();
    let waited = begun.elapsed() >= Duration::from_millis(PUT_MILLIS);
    eventually("what was closed is in the store", SOON, || {
        store.get("closed.txt")
    });
    says(
        "a closed file is in the store",
        backend,
        match waited {
            true => "when `close` returns",
            false => "soon after; `fsync` waits for it",
        },
    );

    let mode = fs::metadata(at("empty")).unwrap().permissions().mode() & 0o7777;
    says(
        "mode of files, with a Unix group",
        backend,
        &format!("`{mode:04o}`"),
    );
    says("changes of others are seen within", backend, scene.metadata_ttl());
    let reason = scene.condition("CREDENTIAL_READY").reason;
    says(
        "key and endpoint are reported",
        backend,
        match reason.as_str() {
            "Accepted" => "as they are now",
            "AcceptedAtMount" => "as they were when it was mounted",
            other => panic!("CREDENTIAL_READY says {other}"),
        },
    );
}

fn a_read_only_mount_of_a_prefix(backend: Backend) {
    // A prefix that would be several options, if it could be one.
    let prefix = "team,allow_root:x\\y \"q\" $X ü/-o a/";
    let scene = Scene::build(backend, |world| {
        world.store.put(&format!("{prefix}inside.txt"), "inside");
        world.store.put("outside.txt", "outside");
        world.connector_with("pond", &backend, "read-only", &["--prefix", prefix]);
    });
    assert_eq!(names(&scene.path), ["inside.txt"]);
    assert_eq!(fs::read(scene.path.join("inside.txt")).unwrap(), b"inside");
    for denied in [
        fs::write(scene.path.join("new.txt"), "x"),
        fs::write(scene.path.join("inside.txt"), "x"),
        fs::remove_file(scene.path.join("inside.txt")),
        fs::create_dir(scene.path.join("folder")),
    ] {
        assert_eq!(denied.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    for option in ["ro", "nosuid", "nodev"] {
        assert!(
            scene.mount_options().contains(&option.to_owned()),
            "{option} is missing"
        );
    }
    assert_eq!(scene.world.store.list("").len(), 2);
}

fn cache_size(backend: Backend) {
    let sized = ["--options-cache-size-mib", "48"];
    if backend == Backend::S3fs {
        let scene = Scene::unmounted(backend, |world| {
            world.connector_with("pond", &backend, "read-only", &[]);
        });
        let refused = scene
            .world
            .operator
            .refused("connectors update ml/pond --options-cache-size-mib 48");
        assert!(
            refused.contains("--options-cache-size-mib: backend S3FS keeps nothing"),
            "{refused}"
        );
        return says("memory for what is read", backend, "none; a size is refused");
    }
    let scene = Scene::build(backend, |world| {
        world.store.put("before.txt", "typed elsewhere");
        world.connector_with("pond", &backend, "read-only", &sized);
    });
    assert_eq!(
        fs::read(scene.path.join("before.txt")).unwrap(),
        b"typed elsewhere"
    );
    let is_told = match backend {
        Backend::Geesefs => {
            let line = fs::read(format!("/proc/{}/cmdline", scene.program())).unwrap();
            String::from_utf8_lossy(&line).contains("--memory-limit\u{0}48\u{0}")
        }
        // It is told over its socket, and says so.
        Backend::Default | Backend::S3fs => {
            let mut logs = scene.host.worker_logs().into_iter();
            logs.any(|(_, log)| log.contains("cache_size_mib=48"))
        }
    };
    assert!(is_told, "{backend:?}");
    says(
        "memory for what is read",
        backend,
        match backend {
            Backend::Default => "a quarter of the host's, at most 512 MiB; `--options-cache-size-mib`",
            Backend::Geesefs | Backend::S3fs => "512 MiB; `--options-cache-size-mib`",
        },
    );
}

fn somebody_else(backend: Backend) {
    let scene = Scene::start(backend, "", |world| {
        world.store.put("shared.txt", "as it was");
    });
    // In a program of its own: what other stories start at this moment would close the file on its way, and upload it.
    let mut writer = Holder::open(&scene.path.join("shared.txt"));
    // Backends that have not seen the old version lay what is written over whatever is there when they upload.
    writer.read().unwrap();
    writer.write("MINE").unwrap();
    scene.world.store.put("shared.txt", "theirs, and longer");
    // Some tell when they find out.
    let told = writer.sync().is_err();
    let _ = writer.close();
    let store = &scene.world.store;
    let now = store.get("shared.txt").unwrap();
    // Whole where what was not written here had been read before it was gone, else what was written, and where.
    let mut kept = store.list("shared.txt.");
    kept.retain(|key| !key.ends_with(".ranges"));
    let kept: Vec<_> = kept.iter().map(|key| store.get(key).unwrap()).collect();
    let kept: Vec<_> = kept.iter().map(Vec::as_slice).collect();
    let seen = match (now.as_slice(), kept.as_slice()) {
        (b"theirs, and longer", [b"MINEt was" | b"MINE"]) if told => {
            "both versions are kept, and the writer is told"
        }
        (b"MINEt was", []) if !told => "the last writer wins, and bytes of both may be mixed",
        other => panic!("told: {told}, {other:?}"),
    };
    says("somebody else changes a file that is open here", backend, seen);
}
