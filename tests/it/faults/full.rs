//! A disk of the host is full: what is there stays as it is, what cannot be done says so, and it is done when there is room.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use mooring_tests::folder::{path_text, run};
use mooring_tests::programs::rounds;
use mooring_tests::{World, eventually, mounts};

/// A filesystem in memory with so much room; taken away when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: PathBuf, kibibytes: u32) -> SmallDisk {
        fs::create_dir_all(&path).unwrap();
        let size = format!("size={kibibytes}k,mode=0700");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "mooring-test-disk", path_text(&path)],
        );
        SmallDisk(path)
    }

    /// Uses up the room that is left.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        // Smaller and smaller pieces, so that not a page is left.
        for size in [65_536, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        mounts::detach_below(&self.0);
    }
}

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
