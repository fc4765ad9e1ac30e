//! Programs of others as units of a real systemd: nothing that the units deny them keeps them from mounting, and nothing
//! that happens to the agent concerns them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mooring_tests::packages::NEXT;
use mooring_tests::programs::tool;
use mooring_tests::{Machine, World, eventually, mounts};

use super::joins;

/// A death is seen within this time, by the design.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// One of the two, mounted.
struct Foreign {
    name: &'static str,
    activation: String,
    inside: String,
    path: PathBuf,
    program: String,
    mount: u64,
}

impl Foreign {
    fn start(world: &World, machine: &Machine, name: &'static str) -> Foreign {
        let answer = world
            .operator
            .json(&format!("activations create --connector ml/{name} --pool desks"));
        let inside = format!("/mnt/mooring/ml/{name}");
        machine.mounted_at(&inside);
        let activation = answer["name"].as_str().unwrap().to_owned();
        world.activation_is(&activation, "ACTIVE");
        let line = machine.mount_line(&inside).unwrap();
        assert!(line.contains(&format!("fuse.{name} mooring")), "{line}");
        let path = machine.path(&inside);
        assert_eq!(fs::read(path.join("kept.txt")).unwrap(), b"kept");
        let program = program(machine, name).unwrap();
        Foreign {
            name,
            activation,
            inside,
            mount: mounts::mount_id(&path).unwrap(),
            path,
            program,
        }
    }

    /// It is the same program and the same mount as before, and serves.
    fn goes_on(&self, machine: &Machine, what: &str) {
        assert_eq!(program(machine, self.name).as_ref(), Ok(&self.program), "{what}");
        assert_eq!(
            mounts::mount_id(&self.path),
            Some(self.mount),
            "{}: {what}",
            self.name
        );
        fs::write(self.path.join("goes-on.txt"), what).unwrap();
        assert_eq!(fs::read_to_string(self.path.join("goes-on.txt")).unwrap(), what);
    }

    fn is_killed_and_comes_back(&self, machine: &Machine) {
        let deaths = |journal: String| journal.matches("a mount's worker has died").count();
        let before = deaths(machine.journal("mooring-agent"));
        machine.run(&format!("kill -9 {}", self.program));
        let (seen, ()) = eventually("the agent sees it", SEEN_WITHIN, || {
            match deaths(machine.journal("mooring-agent")) > before {
                true => Ok(()),
                false => Err("it has not said so".to_owned()),
            }
        });
        let (back, now) = eventually("it is mounted anew, in a unit", Duration::from_secs(30), || {
            let now = program(machine, self.name)?;
            machine
                .mount_line(&self.inside)
                .ok_or("nothing is mounted there")?;
            fs::read(self.path.join("kept.txt")).map_err(|error| error.to_string())?;
            Ok(now)
        });
        assert_ne!(now, self.program);
        println!(
            "{}: its death is seen within {seen:?}, mounted anew {back:?} later",
            self.name
        );
    }

    fn is_ended(&self, world: &World, machine: &Machine) {
        world
            .operator
            .mooring(&format!("activations delete {} --wait", self.activation));
        assert!(machine.mount_line(&self.inside).is_none());
        eventually("its unit has ended", Duration::from_secs(20), || {
            match units(machine, self.name) {
                units if units.is_empty() => Ok(()),
                units => Err(format!("{units:?}")),
            }
        });
    }
}

#[test]
fn geesefs_and_s3fs_are_units_that_the_agent_starts_adopts_and_ends() {
    let mut world = World::with_network();
    // GeeseFS says so of its own bookkeeping.
    world.expect_in_logs("fuse.ERROR");
    world.store.put("kept.txt", "kept");
    for backend in ["geesefs", "s3fs"] {
        world.connector("ml", backend, &format!("--mode read-write --backend {backend}"));
    }
    let machine = world.machine("gpu-1");
    copy_program(&machine, &tool("bin/geesefs"), "/usr/bin/geesefs");
    copy_program(&machine, Path::new("/usr/bin/s3fs"), "/usr/bin/s3fs");
    joins(&world, &machine);
    let both = ["geesefs", "s3fs"].map(|name| Foreign::start(&world, &machine, name));

    machine.run("systemctl restart mooring-agent");
    both.iter()
        .for_each(|one| one.goes_on(&machine, "the agent was restarted"));
    machine.run("systemctl kill --signal=KILL mooring-agent");
    both.iter()
        .for_each(|one| one.goes_on(&machine, "the agent was killed"));
    machine.install("mooring-agent", NEXT);
    both.iter()
        .for_each(|one| one.goes_on(&machine, "the package was upgraded"));
    // It has found them again, not just left them alone.
    for one in &both {
        world.activation_is(&one.activation, "ACTIVE");
        let listed = machine.run("mooring-agent status");
        let line = listed.lines().find(|line| line.contains(&one.inside));
        assert!(line.is_some_and(|line| line.contains("MOUNTED")), "{listed}");
    }

    for one in &both {
        one.is_killed_and_comes_back(&machine);
        world.activation_is(&one.activation, "ACTIVE");
        one.is_ended(&world, &machine);
    }
}

/// The process of the only unit that runs a program.
fn program(machine: &Machine, name: &str) -> Result<String, String> {
    match units(machine, name).as_slice() {
        [unit] => Ok(machine.unit(unit, "MainPID")),
        other => Err(format!("{name} runs in {other:?}")),
    }
}

fn units(machine: &Machine, program: &str) -> Vec<String> {
    let listed = machine.run("systemctl list-units --plain --no-legend --state=active mooring-mount-*");
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|unit| {
            machine
                .unit(unit, "ExecStart")
                .contains(&format!("path=/usr/bin/{program} "))
        })
        .map(str::to_owned)
        .collect()
}

/// Puts a program onto the machine, which is of the same Debian, with the libraries that it lacks there.
fn copy_program(machine: &Machine, program: &Path, inside: &str) {
    let linked = Command::new("ldd").arg(program).output().unwrap();
    for line in String::from_utf8_lossy(&linked.stdout).lines() {
        let library = line
            .split_once("=> ")
            .and_then(|(_, rest)| rest.split_whitespace().next());
        let Some(library) = library.filter(|library| library.starts_with('/')) else {
            continue;
        };
        let there = machine.path(library);
        if !there.exists() {
            fs::create_dir_all(there.parent().unwrap()).unwrap();
            fs::copy(library, there).unwrap();
        }
    }
    fs::copy(program, machine.path(inside)).unwrap();
}
