//! The table's file: batches of records, each written at once and recognised as whole by its length and CRC.
//!
//! A process that is killed while it writes leaves a torn batch at the end, which is read as if it were not
//! there: nobody was told of what is in it. A batch is all or nothing, so that what belongs together stays so.

mod batches;
mod compaction;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use self::batches::{each_record, end_of_batches};
use self::compaction::Anew;
pub use self::compaction::{Compacted, Snapshot};
use super::record::Record;
use super::table::Inheritance;

/// Name of the table in its folder.
const NAME: &str = "table";

/// A log below this is not worth writing anew; it is 5,000 to 10,000 records.
const COMPACT_BYTES_MIN: u64 = 1 << 20;

/// A log is written anew when it has grown by this factor: then each byte is written anew once, on average.
const COMPACT_FACTOR: u64 = 2;

/// A log may take so much of the memory that tmpfs takes its room from, and so large a share of what is left there,
/// since others have their files there, too; but a small one is no burden to anybody. A million files that the kernel
/// knows are about 100 MiB.
const BYTES_MAX: u64 = 256 << 20;
const SHARE_MAX: u64 = 4;
const BYTES_FREE_TO_ALL: u64 = 8 << 20;

/// Who goes on with a log needs so much room beside it, or could not write down what happens next.
const ROOM_MIN: u64 = 1 << 20;

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
    /// How long it may be then, by the room that there was at that time, and by no room.
    bytes_max: u64,
    ceiling: u64,
    /// How long it is to become before it is written anew.
    long_at: u64,
}

impl Log {
    /// Begins a log with these records, in place of any that is there.
    pub fn begin(folder: &Path, records: impl Iterator<Item = Record>) -> io::Result<Log> {
        let begun = Anew::beside(folder).and_then(|mut anew| {
            for record in records {
                anew.add(&record)?;
            }
            let (file, bytes) = anew.end()?;
            std::fs::rename(path_anew(folder), folder.join(NAME))?;
            Log::of(folder, file, bytes)
        });
        if begun.is_err() {
            // It may not be there.
            let _ = std::fs::remove_file(path_anew(folder));
        }
        begun
    }

    /// Goes on with the log of a dead process, behind its last whole batch. It is written anew when the mount is served
    /// again: nobody should wait for that, and there may be no room for it.
    pub fn go_on(folder: &Path) -> io::Result<Log> {
        let mut file = File::options().read(true).write(true).open(folder.join(NAME))?;
        let end = end_of_batches(&file, file.metadata()?.len())?;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let mut log = Log::of(folder, file, end)?;
        // Nobody knows how much of it is of use.
        log.long_at = COMPACT_BYTES_MIN;
        Ok(log)
    }

    /// Whether somebody could go on with the log in a folder now; an error says why not. Changes nothing.
    pub fn check_room(folder: &Path) -> io::Result<()> {
        match free_bytes(&File::open(folder)?)? {
            free if free < ROOM_MIN => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn of(folder: &Path, file: File, bytes: u64) -> io::Result<Log> {
        let mut log = Log {
            folder: folder.to_owned(),
            file,
            bytes,
            bytes_anew: bytes,
            bytes_max: 0,
            ceiling: BYTES_MAX,
            long_at: 0,
        };
        log.measure()?;
        Ok(log)
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

    /// Whether there is one in a folder, or may be one.
    pub fn exists(folder: &Path) -> bool {
        folder.join(NAME).try_exists().unwrap_or(true)
    }

    /// What the log in a folder says, whole batches only.
    pub fn read(folder: &Path) -> io::Result<Inheritance> {
        let file = File::open(folder.join(NAME))?;
        let mut inheritance = Inheritance::default();
        each_record(&file, file.metadata()?.len(), |record, _| {
            inheritance.apply(record);
            Ok(())
        })?;
        Ok(inheritance)
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

    /// Whether it comes near to that.
    pub fn is_nearly_too_long(&self) -> bool {
        self.bytes_anew > self.bytes_max / 8 * 5
    }

    /// Whether it has grown so much that it should be written anew.
    pub fn is_long(&self) -> bool {
        self.bytes > self.long_at
    }

    #[cfg(test)]
    pub(super) fn limit(&mut self, bytes_max: u64) {
        self.ceiling = bytes_max;
        self.measure().unwrap();
    }

    /// Judges its length by the room that there is now. Near to what it may be it is looked at more often.
    fn measure(&mut self) -> io::Result<()> {
        let room = free_bytes(&self.file)?.saturating_add(self.bytes);
        let share = BYTES_FREE_TO_ALL.max(room / SHARE_MAX);
        self.bytes_max = self.ceiling.min(share);
        let grown = self.bytes_anew * COMPACT_FACTOR;
        let near = (self.bytes_max / 4 * 3).max(self.bytes_anew / 4 * 5);
        self.long_at = COMPACT_BYTES_MIN.max(grown.min(near));
        Ok(())
    }

    /// It could not be written anew: takes away what was written, and waits until it has grown by half again.
    pub fn put_off(&mut self) {
        // It may not be there.
        let _ = std::fs::remove_file(path_anew(&self.folder));
        self.bytes_anew = self.bytes;
        if let Err(error) = self.measure() {
            tracing::warn!(%error, "it cannot be told how much room there is for what a successor must know");
        }
        self.long_at = self.bytes / 2 * 3;
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
            self.put_off();
            return Ok(());
        }
        std::fs::rename(path_anew(&self.folder), self.folder.join(NAME))?;
        self.file = file;
        self.bytes_anew = bytes;
        self.bytes = bytes + rest.len() as u64;
        self.measure()
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

/// The batch behind its length and CRC: one buffer, so that one call writes it.
fn framed(batch: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(batch.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut framed = Vec::with_capacity(HEAD_BYTES + batch.len());
    framed.extend_from_slice(&len.to_le_bytes());
    framed.extend_from_slice(&crc32c::crc32c(batch).to_le_bytes());
    framed.extend_from_slice(batch);
    Ok(framed)
}
