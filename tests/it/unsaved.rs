//! What a mount could not upload before it ended is kept on the host, and brought to the store later by a person.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use mooring_tests::folder::mooring_fs;
use mooring_tests::{Fault, Holder, World, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const EIO: i32 = 5;

#[test]
fn what_a_mount_could_not_upload_is_kept_and_uploaded_later_by_a_person() {
    let mut world = World::start();
    world.store.put("theirs.txt", "as it was");
    let host = world.host();
    let lake = world.activate(&host);
    let worker = host.worker_of(&lake.path);
    // A store that takes nothing while programs write, and as long as the worker tries.
    let refusing = world.store.fault(&json!({
        "operations": ["PutObject"],
        "action": {"error": {"status": 500, "code": "InternalError"}},
    }));
    for (name, text) in [("ours.txt", "ours alone"), ("theirs.txt", "OURS")] {
        let mut holder = Holder::open(&lake.path.join(name));
        assert_eq!(holder.write(text), Ok(()));
        assert_eq!(holder.close(), Err(EIO), "who writes is told");
    }
    world
        .operator
        .mooring(&format!("activations delete {} --grace 0s", lake.activation));
    let cache = host.folder().join("cache");
    eventually("notes are written", Duration::from_secs(20), || {
        match notes(&cache) {
            2 => Ok(()),
            other => Err(format!("{other} notes")),
        }
    });
    // As a ban does with programs that do not end.
    let worker = Pid::from_raw(worker.cast_signed()).unwrap();
    kill_process(worker, Signal::KILL).unwrap();
    drop(refusing);
    world.activation_is(&lake.activation, "INACTIVE");
    assert!(world.store.get("ours.txt").is_err());
    // Somebody else goes on with one of them meanwhile.
    world.store.put("theirs.txt", "theirs now");

    let recover = |more: &[&str]| {
        let mut command = mooring_fs(&world.store);
        command.arg("recover").arg(&cache).args(more);
        text_of(&command.output().unwrap())
    };
    let planned = recover(&["--dry-run"]);
    assert!(planned.contains("/ours.txt: 10 bytes wait since 2"), "{planned}");
    assert_eq!(notes(&cache), 2, "nothing was done");
    let mut without_key = mooring_fs(&world.store);
    without_key
        .env_remove("AWS_ACCESS_KEY_ID")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .arg("recover")
        .arg(&cache);
    let refused = without_key.output().unwrap();
    assert!(!refused.status.success());
    let refused = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    assert!(refused.contains("check the key (AWS_ACCESS_KEY_ID"), "{refused}");
    assert!(!refused.contains("WARN"), "{refused}");
    assert_eq!(notes(&cache), 2, "nothing was lost");
    let done = recover(&[]);
    assert!(done.contains("/ours.txt: uploaded"), "{done}");
    assert!(
        done.contains("/theirs.txt: somebody else has changed it meanwhile; ours is kept as "),
        "{done}"
    );
    assert_eq!(world.store.get("ours.txt").unwrap(), b"ours alone");
    assert_eq!(world.store.get("theirs.txt").unwrap(), b"theirs now");
    let mut copies = world.store.list("theirs.txt.mooring-conflict-");
    copies.retain(|key| !key.ends_with(".ranges"));
    let copies: Vec<_> = copies.iter().map(|key| world.store.get(key).unwrap()).collect();
    // Whole, since the rest of it had been brought here to be uploaded.
    assert_eq!(copies, [b"OURSt was"]);
    let nothing = recover(&[]);
    assert!(nothing.contains("waits to be uploaded"), "{nothing}");
    assert!(world.store.unfinished_uploads().is_empty());
}

/// A file of `text` that is open and one that was closed, neither of which the store takes.
fn two_unsaved(lake: &Path) -> Holder {
    let mut closed = Holder::open(&lake.join("closed.txt"));
    assert_eq!(closed.write("all of it"), Ok(()));
    assert_eq!(closed.close(), Err(EIO), "who writes is told");
    let mut open = Holder::open(&lake.join("open.txt"));
    assert_eq!(open.write("half"), Ok(()));
    open
}

/// Of which a person brings both to the store.
fn recovers_two(world: &World, cache: &Path) {
    for key in ["closed.txt", "open.txt"] {
        assert!(world.store.get(key).is_err(), "{key}");
    }
    let mut command = mooring_fs(&world.store);
    let done = text_of(&command.arg("recover").arg(cache).output().unwrap());
    assert_eq!(done.matches(": uploaded").count(), 2, "{done}");
    assert_eq!(world.store.get("closed.txt").unwrap(), b"all of it");
    assert_eq!(world.store.get("open.txt").unwrap(), b"half");
    assert_eq!(notes(cache), 0);
}

fn refuse_uploads(world: &World) -> Fault<'_> {
    world.store.fault(&json!({
        "operations": ["PutObject"],
        "action": {"error": {"status": 500, "code": "InternalError"}},
    }))
}

#[test]
fn a_ban_keeps_what_is_in_no_store_also_of_files_that_are_open() {
    let mut world = World::start();
    world.expect_in_logs("this host is banned");
    let host = world.host();
    let lake = world.activate(&host);
    let refusing = refuse_uploads(&world);
    let open = two_unsaved(&lake.path);
    world
        .operator
        .run(&["hosts", "ban", &host.id, "--reason", "sold with its disk"]);
    let cache = host.folder().join("cache");
    eventually("the programs are ended", Duration::from_secs(60), || {
        let left = (
            host.workers(),
            notes(&cache),
            host.folder().join("state/host.key").exists(),
        );
        match left {
            (workers, 2, false) if workers.is_empty() => Ok(()),
            left => Err(format!("{left:?}\n{}", host.agent_log())),
        }
    });
    assert!(tables(host.folder()).is_empty());
    drop((open, refusing));
    recovers_two(&world, &cache);
}

#[test]
fn a_worker_that_dies_with_its_agent_leaves_notes_of_what_is_in_no_store() {
    let mut world = World::start();
    let mut host = world.host();
    let lake = world.activate(&host);
    let worker = host.worker_of(&lake.path);
    let refusing = refuse_uploads(&world);
    let open = two_unsaved(&lake.path);
    let before = tables(host.folder());
    host.kill_agent();
    kill_process(Pid::from_raw(worker.cast_signed()).unwrap(), Signal::KILL).unwrap();
    host.start();
    world.mounted_at(&lake.path);
    let after = tables(host.folder());
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    let cache = host.folder().join("cache");
    assert_eq!(notes(&cache), 2, "{}", host.agent_log());
    drop((open, refusing));
    // Beside the mount that is there now.
    recovers_two(&world, &cache);
}

#[test]
fn a_worker_that_is_killed_where_nobody_looks_for_it_any_more_leaves_notes_and_no_table() {
    let mut world = World::start();
    let mut host = world.host();
    let lake = world.activate(&host);
    let worker = host.worker_of(&lake.path);
    let refusing = refuse_uploads(&world);
    let open = two_unsaved(&lake.path);
    let before = tables(host.folder());
    // Somebody detaches it, and it is mounted anew; the file that is open goes on.
    let detached = rustix::mount::unmount(&lake.path, rustix::mount::UnmountFlags::DETACH);
    assert_eq!(detached, Ok(()));
    eventually("another worker serves", Duration::from_secs(20), || {
        match host.worker_of(&lake.path) != worker && tables(host.folder()).len() == 2 {
            true => Ok(()),
            false => Err(host.agent_log()),
        }
    });
    world.mounted_at(&lake.path);
    let cache = host.folder().join("cache");
    assert_eq!(notes(&cache), 0, "it lives");
    host.stop_agent();
    kill_process(Pid::from_raw(worker.cast_signed()).unwrap(), Signal::KILL).unwrap();
    drop(open);
    host.start();
    eventually("its table is gone", Duration::from_secs(20), || {
        let left = tables(host.folder());
        match left.len() == 1 && left != before {
            true => Ok(()),
            false => Err(format!("{left:?}\n{}", host.agent_log())),
        }
    });
    drop(refusing);
    recovers_two(&world, &cache);
    world.mounted_at(&lake.path);
}

#[test]
fn a_machine_that_shuts_down_keeps_what_is_in_no_store() {
    let mut world = World::start();
    world.expect_in_logs("a file cannot be uploaded");
    let mut host = world.host();
    let lake = world.activate(&host);
    let worker = host.worker_of(&lake.path);
    let refusing = refuse_uploads(&world);
    let open = two_unsaved(&lake.path);
    host.stop_agent();
    kill_process(Pid::from_raw(worker.cast_signed()).unwrap(), Signal::TERM).unwrap();
    eventually("the worker ends", Duration::from_secs(60), || {
        match host.workers() {
            workers if workers.is_empty() => Ok(()),
            workers => Err(format!("{workers:?}")),
        }
    });
    let cache = host.folder().join("cache");
    assert_eq!(notes(&cache), 2);
    // It is in memory.
    std::fs::rename(host.folder().join("run"), host.folder().join("run-of-before")).unwrap();
    host.start();
    world.mounted_at(&lake.path);
    assert_eq!(notes(&cache), 2, "{}", host.agent_log());
    drop((open, refusing));
    recovers_two(&world, &cache);
}

/// Names of the folders in which workers keep what their successors must know.
fn tables(host: &Path) -> Vec<String> {
    let found = std::fs::read_dir(host.join("run/succession")).unwrap();
    found
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn text_of(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

/// How many notes lie in a folder and below it.
fn notes(folder: &Path) -> usize {
    let Ok(found) = std::fs::read_dir(folder) else {
        return 0;
    };
    found
        .map(|entry| entry.unwrap().path())
        .map(|path| match path.is_dir() {
            true => notes(&path),
            false => usize::from(path.to_string_lossy().ends_with(".unsaved.json")),
        })
        .sum()
}
