//! A disk of the host is full: what is there stays as it is, what cannot be done says so, and it is done when there is room.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use mooring_tests::folder::{path_text, run};
use mooring_tests::programs::rounds;
use mooring_tests::{Holder, Host, SmallDisk, World, eventually, mounts};
use rustix::process::{Pid, Signal, kill_process};

const ENOSPC: i32 = 28;

#[test]
fn an_order_that_cannot_be_noted_is_not_carried_out_and_what_runs_goes_on() {
    let mut world = World::start();
    world.expect_in_logs("No space left on device");
    world.expect_in_logs("ledger");
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let mount = world.activate(&host);
    host.kill_agent();
    let state = host.folder().join("state");
    let full = host.folder().join("state-before");
    fs::rename(&state, &full).unwrap();
    let disk = SmallDisk::at(state.clone(), 1024);
    run("cp", &["-a", path_text(&full.join(".")), path_text(&state)]);
    host.start();

    let count = rounds(2, 50);
    for round in 0..count {
        disk.fill();
        let name = format!("late-{round}");
        world.connector("ml", &name, "");
        world
            .operator
            .mooring(&format!("activations create --connector ml/{name} --pool desks"));
        let late = host.path("ml", &name);
        eventually(
            "the agent says that it cannot note the order",
            Duration::from_secs(20),
            || {
                let log = host.agent_log();
                match log.to_lowercase().contains("no space left") {
                    true => Ok(()),
                    false => Err(log),
                }
            },
        );
        assert!(!mounts::is_mounted(&late), "what is not noted is not begun");
        assert_eq!(fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
        fs::write(mount.path.join("during.txt"), name.as_bytes()).unwrap();
        disk.make_room();
        world.mounted_at(&late);
    }
    world.activation_is(&mount.activation, "ACTIVE");
    println!(
        "{count} orders to a host without room for its ledger: not begun, and carried out when there was room"
    );
    host.kill_agent();
    drop(disk);
    fs::remove_dir(&state).unwrap();
    fs::rename(&full, &state).unwrap();
}

#[test]
fn a_host_without_room_for_staged_files_refuses_writes_and_loses_nothing_that_it_has_taken() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let host = world.host();
    let disk = SmallDisk::at(host.folder().join("cache"), 4096);
    let lake = world.activate(&host);
    world.connector("ml", "pond", "--mode read-write");
    let pond = world.activate_connector(&host, "ml", "pond");
    let identity = mounts::mount_id(&lake.path);
    let mut holder = Holder::open(&lake.path.join("open.txt"));
    let mut expected = String::new();
    let too_much = "x".repeat(256 << 10);

    let count = rounds(2, 50);
    for round in 0..count {
        let line = format!("line {round}, ");
        assert_eq!(holder.write(&line), Ok(()));
        expected += &line;
        disk.fill();
        assert_eq!(written(&lake.path.join("none.txt"), &too_much), Err(Some(ENOSPC)));
        // Reading needs no room, here and beside, and names need none either.
        for mount in [&lake.path, &pond.path] {
            assert_eq!(fs::read(mount.join("kept.txt")).unwrap(), b"kept");
            fs::create_dir(mount.join("folder")).unwrap();
            fs::remove_dir(mount.join("folder")).unwrap();
        }
        // More than twenty deaths a minute are a crash loop, which is not what is shown here.
        if round % 3 == 0 {
            // What was staged before outlives the worker, too, and needs no more room for that.
            kill_worker(&host, &lake.path);
            assert_eq!(fs::read(lake.path.join("kept.txt")).unwrap(), b"kept");
        }
        assert_eq!(holder.sync(), Ok(()), "what was taken is uploaded");
        assert_eq!(world.store.get("open.txt").unwrap(), expected.as_bytes());

        disk.make_room();
        for mount in [&lake.path, &pond.path] {
            fs::remove_file(mount.join("none.txt"))
                .or_else(absent_is_fine)
                .unwrap();
            fs::write(mount.join("room.txt"), &line).unwrap();
            assert_eq!(world.store.get("room.txt").unwrap(), line.as_bytes());
        }
    }
    assert_eq!(holder.close(), Ok(()));
    assert_eq!(world.store.get("open.txt").unwrap(), expected.as_bytes());
    assert_eq!(mounts::mount_id(&lake.path), identity, "it was mounted anew");
    world.activation_is(&lake.activation, "ACTIVE");
    println!("{count} times no room for staged files: ENOSPC, nothing that was taken is lost");
    // Its mount points must be free before the disk goes.
    drop(host);
    drop(disk);
}

#[test]
fn a_host_without_room_in_its_run_folder_loses_nothing_and_says_what_it_cannot_do() {
    let mut world = World::start();
    for announced in [
        "what a successor must know cannot be written",
        "No space left on device",
    ] {
        world.expect_in_logs(announced);
    }
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    // As on a machine with an init system, where it is memory.
    host.kill_agent();
    let disk = SmallDisk::at(host.folder().join("run"), 4096);
    host.start();
    let lake = world.activate(&host);
    world.activation_is(&lake.activation, "ACTIVE");

    let count = rounds(1, 50);
    for round in 0..count {
        assert_eq!(conditions(&world, &host, "HEALTHY"), ["Healthy"], "round {round}");
        let mut holder = Holder::open(&lake.path.join("open.txt"));
        assert_eq!(holder.write("before, "), Ok(()));
        disk.fill();
        fill_log(&host, &lake.path);
        // What a successor must know finds no room, and whoever uses the mount does not notice.
        for number in 0..40 {
            let folder = lake.path.join(format!("folder-{round}-{number}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("closed.txt"), "closed").unwrap();
            assert_eq!(holder.write("during, "), Ok(()));
        }
        assert_eq!(holder.sync(), Ok(()));
        let synced = world.store.get("open.txt").unwrap();
        assert_eq!(synced, format!("before, {}", "during, ".repeat(40)).as_bytes());
        eventually(
            "it says that nobody could succeed the worker",
            Duration::from_secs(20),
            || match conditions(&world, &host, "HEALTHY").as_slice() {
                [reason] if reason == "RemountOnCrash" => Ok(()),
                other => Err(format!("{other:?}\n{}", host.listing())),
            },
        );

        // An agent that starts finds everything, and cannot begin what it cannot note.
        let identity = mounts::mount_id(&lake.path);
        host.kill_agent();
        host.start();
        let late = format!("late-{round}");
        world.connector("ml", &late, "");
        let order = world
            .operator
            .json(&format!("activations create --connector ml/{late} --pool desks"));
        host.lists_with(&late, "FAILED", "No space left on device");
        assert_eq!(mounts::mount_id(&lake.path), identity, "it is left alone");
        assert_eq!(fs::read(lake.path.join("kept.txt")).unwrap(), b"kept");

        // Its worker dies: nobody waits for ever, and it comes back when there is room.
        kill_process(pid(host.worker_of(&lake.path)), Signal::KILL).unwrap();
        assert!(
            holder.write("after").is_err(),
            "an open file does not outlive this"
        );
        drop(holder);
        host.lists_with("lake", "FAILED", "No space left on device");
        assert!(
            written(&lake.path.join("local.txt"), "x").is_err(),
            "nothing reaches the local disk"
        );
        disk.make_room();
        world.mounted_at(&lake.path);
        world.mounted_at(&host.path("ml", &late));
        assert_eq!(world.store.get("open.txt").unwrap(), synced);
        for number in 0..40 {
            let key = format!("folder-{round}-{number}/closed.txt");
            assert_eq!(world.store.get(&key).unwrap(), b"closed");
        }
        let order = order["name"].as_str().unwrap();
        world.activation_is(&lake.activation, "ACTIVE");
        world
            .operator
            .mooring(&format!("activations delete {order} --wait"));
    }
    println!("{count} times no room in the run folder: nothing synced or closed is lost");
    host.kill_agent();
    mounts::detach_below(&host.mount_root());
    eventually("the workers have ended", Duration::from_secs(20), || {
        match host.workers()[..] {
            [] => Ok(()),
            ref left => Err(format!("{left:?}")),
        }
    });
    drop(disk);
}

/// Uses up what room the log of a worker has left in its last page.
fn fill_log(host: &Host, path: &Path) {
    let record = host.record_of(path).unwrap();
    let run = host
        .folder()
        .join("run")
        .join(record["assignment_uid"].as_str().unwrap());
    let mut log = File::options().append(true).open(run.join("worker.log")).unwrap();
    while log.write_all(b"\n").is_ok() {}
}

/// Kills the worker of the mount at `path`, and waits for the next one.
fn kill_worker(host: &Host, path: &Path) {
    let worker = host.worker_of(path);
    kill_process(pid(worker), Signal::KILL).unwrap();
    host.another_worker_of(path, worker);
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.try_into().unwrap()).unwrap()
}

/// Makes a file; its failure by number.
fn written(path: &Path, text: &str) -> Result<(), Option<i32>> {
    let write = || File::create(path)?.write_all(text.as_bytes());
    write().map_err(|error: std::io::Error| error.raw_os_error())
}

fn absent_is_fine(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// The reasons of a condition of all mounts of a host that connector `lake` is mounted by.
fn conditions(world: &World, host: &Host, kind: &str) -> Vec<String> {
    let listed = world.operator.json(&format!("mounts list hosts/{}", host.id));
    let mounts = listed["mounts"].as_array().or(listed.as_array()).unwrap();
    let ours = mounts.iter().filter(|mount| {
        let path = mount["path"].as_str().unwrap_or_default();
        path.ends_with("/ml/lake")
    });
    let wanted = format!("CONDITION_TYPE_{kind}");
    ours.flat_map(|mount| mount["conditions"].as_array().cloned().unwrap_or_default())
        .filter(|condition| condition["type"] == wanted.as_str())
        .map(|condition| condition["reason"].as_str().unwrap_or_default().to_owned())
        .collect()
}
