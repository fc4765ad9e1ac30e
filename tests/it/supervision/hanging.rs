//! Programs that neither serve nor die: it is said in time, it holds up nobody else, and it is over when they go on or are
//! ended as the condition says.

use std::fs;
use std::time::{Duration, Instant};

use mooring_tests::bystander::disk_free;
use mooring_tests::process::suspend;
use mooring_tests::programs::rounds;
use mooring_tests::{Holder, World, mounts};
use rustix::process::Signal;

use super::{kill, mount_identity, signal};

/// A hang is told within this time: the agent asks every 3 s and waits 5 s for an answer, on a busy machine.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// The agent waits this long for an answer of a worker.
const ASKED_FOR: Duration = Duration::from_secs(5);

#[test]
fn a_mount_that_hangs_is_reported_and_holds_up_nobody_else() {
    let mut world = World::start();
    world.store.put("kept.txt", "kept");
    let mut host = world.host();
    let lake = world.activate(&host);
    world.connector("ml", "pond", "--mode read-write");
    let pond = world.activate_connector(&host, "ml", "pond");
    let identity = mount_identity(&lake.path);
    let mut holder = Holder::open(&lake.path.join("open.txt"));

    let mut expected = String::new();
    let mut told = Vec::new();
    let mut kept_again = 0;
    for round in 0..rounds(3, 51) {
        let worker = host.worker_of(&lake.path);
        let begun = Instant::now();
        suspend(worker);
        let line = format!("line {round}, ");
        holder.begin_writing(&line);
        expected += &line;

        let said = host.lists_with("lake", "DEGRADED", "hangs");
        told.push(begun.elapsed());
        assert!(said.contains(&format!("kill -9 {worker}")), "{said}");
        host.lists("pond", "MOUNTED");
        disk_free(&pond.path);
        fs::write(pond.path.join("beside.txt"), &line).unwrap();
        assert_eq!(fs::read(pond.path.join("kept.txt")).unwrap(), b"kept");
        if round == 0 {
            world.activation_is(&lake.activation, "DEGRADED");
            // A new order for this host is carried out, too.
            world.connector("ml", "lagoon", "--mode read-only");
            world.activate_connector(&host, "ml", "lagoon");
        }
        assert_eq!(holder.answer_within(Duration::ZERO), None, "who uses it waits");
        if round % 3 > 0 {
            // An agent that starts while it hangs is ready like any other, says so as well, and has the mount in hand
            // though the worker gives it nothing.
            host.kill_agent();
            host.start();
            let begun = Instant::now();
            kept_again += 1;
            host.agent_has_said("is kept again", kept_again);
            // Whoever ends it sooner than the condition says so costs nobody an open file either.
            assert!(begun.elapsed() < ASKED_FOR, "{:?}", begun.elapsed());
            host.lists_with("lake", "DEGRADED", "does not answer");
            disk_free(&pond.path);
        }
        if round % 3 == 1 {
            signal(worker, Signal::CONT);
            assert_eq!(holder.answer(), Ok(()));
            assert_eq!(host.worker_of(&lake.path), worker, "nobody but a person ends it");
        } else {
            // What the condition tells people to do helps, and costs nobody an open file.
            kill(worker);
            assert_eq!(holder.answer(), Ok(()));
            host.another_worker_of(&lake.path, worker);
        }
        host.lists("lake", "MOUNTED");
        assert_eq!(mount_identity(&lake.path), identity, "it was mounted anew");
    }
    assert_eq!(holder.close(), Ok(()));
    assert_eq!(world.store.get("open.txt").unwrap(), expected.as_bytes());
    world.activation_is(&lake.activation, "ACTIVE");
    told.sort();
    println!(
        "{} hanging workers, told after {:?} (median), {:?} (slowest)",
        told.len(),
        told[told.len() / 2],
        told[told.len() - 1]
    );
    assert!(told[told.len() - 1] < TOLD_WITHIN, "{told:?}");
}

#[test]
fn programs_of_others_that_hang_are_reported_and_go_on_or_are_mounted_anew() {
    let mut world = World::start();
    // GeeseFS says so of its own bookkeeping.
    world.expect_in_logs("fuse.ERROR");
    world.store.put("kept.txt", "kept");
    let host = world.host();
    let lake = world.activate(&host);
    let [geesefs, s3fs] = ["geesefs", "s3fs"].map(|backend| {
        world.connector("ml", backend, &format!("--mode read-write --backend {backend}"));
        world.activate_connector(&host, "ml", backend)
    });
    let programs = [host.worker_of(&geesefs.path), host.worker_of(&s3fs.path)];
    let before = mounts::mount_id(&s3fs.path);

    let begun = Instant::now();
    for program in programs {
        suspend(program);
    }
    for name in ["geesefs", "s3fs"] {
        let said = host.lists_with(name, "DEGRADED", "does not answer");
        println!("{name}: told after {:?}: {said}", begun.elapsed());
    }
    assert!(begun.elapsed() < TOLD_WITHIN * 2, "{:?}", begun.elapsed());
    host.lists("lake", "MOUNTED");
    disk_free(&lake.path);
    fs::write(lake.path.join("beside.txt"), "beside").unwrap();

    let [killed, continued] = programs;
    kill(killed);
    signal(continued, Signal::CONT);
    for (name, mount) in [("geesefs", &geesefs), ("s3fs", &s3fs)] {
        host.lists(name, "MOUNTED");
        world.mounted_at(&mount.path);
        assert_eq!(fs::read(mount.path.join("kept.txt")).unwrap(), b"kept");
        world.activation_is(&mount.activation, "ACTIVE");
    }
    assert_ne!(host.worker_of(&geesefs.path), killed);
    assert_eq!(host.worker_of(&s3fs.path), continued);
    assert_eq!(mounts::mount_id(&s3fs.path), before, "it was mounted anew");
}
