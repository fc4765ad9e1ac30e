//! A table's batches, read one after the other: of a table of any length only one batch is in memory.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use super::HEAD_BYTES;
use crate::succession::record::{FORMAT, Record};

/// Most batches are one reply's, of some hundred bytes.
const BUFFER_BYTES: usize = 1 << 18;

/// Gives each record of a table's first `bytes` bytes, with its own bytes, to `take`: those of whole batches only.
pub(super) fn each_record(
    file: &File,
    bytes: u64,
    mut take: impl FnMut(Record, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut batches = Batches {
        from: BufReader::with_capacity(
            BUFFER_BYTES,
            Piece {
                file,
                at: 0,
                end: bytes,
            },
        ),
        batch: Vec::new(),
        whole: 0,
    };
    let mut first = true;
    while let Some(mut batch) = batches.next()? {
        while !batch.is_empty() {
            // The batch is whole, so what cannot be read was written by another version.
            let (record, more) = Record::read_from(batch)
                .ok_or_else(|| unreadable("the table was written by another version of this program"))?;
            if first && record != Record::Format(FORMAT) {
                return Err(unreadable("the table has another form than this program reads"));
            }
            first = false;
            take(record, &batch[..batch.len() - more.len()])?;
            batch = more;
        }
    }
    if first {
        return Err(unreadable("the table is empty"));
    }
    Ok(())
}

/// Where the last whole batch of a table's first `bytes` bytes ends.
pub(super) fn end_of_batches(file: &File, bytes: u64) -> io::Result<u64> {
    let mut batches = Batches::of(file, bytes);
    while batches.next()?.is_some() {}
    Ok(batches.whole)
}

fn unreadable(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

struct Batches<'a> {
    from: BufReader<Piece<'a>>,
    batch: Vec<u8>,
    /// Where the last whole batch ends.
    whole: u64,
}

impl<'a> Batches<'a> {
    fn of(file: &'a File, bytes: u64) -> Batches<'a> {
        let piece = Piece {
            file,
            at: 0,
            end: bytes,
        };
        Batches {
            from: BufReader::with_capacity(BUFFER_BYTES, piece),
            batch: Vec::new(),
            whole: 0,
        }
    }

    /// The next batch; none at the end, or where it is torn.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let mut head = [0; HEAD_BYTES];
        let len_and_crc = match self.left() {
            left if left < HEAD_BYTES as u64 => return Ok(None),
            _ => {
                self.from.read_exact(&mut head)?;
                u64::from_le_bytes(head)
            }
        };
        let (len, crc) = (len_and_crc as u32, (len_and_crc >> 32) as u32);
        if u64::from(len) > self.left() {
            return Ok(None);
        }
        self.batch.resize(len as usize, 0);
        self.from.read_exact(&mut self.batch)?;
        if crc32c::crc32c(&self.batch) != crc {
            return Ok(None);
        }
        self.whole += HEAD_BYTES as u64 + u64::from(len);
        Ok(Some(&self.batch))
    }

    fn left(&self) -> u64 {
        let Piece { file: _, at, end } = self.from.get_ref();
        end - at + self.from.buffer().len() as u64
    }
}

/// A file up to some point of it. Others may use the file's own position.
struct Piece<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
