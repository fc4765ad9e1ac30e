//! How a mount does, in figures: what it keeps, what it asks of the store, how its readers fare.
//!
//! The mount itself tells: its folder has the extended attribute [`ATTRIBUTE`], so that whoever may use the mount may ask,
//! whether it is supervised or not. Nothing in it names a file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::mount::MountError;
use crate::store::metered::{Counted, LATENCY_MILLIS};

/// The attribute of the mount's own folder. It is in no list of attributes: copying it means nothing.
pub const ATTRIBUTE: &str = "user.mooring.status";

/// The largest status; a kernel takes no attribute beyond 64 KiB.
const BYTES_MAX: usize = 64 << 10;

/// How a mount does. Counts are since its process began.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// For how long the process serves, in seconds.
    pub uptime_seconds: f64,
    /// Inodes that the kernel holds or that are in use.
    pub inodes: u64,
    /// Open files.
    pub files_open: u64,
    /// Files with bytes that are not in the store.
    pub files_dirty: u64,
    /// Files on their way to the store.
    pub files_uploading: u64,
    /// Copies that were kept beside somebody else's version.
    pub conflicts: u64,
    /// Keys that cannot be shown.
    pub hidden_keys: u64,
    /// Memory that is in use for what is read, and how much may be.
    pub memory_used_bytes: u64,
    /// See [`Status::memory_used_bytes`].
    pub memory_limit_bytes: u64,
    /// Reads of the kernel that were answered from memory.
    pub reads_from_memory: u64,
    /// Reads of the kernel that have waited for the store.
    pub reads_waited: u64,
    /// Bytes of objects that have come from the store.
    pub received_bytes: u64,
    /// Bytes of objects that the store has accepted.
    pub sent_bytes: u64,
    /// Folders listed by the store.
    pub listings: u64,
    /// Folders shown from memory, or together with a listing that was under way.
    pub listings_from_memory: u64,
    /// Requests to the store, by kind.
    pub requests: BTreeMap<String, Kind>,
}

/// Requests of one kind.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Kind {
    /// How many have come to an end.
    pub count: u64,
    /// How many of them could not be done.
    pub failed: u64,
    /// What they took together until their answers began, in seconds.
    pub seconds: f64,
    /// How many took up to so many milliseconds; what is slower than all is not in it.
    pub up_to_millis: BTreeMap<u64, u64>,
}

impl From<Counted> for Kind {
    fn from(counted: Counted) -> Kind {
        let Counted {
            count,
            failed,
            time,
            latencies,
        } = counted;
        let mut sum = 0;
        let up_to = LATENCY_MILLIS.into_iter().zip(latencies).map(|(bound, count)| {
            sum += count;
            (bound, sum)
        });
        Kind {
            count,
            failed,
            seconds: time.as_secs_f64(),
            up_to_millis: up_to.collect(),
        }
    }
}

/// Asks the mount at a folder.
pub fn of_mount(folder: &Path) -> Result<Status, MountError> {
    let mut bytes = vec![0; BYTES_MAX];
    let length = rustix::fs::getxattr(folder, ATTRIBUTE, &mut bytes).map_err(|error| {
        let reason = format!("{}: {error}", folder.display());
        match error {
            Errno::NODATA | Errno::OPNOTSUPP => MountError::new(
                format!(
                    "{} is no folder at which a bucket is mounted by mooring-fs",
                    folder.display()
                ),
                "name the folder of the mount itself, not one in it; `findmnt -t fuse.mooring` lists them",
            ),
            Errno::NOTCONN => MountError::new(reason, "its process has died; unmount it, and mount it anew"),
            Errno::ACCESS | Errno::PERM => MountError::new(reason, "ask as somebody who may use the mount"),
            _ => MountError::new(reason, "see the mount's log"),
        }
    })?;
    let mut status: Status = serde_json::from_slice(&bytes[..length]).map_err(|error| {
        MountError::new(
            format!("what the mount says of itself cannot be read: {error}"),
            "use the program of the mount's own version",
        )
    })?;
    // On a folder that is no mount, anybody may have written anything.
    let is_plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    status.requests.retain(|name, _| is_plain(name));
    status.version.retain(|letter| letter.is_ascii_graphic());
    Ok(status)
}

impl Status {
    /// For people.
    pub fn table(&self) -> String {
        let reads = self.reads_from_memory.saturating_add(self.reads_waited);
        let share = match reads {
            0 => String::new(),
            _ => format!(
                " ({} % from memory)",
                self.reads_from_memory.saturating_mul(100) / reads
            ),
        };
        let mut text = format!(
            "mooring-fs {}, up for {}\n\
             files      {} open, {} not in the store yet, {} on their way, {} conflict copies\n\
             names      {} inodes, {} keys that cannot be shown\n\
             listings   {} by the store, {} from memory\n\
             reads      {reads}{share}\n\
             bytes      {} received, {} sent\n\
             memory     {} of {} for what is read\n",
            self.version,
            span(self.uptime_seconds),
            self.files_open,
            self.files_dirty,
            self.files_uploading,
            self.conflicts,
            self.inodes,
            self.hidden_keys,
            self.listings,
            self.listings_from_memory,
            amount(self.received_bytes),
            amount(self.sent_bytes),
            amount(self.memory_used_bytes),
            amount(self.memory_limit_bytes),
        );
        let asked = self.requests.iter().filter(|(_, kind)| kind.count > 0);
        let mut asked: Vec<(&String, &Kind)> = asked.collect();
        asked.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.count));
        if !asked.is_empty() {
            text.push_str("\nREQUEST          COUNT   FAILED   MEAN MS   P99 MS\n");
        }
        for (name, kind) in asked {
            let _ = writeln!(
                text,
                "{name:<15} {:>6} {:>8} {:>9.1} {:>8}",
                kind.count,
                kind.failed,
                kind.seconds * 1000.0 / kind.count as f64,
                kind.p99(),
            );
        }
        text
    }

    /// In the text format of Prometheus, see <https://prometheus.io/docs/instrumenting/exposition_formats>. The label tells
    /// the mounts of a host apart.
    pub fn prometheus(&self, folder: &Path) -> String {
        let mount = folder.display().to_string();
        let mount = mount
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let mount = format!("mount=\"{mount}\"");
        let mut text = String::new();
        let mut say = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = write!(
                text,
                "# HELP mooring_fs_{name} {help}\n# TYPE mooring_fs_{name} {kind}\nmooring_fs_{name}{{{mount}}} {value}\n"
            );
        };
        for (name, help, value) in [
            (
                "uptime_seconds",
                "Time since the process serves.",
                self.uptime_seconds,
            ),
            ("inodes", "Inodes held.", self.inodes as f64),
            ("files_open", "Open files.", self.files_open as f64),
            (
                "files_dirty",
                "Files with bytes that are not in the store.",
                self.files_dirty as f64,
            ),
            (
                "files_uploading",
                "Files on their way to the store.",
                self.files_uploading as f64,
            ),
            (
                "memory_used_bytes",
                "Memory in use for what is read.",
                self.memory_used_bytes as f64,
            ),
            (
                "memory_limit_bytes",
                "Memory that may be used for what is read.",
                self.memory_limit_bytes as f64,
            ),
        ] {
            say(name, "gauge", help, value);
        }
        for (name, help, value) in [
            (
                "conflicts_total",
                "Copies kept beside somebody else's version.",
                self.conflicts,
            ),
            (
                "hidden_keys_total",
                "Keys met that cannot be shown.",
                self.hidden_keys,
            ),
            (
                "reads_from_memory_total",
                "Reads answered from memory.",
                self.reads_from_memory,
            ),
            (
                "reads_waited_total",
                "Reads that have waited for the store.",
                self.reads_waited,
            ),
            (
                "received_bytes_total",
                "Bytes of objects that have come.",
                self.received_bytes,
            ),
            (
                "sent_bytes_total",
                "Bytes of objects that were accepted.",
                self.sent_bytes,
            ),
            ("listings_total", "Folders listed by the store.", self.listings),
            (
                "listings_from_memory_total",
                "Folders shown from memory.",
                self.listings_from_memory,
            ),
        ] {
            say(name, "counter", help, value as f64);
        }
        let _ = write!(
            text,
            "# HELP mooring_fs_requests_failed_total Requests to the store that could not be done.\n\
             # TYPE mooring_fs_requests_failed_total counter\n"
        );
        for (name, kind) in &self.requests {
            let _ = writeln!(
                text,
                "mooring_fs_requests_failed_total{{{mount},kind=\"{name}\"}} {}",
                kind.failed
            );
        }
        let _ = write!(
            text,
            "# HELP mooring_fs_request_seconds What requests to the store took until their answers began.\n\
             # TYPE mooring_fs_request_seconds histogram\n"
        );
        for (name, kind) in &self.requests {
            let metric = "mooring_fs_request_seconds";
            for (millis, count) in &kind.up_to_millis {
                let bound = *millis as f64 / 1000.0;
                let _ = writeln!(
                    text,
                    "{metric}_bucket{{{mount},kind=\"{name}\",le=\"{bound}\"}} {count}"
                );
            }
            let _ = write!(
                text,
                "{metric}_bucket{{{mount},kind=\"{name}\",le=\"+Inf\"}} {}\n{metric}_sum{{{mount},kind=\"{name}\"}} {}\n\
                 {metric}_count{{{mount},kind=\"{name}\"}} {}\n",
                kind.count, kind.seconds, kind.count
            );
        }
        text
    }
}

impl Kind {
    /// The bound below which 99 of 100 are.
    fn p99(&self) -> String {
        let enough = self.count - self.count / 100;
        let bound = self.up_to_millis.iter().find(|(_, count)| **count >= enough);
        match (bound, self.up_to_millis.last_key_value()) {
            (Some((bound, _)), _) => format!("<= {bound}"),
            (None, Some((most, _))) => format!("> {most}"),
            (None, None) => String::new(),
        }
    }
}

fn span(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn amount(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let get = Kind {
            count: 200,
            failed: 1,
            seconds: 4.0,
            up_to_millis: BTreeMap::from([(10, 100), (20, 198), (50, 200)]),
        };
        Status {
            version: "0.1.0".to_owned(),
            uptime_seconds: 3725.5,
            reads_from_memory: 3,
            reads_waited: 1,
            received_bytes: 3 << 20,
            memory_limit_bytes: 512 << 20,
            requests: BTreeMap::from([("get".to_owned(), get), ("put".to_owned(), Kind::default())]),
            ..Status::default()
        }
    }

    #[test]
    fn people_read_a_table_without_what_was_never_asked() {
        let table = status().table();
        for line in [
            "mooring-fs 0.1.0, up for 1 h 2 min",
            "reads      4 (75 % from memory)",
            "bytes      3.0 MiB received, 0 bytes sent",
            "memory     0 bytes of 512.0 MiB for what is read",
            "get                200        1      20.0    <= 20",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
        assert!(!table.contains("put"), "{table}");
    }

    #[test]
    fn prometheus_reads_counters_and_cumulative_histograms() {
        let text = status().prometheus(Path::new("/mnt/a \"b\""));
        for line in [
            "# TYPE mooring_fs_reads_waited_total counter\nmooring_fs_reads_waited_total{mount=\"/mnt/a \\\"b\\\"\"} 1\n",
            "mooring_fs_request_seconds_bucket{mount=\"/mnt/a \\\"b\\\"\",kind=\"get\",le=\"0.02\"} 198\n",
            "mooring_fs_request_seconds_bucket{mount=\"/mnt/a \\\"b\\\"\",kind=\"get\",le=\"+Inf\"} 200\n",
            "mooring_fs_request_seconds_sum{mount=\"/mnt/a \\\"b\\\"\",kind=\"get\"} 4\n",
            "mooring_fs_requests_failed_total{mount=\"/mnt/a \\\"b\\\"\",kind=\"get\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        // Each line is a comment, or a name with its labels and a value.
        let is_sample = |line: &str| line.starts_with("mooring_fs_") && line.contains("\"} ");
        assert!(text.lines().all(|line| line.starts_with("# ") || is_sample(line)));
    }

    #[test]
    fn what_a_later_version_adds_is_no_trouble() {
        let read: Status = serde_json::from_str(r#"{"version":"9","new":1,"inodes":5}"#).unwrap();
        assert_eq!((read.version.as_str(), read.inodes), ("9", 5));
    }
}
