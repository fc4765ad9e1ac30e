//! The list of changes on disk, one JSON line each, from which a restarted server knows its buckets, objects and
//! uploads. It is rewritten to what still counts at every start.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::object::{Attributes, Facts};

/// A piece of a blob: number, offset, length.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct StoredExtent(pub(crate) u64, pub(crate) u64, pub(crate) u64);

/// One change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    CreateBucket {
        bucket: String,
        #[serde(with = "time::serde::timestamp")]
        created: OffsetDateTime,
    },
    DeleteBucket {
        bucket: String,
    },
    Put {
        bucket: String,
        key: String,
        facts: Facts,
        extents: Vec<StoredExtent>,
    },
    Delete {
        bucket: String,
        key: String,
    },
    CreateUpload {
        id: String,
        bucket: String,
        key: String,
        attributes: Attributes,
        #[serde(with = "time::serde::timestamp")]
        initiated: OffsetDateTime,
    },
    PutPart {
        id: String,
        number: i32,
        facts: Facts,
        extents: Vec<StoredExtent>,
    },
    EndUpload {
        id: String,
    },
}

impl Entry {
    /// The pieces that this line refers to.
    pub(crate) fn extents(&self) -> &[StoredExtent] {
        match self {
            Self::Put { extents, .. } | Self::PutPart { extents, .. } => extents,
            Self::CreateBucket { .. }
            | Self::DeleteBucket { .. }
            | Self::Delete { .. }
            | Self::CreateUpload { .. }
            | Self::EndUpload { .. } => &[],
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<(Self, Vec<Entry>)> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        // Without a newline at its end the last line was cut by the death of the process that wrote it: nobody was
        // told that it happened.
        let complete = text
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let mut entries = Vec::new();
        for (number, line) in text[..complete].split(|&byte| byte == b'\n').enumerate() {
            if !line.is_empty() {
                entries.push(serde_json::from_slice(line).map_err(|error| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{} line {}: {error}; was it edited?", path.display(), number + 1),
                    )
                })?);
            }
        }
        let file = File::options().create(true).append(true).open(path)?;
        file.set_len(complete as u64)?;
        Ok((
            Self {
                path: path.to_owned(),
                file,
            },
            entries,
        ))
    }

    pub(super) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        // One write: a reader of the file, and a later start, see the line whole or cut at its end.
        self.file.write_all(&line)
    }

    pub(super) fn rewrite(&mut self, entries: &[Entry]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut text = io::BufWriter::new(File::create(&new)?);
        for entry in entries {
            serde_json::to_writer(&mut text, entry)?;
            text.write_all(b"\n")?;
        }
        text.into_inner().map_err(io::IntoInnerError::into_error)?;
        std::fs::rename(&new, &self.path)?;
        self.file = File::options().append(true).open(&self.path)?;
        Ok(())
    }
}
