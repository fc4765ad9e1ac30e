//! Starting a program that serves a mount, so that it outlives the agent. Where the agent is a service of systemd, the
//! program gets a transient unit of its own; elsewhere it is a detached child in a session of its own. Either way: an
//! empty environment but for three harmless names, no inherited descriptor, its output in a log file, and no secret on
//! the command line, in the environment or in a unit, since all three can be read by others.
//!
//! Why a unit: with a child, `systemctl stop mooring-agent` and an upgrade of its package depend on `KillMode=process`,
//! and the memory and tasks of all mounts count against the agent. In a unit of its own a mount is killed, limited and
//! looked at (`systemctl status 'mooring-mount-*'`) alone.
//!
//! Nothing here gives a program a mount namespace of its own: mounts made in it would be invisible to the host, and its
//! copies of other mounts would keep them busy.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::MountError;
use crate::observed::process::Process;

/// What of the agent's environment a program may know: how much to log, and which CAs this machine trusts.
const ENVIRONMENT: [&str; 3] = ["MOORING_LOG", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Where programs look for others, such as `fusermount3`; the agent's own may be anything.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Mounts are killed after the jobs that use them when memory runs out, and before what keeps the machine reachable.
const OOM_SCORE_ADJUST: i32 = -500;

/// A start through systemd takes some 20 ms; a manager that does not answer for this long is in trouble.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(20);

/// A killed unit ends at once, if the kernel lets its program go.
const UNIT_END_TIMEOUT: Duration = Duration::from_secs(5);
const UNIT_END_POLL: Duration = Duration::from_millis(10);

/// Units of one mount at the same time: the one that serves, its successor, and earlier ones with open files.
const UNITS_PER_NAME_MAX: usize = 9;

/// Options of every unit. None of them makes a mount namespace (no Private…=, no Protect…= that hides files).
const UNIT_OPTIONS: [&str; 12] = [
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "UMask=0077",
    "LimitNOFILE=524288",
    // A dump would bring the key from memory to the disk, and the manager's own limit, which units inherit, is infinity.
    "LimitCORE=0",
    // A worker uploads for 300 s at most after it is told to end, and then says what it leaves.
    "TimeoutStopSec=310",
    // Nor does a change to another target end mounts, as from the graphical to the plain one.
    "IgnoreOnIsolate=yes",
    // Stopped before the network goes away, so that what waits can still be uploaded.
    "After=network-online.target",
    // Stopped after the agent, and so after every job that says After=mooring-agent.service and writes as it ends.
    "Before=mooring-agent.service",
];

/// What a program that never mounts does without besides. CAP_SYS_ADMIN is for FUSE passthrough.
const SERVING_OPTIONS: [&str; 6] = [
    "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_FOWNER",
    "MemoryDenyWriteExecute=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallFilter=~@mount @debug @module @reboot @swap setns unshare bpf",
    "SystemCallErrorNumber=EPERM",
];

/// How programs are started on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// By the service manager, as transient units.
    Systemd,
    /// By the agent, as children in a session of their own. Their `KillMode` is the agent's: its unit must have
    /// `KillMode=process`, or ending the agent ends them.
    Detached,
}

/// A program to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Name of its unit, without `.service`; see [`unit_name`]. While a unit of that name runs, the next one gets `-2`
    /// behind it, and so on.
    pub unit: &'a str,
    /// Absolute path of the program.
    pub program: &'a Path,
    /// Its arguments; anybody on the host can read them.
    pub arguments: &'a [OsString],
    /// Where its output goes, appended; made 0600. The folder must be there.
    pub log: &'a Path,
    /// Whether it must be able to mount.
    pub duty: Duty,
}

/// What a program does, and so what it may be denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It is given the descriptor of a mount, and never mounts.
    Serves,
    /// It mounts by itself.
    Mounts,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its log cannot be written.
    #[error("its log cannot be opened: {0}")]
    Log(#[source] io::Error),
    /// The program that starts it cannot be run.
    #[error("{starter} cannot be run: {source}; it belongs to {package}, install that")]
    Starter {
        /// What was to start it.
        starter: &'static str,
        /// Where it comes from.
        package: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The service manager refuses.
    #[error("{0}")]
    Refused(String),
    /// Whoever wants it does not want it any more, or cannot note it.
    #[error("{0}")]
    CalledOff(MountError),
    /// The program ended before it could be told from another one; its log has its words.
    #[error("it ended at once")]
    Ended,
}

/// The unit of an assignment's mount.
pub fn unit_name(assignment: uuid::Uuid) -> String {
    format!("{UNIT_PREFIX}{assignment}")
}

const UNIT_PREFIX: &str = "mooring-mount-";

impl Launcher {
    /// Which one this process must use: the service manager's if it was started by it. `INVOCATION_ID` alone proves
    /// nothing, since every program in a user's session inherits it; a system service's parent is process 1.
    pub fn of_this_process() -> Launcher {
        let service = std::env::var_os("INVOCATION_ID").is_some()
            && rustix::process::getppid().is_some_and(rustix::process::Pid::is_init)
            && std::env::var("SYSTEMD_EXEC_PID").map_or(true, |pid| pid == std::process::id().to_string())
            && Path::new("/run/systemd/system").is_dir();
        if service {
            Launcher::Systemd
        } else {
            Launcher::Detached
        }
    }

    /// Starts a program. Blocks until it runs, which is not yet when it answers. A program that ends at once may count
    /// as started: whoever waits for it sees that [`Process::is_alive`] is false, and finds its words in the log.
    ///
    /// `ready` is asked right before that, with the unit that the program gets if it gets one; an error calls the start off.
    pub fn start(
        self,
        launch: &Launch<'_>,
        ready: &dyn Fn(Option<&str>) -> Result<(), MountError>,
    ) -> Result<Process, LaunchError> {
        let log = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(launch.log)
            .map_err(LaunchError::Log)?;
        match self {
            Launcher::Detached => {
                ready(None).map_err(LaunchError::CalledOff)?;
                detached(launch, log)
            }
            Launcher::Systemd => in_unit(launch, ready),
        }
    }

    /// Ends a unit whose start may never have been confirmed, also one that only waits to be started: the manager starts it
    /// later than the program that has asked for it, perhaps after the end of that.
    pub fn end_unit(self, name: &str) -> Result<(), LaunchError> {
        if self == Launcher::Detached || !is_loaded(name) {
            return Ok(());
        }
        let unit = format!("{name}.service");
        // Nothing was announced, so nothing is lost; and an orderly end may wait for an upload.
        output_of(Command::new("systemctl").args(["kill", "--signal=SIGKILL", &unit]))?;
        // Not waited for by the tool: while the agent itself is stopped, the manager would wait for that first.
        let stopped = output_of(Command::new("systemctl").args(["stop", "--no-block", &unit]))?;
        let begun = Instant::now();
        while is_loaded(name) {
            if begun.elapsed() > UNIT_END_TIMEOUT {
                let why = String::from_utf8_lossy(&stopped.stderr);
                return Err(LaunchError::Refused(format!(
                    "{unit} does not end {}",
                    why.trim()
                )));
            }
            std::thread::sleep(UNIT_END_POLL);
        }
        Ok(())
    }

    /// Kills what is left in units of mounts, whichever.
    pub fn kill_all_units(self) {
        if self == Launcher::Systemd {
            let pattern = format!("{UNIT_PREFIX}*.service");
            if let Err(error) =
                output_of(Command::new("systemctl").args(["kill", "--signal=SIGKILL", &pattern]))
            {
                tracing::error!(%error, "units of mounts cannot be ended; end them by hand: systemctl kill '{pattern}'");
            }
        }
    }
}

/// `setsid` (util-linux) makes the session and then becomes the program: signals from the agent's terminal or to its
/// process group do not reach it.
fn detached(launch: &Launch<'_>, log: File) -> Result<Process, LaunchError> {
    let mut command = Command::new("setsid");
    command.arg(launch.program).args(launch.arguments);
    command.current_dir("/").env_clear().env("PATH", SEARCH_PATH);
    for (name, value) in environment() {
        command.env(name, value);
    }
    let copy = log.try_clone().map_err(LaunchError::Log)?;
    command.stdin(Stdio::null()).stdout(copy).stderr(log);
    let mut child = command.spawn().map_err(|source| LaunchError::Starter {
        starter: "setsid",
        package: "util-linux",
        source,
    })?;
    // Whoever ends it, or waits for its end, reaps it; see [`Process::reap`].
    let Some(process) = Process::of_pid(child.id()) else {
        let _ = child.wait();
        return Err(LaunchError::Ended);
    };
    // A preference; without it the mount is as likely to be killed as any other program.
    let _ = std::fs::write(
        format!("/proc/{}/oom_score_adj", process.pid),
        OOM_SCORE_ADJUST.to_string(),
    );
    Ok(process)
}

fn in_unit(
    launch: &Launch<'_>,
    ready: &dyn Fn(Option<&str>) -> Result<(), MountError>,
) -> Result<Process, LaunchError> {
    let mut refusal = None;
    for name in unit_names(launch.unit).filter(|name| !is_loaded(name)) {
        ready(Some(&name)).map_err(LaunchError::CalledOff)?;
        match run_unit(launch, &name) {
            Ok(Run::Started(process)) => return Ok(process),
            Ok(Run::Refused(why)) => {
                // Whoever was to tell of its start may have been cut off from a manager that begins anew, and then it
                // starts all the same: two programs would serve one mount.
                Launcher::Systemd.end_unit(&name)?;
                refusal = Some(why);
            }
            Err(error) => {
                // It may run, or be started later; nobody would know of it.
                if let Err(error) = Launcher::Systemd.end_unit(&name) {
                    tracing::warn!(name, %error, "a unit whose start was not confirmed cannot be ended yet");
                }
                return Err(error);
            }
        }
    }
    Err(LaunchError::Refused(match refusal {
        Some(refusal) => format!("systemd does not start it: {refusal}"),
        None => format!(
            "{UNITS_PER_NAME_MAX} units of it run already; see: systemctl list-units '{}*'",
            launch.unit
        ),
    }))
}

enum Run {
    Started(Process),
    Refused(String),
}

fn run_unit(launch: &Launch<'_>, name: &str) -> Result<Run, LaunchError> {
    let output = output_of(Command::new("systemd-run").args(unit_arguments(launch, name)))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Ok(Run::Refused(why.trim().to_owned()));
    }
    let unit = format!("{name}.service");
    let shown = output_of(Command::new("systemctl").args(["show", "--property=MainPID", "--value", &unit]))?;
    let pid = String::from_utf8_lossy(&shown.stdout).trim().parse().unwrap_or(0);
    Process::of_pid(pid).map(Run::Started).ok_or(LaunchError::Ended)
}

fn unit_names(first: &str) -> impl Iterator<Item = String> {
    let later = (2..=UNITS_PER_NAME_MAX).map(move |number| format!("{first}-{number}"));
    std::iter::once(first.to_owned()).chain(later)
}

/// The manager keeps the file of a transient unit as long as it knows the unit, running or not.
fn is_loaded(name: &str) -> bool {
    Path::new("/run/systemd/transient")
        .join(format!("{name}.service"))
        .exists()
}

fn unit_arguments(launch: &Launch<'_>, name: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "--collect",
        "--quiet",
        "--no-ask-password",
        // Not «simple»: then a program that cannot be executed would count as started.
        "--service-type=exec",
    ]
    .map(OsString::from)
    .to_vec();
    arguments.push(format!("--unit={name}").into());
    arguments.push(format!("--description=Mooring: {name}").into());
    arguments.push(format!("--setenv=PATH={SEARCH_PATH}").into());
    for (variable, value) in environment() {
        arguments.push(joined(&[
            "--setenv=".as_ref(),
            variable.as_ref(),
            "=".as_ref(),
            &value,
        ]));
    }
    let duty = match launch.duty {
        Duty::Serves => SERVING_OPTIONS.as_slice(),
        Duty::Mounts => &[],
    };
    for option in UNIT_OPTIONS.iter().chain(duty) {
        arguments.push(format!("--property={option}").into());
    }
    arguments.push(format!("--property=OOMScoreAdjust={OOM_SCORE_ADJUST}").into());
    for stream in ["StandardOutput", "StandardError"] {
        let property = format!("--property={stream}=append:");
        arguments.push(joined(&[property.as_ref(), launch.log.as_os_str()]));
    }
    arguments.push("--".into());
    arguments.push(launch.program.into());
    arguments.extend(launch.arguments.iter().map(|argument| unexpanded(argument)));
    arguments
}

/// The manager replaces `$NAME` in a unit's command line, and `$$` by one `$`.
fn unexpanded(argument: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::with_capacity(argument.len());
    for byte in argument.as_bytes() {
        bytes.push(*byte);
        if *byte == b'$' {
            bytes.push(b'$');
        }
    }
    OsString::from_vec(bytes)
}

fn joined(parts: &[&OsStr]) -> OsString {
    let mut whole = OsString::new();
    for part in parts {
        whole.push(part);
    }
    whole
}

fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    ENVIRONMENT
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Runs one of systemd's tools, which must not hold up a mount for ever when the manager is in trouble.
fn output_of(command: &mut Command) -> Result<Output, LaunchError> {
    let answered = output_within(command, MANAGER_TIMEOUT).map_err(|source| LaunchError::Starter {
        starter: "systemd-run",
        package: "systemd",
        source,
    })?;
    answered.ok_or_else(|| LaunchError::Refused("systemd does not answer; see: systemctl status".to_owned()))
}

/// Runs a program to its end and answers what it has said. `None` if it has not ended by then; it is killed, and who
/// waits for it is a thread of its own, since one that hangs in the kernel does not end for that.
pub(super) fn output_within(command: &mut Command, limit: Duration) -> io::Result<Option<Output>> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let process = Process::of_pid(child.id());
    let (answer, answered) = mpsc::channel();
    std::thread::Builder::new()
        .name("program".to_owned())
        // Nobody listens any more if it comes too late.
        .spawn(move || drop(answer.send(child.wait_with_output())))?;
    match answered.recv_timeout(limit) {
        Ok(output) => output.map(Some),
        Err(_) => {
            if let Some(process) = process {
                process.kill();
            }
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(launch: &Launch<'_>) -> String {
        let arguments = unit_arguments(launch, launch.unit);
        let texts: Vec<_> = arguments.iter().map(|one| one.to_string_lossy()).collect();
        texts.join("\n")
    }

    #[test]
    fn no_option_of_a_unit_hides_mounts() {
        for duty in [Duty::Serves, Duty::Mounts] {
            let launch = Launch {
                unit: "mooring-mount-1",
                program: Path::new("/usr/bin/mooring-fs"),
                arguments: &[],
                log: Path::new("/run/mooring/1/worker.log"),
                duty,
            };
            let shown = shown(&launch);
            for hiding in [
                "Private",
                "Protect",
                "ReadOnly",
                "Inaccessible",
                "Bind",
                "RootDirectory",
                "Temporary",
            ] {
                assert!(!shown.contains(hiding), "{hiding}: {shown}");
            }
        }
    }

    #[test]
    fn no_program_that_holds_a_key_dumps_its_memory_to_disk() {
        for duty in [Duty::Serves, Duty::Mounts] {
            let launch = Launch {
                unit: "u",
                program: Path::new("/p"),
                arguments: &[],
                log: Path::new("/l"),
                duty,
            };
            assert!(shown(&launch).contains("--property=LimitCORE=0"));
        }
    }

    #[test]
    fn a_program_that_mounts_is_not_denied_it() {
        let launch = |duty| Launch {
            unit: "u",
            program: Path::new("/usr/bin/s3fs"),
            arguments: &[],
            log: Path::new("/l"),
            duty,
        };
        assert!(shown(&launch(Duty::Serves)).contains("~@mount"));
        assert!(!shown(&launch(Duty::Mounts)).contains("@mount"));
    }

    #[test]
    fn the_manager_replaces_nothing_in_arguments() {
        let arguments = ["$HOME/a$".into(), "--bucket=x".into()];
        let launch = Launch {
            unit: "u",
            program: Path::new("/p"),
            arguments: &arguments,
            log: Path::new("/l"),
            duty: Duty::Serves,
        };
        assert!(shown(&launch).ends_with("--\n/p\n$$HOME/a$$\n--bucket=x"));
    }

    #[test]
    fn a_program_that_does_not_end_holds_up_nobody_and_one_that_says_much_is_heard() {
        let hangs = output_within(Command::new("sleep").arg("600"), Duration::from_millis(50));
        assert!(hangs.unwrap().is_none());
        let much = output_within(
            Command::new("head").args(["-c", "1000000", "/dev/zero"]),
            Duration::from_secs(30),
        );
        assert_eq!(much.unwrap().unwrap().stdout.len(), 1_000_000);
    }

    #[test]
    fn a_detached_program_writes_its_log_and_knows_nothing_of_our_environment() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let arguments = ["-c".into(), "echo said; env; sleep 60".into()];
        let launch = Launch {
            unit: "u",
            program: Path::new("/bin/sh"),
            arguments: &arguments,
            log: &log,
            duty: Duty::Serves,
        };
        let process = Launcher::Detached.start(&launch, &|_| Ok(())).unwrap();
        let begun = Instant::now();
        while !std::fs::read_to_string(&log).unwrap().contains("PATH=") {
            assert!(begun.elapsed() < Duration::from_secs(10), "it says nothing");
            std::thread::yield_now();
        }
        assert!(!std::fs::read_to_string(&log).unwrap().contains("CARGO"));
        assert!(process.end(Duration::from_secs(10)));
        assert!(!process.is_alive());
    }
}
