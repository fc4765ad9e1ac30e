//! What a host says of its mounts by itself, without its catalog: the agent's records, and its local listing.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::eventually;
use crate::host::Host;
use crate::programs::program;

/// The agent lists from memory; this is for a debug build beside other stories.
const LISTING: Duration = Duration::from_secs(5);

impl Host {
    /// The worker that serves the mount at `path`, as the agent has noted it.
    ///
    /// # Panics
    /// When there is none within 10 s.
    pub fn worker_of(&self, path: &Path) -> u32 {
        let (_, worker) = eventually("a record names the worker", Duration::from_secs(10), || {
            let record = self.record_of(path)?;
            record["worker"]["pid"].as_u64().ok_or_else(|| record.to_string())
        });
        worker.try_into().expect("process ids are small")
    }

    /// What the agent has noted of the mount at `path`.
    ///
    /// # Errors
    /// That there is nothing.
    pub fn record_of(&self, path: &Path) -> Result<Value, String> {
        let runs = std::fs::read_dir(self.folder().join("run")).map_err(|error| error.to_string())?;
        let records = runs.filter_map(|run| {
            let text = std::fs::read(run.ok()?.path().join("record.json")).ok()?;
            serde_json::from_slice::<Value>(&text).ok()
        });
        let mut ours = records.filter(|record| record["path"].as_str() == path.to_str());
        ours.next().ok_or_else(|| "no record has this path".to_owned())
    }

    /// Waits until another worker than this one is on record. Returns it.
    pub fn another_worker_of(&self, path: &Path, than: u32) -> u32 {
        let (_, worker) = eventually(
            "another worker is on record",
            Duration::from_secs(20),
            || match self.worker_of(path) {
                same if same == than => Err("not yet".to_owned()),
                another => Ok(another),
            },
        );
        worker
    }

    /// Waits until the agent's own listing shows a mount with this state; answers its line.
    ///
    /// # Panics
    /// When it does not within 40 s, or when the listing keeps its reader waiting.
    pub fn lists(&self, name: &str, state: &str) -> String {
        self.lists_with(name, state, "")
    }

    /// The same, with a text in the line.
    ///
    /// # Panics
    /// As [`Host::lists`].
    pub fn lists_with(&self, name: &str, state: &str, said: &str) -> String {
        let what = format!("mooring-agent status shows {name} as {state}: {said}");
        let (_, line) = eventually(&what, Duration::from_secs(40), || {
            let text = self.listing();
            let line = text.lines().find(|line| {
                let mut words = line.split_whitespace();
                let path = words.next().unwrap_or_default();
                path.ends_with(&format!("/{name}")) && words.next() == Some(state) && line.contains(said)
            });
            line.map(str::to_owned).ok_or(text)
        });
        line
    }

    /// What `mooring-agent status` prints, which must not take long.
    ///
    /// # Panics
    /// When it does.
    pub fn listing(&self) -> String {
        let begun = Instant::now();
        let output = Command::new(program("mooring-agent"))
            .args(["status", "--config"])
            .arg(self.folder().join("agent.toml"))
            .output()
            .expect("the agent starts");
        let took = begun.elapsed();
        assert!(took < LISTING, "the listing took {took:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the agent has said `text` at least `times` times.
    pub fn agent_has_said(&self, text: &str, times: usize) {
        let what = format!("the agent has said «{text}» {times} times");
        eventually(&what, Duration::from_secs(20), || {
            let log = self.agent_log();
            match log.matches(text).count() >= times {
                true => Ok(()),
                false => Err(log),
            }
        });
    }
}
