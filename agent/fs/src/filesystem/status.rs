//! What a mount says of itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Filesystem;
use crate::status::Status;

/// Counts since the process began.
#[derive(Debug)]
pub(super) struct Counts {
    begun: Instant,
    pub(super) reads_from_memory: AtomicU64,
    pub(super) reads_waited: AtomicU64,
}

impl Counts {
    pub(super) fn begin(now: Instant) -> Counts {
        Counts {
            begun: now,
            reads_from_memory: AtomicU64::new(0),
            reads_waited: AtomicU64::new(0),
        }
    }
}

impl Filesystem {
    /// How it does.
    pub fn status(&self) -> Status {
        let count = |number: usize| number as u64;
        let (files_open, files_dirty, files_uploading, conflicts) = self.activity();
        let (hidden_keys, _) = self.hidden_keys();
        let (memory_used_bytes, memory_limit_bytes) = self.reader.memory();
        let listings = self.namespace.listings();
        let kinds = self.requests.by_kind().into_iter();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.counts.begun.elapsed().as_secs_f64(),
            inodes: count(self.namespace.table().count()),
            files_open: count(files_open),
            files_dirty: count(files_dirty),
            files_uploading: count(files_uploading),
            conflicts,
            hidden_keys,
            memory_used_bytes,
            memory_limit_bytes,
            reads_from_memory: self.counts.reads_from_memory.load(Ordering::Relaxed),
            reads_waited: self.counts.reads_waited.load(Ordering::Relaxed),
            received_bytes: self.requests.received_bytes(),
            sent_bytes: self.requests.sent_bytes(),
            listings: listings.begun,
            listings_from_memory: listings.from_memory,
            requests: kinds
                .map(|(name, counted)| (name.to_owned(), counted.into()))
                .collect(),
        }
    }
}
