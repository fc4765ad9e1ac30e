//! How long this host has been without its catalog. A pool may bound for how long its hosts start mounts from the ledger
//! alone: a machine that was taken away comes up without the buckets then. What is mounted stays mounted.
//!
//! Invariants: only a catalog that is obeyed counts as heard of; as long as its stream is open, no time passes; the moment
//! is on disk, so that neither a restart nor a reboot begins the time anew. Whoever sets the machine's clock back gains time:
//! this is a bound for machines that are lost, not for people who are root on them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mooring_identity::files;
use time::OffsetDateTime;

/// The moment, in the state folder: seconds since 1970.
const FILE: &str = "heard";

/// What is told of a mount that is not started for this reason.
pub const REASON: &str = "OfflineTooLong";

/// When the catalog was last heard of.
#[derive(Clone, Debug)]
pub struct Offline {
    path: PathBuf,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug)]
struct Heard {
    at: OffsetDateTime,
    /// What is on disk.
    written: Option<OffsetDateTime>,
    connected: bool,
}

impl Offline {
    /// Reads when the catalog was last heard of. Where that is not known, the time begins now.
    pub fn open(state_dir: &Path, now: OffsetDateTime) -> Result<Offline, mooring_identity::Error> {
        let path = state_dir.join(FILE);
        let written = files::read_public(&path)?
            .and_then(|text| text.trim().parse().ok())
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        let heard = Heard {
            at: written.unwrap_or(now),
            written,
            connected: false,
        };
        Ok(Offline {
            path,
            heard: Arc::new(Mutex::new(heard)),
        })
    }

    /// The catalog is there and is obeyed. Writes the moment down now and then, if there is a bound: so often that a host that
    /// is cut off without a word loses an eighth of it at most. Blocks for an fsync then.
    pub fn heard(&self, bound: Option<Duration>, now: OffsetDateTime) {
        self.note(true, bound, now);
    }

    /// Its stream has ended.
    pub fn ended(&self, bound: Option<Duration>, now: OffsetDateTime) {
        let was_connected = self.lock().connected;
        if was_connected {
            self.note(false, bound, now);
        }
    }

    /// For how long it was not heard of, if that is longer than the bound.
    pub fn over(&self, bound: Option<Duration>, now: OffsetDateTime) -> Option<Duration> {
        let heard = self.lock();
        // Before the epoch of a clock that was set back lies no time.
        let silence = Duration::try_from(now - heard.at).unwrap_or_default();
        (!heard.connected && silence > bound?).then_some(silence)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Nothing panics while it is held, and it is whole at any moment.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, connected: bool, bound: Option<Duration>, now: OffsetDateTime) {
        // Not held while the disk is waited for: whoever asks must not wait for that.
        let written = {
            let mut heard = self.lock();
            heard.at = now;
            heard.connected = connected;
            heard.written
        };
        let Some(bound) = bound else { return };
        let is_old = written.is_none_or(|written| (now - written).unsigned_abs() >= bound / 8);
        if connected && !is_old {
            return;
        }
        let text = now.unix_timestamp().to_string();
        match files::write_atomic(&self.path, text.as_bytes(), files::PUBLIC) {
            Ok(()) => self.lock().written = Some(now),
            Err(error) => {
                tracing::warn!(%error, "when the catalog was last heard of cannot be written down; free some space");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

    fn after(minutes: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap() + time::Duration::minutes(minutes)
    }

    #[test]
    fn time_passes_without_the_catalog_only_also_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let offline = Offline::open(dir.path(), after(0)).unwrap();
        offline.heard(HOUR, after(0));
        assert_eq!(offline.over(HOUR, after(600)), None, "its stream is open");
        offline.ended(HOUR, after(600));
        assert_eq!(offline.over(HOUR, after(659)), None);
        assert_eq!(offline.over(HOUR, after(661)), Some(Duration::from_secs(61 * 60)));
        assert_eq!(offline.over(None, after(661)), None, "no bound");
        let again = Offline::open(dir.path(), after(630)).unwrap();
        assert_eq!(again.over(HOUR, after(659)), None);
        assert!(
            again.over(HOUR, after(661)).is_some(),
            "a restart begins nothing anew"
        );
        again.heard(HOUR, after(661));
        assert_eq!(again.over(HOUR, after(661)), None);
    }

    #[test]
    fn a_host_that_is_cut_off_without_a_word_remembers_the_moment_well_enough() {
        let dir = tempfile::tempdir().unwrap();
        let offline = Offline::open(dir.path(), after(0)).unwrap();
        for minute in 0..600 {
            offline.heard(HOUR, after(minute));
        }
        // It is killed.
        let again = Offline::open(dir.path(), after(600)).unwrap();
        assert_eq!(again.over(HOUR, after(650)), None);
        assert!(again.over(HOUR, after(660)).is_some());
    }

    #[test]
    fn nothing_is_written_for_pools_without_a_bound_and_an_unknown_moment_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let offline = Offline::open(dir.path(), after(0)).unwrap();
        offline.heard(None, after(0));
        offline.ended(None, after(1));
        assert!(!dir.path().join(FILE).exists());
        let again = Offline::open(dir.path(), after(600)).unwrap();
        assert_eq!(again.over(HOUR, after(659)), None);
        assert!(again.over(HOUR, after(661)).is_some());
    }
}
