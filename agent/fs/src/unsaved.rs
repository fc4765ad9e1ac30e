//! Notes for a person, beside staging files whose bytes were not in the store when their mount ended: which object each
//! was to become, so that `mooring-fs recover` can bring it there, on this machine and without an agent.
//!
//! A note is written before the last attempts to upload, so that it is there however the process ends, and goes when the
//! bytes are in the store; for a worker that was killed, [`crate::tidy`] writes it from what a successor would have known.
//! It holds no key of an account.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::namespace::inode::{METADATA_MTIME, Metadata};
use crate::store::s3::S3Options;
use crate::succession::record::{self, Wall, system_time, wall};

/// What a note's name has behind the id of its edit.
const SUFFIX: &str = ".unsaved.json";

/// What a note's name has behind its own while it is being written.
const UNFINISHED_SUFFIX: &str = ".unsaved.json.new";

/// What a staging file's name has behind that id once nobody but a person goes on with it.
const KEPT_SUFFIX: &str = ".unsaved";

/// The form of the notes.
const FORMAT: u32 = 1;

/// Each note that is brought to the disk alone costs as much as all that a disk has to write together.
const SYNCED_ALONE_MAX: usize = 8;

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

/// What an object is to carry besides its bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Carries {
    /// What the object below carries; none where nobody has asked for it.
    pub metadata: Option<Metadata>,
    /// The modification time that an application has set.
    pub mtime: Option<String>,
}

/// What a staging file was to become.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Note {
    format: u32,
    /// Where to.
    pub place: Place,
    /// The object's key.
    pub key: String,
    /// What the object is to carry.
    pub carries: Carries,
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

    /// The same for a successor, with what all keys of the mount begin with.
    pub fn record(&self, prefix: &str) -> record::Place {
        let Place {
            endpoint,
            region,
            bucket,
            path_style,
        } = self.clone();
        record::Place {
            endpoint,
            region,
            bucket,
            path_style,
            prefix: prefix.to_owned(),
        }
    }

    /// Where they are by what a successor would know, and what all keys begin with.
    pub fn of_record(place: &record::Place) -> (Place, &str) {
        let record::Place {
            endpoint,
            region,
            bucket,
            path_style,
            prefix,
        } = place;
        let place = Place {
            endpoint: endpoint.clone(),
            region: region.clone(),
            bucket: bucket.clone(),
            path_style: *path_style,
        };
        (place, prefix)
    }
}

impl Carries {
    /// The metadata to upload, if what the object below carries is known by now.
    pub fn over(&self, below: Metadata) -> Metadata {
        let mut metadata = self.metadata.clone().unwrap_or(below);
        // That of the bytes below.
        metadata.remove(METADATA_MTIME);
        if let Some(mtime) = &self.mtime {
            metadata.insert(METADATA_MTIME.to_owned(), mtime.clone());
        }
        metadata
    }
}

impl Note {
    /// A note of this moment.
    pub fn new(place: Place, key: String, carries: Carries, edit: record::Edit, now: SystemTime) -> Note {
        Note {
            format: FORMAT,
            place,
            key,
            carries,
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

    /// Writes it into a folder of staging files; it is on the disk after [`sync`].
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let unfinished = folder.join(format!("{}{UNFINISHED_SUFFIX}", self.id()));
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&unfinished).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(self)?)?;
            std::fs::rename(&unfinished, path(folder, self.id()))
        });
        if let Err(error) = written {
            // On a disk that is full even this is room.
            let _ = std::fs::remove_file(&unfinished);
            return Err(error);
        }
        Ok(())
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

/// The notes of these edits are on the disk when this returns.
pub fn sync(folder: &Path, ids: &[Uuid]) -> io::Result<()> {
    let there = File::open(folder)?;
    if ids.len() > SYNCED_ALONE_MAX {
        return Ok(rustix::fs::syncfs(&there)?);
    }
    for id in ids {
        match File::open(path(folder, *id)) {
            Ok(note) => note.sync_all()?,
            // What it told of is in the store meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    there.sync_all()
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

/// Which edit a file in a folder of staging files belongs to, if somebody may go on with it.
pub fn staged_id(path: &Path) -> Option<Uuid> {
    Uuid::try_parse(path.file_name()?.to_str()?).ok()
}

/// Whether it is a note that was not written to its end.
pub fn is_unfinished(path: &Path) -> bool {
    has_suffix(path, UNFINISHED_SUFFIX)
}

/// What lies in a folder and below it for a person.
#[derive(Default, Debug)]
pub struct Found {
    /// Notes, in the order of their names.
    pub notes: Vec<PathBuf>,
    /// Staging files that were kept, of which no note tells what they were to become.
    pub unknown: Vec<PathBuf>,
}

/// Looks for it. Links are not followed.
pub fn find(folder: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    find_below(folder, DEPTH_MAX, &mut found)?;
    found.notes.sort();
    found.unknown.sort();
    Ok(found)
}

fn find_below(folder: &Path, depth: usize, found: &mut Found) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let path = entry.path();
        if kind.is_dir() && depth > 0 {
            match find_below(&path, depth - 1, found) {
                // It was just tidied away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        } else if kind.is_file() && has_suffix(&path, SUFFIX) {
            found.notes.push(path);
        } else if kind.is_file()
            && has_suffix(&path, KEPT_SUFFIX)
            && !path.with_extension("unsaved.json").exists()
        {
            found.unknown.push(path);
        }
    }
    Ok(())
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().ends_with(suffix)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A new file that was written to and never uploaded.
    pub(crate) fn edit_of(id: u128, size: u64) -> record::Edit {
        record::Edit {
            id,
            size,
            base: None,
            visible: 0,
            added: Vec::new(),
            fetched: false,
            generation: 3,
            committed: 0,
            opened: 12,
            lost_at: None,
            copy: None,
            tried: true,
        }
    }

    fn note(id: u128) -> Note {
        let place = Place {
            endpoint: Some("http://localhost:9000".to_owned()),
            region: "us-east-1".to_owned(),
            bucket: "lake".to_owned(),
            path_style: true,
        };
        let edit = record::Edit {
            base: Some("\"etag\"".to_owned()),
            visible: 7,
            added: vec![0..3, 5..7],
            ..edit_of(id, 7)
        };
        let carries = Carries {
            metadata: Some([("who".to_owned(), "ünï".to_owned())].into()),
            mtime: Some("1.5".to_owned()),
        };
        Note::new(place, "a/b ü".to_owned(), carries, edit, SystemTime::UNIX_EPOCH)
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
            sync(&staging, &[note.id()]).unwrap();
            assert!(is_noted(&staging, note.id()));
        }
        sync(&staging, &[Uuid::nil(); SYNCED_ALONE_MAX + 1]).unwrap();
        std::fs::write(staging.join("else"), "x").unwrap();
        std::fs::write(kept_path(&staging, Uuid::from_u128(1)), "x").unwrap();
        let unknown = kept_path(&staging, Uuid::from_u128(2));
        std::fs::write(&unknown, "x").unwrap();
        let found = find(folder.path()).unwrap();
        let read: Vec<Note> = found.notes.iter().map(|path| Note::read(path).unwrap()).collect();
        assert_eq!(read, notes);
        assert_eq!(found.unknown, [unknown]);
        assert_eq!(
            std::fs::read_dir(&staging).unwrap().count(),
            5,
            "nothing else is left"
        );
    }

    #[test]
    fn a_modification_time_is_that_of_the_bytes_that_are_uploaded() {
        let below: Metadata = [("mtime", "1"), ("who", "me")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let mut carries = Carries::default();
        assert_eq!(carries.over(below.clone()).keys().collect::<Vec<_>>(), ["who"]);
        carries.mtime = Some("2".to_owned());
        assert_eq!(carries.over(below.clone())["mtime"], "2");
        carries.metadata = Some(Metadata::new());
        assert_eq!(carries.over(below).len(), 1, "what was known counts");
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

    #[test]
    fn a_note_that_is_not_needed_any_more_need_not_be_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        sync(folder.path(), &[Uuid::nil()]).unwrap();
    }
}
