//! A machine: a small Debian with its own init system, in a container of systemd-nspawn plugged into a network. What is
//! installed on it, how its units behave, and what a reboot leaves can be seen on it as on a real one.
//!
//! Its file system is a layer above the tree that `tests/run` has made once; nothing is ever written to that.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::cgroup::Cgroup;
use crate::network::Namespace;
use crate::process::Process;
use crate::programs::tool;
use crate::{eventually, mounts, packages};

/// From power-on to all units started, on a busy machine with two cores.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// With this exit code systemd-nspawn tells that the machine wants to boot again.
const WANTS_REBOOT: i32 = 133;

/// The environment of a command on the machine.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A machine that is running. Dropping it cuts its power.
pub struct Machine {
    name: String,
    /// Where its console's and journal's texts end up, and below a folder its file system.
    world: PathBuf,
    container: Option<Process>,
    cgroup: Option<Cgroup>,
    namespace: Namespace,
}

impl Machine {
    /// Boots a fresh machine called `name`.
    ///
    /// # Panics
    /// When it has not booted within a minute.
    pub fn boot(world: &Path, name: &str, namespace: Namespace) -> Machine {
        let mut machine = Machine {
            name: name.to_owned(),
            world: world.to_owned(),
            container: None,
            cgroup: None,
            namespace,
        };
        for part in ["upper", "work", "root"] {
            std::fs::create_dir_all(machine.folder().join(part)).expect("the world's folder can be written");
        }
        machine.mount_root();
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel makes ids");
        std::fs::write(machine.root().join("etc/machine-id"), id.replace('-', ""))
            .expect("the machine's files can be written");
        machine.power_on();
        machine
    }

    /// Starts it again after its power was cut, or after it was shut down.
    ///
    /// # Panics
    /// When it has not booted within a minute.
    pub fn power_on(&mut self) {
        let cgroup = Cgroup::new(&format!("{}-{}", world_name(&self.world), self.name));
        let mut command = cgroup.command("systemd-nspawn");
        command
            .arg("--directory")
            .arg(self.root())
            .args(["--boot", "--register=no", "--keep-unit", "--link-journal=no"])
            .args(["--resolv-conf=off", "--timezone=off", "--console=pipe", "--quiet"])
            .args(["--bind=/dev/fuse", "--capability=all"])
            // Its own filter is older than the call by which agents get descriptors of mounts back.
            .arg("--system-call-filter=pidfd_getfd")
            .arg(format!("--hostname={}", self.name))
            .arg(format!("--machine={}-{}", world_name(&self.world), self.name))
            .arg(format!(
                "--network-namespace-path={}",
                self.namespace.path().display()
            ));
        self.cgroup = Some(cgroup);
        self.container = Some(Process::start(
            &format!("{}-console", self.name),
            &self.world,
            command,
        ));
        let what = format!("{} boots", self.name);
        eventually(&what, BOOT_TIMEOUT, || {
            self.init_if_running().ok_or("it has no init yet")?;
            let output = self.output(&["systemctl", "is-system-running"]);
            match String::from_utf8_lossy(&output.stdout).trim() {
                "running" => Ok(()),
                "degraded" => {
                    let failed = self.output(&["systemctl", "--failed", "--plain", "--no-legend"]);
                    panic!(
                        "units failed on {}: {}",
                        self.name,
                        String::from_utf8_lossy(&failed.stdout)
                    )
                }
                other => Err(other.to_owned()),
            }
        });
    }

    /// Runs a command given as one line, whose words have no spaces in them; it must succeed. Returns its output.
    pub fn run(&self, line: &str) -> String {
        self.succeeds(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a line of shell, which must succeed. Returns its output.
    pub fn shell(&self, script: &str) -> String {
        self.succeeds(&["sh", "-ec", script])
    }

    /// Runs a command that must succeed. Returns its standard output.
    ///
    /// # Panics
    /// When it fails, with what it has said.
    pub fn succeeds(&self, command: &[&str]) -> String {
        let output = self.output(command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "on {}: {}: {}\n{said}{}",
            self.name,
            command.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// Runs a command, whatever comes of it.
    pub fn output(&self, command: &[&str]) -> Output {
        self.command(command).output().expect("nsenter is installed")
    }

    /// A command that runs on the machine.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init().to_string(), "--all", "--"])
            .args(words)
            .current_dir("/")
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    /// Where a path of the machine is reached from outside, mounts included.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init())).join(inside.trim_start_matches('/'))
    }

    /// Installs one of our packages as `dpkg --install` does. Returns what it has said.
    pub fn install(&self, package: &str, version: &str) -> String {
        let from = packages::package(package, version);
        let inside = format!("/var/tmp/{package}_{version}.deb");
        std::fs::copy(&from, self.path(&inside)).expect("the machine's disk can be written");
        let said = self.shell(&format!("dpkg --install {inside} 2>&1"));
        self.run(&format!("rm {inside}"));
        said
    }

    /// A property of a unit as `systemctl show` tells it.
    pub fn unit(&self, unit: &str, property: &str) -> String {
        let said = self.run(&format!("systemctl show --value --property={property} {unit}"));
        said.trim().to_owned()
    }

    /// The line of the machine's mount table for a path; `None` if nothing is mounted there.
    pub fn mount_line(&self, path: &str) -> Option<String> {
        let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.init()))
            .expect("the kernel tells the machine's mounts");
        let found = table.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
        found.map(str::to_owned)
    }

    /// Waits until something is mounted at a path and answers.
    pub fn mounted_at(&self, path: &str) {
        let what = format!("{path} is mounted on {}", self.name);
        eventually(&what, Duration::from_secs(30), || {
            self.mount_line(path).ok_or("nothing is mounted there")?;
            mounts::answers(&self.path(path))
        });
    }

    /// Restarts it by its own means: units are stopped, everything is unmounted, and it boots again.
    ///
    /// # Panics
    /// When it does not go down within a minute and a half, or does not come up.
    pub fn reboot(&mut self) {
        self.keep_journal();
        self.run("systemctl reboot --no-block");
        let mut container = self.container.take().expect("a machine that runs has one");
        let status = container.ends(Duration::from_secs(90));
        assert_eq!(status.code(), Some(WANTS_REBOOT), "{}", container.output());
        self.cgroup = None;
        self.power_on();
    }

    /// Cuts its power: no unit is stopped, nothing is unmounted or written any more.
    pub fn cut_power(&mut self) {
        self.kill_init();
        if let Some(mut container) = self.container.take() {
            container.ends(Duration::from_secs(20));
        }
        self.cgroup = None;
    }

    /// Its address on the network.
    pub fn address(&self) -> std::net::Ipv4Addr {
        self.namespace.address()
    }

    /// What its journal says of a unit, since it was made.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&format!(
            "journalctl --no-pager --output=short-monotonic --unit {unit}"
        ))
    }

    /// The process id of its init, outside.
    fn init(&self) -> u32 {
        self.init_if_running()
            .unwrap_or_else(|| panic!("{} is not running", self.name))
    }

    fn init_if_running(&self) -> Option<u32> {
        let nspawn = self.container.as_ref()?.pid();
        let children = std::fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        children.split_whitespace().find_map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            // Before it has become its init it is still called after its starter.
            (name.trim() == "systemd").then(|| pid.parse().ok())?
        })
    }

    fn kill_init(&self) {
        if let Some(init) = self.init_if_running() {
            let _ = Command::new("kill").args(["-9", &init.to_string()]).output();
        }
    }

    fn folder(&self) -> PathBuf {
        self.world.join(format!("machine-{}", self.name))
    }

    fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    fn mount_root(&self) {
        let (below, at) = (tool("rootfs-bookworm"), self.folder());
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            below.display(),
            at.join("upper").display(),
            at.join("work").display()
        );
        let output = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(self.root())
            .output()
            .expect("mount is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Keeps what our units have logged among the world's logs, which are looked through at its end.
    fn keep_journal(&self) {
        let log = self.world.join(format!("{}-journal.log", self.name));
        let Ok(log) = File::options().create(true).append(true).open(log) else {
            return;
        };
        let _ = self
            .command(&["journalctl", "--no-pager", "--boot", "--unit=mooring-*"])
            .stdout(log)
            .status();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.init_if_running().is_some() {
            self.keep_journal();
            if std::thread::panicking() {
                let said = self.output(&["journalctl", "--no-pager", "--boot", "--lines=80"]);
                eprintln!("---- the end of the journal of {} ----", self.name);
                eprintln!("{}", String::from_utf8_lossy(&said.stdout));
            }
        }
        if std::thread::panicking() {
            // Nothing may fail while a failure is told.
            self.kill_init();
            drop(self.container.take());
        } else {
            self.cut_power();
        }
        self.cgroup = None;
        let _ = Command::new("umount").arg("-l").arg(self.root()).output();
        // Bare mount points are immutable, also in the layer.
        let _ = Command::new("chattr")
            .args(["-R", "-f", "-i"])
            .arg(self.folder().join("upper"))
            .output();
    }
}

/// The last part of the world's folder, which no other world has.
fn world_name(world: &Path) -> String {
    let name = world.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
