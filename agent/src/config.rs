//! The agent's configuration: a TOML file, read once, checked whole. Every mistake is reported at once, and a key
//! that is not known is a mistake: a misspelled one would otherwise be a default without anyone noticing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Value;

use crate::backends::Programs;

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mooring/agent.toml";

/// A Unix socket's path has at most 107 bytes; below the run folder come `/<36 of the uid>/control.sock`.
const RUN_DIR_BYTES_MAX: usize = 107 - (1 + 36 + 13);

/// A report more often than this only costs; less often, a dead host is noticed too late.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

/// What the agent needs to know before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Keys, certificate and ledger; private to root.
    pub state_dir: PathBuf,
    /// Sockets, records and logs of the workers; on tmpfs, so that a reboot empties it.
    pub run_dir: PathBuf,
    /// Mounts appear at `<mount_root>/<project>/<mount name>`.
    pub mount_root: PathBuf,
    /// Staging and cache of the mounts, one private folder each.
    pub cache_dir: PathBuf,
    /// The join string for a host that has not enrolled yet.
    pub join_file: Option<PathBuf>,
    /// What the machine is called at enrolment.
    pub host_name: String,
    /// The programs that serve mounts.
    pub programs: Programs,
    /// Where programs on this host ask for its mounts.
    pub local_socket: PathBuf,
    /// The longest time between two reports.
    pub heartbeat_interval: Duration,
    /// How the log is written.
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// One sentence per mistake.
    pub mistakes: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration has mistakes:")?;
        self.mistakes
            .iter()
            .try_for_each(|mistake| write!(f, "\n  - {mistake}"))
    }
}

impl Config {
    /// Reads `path`. Without a path the default one is read, and its absence means the defaults.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.is_none() => String::new(),
            Err(error) => {
                let mistake = format!("cannot read {}: {error}", file.display());
                return Err(ConfigError {
                    mistakes: vec![mistake],
                });
            }
        };
        Config::parse(&text, &Machine::of_this_process())
    }

    /// Checks a configuration's text.
    pub fn parse(text: &str, machine: &Machine) -> Result<Config, ConfigError> {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                return Err(ConfigError {
                    mistakes: vec![error.to_string().trim_end().to_owned()],
                });
            }
        };
        let mut keys = Keys {
            table,
            mistakes: Vec::new(),
        };
        let run_dir = keys.folder("run_dir", "/run/mooring");
        if run_dir.as_os_str().len() > RUN_DIR_BYTES_MAX {
            keys.mistakes.push(format!(
                "run_dir may have at most {RUN_DIR_BYTES_MAX} bytes, because Unix sockets below it may not have longer paths"
            ));
        }
        let config = Config {
            state_dir: keys.folder("state_dir", "/var/lib/mooring-agent"),
            mount_root: keys.folder("mount_root", "/mnt/mooring"),
            cache_dir: keys.folder("cache_dir", "/var/cache/mooring"),
            join_file: keys.path("join_file"),
            host_name: keys.host_name(&machine.host_name),
            programs: Programs {
                mooring_fs: keys
                    .path("mooring_fs")
                    .unwrap_or_else(|| machine.program_beside("mooring-fs")),
                geesefs: keys.path("geesefs").unwrap_or_else(|| "/usr/bin/geesefs".into()),
                s3fs: keys.path("s3fs").unwrap_or_else(|| "/usr/bin/s3fs".into()),
            },
            local_socket: keys
                .path("local_socket")
                .unwrap_or_else(|| run_dir.join("agent.sock")),
            heartbeat_interval: keys.heartbeat(Duration::from_secs(10)),
            log_format: keys.log_format(),
            run_dir,
        };
        if config.mount_root == Path::new("/") {
            keys.mistakes
                .push("mount_root must be a folder of its own, not /".to_owned());
        }
        keys.mistakes.extend(
            keys.table.keys().map(|key| {
                format!("{key} is not a key of this file; mooring-agent run --help lists them all")
            }),
        );
        if keys.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError {
                mistakes: keys.mistakes,
            })
        }
    }
}

/// What defaults are made of.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The machine's own name.
    pub host_name: String,
    /// The running program.
    pub program: PathBuf,
}

impl Machine {
    /// Asks the system.
    pub fn of_this_process() -> Machine {
        Machine {
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/mooring-agent")),
        }
    }

    fn program_beside(&self, name: &str) -> PathBuf {
        self.program.with_file_name(name)
    }
}

/// The keys not looked at yet, and the mistakes met so far.
struct Keys {
    table: toml::Table,
    mistakes: Vec<String>,
}

impl Keys {
    fn text(&mut self, key: &str) -> Option<String> {
        match self.table.remove(key) {
            None => None,
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            Some(_) => {
                self.mistakes
                    .push(format!("{key} must be a text that is not empty"));
                None
            }
        }
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(key)?);
        if path.is_absolute() {
            return Some(path);
        }
        self.mistakes.push(format!("{key} must be an absolute path"));
        None
    }

    /// A folder, without the trailing slash that a person may write: paths below it are compared with the kernel's.
    fn folder(&mut self, key: &str, default: &str) -> PathBuf {
        let path = self.path(key).unwrap_or_else(|| PathBuf::from(default));
        if path
            .components()
            .any(|part| matches!(part, std::path::Component::ParentDir))
        {
            self.mistakes.push(format!("{key} must not contain .."));
        }
        path.components().collect()
    }

    fn host_name(&mut self, default: &str) -> String {
        self.text("host_name").unwrap_or_else(|| default.to_owned())
    }

    fn heartbeat(&mut self, default: Duration) -> Duration {
        let Some(text) = self.text("heartbeat_interval") else {
            return default;
        };
        match parse_duration(&text) {
            Some(interval) if (HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&interval) => interval,
            _ => {
                self.mistakes.push(format!(
                    "heartbeat_interval must be a time from 100ms to 5m, such as \"10s\"; it is \"{text}\""
                ));
                default
            }
        }
    }

    fn log_format(&mut self) -> LogFormat {
        match self.text("log_format").as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                self.mistakes.push(format!(
                    "log_format must be \"text\" or \"json\"; it is \"{other}\""
                ));
                LogFormat::Text
            }
        }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let milliseconds = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            host_name: "gpu-7".to_owned(),
            program: "/opt/mooring/bin/mooring-agent".into(),
        }
    }

    /// The file that the package installs, as it would be with every line in force that shows a default.
    fn shipped_with_defaults_written_out() -> String {
        let shipped = include_str!("../../deploy/config/agent.toml");
        let lines = shipped.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_shipped_file_is_valid_and_shows_every_default_as_it_is() {
        let machine = Machine {
            host_name: "gpu-17".to_owned(),
            program: "/usr/bin/mooring-agent".into(),
        };
        let defaults = Config {
            join_file: Some("/etc/mooring/host.join".into()),
            ..Config::parse("", &machine).unwrap()
        };
        let shipped = include_str!("../../deploy/config/agent.toml");
        assert_eq!(Config::parse(shipped, &machine).unwrap(), defaults);
        let written_out = shipped_with_defaults_written_out();
        assert_eq!(Config::parse(&written_out, &machine).unwrap(), defaults);
    }

    #[test]
    fn the_shipped_file_shows_every_key() {
        // A new field stops the build here: show its key in deploy/config/agent.toml, too.
        let Config {
            state_dir: _,
            run_dir: _,
            mount_root: _,
            cache_dir: _,
            join_file: _,
            host_name: _,
            programs:
                Programs {
                    mooring_fs: _,
                    geesefs: _,
                    s3fs: _,
                },
            local_socket: _,
            heartbeat_interval: _,
            log_format: _,
        } = Config::parse("", &machine()).unwrap();
        let table: toml::Table = shipped_with_defaults_written_out().parse().unwrap();
        assert_eq!(table.len(), 12, "{table}");
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = Config::parse("", &machine()).unwrap();
        assert_eq!(config.mount_root, Path::new("/mnt/mooring"));
        assert_eq!(config.local_socket, Path::new("/run/mooring/agent.sock"));
        assert_eq!(
            config.programs.mooring_fs,
            Path::new("/opt/mooring/bin/mooring-fs")
        );
        assert_eq!(config.host_name, "gpu-7");
        assert_eq!(config.heartbeat_interval, Duration::from_secs(10));
    }

    #[test]
    fn the_local_socket_follows_the_run_folder() {
        let config = Config::parse("run_dir = \"/run/m/\"", &machine()).unwrap();
        assert_eq!(config.run_dir, Path::new("/run/m"));
        assert_eq!(config.local_socket, Path::new("/run/m/agent.sock"));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let text = "
            state_dir = 7
            mount_root = \"relative\"
            cache_dir = \"/a/../b\"
            heartbeat_interval = \"soon\"
            log_format = \"xml\"
            mountroot = \"/mnt\"
            run_dir = \"/a-run-folder-that-is-much-too-long-for-unix-sockets-below-it\"
        ";
        let mistakes = Config::parse(text, &machine()).unwrap_err().mistakes;
        for key in [
            "state_dir",
            "mount_root",
            "cache_dir",
            "heartbeat_interval",
            "log_format",
            "mountroot",
            "run_dir",
        ] {
            assert!(
                mistakes.iter().any(|mistake| mistake.starts_with(key)),
                "{key}: {mistakes:?}"
            );
        }
        assert_eq!(mistakes.len(), 7, "{mistakes:?}");
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let error = Config::load(Some(Path::new("/nowhere/agent.toml"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/agent.toml"), "{error}");
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("10"), None);
        assert_eq!(parse_duration("s"), None);
    }
}
