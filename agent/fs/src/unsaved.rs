//! Notes for a person, beside staging files whose bytes were not in the store when their mount ended: which object each
//! was to become, so that `mooring-fs recover` can bring it there, on this machine and without an agent.
//!
//! A note is written before the last attempts to upload, so that it is there however the process ends, and goes when the
//! bytes are in the store. It holds no key of an account.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::namespace::inode::Metadata;
use crate::store::s3::S3Options;
use crate::succession::record::{self, Wall, system_time, wall};

/// What a note's name has behind the id of its edit.
const SUFFIX: &str = ".unsaved.json";

/// What a staging file's name has behind that id once nobody but a person goes on with it.
const KEPT_SUFFIX: &str = ".unsaved";

/// The form of the notes.
const FORMAT: u32 = 1;

/// No folder of caches is nested deeper: cache folder, mount, `staging`, one mount's own.
const DEPTH_MAX: usize = 6;

/// Which store and bucket an object is in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// `https://host[:port]`; none means AWS itself, by region.
    pub endpoint: Option<String>,
    /// For signatures, and for the endpoint of AWS.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
}

/// What a staging file was to become.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Note {
    format: u32,
    /// Where to.
    pub place: Place,
    /// The object's key.
    pub key: String,
    /// What the object carries, as far as it was known.
    pub metadata: Metadata,
    /// Which of its bytes are here, and what they build on.
    pub edit: record::Edit,
    noted: Wall,
}

impl Place {
    /// Where a mount's objects are.
    pub fn of(options: &S3Options) -> Place {
        Place {
            endpoint: options.endpoint.clone(),
            region: options.region.clone(),
            bucket: options.bucket.clone(),
            path_style: options.path_style,
        }
    }
}

impl Note {
    /// A note of this moment.
    pub fn new(place: Place, key: String, metadata: Metadata, edit: record::Edit, now: SystemTime) -> Note {
        Note {
            format: FORMAT,
            place,
            key,
            metadata,
            edit,
            noted: wall(now),
        }
    }

    /// When it was written.
    pub fn noted(&self) -> SystemTime {
        system_time(self.noted)
    }

    /// Its edit.
    pub fn id(&self) -> Uuid {
        Uuid::from_u128(self.edit.id)
    }

    /// Writes it into a folder of staging files; it is on the disk when this returns.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(path(folder, self.id()))?;
        File::open(folder)?.sync_all()
    }

    /// Reads one.
    pub fn read(path: &Path) -> io::Result<Note> {
        let note: Note = serde_json::from_slice(&std::fs::read(path)?)?;
        if note.format != FORMAT {
            let reason = "another version of this program has written the note: use that one";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(note)
    }
}

/// The note of an edit.
pub fn path(folder: &Path, id: Uuid) -> PathBuf {
    folder.join(format!("{id}{SUFFIX}"))
}

/// The name of an edit's staging file once nobody but a person goes on with it.
pub fn kept_path(folder: &Path, id: Uuid) -> PathBuf {
    folder.join(format!("{id}{KEPT_SUFFIX}"))
}

/// Whether somebody may still want an edit's staging file.
pub fn is_noted(folder: &Path, id: Uuid) -> bool {
    path(folder, id).exists()
}

/// The notes in a folder and below it, oldest names first. Links are not followed.
pub fn find(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    find_below(folder, DEPTH_MAX, &mut found)?;
    found.sort();
    Ok(found)
}

fn find_below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            find_below(&entry.path(), depth - 1, found)?;
        } else if kind.is_file() && entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            found.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(id: u128) -> Note {
        let place = Place {
            endpoint: Some("http://localhost:9000".to_owned()),
            region: "us-east-1".to_owned(),
            bucket: "lake".to_owned(),
            path_style: true,
        };
        let edit = record::Edit {
            id,
            size: 7,
            base: Some("\"etag\"".to_owned()),
            visible: 7,
            added: vec![0..3, 5..7],
            fetched: false,
            generation: 3,
            committed: 0,
            opened: 12,
            lost_at: None,
            copy: None,
            tried: true,
        };
        let metadata = [("who".to_owned(), "ünï".to_owned())].into();
        Note::new(place, "a/b ü".to_owned(), metadata, edit, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn notes_are_found_below_a_folder_and_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let staging = folder.path().join("mount/staging/one");
        std::fs::create_dir_all(&staging).unwrap();
        // The greatest id does not fit into any float.
        let notes = [note(1), note(u128::MAX)];
        for note in &notes {
            note.write(&staging).unwrap();
            assert!(is_noted(&staging, note.id()));
        }
        std::fs::write(staging.join("else"), "x").unwrap();
        let found = find(folder.path()).unwrap();
        let read: Vec<Note> = found.iter().map(|path| Note::read(path).unwrap()).collect();
        assert_eq!(read, notes);
        assert_eq!(
            std::fs::read_dir(&staging).unwrap().count(),
            3,
            "nothing else is left"
        );
    }

    #[test]
    fn a_note_of_another_form_names_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let mut other = note(1);
        other.format = FORMAT + 1;
        other.write(folder.path()).unwrap();
        let refused = Note::read(&path(folder.path(), other.id())).unwrap_err();
        assert!(refused.to_string().contains("another version"), "{refused}");
    }
}
