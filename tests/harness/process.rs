//! Programs under test as child processes, whose output is kept in a file and who never outlive their story.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;

/// A running program. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// How long the log was before: what an earlier run of the same program has said does not count.
    said_before: usize,
}

impl Process {
    /// Starts `command`, with its standard output and error appended to `<name>.log` in `folder`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, folder: &Path, command: Command) -> Process {
        Process::start_with(name, folder, command, Stdio::null())
    }

    /// The same with something to read.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with(name: &str, folder: &Path, mut command: Command, stdin: Stdio) -> Process {
        let log = folder.join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the log can be written");
        let said_before = out.metadata().map_or(0, |log| log.len() as usize);
        let err = out.try_clone().expect("descriptors are left");
        let child = command
            .stdin(stdin)
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Process {
            name: name.to_owned(),
            child,
            log,
            said_before,
        }
    }

    /// Waits for a line of output that contains `needle`, and returns the part of it behind the needle.
    ///
    /// # Panics
    /// When the program ends or 30 s pass first, with what it has said.
    pub fn says(&mut self, needle: &str) -> String {
        let what = format!("{} says «{needle}»", self.name);
        let (_, rest) = eventually(&what, Duration::from_secs(30), || {
            let output = self.output();
            // A line counts when it is complete.
            let complete = output.rfind('\n').map_or("", |end| &output[..end]);
            if let Some(line) = complete.lines().rev().find_map(|line| line.split_once(needle)) {
                return Ok(line.1.trim().to_owned());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!(
                    "{} ended with {status} before it said «{needle}»:\n{output}",
                    self.name
                );
            }
            Err(format!("so far it said:\n{output}"))
        });
        rest
    }

    /// All it has said so far.
    pub fn output(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.said_before..).unwrap_or_default()).into_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it as the kernel would when memory runs out: at once, without a word.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, as an init system does.
    ///
    /// # Panics
    /// When it has not ended within 10 s.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ends(Duration::from_secs(10))
    }

    /// Waits for it to end.
    ///
    /// # Panics
    /// When it has not ended within `deadline`.
    pub fn ends(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let (_, status) = eventually(&what, deadline, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("it is still running:\n{}", self.output())),
            Err(error) => Err(error.to_string()),
        });
        status
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a child's pid is positive");
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(40).collect();
            eprintln!("---- the last lines of {} ----", self.name);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// Suspends a process, and waits until all of its threads stand still: after the signal alone they may still answer.
///
/// # Panics
/// When they do not within 20 s.
pub fn suspend(pid: u32) {
    let process = Pid::from_raw(pid as i32).expect("process ids are positive");
    kill_process(process, Signal::STOP).expect("the process is there");
    let what = format!("process {pid} stands still");
    eventually(&what, Duration::from_secs(20), || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?;
        for thread in threads.flatten() {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // Behind the name, which is in parentheses and may hold any.
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
            if state.is_some_and(|state| state != 'T') {
                return Err(stat);
            }
        }
        Ok(())
    });
}
