//! A process that is known by pid and start time, so that a pid given out again is not taken for it.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

/// One process, dead or alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it began, in clock ticks since boot.
    pub start_time: u64,
}

impl Process {
    /// Stands in a record for a program that is about to be started. Pid 0 is nobody's, so it never lives.
    pub const NOBODY: Process = Process {
        pid: 0,
        start_time: 0,
    };

    /// All processes with `folder` or something in it on their command line, among those that run a file which is
    /// `wanted`. Blocks; a command line lies in the memory of its process, and reading it waits for whoever holds that, so
    /// those of strangers, which may hang, are not read.
    pub fn naming(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Vec<Process> {
        let mut needle = folder.as_os_str().as_bytes().to_vec();
        needle.push(b'/');
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| {
                let process = Process::of_pid(pid)?;
                let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
                if !wanted(&program) {
                    return None;
                }
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let names = line.windows(needle.len()).any(|part| part == needle);
                // Judged last: what was read is of this very process.
                (names && process.is_alive()).then_some(process)
            })
            .collect()
    }

    /// The process that has `pid` now; `None` when there is none, or only its zombie.
    pub fn of_pid(pid: u32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start_time = parse_start_time(&stat)?;
        Some(Process { pid, start_time })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Process::of_pid(self.pid) == Some(self)
    }

    /// A descriptor that becomes readable when it ends; `None` when it has ended already.
    pub fn pidfd(self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Judged after the descriptor was opened: now it cannot become another process any more.
        self.is_alive().then_some(pidfd)
    }

    /// Ends it for good. For workers that serve no mount yet, or that have a successor: nothing is lost with them. Only a ban
    /// ends one that may serve files that are open.
    pub fn kill(self) {
        if let Some(pidfd) = self.pidfd() {
            // It may have ended meanwhile, which is just as well.
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }

    /// Ends it for good and waits until it has ended, for at most `patience`; tells whether it has. Its descriptors are
    /// closed then. Blocks.
    pub fn end(self, patience: Duration) -> bool {
        let Some(pidfd) = self.pidfd() else {
            self.reap();
            return true;
        };
        // It may have ended meanwhile, which is just as well.
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        let over = matches!(rustix::event::poll(&mut ended, patience.as_ref()), Ok(1..));
        reap(&pidfd);
        over
    }

    /// Takes its exit status if it was our child and has ended.
    pub fn reap(self) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
            && let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        {
            reap(&pidfd);
        }
    }
}

/// The file of a program. An upgrade puts another file in the place of the old one, which those who run it keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramFile {
    device: u64,
    inode: u64,
}

impl ProgramFile {
    /// The file that `process` runs.
    pub fn of_process(process: Process) -> Option<ProgramFile> {
        ProgramFile::at(format!("/proc/{}/exe", process.pid).as_ref())
    }

    /// The file that is installed at `path`.
    pub fn at(path: &Path) -> Option<ProgramFile> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).ok()?;
        Some(ProgramFile {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

/// Takes the exit status of an ended child, so that no zombie stays. A process that is not our child (it was started
/// by an agent before us) is left to its parent.
pub fn reap(pidfd: &OwnedFd) {
    use std::os::fd::AsFd;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options);
}

/// Field 22 of proc_pid_stat(5). The second field is the program's name in parentheses and may hold anything,
/// parentheses included, so the fields are counted from the last one.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_hostile_name() {
        let stat = "7 (a) Z (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time(&stat.replace(" S ", " Z ")), None);
        assert_eq!(parse_start_time("7 (a)"), None);
    }

    #[test]
    fn a_program_is_found_by_a_folder_on_its_command_line() {
        let (folder, beside) = (Path::new("/nowhere/keys/1"), Path::new("/nowhere/keys/11"));
        let mut child = std::process::Command::new("sh")
            .args([
                "-c",
                "sleep 60; true",
                "-o",
                "a=b,passwd_file=/nowhere/keys/1/passwd",
            ])
            .spawn()
            .unwrap();
        let process = Process::of_pid(child.id()).unwrap();
        let any = |_: &Path| true;
        // Between fork and exec it is still this test.
        while Process::naming(folder, any).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(Process::naming(folder, any), [process]);
        let its_own = std::fs::read_link(format!("/proc/{}/exe", child.id())).unwrap();
        assert_eq!(Process::naming(folder, |program| program == its_own), [process]);
        assert!(Process::naming(folder, |program| program != its_own).is_empty());
        assert!(Process::naming(beside, any).is_empty());
        process.kill();
        child.wait().unwrap();
        assert!(Process::naming(folder, any).is_empty());
    }

    #[test]
    fn nobody_never_lives() {
        assert!(!Process::NOBODY.is_alive() && Process::NOBODY.pidfd().is_none());
        assert!(Process::NOBODY.end(Duration::ZERO));
    }

    #[test]
    fn the_file_of_a_program_is_told_from_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        for path in [&first, &second] {
            std::fs::copy("/bin/sleep", path).unwrap();
        }
        let mut child = std::process::Command::new(&first).arg("60").spawn().unwrap();
        let process = Process::of_pid(child.id()).unwrap();
        let runs = ProgramFile::of_process(process);
        assert!(runs.is_some());
        assert_eq!(runs, ProgramFile::at(&first));
        std::fs::rename(&second, &first).unwrap();
        assert_ne!(runs, ProgramFile::at(&first));
        assert_eq!(runs, ProgramFile::of_process(process));
        process.end(Duration::from_secs(10));
        child.wait().ok();
    }

    #[test]
    fn a_process_is_alive_until_it_ends_and_its_pid_alone_proves_nothing() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of_pid(child.id()).unwrap();
        let earlier = Process {
            start_time: process.start_time - 1,
            ..process
        };
        assert!(process.is_alive() && !earlier.is_alive() && earlier.pidfd().is_none());
        process.kill();
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
