//! What dead workers have left whom nobody succeeds: their tables, and their folders of staging files. `mooring-fs` takes
//! them away, since only it knows which bytes are in no store; these stay, with notes for a person.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use uuid::Uuid;

use super::Mounter;
use super::launch::output_within;
use crate::observed::record::{Record, Runs};

/// It waits up to 10 s for each folder of a program that is on its way out, and writes a note for each file.
const TIDY_TIMEOUT: Duration = Duration::from_secs(60);

/// Where it is for the last time, since this machine is no host any more, gigabytes may be brought to rest on a slow disk.
const LAST_TIDY_TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Mounter {
    /// Tidies up in the cache folder of `cache_of`. What a record names may be succeeded and stays, but for that of `over`,
    /// with which nobody goes on; what a worker that is alive holds stays in any case. Blocks. What cannot be tidied stays
    /// as it is, until the next time.
    pub(super) fn tidy_staging(&self, cache_of: Uuid, over: Option<Uuid>) {
        self.tidy_cache(cache_of, over, false);
    }

    fn tidy_cache(&self, cache_of: Uuid, over: Option<Uuid>, have_ended: bool) {
        let cache = self.cache_dir.join(cache_of.to_string());
        let staging = cache.join("staging");
        let records = match self.runs.read_all() {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "what dead programs have left stays: the records cannot be read");
                return;
            }
        };
        let (over, others): (Vec<_>, Vec<_>) = records
            .into_values()
            .partition(|record| Some(record.assignment_uid) == over);
        let kept: Vec<OsString> = others.iter().filter_map(name_of).collect();
        let there: Vec<OsString> = folders_in(&staging).filter(|name| !kept.contains(name)).collect();
        if !there.is_empty() {
            let dead = over.iter().filter(|record| !record.worker.is_alive());
            let (ended, timeout) = match have_ended {
                true => (there, LAST_TIDY_TIMEOUT),
                // A process counts as dead before the last of its threads has let go of its files.
                false => (dead.filter_map(name_of).collect(), TIDY_TIMEOUT),
            };
            self.run_tidy(&staging, &kept, &ended, timeout);
        }
        for record in over.iter().filter(|record| !record.worker.is_alive()) {
            if let Some(succession) = &record.succession {
                self.drop_table(cache_of, succession);
            }
        }
        // Unless something is kept for a person.
        let _ = std::fs::remove_dir(staging);
        // An empty folder may be all that a program of others has: it makes its files there, and never the folder again.
        // Whether one is alive of which no record tells is known only where all have ended.
        let in_use = others.iter().any(|record| record.cache_of() == cache_of)
            || over.iter().any(|record| record.worker.is_alive());
        if have_ended || (!over.is_empty() && !in_use) {
            let _ = std::fs::remove_dir(cache);
        }
    }

    /// Tidies up in all cache folders. Where all programs `have_ended`, those that are on their way out are waited for.
    pub fn tidy_all(&self, have_ended: bool) {
        let folders: Vec<OsString> = folders_in(&self.cache_dir).collect();
        let uids = folders
            .iter()
            .filter_map(|name| Uuid::try_parse(name.to_str()?).ok());
        uids.for_each(|uid| self.tidy_cache(uid, None, have_ended));
    }

    /// Removes the table of a worker that has ended, unless its staging files are there: only the table knows them.
    pub(super) fn drop_table(&self, cache_of: Uuid, succession: &Path) {
        let staging = self.cache_dir.join(cache_of.to_string()).join("staging");
        let staged = succession.file_name().map(|name| staging.join(name));
        if staged.is_none_or(|staged| matches!(staged.try_exists(), Ok(false))) {
            self.runs.remove_succession(succession);
        }
    }

    fn run_tidy(&self, staging: &Path, kept: &[OsString], ended: &[OsString], timeout: Duration) {
        let program = match self.worker_program() {
            Ok(program) => program,
            Err(error) => {
                tracing::warn!(%error, "what dead programs have left stays for now");
                return;
            }
        };
        let mut command = Command::new(program);
        command
            .arg("tidy")
            .arg(staging)
            // By its name: whoever has the run folder on its command line is taken for one that serves.
            .arg(Runs::SUCCESSION)
            .current_dir(self.runs.run_dir())
            .env_clear();
        for name in kept {
            command.arg("--keep").arg(name);
        }
        for name in ended {
            command.arg("--ended").arg(name);
        }
        let output = match output_within(&mut command, timeout) {
            Ok(Some(output)) => output,
            Ok(None) => {
                tracing::warn!(staging = %staging.display(),
                    "what dead programs have left stays for now: it takes longer than {timeout:?}; does the disk answer?");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "what dead programs have left stays for now: mooring-fs cannot be run");
                return;
            }
        };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            tracing::warn!("of a program that has ended: {line}");
        }
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            tracing::warn!(said = said.trim(), "what dead programs have left stays for now");
        }
    }
}

/// The name of its staging folder, which is that of what its successor must know.
fn name_of(record: &Record) -> Option<OsString> {
    Some(record.succession.as_ref()?.file_name()?.to_owned())
}

fn folders_in(folder: &Path) -> impl Iterator<Item = OsString> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name())
}
