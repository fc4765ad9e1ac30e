//! Mounts outlive whatever happens to the programs around them, and come back when the machine itself goes down.

use std::process::{Child, Stdio};
use std::time::Duration;

use mooring_tests::packages::NEXT;
use mooring_tests::programs::rounds;
use mooring_tests::{Machine, World, eventually};

use super::{LAKE, activated, joins, mount_id};

/// Reads, writes and moves until it is told to end, with one file open all the time, and ends at the first failure.
const JOB: &str = r#"
exec 3>"$1/slow.txt"
n=0
while [ ! -e /run/enough ]; do
    n=$((n + 1))
    echo "line $n" >&3
    echo "$n" >"$1/counter.txt"
    [ "$(cat "$1/counter.txt")" = "$n" ] || { echo "counter.txt is not $n" >&2; exit 1; }
    mkdir "$1/folder$n"
    rmdir "$1/folder$n"
    echo "$n" >/run/rounds
done
exec 3>&-
echo "$n"
"#;

/// The unit of a job that writes when it is told to end.
const LAST_WORDS: &str = "
[Unit]
After=mooring-agent.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'sleep 1; echo last words >/mnt/mooring/ml/lake/last.txt'

[Install]
WantedBy=multi-user.target
";

/// A job on the machine that uses the mount.
struct Job<'a> {
    machine: &'a Machine,
    child: Child,
}

impl Job<'_> {
    fn start(machine: &Machine) -> Job<'_> {
        let child = machine
            .command(&["sh", "-euc", JOB, "job", LAKE])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut job = Job { machine, child };
        job.goes_on("it begins");
        job
    }

    /// Waits until it has done two more whole rounds: the one that is under way may have begun before.
    fn goes_on(&mut self, what: &str) {
        let rounds = || {
            let text = std::fs::read_to_string(self.machine.path("/run/rounds")).unwrap_or_default();
            text.trim().parse::<u64>().unwrap_or(0)
        };
        let before = rounds();
        eventually(
            &format!("the job goes on: {what}"),
            Duration::from_secs(30),
            || {
                if let Ok(Some(status)) = self.child.try_wait() {
                    let mut said = String::new();
                    let _ = std::io::Read::read_to_string(self.child.stderr.as_mut().unwrap(), &mut said);
                    panic!("the job failed when {what}: {status}: {said}");
                }
                if rounds() >= before + 2 {
                    Ok(())
                } else {
                    Err(format!("{before} rounds"))
                }
            },
        );
    }

    /// Ends it. Returns how many rounds it has done, none of which has failed.
    fn end(self) -> u64 {
        self.machine.run("touch /run/enough");
        let output = self.child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "the job failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }
}

#[test]
fn nothing_that_happens_to_the_agent_or_its_package_fails_io() {
    let mut world = World::with_network();
    let machine = world.machine("gpu-1");
    // The shipped patience is 30 s; a story has less.
    drop_in(&machine, "WatchdogSec=5");
    joins(&world, &machine);
    activated(&world, &machine);
    let mount = mount_id(&machine);
    let mut job = Job::start(&machine);

    let mut agent = machine.unit("mooring-agent", "MainPID");
    machine.install("mooring-agent", NEXT);
    another_agent(&machine, &mut agent);
    job.goes_on("the package was upgraded");
    assert_eq!(mount_id(&machine), mount, "after the upgrade");

    machine.run("systemctl restart mooring-agent");
    another_agent(&machine, &mut agent);
    job.goes_on("the agent was restarted");

    machine.run("systemctl kill --signal=KILL mooring-agent");
    another_agent(&machine, &mut agent);
    job.goes_on("the agent was killed");

    // A process that is stopped does not answer, also not to a request to end.
    machine.run(&format!("kill -STOP {agent}"));
    job.goes_on("the agent hangs");
    another_agent(&machine, &mut agent);
    job.goes_on("the watchdog has replaced the agent");
    let journal = machine.journal("mooring-agent");
    assert!(journal.contains("Watchdog timeout"), "{journal}");

    machine.run("systemctl kill --signal=KILL mooring-mount-*");
    job.goes_on("the program that serves the mount was killed");

    // Nobody is left but systemd, which keeps a duplicate of the mount's descriptor for the next agent.
    machine.run("systemctl kill --signal=KILL mooring-agent.service mooring-mount-*");
    another_agent(&machine, &mut agent);
    job.goes_on("agent and program were killed at once");

    assert_eq!(mount_id(&machine), mount, "at the end");
    let rounds = job.end();
    println!("{rounds} rounds, none of which failed");
    let slow = String::from_utf8(world.store.get("slow.txt").unwrap()).unwrap();
    assert_eq!(slow.lines().count() as u64, rounds);
    assert_eq!(slow.lines().last(), Some(format!("line {rounds}").as_str()));
}

/// Changes the agent's unit as `systemctl edit` does.
fn drop_in(machine: &Machine, line: &str) {
    let folder = machine.path("/etc/systemd/system/mooring-agent.service.d");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("story.conf"), format!("[Service]\n{line}\n")).unwrap();
}

/// Waits until the agent is another process than before, and ready.
fn another_agent(machine: &Machine, pid: &mut String) {
    let (took, now) = eventually("there is another agent", Duration::from_secs(30), || {
        let state = machine.unit("mooring-agent", "ActiveState");
        let now = machine.unit("mooring-agent", "MainPID");
        if state == "active" && now != *pid && now != "0" {
            Ok(now)
        } else {
            Err(format!("{state}, process {now}"))
        }
    });
    println!("another agent was ready after {} ms", took.as_millis());
    *pid = now;
}

/// On hosts where policy forbids the call by which an agent takes descriptors back, only systemd has a duplicate. A mount
/// whose program has died must end then: nobody could go on with it, and its callers would wait for ever.
#[test]
fn a_mount_that_nobody_can_go_on_with_fails_and_is_mounted_anew() {
    let mut world = World::with_network();
    world.store.put("kept.txt", "kept");
    let machine = world.machine("gpu-1");
    drop_in(&machine, "SystemCallFilter=~pidfd_getfd");
    joins(&world, &machine);
    activated(&world, &machine);
    machine.run("systemctl restart mooring-agent");
    let script = format!("exec 3>{LAKE}/open.txt; while echo more >&3; do :; done");
    let mut writer = machine
        .command(&["sh", "-c", &script])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it writes", Duration::from_secs(10), || {
        std::fs::metadata(machine.path(LAKE).join("open.txt"))
            .map(drop)
            .map_err(|error| error.to_string())
    });

    machine.run("systemctl kill --signal=KILL mooring-mount-*");
    eventually(
        "whoever had a file open is told",
        Duration::from_secs(20),
        || match writer.try_wait().unwrap() {
            Some(_) => Ok(()),
            None => Err("it still writes or waits".to_owned()),
        },
    );
    eventually("it is mounted anew", Duration::from_secs(20), || {
        std::fs::read(machine.path(LAKE).join("kept.txt"))
            .map(drop)
            .map_err(|error| error.to_string())
    });
}

#[test]
fn a_machine_that_boots_without_its_catalog_has_its_mounts_back() {
    let mut world = World::with_network();
    world.store.put("kept.txt", "kept");
    let mut machine = world.machine("gpu-1");
    joins(&world, &machine);
    let activation = activated(&world, &machine);
    // A job that is ordered as the guide says has its mounts until it has ended.
    std::fs::write(machine.path("/etc/systemd/system/job.service"), LAST_WORDS).unwrap();
    machine.run("systemctl enable --now job");
    world.kill_catalog();

    for round in 0..rounds(2, 50) {
        if round % 2 == 0 {
            world.store.delete("last.txt");
            machine.reboot();
            assert_eq!(world.store.get("last.txt").unwrap(), b"last words\n");
            // Nobody who stands in the way of a shutdown is asked twice.
            let journal = machine.run("journalctl --no-pager --boot=-1");
            assert!(
                !journal.contains("State 'stop-sigterm' timed out"),
                "the shutdown was held up:\n{journal}"
            );
        } else {
            machine.shell(&format!("echo closed {round} >{LAKE}/closed.txt"));
            machine.cut_power();
            let closed = world.store.get("closed.txt").unwrap();
            assert_eq!(closed, format!("closed {round}\n").as_bytes());
            machine.power_on();
        }
        machine.mounted_at(LAKE);
        let kept = std::fs::read(machine.path(LAKE).join("kept.txt"));
        assert_eq!(kept.unwrap(), b"kept", "round {round}");
    }
    world.start_catalog();
    world.activation_is(&activation, "ACTIVE");
}

#[test]
fn a_container_that_was_there_before_sees_mounts_come_and_go() {
    let mut world = World::with_network();
    world.store.put("seen.txt", "seen inside");
    let machine = world.machine("gpu-1");
    joins(&world, &machine);
    // What container engines do for `--mount …,bind-propagation=rslave`, from before there was anything to see.
    machine.shell(
        "mkdir /srv/data
         systemd-run --quiet --unit=container --service-type=exec --property=PrivateMounts=yes \
            sh -c 'mount --rbind /mnt/mooring /srv/data && mount --make-rslave /srv/data && exec sleep infinity'",
    );
    let container = machine.unit("container", "MainPID");
    let within = |command: &str| machine.run(&format!("nsenter --target {container} --mount -- {command}"));
    eventually("the container has its folder", Duration::from_secs(10), || {
        let table = within("cat /proc/self/mounts");
        if table.contains(" /srv/data ") {
            Ok(())
        } else {
            Err(table)
        }
    });
    assert!(!within("ls -A /srv/data").contains("ml"));

    let activation = activated(&world, &machine);
    assert_eq!(within("cat /srv/data/ml/lake/seen.txt"), "seen inside");

    world
        .operator
        .mooring(&format!("activations delete {activation} --grace 1s"));
    eventually("the mount goes, inside as well", Duration::from_secs(30), || {
        let table = within("cat /proc/self/mounts");
        if table.contains("/srv/data/ml/lake") || machine.mount_line(LAKE).is_some() {
            Err(table)
        } else {
            Ok(())
        }
    });
    machine.run("systemctl stop container");
}
