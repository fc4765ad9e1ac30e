//! A table written anew: what counts of it, in as little memory as possible. Inodes may be millions, so of each only
//! the place of its last record is remembered, and the records themselves go from one file to the other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::batches::each_record;
use super::{framed, free_bytes, path_anew};
use crate::succession::record::{FORMAT, Record};
use crate::succession::table::Inheritance;

/// Batches of this size keep the buffer small; the CRC is of each.
const BATCH_BYTES: usize = 1 << 20;

/// A log up to some point of it.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) folder: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

/// A log's content written anew beside it, up to some point of it.
#[derive(Debug)]
pub struct Compacted {
    pub(super) file: File,
    pub(super) bytes: u64,
    /// Up to where the old log is in it.
    pub(super) covers: u64,
}

impl Snapshot {
    /// Writes what the log says anew, beside it.
    pub fn compact(self) -> io::Result<Compacted> {
        // It would be found out half-way, with nothing left for those who append to the old one meanwhile.
        if free_bytes(&self.file)? < self.bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut last = HashMap::new();
        let mut others = Inheritance::default();
        let mut inodes = 0_u64;
        each_record(&self.file, self.bytes, |record, _| {
            match &record {
                Record::Inode(inode) => {
                    last.insert(inode.ino, inodes);
                    inodes += 1;
                    others.skip_number(inode.ino);
                }
                Record::InodeGone(ino) => {
                    last.remove(ino);
                    others.skip_number(*ino);
                }
                _ => others.apply(record),
            }
            Ok(())
        })?;
        let mut anew = Anew::beside(&self.folder)?;
        others.records().try_for_each(|record| anew.add(&record))?;
        drop(others);
        inodes = 0;
        each_record(&self.file, self.bytes, |record, bytes| {
            if let Record::Inode(inode) = record {
                if last.get(&inode.ino) == Some(&inodes) {
                    anew.add_bytes(bytes)?;
                }
                inodes += 1;
            }
            Ok(())
        })?;
        let (file, bytes) = anew.end()?;
        Ok(Compacted {
            file,
            bytes,
            covers: self.bytes,
        })
    }
}

/// A table that is being written beside the one that is found.
pub(super) struct Anew {
    file: File,
    bytes: u64,
    batch: Vec<u8>,
}

impl Anew {
    pub(super) fn beside(folder: &Path) -> io::Result<Anew> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path_anew(folder))?;
        let mut batch = Vec::new();
        Record::Format(FORMAT).write_to(&mut batch);
        Ok(Anew {
            file,
            bytes: 0,
            batch,
        })
    }

    pub(super) fn add(&mut self, record: &Record) -> io::Result<()> {
        record.write_to(&mut self.batch);
        self.write_if_full()
    }

    fn add_bytes(&mut self, record: &[u8]) -> io::Result<()> {
        self.batch.extend_from_slice(record);
        self.write_if_full()
    }

    /// The file and its length.
    pub(super) fn end(mut self) -> io::Result<(File, u64)> {
        if !self.batch.is_empty() {
            self.write()?;
        }
        Ok((self.file, self.bytes))
    }

    fn write_if_full(&mut self) -> io::Result<()> {
        match self.batch.len() >= BATCH_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let framed = framed(&self.batch)?;
        self.file.write_all(&framed)?;
        self.bytes += framed.len() as u64;
        self.batch.clear();
        Ok(())
    }
}
