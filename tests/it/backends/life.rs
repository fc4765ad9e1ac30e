//! What dies and what goes on.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mooring_tests::bystander::disk_free;
use mooring_tests::process::suspend;
use mooring_tests::programs::rounds;
use mooring_tests::{Holder, eventually, mounts};
use rustix::process::Signal;

use super::guide::says;
use super::scene::{Backend, SOON, Scene, files_below, kill};

/// A death is seen, and the folder is back, within this time.
const BACK: Duration = Duration::from_secs(5);

pub(super) fn killed(backend: Backend) {
    let count = match backend {
        // There are stories of its own for it.
        Backend::Default => 1,
        // Each of a fresh mount: one whose program dies again and again is started less and less often.
        Backend::Geesefs | Backend::S3fs => rounds(1, 50),
    };
    for _ in 0..count {
        killed_once(backend);
    }
}

fn killed_once(backend: Backend) {
    let scene = Scene::start(backend, "", |_| {});
    let mut open = fs::File::create(scene.path.join("open.txt")).unwrap();
    open.write_all(b"before").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Somebody who goes on writing whatever happens must never reach the disk below.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = fs::write(scene.path.join("stubborn.txt"), "x");
            }
        });
        let program = scene.program();
        kill(program);
        let (took, ()) = eventually("the folder is back", BACK, || {
            match scene.host.workers()[..] {
                [pid] if pid != program => {}
                ref other => return Err(format!("{other:?} serve")),
            }
            fs::write(scene.path.join("after.txt"), "after").map_err(|error| error.to_string())
        });
        println!("{backend:?}: back {took:?} after its program was killed");
        over.store(true, Ordering::Relaxed);
    });
    eventually("what is written then is in the store", SOON, || {
        scene.world.store.get("after.txt")
    });
    assert_eq!(scene.file_system(), backend.file_system());
    let seen = match open.write_all(b", after").and_then(|()| open.sync_all()) {
        Ok(()) => {
            assert_eq!(scene.world.store.get("open.txt").unwrap(), b"before, after");
            "another one goes on, open files live"
        }
        Err(_) => "mounted anew, open files fail",
    };
    says("its program dies", backend, seen);
    drop(open);
    scene.world.activation_is(&scene.activation, "ACTIVE");
    scene
        .world
        .operator
        .mooring(&format!("activations delete {} --wait", scene.activation));
    let local = files_below(&scene.host.mount_root());
    assert!(local.is_empty(), "on the local disk: {local:?}");
}

pub(super) fn agent_and_catalog(backend: Backend) {
    let mut scene = Scene::start(backend, "", |world| world.store.put("kept.txt", "kept"));
    let program = scene.program();
    let mut open = fs::File::create(scene.path.join("written.txt")).unwrap();
    open.write_all(b"before, ").unwrap();
    scene.host.kill_agent();
    scene.world.kill_catalog();
    assert_eq!(fs::read(scene.path.join("kept.txt")).unwrap(), b"kept");
    open.write_all(b"while nobody watches, ").unwrap();

    // With nothing but what it has noted, the agent goes on with the mount that is there.
    let mut agent = scene.host.launch();
    agent.says("mooring-agent runs as ");
    open.write_all(b"and after").unwrap();
    open.sync_all().unwrap();
    drop(open);
    assert_eq!(scene.program(), program, "it was adopted");
    // And watches it: a death is seen without a catalog, too.
    kill(program);
    eventually("the folder is back", BACK * 2, || {
        fs::read(scene.path.join("kept.txt"))
            .map(drop)
            .map_err(|error| error.to_string())
    });
    drop(agent);

    // As after a restart of the machine.
    mounts::detach_below(scene.host.folder());
    eventually(
        "the program ends with its mount",
        Duration::from_secs(15),
        || match scene.host.workers().is_empty() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        },
    );
    let mut agent = scene.host.launch();
    agent.says("mooring-agent runs as ");
    scene.world.mounted_at(&scene.path);
    assert_eq!(
        scene.world.store.get("written.txt").unwrap(),
        b"before, while nobody watches, and after"
    );
    drop(agent);
    scene.world.start_catalog();
    scene.host.start();
    scene.world.activation_is(&scene.activation, "ACTIVE");
}

pub(super) fn deactivated(backend: Backend) {
    let scene = Scene::start(backend, "", |_| {});
    let mut open = fs::File::create(scene.path.join("open.txt")).unwrap();
    open.write_all(b"written before the end").unwrap();
    scene
        .world
        .operator
        .mooring(&format!("activations delete {} --grace 30s", scene.activation));
    // The grace is for who has files open.
    open.write_all(b", and within the grace").unwrap();
    drop(open);
    scene.world.activation_is(&scene.activation, "INACTIVE");
    assert!(!mounts::is_mounted(&scene.path) && !scene.path.exists());
    eventually("its program has ended", Duration::from_secs(15), || {
        match scene.host.workers().is_empty() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });
    let kept = eventually("what was written is in the store", SOON, || {
        scene.world.store.get("open.txt")
    })
    .1;
    assert_eq!(kept, b"written before the end, and within the grace");
}

pub(super) fn store_away(backend: Backend) {
    let scene = Scene::start(backend, "", |world| world.store.put("seen.txt", "seen"));
    let store = &scene.world.store;
    assert_eq!(fs::read(scene.path.join("seen.txt")).unwrap(), b"seen");
    let mut holder = Holder::open(&scene.path.join("open.txt"));

    suspend(store.process.pid());
    // Also while somebody waits for the store.
    assert_eq!(holder.write("taken"), Ok(()));
    holder.begin_syncing();
    let took = disk_free(&scene.path);
    println!("{backend:?}: df takes {took:?} without a store");
    let listed = scene.host.listing();
    assert!(listed.contains(&scene.path.display().to_string()), "{listed}");
    disk_free(&scene.path);
    assert_eq!(holder.answer_within(Duration::ZERO), None, "the store is away");
    store.process.signal(Signal::CONT);
    assert_eq!(holder.answer(), Ok(()), "and goes on when it is back");
    assert_eq!(store.get("open.txt").unwrap(), b"taken");
    assert_eq!(holder.close(), Ok(()));
    assert_eq!(fs::read(scene.path.join("seen.txt")).unwrap(), b"seen");

    // Nor does an unmount wait for it.
    suspend(store.process.pid());
    scene
        .world
        .operator
        .mooring(&format!("activations delete {} --grace 1s", scene.activation));
    let (took, ()) = eventually(
        "it is unmounted",
        Duration::from_secs(20),
        || match mounts::is_mounted(&scene.path) {
            false => Ok(()),
            true => Err("not yet".to_owned()),
        },
    );
    println!("{backend:?}: unmounted after {took:?} without its store");
    store.process.signal(Signal::CONT);
    scene.world.activation_is(&scene.activation, "INACTIVE");
}
