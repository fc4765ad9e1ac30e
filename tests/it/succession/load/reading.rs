//! Programs that only look.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mooring_tests::store::Store;
use rustix::fs::{Advice, Mode, OFlags, RawDir};

use super::{Outcome, Program, pattern, tell};

const FILE: &str = "reading/large";
const FILE_BYTES: usize = 6 << 20;
const FOLDER: &str = "listing";
const FOLDER_NAMES: usize = 400;

pub(super) fn prepare(store: &Store) {
    store.put(FILE, pattern(1, FILE_BYTES));
    for number in 0..FOLDER_NAMES {
        store.put(&format!("{FOLDER}/{}", name(number)), b"x");
    }
}

fn name(number: usize) -> String {
    format!("an-entry-{number:05}")
}

/// Known names, unknown names, and open files.
pub(super) fn stat(program: &Program) -> Outcome {
    let open = tell("open", File::open(program.at(FILE)))?;
    let mut number = 0;
    while program.goes_on() {
        number = (number + 7) % FOLDER_NAMES;
        let path = program.at(FOLDER).join(name(number));
        let found = tell("stat", fs::metadata(&path))?;
        if found.len() != 1 {
            return Err(format!("{} has {} bytes", path.display(), found.len()));
        }
        match fs::metadata(program.at(FOLDER).join("no-such-name")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => return Err(format!("a name that does not exist: {other:?}")),
        }
        if tell("fstat", open.metadata())?.len() != FILE_BYTES as u64 {
            return Err("an open file has another size".to_owned());
        }
    }
    Ok(())
}

/// `ls -l` of a folder that is read in many pieces.
pub(super) fn list(program: &Program) -> Outcome {
    let expected: Vec<String> = (0..FOLDER_NAMES).map(name).collect();
    while program.goes_on() {
        let mut reading = Reading::of(&program.at(FOLDER));
        let mut seen = Vec::new();
        while let Some(piece) = reading.piece() {
            for name in &piece {
                let found = tell(
                    "stat of a listed name",
                    fs::metadata(program.at(FOLDER).join(name)),
                )?;
                if !found.is_file() {
                    return Err(format!("{name} is no file"));
                }
            }
            seen.extend(piece);
        }
        seen.sort();
        if seen != expected {
            let mut unique = seen.clone();
            unique.dedup();
            return Err(format!(
                "{} names, {} of them different, instead of {FOLDER_NAMES}",
                seen.len(),
                unique.len()
            ));
        }
    }
    Ok(())
}

/// A large file from its beginning to its end, past the page cache.
pub(super) fn in_order(program: &Program) -> Outcome {
    let expected = pattern(1, FILE_BYTES);
    let file = tell("open", File::open(program.at(FILE)))?;
    let mut buffer = vec![0; 128 << 10];
    while program.goes_on() {
        tell("fadvise", rustix::fs::fadvise(&file, 0, None, Advice::DontNeed))?;
        for (at, expected) in (0..).step_by(buffer.len()).zip(expected.chunks(buffer.len())) {
            let buffer = &mut buffer[..expected.len()];
            tell("read", file.read_exact_at(buffer, at))?;
            if buffer != expected {
                return Err(format!("other bytes at {at}"));
            }
        }
    }
    Ok(())
}

/// Small pieces of it, each with an opening of its own.
pub(super) fn at_random(program: &Program) -> Outcome {
    let expected = pattern(1, FILE_BYTES);
    let mut at = 0_usize;
    let mut buffer = [0; 4096];
    while program.goes_on() {
        at = (at.wrapping_mul(6_364_136) + 12_345_677) % (FILE_BYTES - buffer.len());
        let file = tell("open", File::open(program.at(FILE)))?;
        tell("fadvise", rustix::fs::fadvise(&file, 0, None, Advice::DontNeed))?;
        tell("read", file.read_exact_at(&mut buffer, at as u64))?;
        if buffer[..] != expected[at..at + buffer.len()] {
            return Err(format!("other bytes at {at}"));
        }
    }
    Ok(())
}

/// A folder that is read with a small buffer.
pub(crate) struct Reading {
    folder: rustix::fd::OwnedFd,
}

impl Reading {
    pub(crate) fn of(folder: &Path) -> Reading {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Reading {
            folder: rustix::fs::open(folder, flags, Mode::empty()).unwrap(),
        }
    }

    /// The names of the next piece; none at the end.
    pub(crate) fn piece(&mut self) -> Option<Vec<String>> {
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut entries = RawDir::new(&self.folder, &mut buffer);
        let mut names = Vec::new();
        loop {
            match entries.next() {
                None => return None,
                Some(entry) => names.push(entry.unwrap().file_name().to_string_lossy().into_owned()),
            }
            if entries.is_buffer_empty() {
                break;
            }
        }
        names.retain(|name| name != "." && name != "..");
        Some(names)
    }
}
