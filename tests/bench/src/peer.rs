//! The programs that are compared. Each mounts the same folder of the same bucket and believes names for the same time;
//! beyond that each has its own defaults, and a cache on disk where it has one that serves whole files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mooring_tests::process::Process;
use mooring_tests::store::ACCESS_KEY_ID;
use mooring_tests::{Store, mounts};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::usage::Usage;

/// How long every peer may believe names, sizes and listings.
const TTL_SECONDS: u32 = 60;

/// A program that has not mounted by then does not work here.
const MOUNT_DEADLINE: Duration = Duration::from_secs(30);

/// A peer that needs longer for one sample is ended, and fails: a row that takes hours measures nobody's patience but ours.
const SAMPLE_DEADLINE: Duration = Duration::from_secs(300);

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Ours.
    Mooring,
    /// GeeseFS.
    Geesefs,
    /// s3fs.
    S3fs,
    /// rclone mount with its full cache.
    Rclone,
    /// A local directory: the limit of warm rows.
    Local,
}

/// A peer that is installed.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Which.
    pub(crate) kind: Kind,
    /// What it says its version is.
    pub(crate) version: String,
    program: PathBuf,
}

/// A mount of a peer. Dropping it takes it down.
pub(crate) struct Mounted {
    path: PathBuf,
    process: Option<Process>,
    /// Dropped with the mount; until then somebody looks at the clock.
    _watch: Option<mpsc::Sender<()>>,
}

impl Kind {
    /// All, in the order of the report.
    pub(crate) const ALL: [Kind; 5] = [
        Kind::Mooring,
        Kind::Geesefs,
        Kind::S3fs,
        Kind::Rclone,
        Kind::Local,
    ];

    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Mooring => "mooring",
            Kind::Geesefs => "geesefs",
            Kind::S3fs => "s3fs",
            Kind::Rclone => "rclone",
            Kind::Local => "local",
        }
    }

    /// Whether it is one that ours is judged against.
    pub(crate) fn is_rival(self) -> bool {
        match self {
            Kind::Geesefs | Kind::S3fs | Kind::Rclone => true,
            Kind::Mooring | Kind::Local => false,
        }
    }

    /// Where its program is; a local directory needs none.
    fn program(self) -> PathBuf {
        use mooring_tests::programs::{program, tool_path};
        match self {
            Kind::Mooring => program("mooring-fs"),
            Kind::Geesefs => tool_path("bin/geesefs"),
            Kind::S3fs => PathBuf::from("/usr/bin/s3fs"),
            Kind::Rclone => tool_path("python/bin/rclone"),
            Kind::Local => PathBuf::new(),
        }
    }
}

impl Peer {
    /// The peer, if its program runs.
    pub(crate) fn find(kind: Kind) -> anyhow::Result<Peer> {
        let program = kind.program();
        let version = match kind {
            Kind::Local => String::new(),
            Kind::Mooring | Kind::Geesefs | Kind::S3fs | Kind::Rclone => version_of(&program)?,
        };
        Ok(Peer {
            kind,
            version,
            program,
        })
    }

    /// Mounts the bucket's folder `data`. All that it keeps lies in `own`, where it may find what it has left; of a local
    /// directory these are the files themselves.
    pub(crate) fn mount(&self, store: &Store, data: &str, own: &Path) -> anyhow::Result<Mounted> {
        let (path, cache) = (&own.join("mount"), &own.join("cache"));
        std::fs::create_dir_all(path)?;
        std::fs::create_dir_all(cache)?;
        let command = match self.kind {
            Kind::Local => {
                return Ok(Mounted {
                    path: own.join(data),
                    process: None,
                    _watch: None,
                });
            }
            Kind::Mooring => self.mooring(store, data, path, cache),
            Kind::Geesefs => self.geesefs(store, data, path),
            Kind::S3fs => self.s3fs(store, data, path, cache)?,
            Kind::Rclone => self.rclone(store, data, path, cache),
        };
        let process = Process::start(self.kind.name(), cache, command);
        let watch = watch(process.pid());
        let mut mounted = Mounted {
            path: path.to_owned(),
            process: Some(process),
            _watch: Some(watch),
        };
        mounted.await_mount(self.kind)?;
        Ok(mounted)
    }

    fn command(&self, store: &Store) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", &store.secret);
        command
    }

    fn mooring(&self, store: &Store, folder: &str, path: &Path, cache: &Path) -> Command {
        let mut command = self.command(store);
        command
            .arg("mount")
            .arg(format!("{}:{folder}/", store.bucket))
            .arg(path)
            .args(["--endpoint", &store.endpoint, "--foreground", "--cache-dir"])
            .arg(cache)
            .args(["--metadata-ttl", &format!("{TTL_SECONDS}s")]);
        command
    }

    fn geesefs(&self, store: &Store, folder: &str, path: &Path) -> Command {
        let ttl = format!("{TTL_SECONDS}s");
        let mut command = self.command(store);
        command
            .args(["-f", "--endpoint", &store.endpoint, "--stat-cache-ttl", &ttl])
            .arg(format!("{}:{folder}", store.bucket))
            .arg(path);
        command
    }

    fn s3fs(&self, store: &Store, folder: &str, path: &Path, cache: &Path) -> anyhow::Result<Command> {
        use std::os::unix::fs::OpenOptionsExt;
        let keys = cache.join("passwd");
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&keys)
            .context("its file of keys cannot be written")?;
        std::io::Write::write_all(&mut file, format!("{ACCESS_KEY_ID}:{}", store.secret).as_bytes())?;
        let files = cache.join("files");
        std::fs::create_dir_all(&files)?;
        let mut command = Command::new(&self.program);
        command
            .arg(format!("{}:/{folder}", store.bucket))
            .arg(path)
            .args(["-f", "-o", "use_path_request_style"]);
        for option in [
            format!("url={}", store.endpoint),
            format!("passwd_file={}", keys.display()),
            format!("use_cache={}", files.display()),
            format!("stat_cache_expire={TTL_SECONDS}"),
            "max_stat_cache_size=2000000".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        Ok(command)
    }

    fn rclone(&self, store: &Store, folder: &str, path: &Path, cache: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_S3_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .env("RCLONE_S3_SECRET_ACCESS_KEY", &store.secret)
            .args(["mount", &format!(":s3:{}/{folder}", store.bucket)])
            .arg(path)
            .args(["--s3-provider", "Other", "--s3-endpoint", &store.endpoint])
            .args(["--vfs-cache-mode", "full", "--cache-dir"])
            .arg(cache)
            .args(["--dir-cache-time", &format!("{TTL_SECONDS}s")]);
        command
    }
}

impl Mounted {
    /// The folder in which the row's files are.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn usage(&self) -> Usage {
        self.process
            .as_ref()
            .map_or_else(Usage::default, |process| Usage::of(process.pid()))
    }

    /// Does something with it, and tells what the program that serves it has used for that.
    pub(crate) fn metered<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Usage)> {
        let before = self.usage();
        let done = work()?;
        Ok((done, self.usage().since(before)))
    }

    /// Kills it; what it keeps on disk stays as it is.
    pub(crate) fn kill(self) {
        drop(self);
    }

    fn await_mount(&mut self, kind: Kind) -> anyhow::Result<()> {
        let begun = Instant::now();
        let process = self.process.as_mut().expect("a mount has a process");
        while !mounts::is_mounted(&self.path) {
            anyhow::ensure!(
                process.is_running(),
                "{} has ended instead of mounting:\n{}",
                kind.name(),
                process.output()
            );
            anyhow::ensure!(
                begun.elapsed() < MOUNT_DEADLINE,
                "{} has not mounted within {MOUNT_DEADLINE:?}:\n{}",
                kind.name(),
                process.output()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
            mounts::detach_below(&self.path);
        }
    }
}

/// Kills a process when its sample takes too long: whoever waits for it gets an error then.
fn watch(pid: u32) -> mpsc::Sender<()> {
    let (over, is_over) = mpsc::channel();
    std::thread::spawn(move || {
        if is_over.recv_timeout(SAMPLE_DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("  it takes longer than {SAMPLE_DEADLINE:?} and is ended");
            let pid = Pid::from_raw(pid as i32).expect("process ids are positive");
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    over
}

fn version_of(program: &Path) -> anyhow::Result<String> {
    // rclone has a command for it, all have the option.
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("{} cannot be run; tests/run bench installs it", program.display()))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let line = text.lines().next().unwrap_or_default();
    let version = line
        .split_whitespace()
        .map(|word| word.trim_start_matches(['v', 'V']))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    Ok(version.unwrap_or(line).to_owned())
}
