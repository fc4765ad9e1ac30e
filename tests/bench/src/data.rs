//! What lies in the bucket before a row begins. Every file of ours holds the same pattern, so that whoever reads can tell
//! in passing whether a byte is right.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context as _;

/// The pattern of our server's `fill`: a byte is its position modulo this prime.
const PATTERN: u64 = 251;

/// Files of one folder, named by numbers of seven digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    /// The folder, without a slash.
    pub(crate) folder: &'static str,
    /// How many files.
    pub(crate) count: u64,
    /// Bytes of each.
    pub(crate) size: u64,
}

impl Data {
    /// The name of a file.
    pub(crate) fn name(number: u64) -> String {
        format!("{number:07}")
    }

    /// Makes the same files below a local folder, unless they are there.
    pub(crate) fn put_locally(&self, root: &Path) -> anyhow::Result<()> {
        let folder = root.join(self.folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let block: Vec<u8> = (0..PATTERN * 4096).map(|at| (at % PATTERN) as u8).collect();
        for number in 0..self.count {
            let path = folder.join(Data::name(number));
            if std::fs::metadata(&path).is_ok_and(|found| found.len() == self.size) {
                continue;
            }
            let mut file = BufWriter::new(File::create(&path)?);
            let mut left = self.size;
            while left > 0 {
                let length = left.min(block.len() as u64);
                file.write_all(&block[..length as usize])?;
                left -= length;
            }
            file.flush()?;
        }
        Ok(())
    }
}

/// Whether bytes that were read at `offset` are what lies there, by the first, the last and one between.
pub(crate) fn is_right(bytes: &[u8], offset: u64) -> bool {
    let right = |at: usize| bytes[at] == ((offset + at as u64) % PATTERN) as u8;
    bytes.is_empty() || [0, bytes.len() / 2, bytes.len() - 1].into_iter().all(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_file_holds_the_pattern_and_a_wrong_byte_is_seen() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let data = Data {
            folder: "f",
            count: 1,
            size: 2_000_000,
        };
        data.put_locally(folder.path()).expect("it can be written");
        let mut bytes = std::fs::read(folder.path().join("f/0000000")).expect("it is there");
        assert_eq!(bytes.len(), 2_000_000);
        assert!(is_right(&bytes, 0) && is_right(&bytes[1_000_000..], 1_000_000));
        assert!(!is_right(&bytes[1..], 0));
        bytes[0] ^= 1;
        assert!(!is_right(&bytes, 0));
    }
}
