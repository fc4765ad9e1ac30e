//! A compute host: an agent with folders of its own, in the machine's network or in a namespace.

mod views;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::eventually;
use crate::mounts;
use crate::network::Namespace;
use crate::process::Process;
use crate::programs::{program, tool};

/// Programs of others that every host begins with.
const BACKENDS: [&str; 2] = ["geesefs", "s3fs"];

/// A host with its agent. Dropping it ends the agent and takes its mounts down.
pub struct Host {
    /// Its id, the last part of `hosts/{host}`.
    pub id: String,
    folder: PathBuf,
    config: PathBuf,
    agent: Option<Process>,
    namespace: Option<Namespace>,
}

impl Host {
    /// Starts an agent that joins with `join_file`.
    ///
    /// # Panics
    /// When it does not join within 30 s.
    pub fn join(world: &Path, name: &str, join_file: &Path, namespace: Option<Namespace>) -> Host {
        let folder = world.join(name);
        std::fs::create_dir(&folder).expect("the world's folder can be written");
        let config = folder.join("agent.toml");
        let at = |part: &str| folder.join(part).display().to_string();
        std::fs::write(
            &config,
            format!(
                "state_dir = {:?}\nrun_dir = {:?}\nmount_root = {:?}\ncache_dir = {:?}\njoin_file = {:?}\n\
                 host_name = {name:?}\nheartbeat_interval = \"1s\"\ngeesefs = {:?}\ns3fs = {:?}\n",
                at("state"),
                at("run"),
                at("mnt"),
                at("cache"),
                join_file,
                at("bin/geesefs"),
                at("bin/s3fs"),
            ),
        )
        .expect("the folder can be written");
        std::fs::create_dir(folder.join("mnt")).expect("the folder can be written");
        std::fs::create_dir(folder.join("bin")).expect("the folder can be written");
        let mut host = Host {
            id: name.to_owned(),
            folder,
            config,
            agent: None,
            namespace,
        };
        for backend in BACKENDS {
            host.install(backend);
        }
        host.start();
        host
    }

    /// Installs the program of a backend, `geesefs` or `s3fs`, on this host alone.
    ///
    /// # Panics
    /// When it is there already.
    pub fn install(&self, backend: &str) {
        let program = match backend {
            "geesefs" => tool("bin/geesefs"),
            _ => PathBuf::from("/usr/bin").join(backend),
        };
        std::os::unix::fs::symlink(program, self.folder.join("bin").join(backend))
            .expect("the folder can be written");
    }

    /// Removes the program of a backend from this host.
    ///
    /// # Panics
    /// When it is not there.
    pub fn uninstall(&self, backend: &str) {
        std::fs::remove_file(self.folder.join("bin").join(backend)).expect("it was installed");
    }

    /// Starts the agent; waits until it is ready.
    pub fn start(&mut self) {
        let mut agent = self.launch();
        let name = agent.says("mooring-agent runs as hosts/");
        self.id = name;
        self.agent = Some(agent);
    }

    /// Starts the agent without waiting, so that it can come up while its catalog is away.
    pub fn launch(&self) -> Process {
        let agent = program("mooring-agent");
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&agent),
            None => Command::new(agent),
        };
        command.arg("run").arg("--config").arg(&self.config);
        Process::start("agent", &self.folder, command)
    }

    /// Kills the agent without a word.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Ends the agent as an init system does.
    pub fn stop_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.stop();
        }
    }

    /// Sends the agent a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal_agent(&self, signal: rustix::process::Signal) {
        self.agent.as_ref().expect("the agent runs").signal(signal);
    }

    /// Its address on the world's network, if it has one of its own.
    pub fn address(&self) -> Option<std::net::Ipv4Addr> {
        self.namespace.as_ref().map(Namespace::address)
    }

    /// What the agent has said.
    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// The folder of a project's mount on this host.
    pub fn path(&self, project: &str, mount: &str) -> PathBuf {
        self.mount_root().join(project).join(mount)
    }

    /// Below which everything is mounted.
    pub fn mount_root(&self) -> PathBuf {
        self.folder.join("mnt")
    }

    /// Where the agent keeps its state, sockets and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Process ids of the programs that serve this host's mounts.
    pub fn workers(&self) -> Vec<u32> {
        let marker = self.folder.join("run").display().to_string();
        let entries = std::fs::read_dir("/proc").expect("the kernel tells its processes");
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let line = command_line(*pid);
                let serves = ["mooring-fs", GEESEFS, "bin/s3fs"];
                serves.iter().any(|program| line.contains(program)) && line.contains(&marker)
            })
            .collect()
    }
}

/// How its program is called in a host's folder.
const GEESEFS: &str = "bin/geesefs";

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_worker_logs();
        }
        self.kill_agent();
        mounts::detach_below(&self.folder);
        // Workers end by themselves when their mounts are gone; one of ours that does not is a defect.
        let workers = || {
            let words: Vec<String> = self
                .workers()
                .into_iter()
                .map(|pid| format!("{pid}: {}", command_line(pid)))
                .filter(|line| !line.contains(GEESEFS))
                .collect();
            if words.is_empty() {
                Ok(())
            } else {
                Err(words.join("; "))
            }
        };
        if std::thread::panicking() {
            for pid in self.workers() {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
            }
        } else {
            eventually(
                "workers end when their mounts are gone",
                Duration::from_secs(10),
                workers,
            );
            self.end_geesefs();
        }
        // Bare mount points cannot be removed as long as they are immutable.
        let _ = Command::new("chattr")
            .args(["-R", "-f", "-i"])
            .arg(self.mount_root())
            .output();
    }
}

impl Host {
    /// GeeseFS may upload before it ends, and was seen to live on without its mount for longer than that takes. The agent
    /// leaves it alone, since it cannot tell the one from the other; here nothing may be left.
    fn end_geesefs(&self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) && !self.workers().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        for pid in self.workers() {
            eprintln!(
                "ended by the story's host, since it did not end by itself: {}",
                command_line(pid)
            );
            self.print_worker_logs();
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
        }
    }

    /// What the programs that serve mounts have logged, each with the place of its log.
    pub fn worker_logs(&self) -> Vec<(PathBuf, String)> {
        let found = Command::new("find")
            .arg(self.folder.join("run"))
            .args(["-name", "*.log"])
            .output();
        let paths = found.map(|found| found.stdout).unwrap_or_default();
        let paths = String::from_utf8_lossy(&paths).into_owned();
        paths
            .lines()
            .map(|path| (path.into(), std::fs::read_to_string(path).unwrap_or_default()))
            .collect()
    }

    fn print_worker_logs(&self) {
        for (log, text) in self.worker_logs() {
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            eprintln!("---- the last lines of {} ----", log.display());
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// What a process was started with; empty when it is gone.
fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}
