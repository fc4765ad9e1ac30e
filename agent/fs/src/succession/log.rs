//! The table's file: batches of records, each written at once and recognised as whole by its length and CRC.
//!
//! A process that is killed while it writes leaves a torn batch at the end, which is read as if it were not
//! there: nobody was told of what is in it. A batch is all or nothing, so that what belongs together stays so.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::{FORMAT, Record};
use super::table::Inheritance;

/// Name of the table in its folder.
const NAME: &str = "table";

/// A log below this is not worth writing anew; it is 5,000 to 10,000 records.
const COMPACT_BYTES_MIN: u64 = 1 << 20;

/// A log is written anew when it has grown by this factor: then each byte is written anew once, on average.
const COMPACT_FACTOR: u64 = 2;

/// A log may take so much of the memory that tmpfs takes its room from, and so large a share of that room: others
/// have their files there, too. A million files that the kernel knows are about 100 MiB.
const BYTES_MAX: u64 = 256 << 20;
const SHARE_MAX: u64 = 4;

/// Length and CRC32C of a batch stand before it.
const HEAD_BYTES: usize = 8;

/// A log that is open for appending. It stays this process's own when another one begins a log in the same
/// folder, as happens when a mount that is still in use was detached and made anew: then nobody finds it any more,
/// and it touches nothing of the other's.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    file: File,
    bytes: u64,
    /// How long it was when it was last written anew.
    bytes_anew: u64,
    /// How long it may be then.
    bytes_max: u64,
}

/// A log up to some point of it.
#[derive(Debug)]
pub struct Snapshot {
    folder: PathBuf,
    file: File,
    bytes: u64,
}

/// A log's content written anew beside it, up to some point of it.
#[derive(Debug)]
pub struct Compacted {
    file: File,
    bytes: u64,
    /// Up to where the old log is in it.
    covers: u64,
}

impl Log {
    /// Begins a log with these records, in place of any that is there.
    pub fn begin(folder: &Path, records: impl Iterator<Item = Record>) -> io::Result<Log> {
        let (file, bytes) = write_anew(folder, records)?;
        std::fs::rename(path_anew(folder), folder.join(NAME))?;
        let room = free_bytes(&file)?.saturating_add(bytes);
        Ok(Log {
            folder: folder.to_owned(),
            file,
            bytes,
            bytes_anew: bytes,
            bytes_max: BYTES_MAX.min(room / SHARE_MAX),
        })
    }

    /// Removes what dead processes were writing anew when they died. Where one is alive after all, whose mount was
    /// detached and made anew, it finds its own gone, and keeps what it has.
    pub fn remove_unfinished(folder: &Path) -> io::Result<()> {
        for found in std::fs::read_dir(folder)? {
            let path = found?.path();
            let unfinished = path.file_stem().is_some_and(|stem| stem == NAME) && path.extension().is_some();
            if unfinished && path != path_anew(folder) {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// Whether there is one in a folder.
    pub fn exists(folder: &Path) -> bool {
        folder.join(NAME).exists()
    }

    /// What the log in a folder says, whole batches only.
    pub fn read(folder: &Path) -> io::Result<Inheritance> {
        let mut bytes = Vec::new();
        File::open(folder.join(NAME))?.read_to_end(&mut bytes)?;
        replay(&bytes)
    }

    /// Appends one batch. After a failure the log is of no use any more.
    pub fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        let framed = framed(batch)?;
        self.file.write_all(&framed)?;
        self.bytes += framed.len() as u64;
        Ok(())
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it takes more room than it may, also when it has just been written anew.
    pub fn is_too_long(&self) -> bool {
        self.bytes_anew > self.bytes_max
    }

    /// Whether it has grown so much that it should be written anew.
    pub fn is_long(&self) -> bool {
        self.bytes > COMPACT_BYTES_MIN.max(self.bytes_anew * COMPACT_FACTOR)
    }

    #[cfg(test)]
    pub(super) fn limit(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// It could not be written anew: takes away what was written, and waits until it has grown by half again.
    pub fn put_off(&mut self) {
        // It may not be there.
        let _ = std::fs::remove_file(path_anew(&self.folder));
        self.bytes_anew = self.bytes * 3 / (2 * COMPACT_FACTOR);
    }

    /// The log as it is now, to be written anew without holding up those who append.
    pub fn snapshot(&self) -> io::Result<Snapshot> {
        Ok(Snapshot {
            folder: self.folder.clone(),
            file: self.file.try_clone()?,
            bytes: self.bytes,
        })
    }

    /// Goes on in a log that was written anew, with what was appended to this one meanwhile.
    pub fn adopt(&mut self, compacted: Compacted) -> io::Result<()> {
        let Compacted {
            mut file,
            bytes,
            covers,
        } = compacted;
        let mut rest = vec![0; (self.bytes - covers) as usize];
        self.file.read_exact_at(&mut rest, covers)?;
        file.write_all(&rest)?;
        if !self.is_found()? {
            return remove_if_there(&path_anew(&self.folder));
        }
        std::fs::rename(path_anew(&self.folder), self.folder.join(NAME))?;
        self.file = file;
        self.bytes_anew = bytes;
        self.bytes = bytes + rest.len() as u64;
        Ok(())
    }

    /// Takes the log away: nobody can succeed this process any more.
    pub fn remove(&self) -> io::Result<()> {
        if self.is_found()? {
            std::fs::remove_file(self.folder.join(NAME))?;
        }
        Ok(())
    }

    /// Whether who looks for a log in the folder finds this one.
    fn is_found(&self) -> io::Result<bool> {
        match std::fs::metadata(self.folder.join(NAME)) {
            Ok(found) => Ok(found.ino() == self.file.metadata()?.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Snapshot {
    /// Writes what the log says anew, beside it.
    pub fn compact(self) -> io::Result<Compacted> {
        // It would be found out half-way, with nothing left for those who append to the old one meanwhile.
        if free_bytes(&self.file)? < self.bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut old = vec![0; self.bytes as usize];
        self.file.read_exact_at(&mut old, 0)?;
        let (file, bytes) = write_anew(&self.folder, replay(&old)?.records())?;
        Ok(Compacted {
            file,
            bytes,
            covers: self.bytes,
        })
    }
}

/// Room in the filesystem where a file is.
fn free_bytes(file: &File) -> io::Result<u64> {
    let room = rustix::fs::fstatvfs(file)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Of this process alone, for the same reason.
fn path_anew(folder: &Path) -> PathBuf {
    folder.join(format!("{NAME}.{}", std::process::id()))
}

fn write_anew(folder: &Path, records: impl Iterator<Item = Record>) -> io::Result<(File, u64)> {
    /// Batches of this size keep the buffer small; the CRC is of each.
    const BATCH_BYTES: usize = 1 << 20;

    let mut file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path_anew(folder))?;
    let mut bytes = 0;
    let mut batch = Vec::new();
    Record::Format(FORMAT).write_to(&mut batch);
    for record in records {
        record.write_to(&mut batch);
        if batch.len() >= BATCH_BYTES {
            let framed = framed(&batch)?;
            file.write_all(&framed)?;
            bytes += framed.len() as u64;
            batch.clear();
        }
    }
    let framed = framed(&batch)?;
    file.write_all(&framed)?;
    Ok((file, bytes + framed.len() as u64))
}

/// The batch behind its length and CRC: one buffer, so that one call writes it.
fn framed(batch: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(batch.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut framed = Vec::with_capacity(HEAD_BYTES + batch.len());
    framed.extend_from_slice(&len.to_le_bytes());
    framed.extend_from_slice(&crc32c::crc32c(batch).to_le_bytes());
    framed.extend_from_slice(batch);
    Ok(framed)
}

fn replay(bytes: &[u8]) -> io::Result<Inheritance> {
    let unreadable = |text| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut inheritance = Inheritance::default();
    let mut rest = bytes;
    let mut first = true;
    while let Some((mut batch, after)) = whole_batch(rest) {
        rest = after;
        while !batch.is_empty() {
            // The batch is whole, so what cannot be read was written by another version.
            let (record, more) = Record::read_from(batch)
                .ok_or_else(|| unreadable("the table was written by another version of this program"))?;
            batch = more;
            if first && record != Record::Format(FORMAT) {
                return Err(unreadable("the table has another form than this program reads"));
            }
            first = false;
            inheritance.apply(record);
        }
    }
    if first {
        return Err(unreadable("the table is empty"));
    }
    Ok(inheritance)
}

/// The first batch and what follows it; none at the end, or where it is torn.
fn whole_batch(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(head[4..].try_into().ok()?);
    let (batch, rest) = rest.split_at_checked(len)?;
    (crc32c::crc32c(batch) == crc).then_some((batch, rest))
}
