//! `mooring-fs tidy`: takes away what dead workers have left whom nobody succeeds, for the agent. Bytes that were written
//! and are not in the store stay, with notes for a person as their workers would have written them.
//!
//! A folder that a worker holds is left alone, and so is one whose worker the agent may still give a successor. The table
//! goes last of all that tells of staged bytes: whoever is killed half-way leaves everything to the next one.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::clock;
use crate::mount::MountError;
use crate::namespace::inode::{Metadata, format_mtime};
use crate::namespace::names::checked_key;
use crate::options::TidyOptions;
use crate::succession::Inheritance;
use crate::succession::log::Log;
use crate::succession::record::{self, FileFacts, Inode, Kind, Link, system_time};
use crate::unsaved::{self, Carries, Note, Place};
use crate::writer::staging::{lock, remove_staged};

/// No path is deeper: a key has 1024 bytes. Only a table that was spoilt has more.
const DEPTH_MAX: usize = 1024;

/// Tidies up, and says which files were kept. Fails if something could not be: it stays as it is, and can be tried again.
pub fn tidy(options: &TidyOptions, out: &mut impl Write) -> Result<(), MountError> {
    let cannot = |path: &Path, error: io::Error| {
        MountError::new(
            format!("{} cannot be tidied: {error}", path.display()),
            "see to the reason; it is tried again when the mount is made or ends",
        )
    };
    let folders = match std::fs::read_dir(&options.staging) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(&options.staging, error)),
    };
    let mut outcome = Ok(());
    for entry in folders.flatten() {
        let name = entry.file_name();
        let kept = options.keep.iter().any(|kept| **kept == *name);
        if kept || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let folder = entry.path();
        let has_ended = options.ended.iter().any(|ended| **ended == *name);
        if let Err(error) = tidy_one(&folder, &options.tables.join(name), has_ended, out) {
            outcome = Err(cannot(&folder, error));
        }
    }
    outcome
}

fn tidy_one(folder: &Path, table: &Path, has_ended: bool, out: &mut impl Write) -> io::Result<()> {
    let held = match has_ended {
        true => lock::lock_of_ended(folder)?,
        false => lock::try_lock(folder)?,
    };
    // Until the folder is gone: a worker that is about to have it waits.
    let Some(_held) = held else {
        return match has_ended {
            true => Err(io::Error::other(
                "the worker that holds it was killed and does not end",
            )),
            false => Ok(()),
        };
    };
    let mut staged = staged_in(folder)?;
    // A table may be long, and most folders of dead workers are empty.
    if !staged.is_empty() {
        match Log::read(table) {
            Ok(left) => note(folder, &left, &mut staged, out)?,
            // Without one nobody knows what they were to become. It was lost with the power, or never was; who wrote it was
            // not told that it is safe.
            Err(error) if error.kind() == io::ErrorKind::NotFound => staged.clear(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let _ = writeln!(out, "{}: {error}", table.display());
            }
            Err(error) => return Err(error),
        }
        // Nobody can tell what these were to become.
        for (id, path) in staged {
            let kept = unsaved::kept_path(folder, id);
            std::fs::rename(path, &kept)?;
            let _ = writeln!(out, "{} is kept, and nothing says what it is", kept.display());
        }
    }
    remove_table(table)?;
    remove_staged(folder, |_| false);
    match std::fs::remove_dir(folder) {
        // What is kept for a person stays.
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Staging files with bytes in them that a worker has left.
fn staged_in(folder: &Path) -> io::Result<HashMap<Uuid, PathBuf>> {
    let mut staged = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if let Some(id) = unsaved::staged_id(&path) {
            staged.insert(id, path);
        }
    }
    Ok(staged)
}

/// Notes what is in none of the store's objects. What is dealt with leaves `staged`.
fn note(
    folder: &Path,
    left: &Inheritance,
    staged: &mut HashMap<Uuid, PathBuf>,
    out: &mut impl Write,
) -> io::Result<()> {
    let files: HashMap<u128, (&Inode, &FileFacts)> = left
        .inodes
        .values()
        .filter_map(|inode| match &inode.kind {
            Kind::File(facts) => Some((facts.edit?, (inode, facts))),
            Kind::Folder { .. } => None,
        })
        .collect();
    let (mut unneeded, mut written) = (Vec::new(), Vec::new());
    for id in staged.keys().copied().collect::<Vec<_>>() {
        let Some((edit, present)) = left.edits.get(&id.as_u128()) else {
            // A file outlives its record.
            unneeded.push(id);
            continue;
        };
        let found = files.get(&id.as_u128());
        let path = found.and_then(|(inode, _)| path_of(left, inode));
        let (Some((_, facts)), Some(path), true) = (found, path, edit.generation > edit.committed) else {
            // In the store, or removed by a person.
            unneeded.push(id);
            continue;
        };
        let Some((place, prefix)) = left.place.as_ref().map(Place::of_record) else {
            continue;
        };
        let Ok(key) = checked_key(format!("{prefix}{path}")) else {
            continue;
        };
        let edit = record::Edit {
            added: present.ranges().collect(),
            ..edit.clone()
        };
        let what = format!("{}/{key}: {} bytes", place.bucket, edit.size);
        Note::new(place, key, carries(facts), edit, clock::wall()).write(folder)?;
        staged.remove(&id);
        written.push(id);
        let _ = writeln!(
            out,
            "{what} are kept in {}; `mooring-fs recover` uploads them",
            folder.display()
        );
    }
    if !written.is_empty() {
        unsaved::sync(folder, &written)?;
    }
    for id in unneeded {
        staged.remove(&id);
        // Or what an earlier note says would be uploaded once more.
        match std::fs::remove_file(unsaved::path(folder, id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Where an inode is below the mount's own folder; none if it was removed.
fn path_of(left: &Inheritance, inode: &Inode) -> Option<String> {
    let mut names = Vec::new();
    let mut at = inode;
    loop {
        match &at.link {
            Link::Root => break,
            Link::At(parent, name) => {
                names.push(name.as_str());
                at = left.inodes.get(parent)?;
            }
            Link::Gone => return None,
        }
        if names.len() > DEPTH_MAX {
            return None;
        }
    }
    names.reverse();
    Some(names.join("/"))
}

/// What the object of a dirty file is to carry.
fn carries(facts: &FileFacts) -> Carries {
    let known = facts.metadata.clone();
    Carries {
        metadata: known.or_else(|| facts.object.is_none().then(Metadata::new)),
        mtime: facts.mtime_set.then(|| format_mtime(system_time(facts.mtime))),
    }
}

fn remove_table(folder: &Path) -> io::Result<()> {
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for file in files {
        std::fs::remove_file(file?.path())?;
    }
    std::fs::remove_dir(folder)
}
