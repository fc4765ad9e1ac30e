//! What a process has used so far, as the kernel counts it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// CPU and memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// User and system time, with that of children that have ended.
    pub(crate) cpu_seconds: f64,
    /// The most memory that was resident at a time.
    pub(crate) peak_rss_bytes: u64,
}

impl Usage {
    /// Of a process that lives; nothing of one that does not.
    pub(crate) fn of(pid: u32) -> Usage {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
        let status = std::fs::read_to_string(folder.join("status")).unwrap_or_default();
        Usage {
            cpu_seconds: cpu_ticks(&stat) as f64 / rustix::param::clock_ticks_per_second() as f64,
            peak_rss_bytes: peak_kib(&status) * 1024,
        }
    }

    /// What was used since `before`. A peak has no difference.
    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            peak_rss_bytes: self.peak_rss_bytes,
        }
    }
}

/// Fields 14 to 17 of proc_pid_stat(5). The name before them stands in parentheses and may hold any.
fn cpu_ticks(stat: &str) -> u64 {
    let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    behind_name
        .split(' ')
        .skip(11)
        .take(4)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum()
}

fn peak_kib(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0 55 0 0";
        assert_eq!(cpu_ticks(stat), 127);
    }

    #[test]
    fn the_own_process_has_used_something() {
        let usage = Usage::of(std::process::id());
        assert!(usage.peak_rss_bytes > 1 << 20, "{usage:?}");
    }
}
