//! What a folder holds, as the store listed it: an immutable run of entries sorted by name.
//!
//! A run is shared by everybody who reads the folder; local changes are not in it, they are an overlay in
//! `directory.rs`. No I/O here.

use std::sync::Arc;
use std::time::SystemTime;

use super::names::FileName;
use crate::store::{ETag, ObjectInfo};

/// One version of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectVersion {
    /// Size in bytes.
    pub size: u64,
    /// Version tag.
    pub etag: ETag,
    /// When the store wrote it.
    pub modified: SystemTime,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A folder: keys begin with the name and a slash.
    Folder,
    /// An object; shared, because runs, listings in progress and handles all hold it.
    File(Arc<ObjectVersion>),
    /// A file that exists only here so far; its attributes are in the inode table.
    Local,
}

/// Entries sorted by name, names unique.
#[derive(Debug, Default)]
pub struct Run(Vec<(FileName, Entry)>);

impl ObjectVersion {
    /// The version that the store described.
    pub fn of(info: &ObjectInfo) -> ObjectVersion {
        ObjectVersion {
            size: info.size,
            etag: info.etag.clone(),
            modified: info.modified,
        }
    }
}

impl Run {
    /// Takes entries with unique names in any order. Listings come almost sorted, which the sort exploits.
    pub fn new(mut entries: Vec<(FileName, Entry)>) -> Run {
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        debug_assert!(
            entries.windows(2).all(|pair| pair[0].0 != pair[1].0),
            "names in a run are unique"
        );
        Run(entries)
    }

    /// The entry of a name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        let at = self
            .0
            .binary_search_by(|(other, _)| other.as_str().cmp(name))
            .ok()?;
        Some(&self.0[at].1)
    }

    /// All entries, in order of their names.
    pub fn entries(&self) -> &[(FileName, Entry)] {
        &self.0
    }
}
