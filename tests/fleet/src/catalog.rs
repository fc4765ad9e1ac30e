//! The catalog under test as a process: started, killed, started again on the same address and state; and what the
//! kernel says it has used.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mooring_identity::JoinString;

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(60);

/// The process and where it lives. Dropping it kills it.
pub(crate) struct Catalog {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// What a process has used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    cpu: Duration,
    /// Now.
    pub(crate) rss_mib: f64,
    /// At its highest.
    pub(crate) peak_mib: f64,
}

impl Usage {
    /// On all cores together, since an earlier moment.
    pub(crate) fn cpu_seconds_since(&self, earlier: &Usage) -> f64 {
        (self.cpu - earlier.cpu).as_secs_f64()
    }

    /// Of one core, since an earlier moment.
    pub(crate) fn cpu_percent_since(&self, earlier: &Usage) -> f64 {
        100.0 * (self.cpu - earlier.cpu).as_secs_f64() / (self.at - earlier.at).as_secs_f64()
    }
}

impl Catalog {
    pub(crate) fn new(program: PathBuf, folder: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        // The catalog takes absolute paths only.
        let folder = folder.canonicalize()?;
        // Free now; a catalog that comes back must be found at the same one.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        Ok(Self {
            program,
            folder,
            port,
            child: None,
        })
    }

    /// Starts it with certificates of this life, and waits until it listens.
    pub(crate) fn start(&mut self, certificate_life: Duration) -> anyhow::Result<()> {
        let config = self.folder.join("catalog.toml");
        let text = format!(
            "listen = \"127.0.0.1:{}\"\nstate_dir = \"{}\"\ncertificate_lifetime = \"{}s\"\n",
            self.port,
            self.state_dir().display(),
            certificate_life.as_secs(),
        );
        std::fs::write(&config, text)?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())?;
        let said_before = log.metadata()?.len();
        let child = Command::new(&self.program)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            // A line for each host that comes and goes is what an operator sees as well.
            .env("MOORING_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", self.program.display()))?;
        self.child = Some(child);
        let deadline = Instant::now() + START_MAX;
        while !self.says_since(said_before, "mooring-catalog listens on ")? {
            let ended = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                anyhow::bail!("the catalog ended with {status}; see {}", self.log().display());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the catalog does not listen; see {}",
                self.log().display()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The operator's own, as the first start has written it.
    pub(crate) fn operator_join(&self) -> anyhow::Result<JoinString> {
        Ok(JoinString::read(&self.state_dir().join("operator.join"))?)
    }

    /// Kills it without a word.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.child.as_ref().context("the catalog does not run")?.id();
        usage_of(&pid.to_string())
    }

    pub(crate) fn address(&self) -> (Ipv4Addr, u16) {
        (Ipv4Addr::LOCALHOST, self.port)
    }

    /// Lines of its log that somebody must act on.
    pub(crate) fn errors(&self) -> anyhow::Result<Vec<String>> {
        let log = std::fs::read_to_string(self.log())?;
        let bad = |line: &&str| line.contains("ERROR") || line.contains("panicked at");
        Ok(log.lines().filter(bad).map(str::to_owned).collect())
    }

    fn says_since(&self, from: u64, needle: &str) -> anyhow::Result<bool> {
        let log = std::fs::read(self.log())?;
        let said = log.get(from as usize..).unwrap_or_default();
        Ok(String::from_utf8_lossy(said).contains(needle))
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("catalog.log")
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What this program itself has used: the rest of the machine.
pub(crate) fn own_usage() -> anyhow::Result<Usage> {
    usage_of("self")
}

fn usage_of(pid: &str) -> anyhow::Result<Usage> {
    let folder = Path::new("/proc").join(pid);
    let stat = std::fs::read_to_string(folder.join("stat"))?;
    // The name of the program stands in brackets and may hold anything; from behind it, user time is the 12th word.
    let (_, rest) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse().unwrap_or(0))
        .sum();
    let status = std::fs::read_to_string(folder.join("status"))?;
    let mib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.unwrap_or(f64::NAN) / 1024.0
    };
    Ok(Usage {
        at: Instant::now(),
        cpu: Duration::from_secs(ticks) / rustix::param::clock_ticks_per_second() as u32,
        rss_mib: mib("VmRSS:"),
        peak_mib: mib("VmHWM:"),
    })
}
