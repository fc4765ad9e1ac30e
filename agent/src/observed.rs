//! What is: the kernel's mounts, the records beside them, and which workers live. Taken anew for each round; nothing
//! here is remembered. How a mount answers is asked by [`crate::probe`], which may take longer than a round.

pub mod mountinfo;
pub mod process;
pub mod record;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use uuid::Uuid;

use mountinfo::{MountTable, Top};
use process::ProgramFile;
use record::{Phase, Record, Runs};

/// What is, at one moment.
#[derive(Clone, Debug, Default)]
pub struct ObservedSet {
    table: MountTable,
    runs: BTreeMap<Uuid, Run>,
    installed: Option<ProgramFile>,
}

/// A record, and whether its worker lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What was noted.
    pub record: Record,
    /// Whether the worker lives.
    pub alive: bool,
    /// The file that it runs, as long as it lives.
    pub program: Option<ProgramFile>,
}

/// What is at the place of an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// Nothing mounted, nothing running.
    Nothing,
    /// Mounted, and its worker lives.
    Mounted(&'a Record),
    /// Mounted, and its worker is gone: every access fails until the mount is taken away.
    Dead(&'a Record),
    /// A worker lives without its mount: it was started and has not been given one, or the mount was just taken.
    Unmounted(&'a Record),
    /// The mount is detached and its worker still busy with open files and uploads.
    Lingering(&'a Record),
    /// Not mounted; a record of a worker that is gone.
    Left(&'a Record),
    /// One of our mounts, but no record says whose.
    Unrecorded,
    /// Someone else has mounted something there.
    Foreign(&'a str),
}

impl ObservedSet {
    /// Looks. Reads `/proc` and the run folder, and touches no mount, so it cannot hang on one. `program` is the one that
    /// new workers would run.
    pub fn look(runs: &Runs, program: &Path) -> io::Result<ObservedSet> {
        let mut records = runs.read_all()?;
        // Where the run folder is no tmpfs, records outlive their boot.
        records.retain(|uid, record| {
            let current = record.boot_id == runs.boot_id();
            if !current {
                runs.remove(*uid);
            }
            current
        });
        Ok(ObservedSet {
            // Workers are judged before the table is read: one that ends in between is seen as dead next time.
            runs: records
                .into_iter()
                .map(|(uid, record)| {
                    let alive = record.worker.is_alive();
                    let program = ProgramFile::of_process(record.worker).filter(|_| alive);
                    let run = Run {
                        record,
                        alive,
                        program,
                    };
                    (uid, run)
                })
                .collect(),
            table: MountTable::read()?,
            installed: ProgramFile::at(program),
        })
    }

    /// Puts together what was seen; for tests, and nothing else needs it.
    #[cfg(test)]
    pub fn of(mountinfo: &str, runs: Vec<Run>) -> ObservedSet {
        ObservedSet {
            table: MountTable::parse(mountinfo.as_bytes()),
            runs: runs
                .into_iter()
                .map(|run| (run.record.assignment_uid, run))
                .collect(),
            installed: None,
        }
    }

    /// The program that new workers run, if one is installed at this moment.
    pub fn installed(&self) -> Option<ProgramFile> {
        self.installed
    }

    /// Whether a worker runs another file than the one that is installed.
    pub fn is_outdated(&self, run: &Run) -> bool {
        match (run.program, self.installed) {
            // Programs of others are not replaced under a live mount.
            (Some(_), Some(_)) if run.record.foreign().is_some() => false,
            (Some(runs), Some(installed)) => runs != installed,
            // While no program is installed, perhaps in the middle of an upgrade, nothing is newer.
            (None, _) | (_, None) => false,
        }
    }

    /// What is at the place of `uid`, which is ordered, or was mounted, at `path`.
    pub fn seen(&self, uid: Uuid, path: &Path) -> Seen<'_> {
        // Another assignment's mount may lie there: then this one has nothing yet, whatever is mounted.
        let recorded_by_other = self.runs.values().any(|run| {
            run.record.assignment_uid != uid && run.record.path == path && run.record.phase != Phase::Detached
        });
        let run = self.runs.get(&uid).filter(|run| run.record.path == path);
        match (self.table.top(path), run) {
            (Top::Foreign(entry), _) => Seen::Foreign(&entry.file_system),
            (Top::Ours(_), Some(run)) if run.record.phase != Phase::Detached => match run.alive {
                true => Seen::Mounted(&run.record),
                false => Seen::Dead(&run.record),
            },
            (Top::Ours(_), _) if !recorded_by_other => Seen::Unrecorded,
            (_, None) => Seen::Nothing,
            (_, Some(run)) => match (run.alive, run.record.phase) {
                (false, _) => Seen::Left(&run.record),
                (true, Phase::Detached) => Seen::Lingering(&run.record),
                (true, Phase::Launching | Phase::Mounted) => Seen::Unmounted(&run.record),
            },
        }
    }

    /// Who has its mount at `path`, by the records.
    pub fn owner(&self, path: &Path) -> Option<Uuid> {
        self.runs
            .values()
            .find(|run| {
                let record = &run.record;
                record.path == path
                    && record.phase != Phase::Detached
                    && matches!(self.table.top(path), Top::Ours(_))
            })
            .map(|run| run.record.assignment_uid)
    }

    /// Whether the worker of `uid` runs another file than the one that is installed.
    pub fn has_outdated_worker(&self, uid: Uuid) -> bool {
        self.runs.get(&uid).is_some_and(|run| self.is_outdated(run))
    }

    /// The record of `uid`.
    pub fn record(&self, uid: Uuid) -> Option<&Record> {
        self.runs.get(&uid).map(|run| &run.record)
    }

    /// All runs.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// The kernel's table.
    pub fn table(&self) -> &MountTable {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_this_boot_stay_and_those_of_another_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::open(dir.path()).unwrap();
        for (uid, boot_id) in [(1, runs.boot_id()), (2, "another"), (3, "")] {
            let record = Record {
                assignment_uid: Uuid::from_u128(uid),
                boot_id: boot_id.to_owned(),
                ..record::tests::record()
            };
            runs.write(&record).unwrap();
        }
        let observed = ObservedSet::look(&runs, Path::new("/nowhere")).unwrap();
        let left: Vec<Uuid> = observed.runs().map(|run| run.record.assignment_uid).collect();
        assert_eq!(left, [Uuid::from_u128(1)]);
        assert_eq!(runs.read_all().unwrap().len(), 1);
    }
}
