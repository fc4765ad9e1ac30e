//! What a mount could not upload before it ended is kept on the host, and brought to the store later by a person.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use mooring_tests::folder::mooring_fs;
use mooring_tests::{Holder, World, eventually};
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
