//! Keys that exist in the bucket but cannot be shown as files: reported, never silently dropped.
//!
//! Bounded: a bucket may hold millions of them; beyond the bound only the counting stops being exact.

use std::collections::HashSet;

use parking_lot::Mutex;

/// Keys remembered, so that each is logged and counted once: 10,000 keys of at most 1 KiB are 10 MiB.
const REMEMBERED_MAX: usize = 10_000;

/// Examples that a status carries: it must fit into a packet of 64 KiB, with keys of up to 1 KiB.
const EXAMPLES_MAX: usize = 10;

/// Why a key cannot be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A component is empty, `.`, `..`, longer than 255 bytes or holds a NUL.
    InvalidComponent,
    /// There are keys below it, so it is shown as a folder.
    AlsoFolder,
    /// A folder's own key has bytes, which a folder cannot show.
    MarkerWithBytes,
}

/// What was met so far.
#[derive(Debug, Default)]
pub struct HiddenLog(Mutex<Met>);

#[derive(Debug, Default)]
struct Met {
    keys: HashSet<String>,
    examples: Vec<String>,
    uncounted: u64,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Reason::InvalidComponent => "the key has a component that is no valid file name",
            Reason::AlsoFolder => "the key is also a folder, which is shown instead",
            Reason::MarkerWithBytes => "the key ends in a slash but has bytes, and is shown as a folder",
        }
    }
}

impl HiddenLog {
    /// Notes a key; logs it the first time.
    pub fn note(&self, key: &str, reason: Reason) {
        let mut met = self.0.lock();
        if met.keys.contains(key) {
            return;
        }
        if met.keys.len() >= REMEMBERED_MAX {
            met.uncounted += 1;
            return;
        }
        met.keys.insert(key.to_owned());
        if met.examples.len() < EXAMPLES_MAX {
            met.examples.push(key.to_owned());
        }
        drop(met);
        tracing::warn!(key = ?key, reason = reason.text(), "a key of the bucket cannot be shown as a file");
    }

    /// How many were met, and the first of them.
    pub fn report(&self) -> (u64, Vec<String>) {
        let met = self.0.lock();
        (met.keys.len() as u64 + met.uncounted, met.examples.clone())
    }
}
