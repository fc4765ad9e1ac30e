//! Programs that write bytes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

use mooring_tests::store::Store;

use super::{Outcome, Program, pattern, tell};

const CHANGED: &str = "writing/changed";
const CHANGED_BYTES: usize = 3 << 20;

pub(super) fn prepare(store: &Store) {
    store.put("writing/marker", b"x");
    store.put(CHANGED, pattern(2, CHANGED_BYTES));
}

/// New files and files that are written over, fsynced in their middle.
pub(super) fn write_and_fsync(program: &Program) -> Outcome {
    const BLOCK_BYTES: usize = 96 << 10;
    let mut round = 0;
    while program.goes_on() {
        round += 1;
        let key = format!("writing/file-{}", round % 7);
        let bytes = pattern(100 + round, 4 * BLOCK_BYTES);
        let mut file = tell("create", File::create(program.at(&key)))?;
        for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            tell("write", file.write_all(block))?;
            if number == 1 {
                tell("fsync", file.sync_all())?;
            }
        }
        tell("fsync", file.sync_all())?;
        drop(file);
        let found = tell("read back", std::fs::read(program.at(&key)))?;
        if found != bytes {
            return Err(format!("{key}: {} other bytes come back", found.len()));
        }
        program.expect(&key, Some(bytes));
    }
    Ok(())
}

/// Lines at the end of a file that stays open.
pub(super) fn append(program: &Program) -> Outcome {
    let key = "writing/log";
    let file = OpenOptions::new().create(true).append(true).open(program.at(key));
    let mut file = tell("open", file)?;
    let mut all = Vec::new();
    let mut line = 0_u64;
    while program.goes_on() {
        line += 1;
        let text = format!("line {line}\n");
        tell("append", file.write_all(text.as_bytes()))?;
        all.extend_from_slice(text.as_bytes());
        if line.is_multiple_of(200) {
            tell("fsync", file.sync_all())?;
        }
        if tell("fstat", file.metadata())?.len() != all.len() as u64 {
            return Err(format!("{} bytes were appended, but the size differs", all.len()));
        }
    }
    drop(file);
    program.expect(key, Some(all));
    Ok(())
}

/// Small changes all over a large object.
pub(super) fn change_in_place(program: &Program) -> Outcome {
    let mut model = pattern(2, CHANGED_BYTES);
    let mut round = 0_u64;
    while program.goes_on() {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(program.at(CHANGED));
        let file = tell("open", file)?;
        for _ in 0..5 {
            round += 1;
            let bytes = pattern(10_000 + round, 1000);
            let at = (round as usize).wrapping_mul(7_654_321) % (CHANGED_BYTES - bytes.len());
            tell("write", file.write_all_at(&bytes, at as u64))?;
            model[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        let mut found = vec![0; 64 << 10];
        let at = (round as usize).wrapping_mul(1_234_567) % (CHANGED_BYTES - found.len());
        tell("read", file.read_exact_at(&mut found, at as u64))?;
        if found != model[at..at + found.len()] {
            return Err(format!("other bytes at {at}"));
        }
        tell("fsync", file.sync_all())?;
        program.expect(CHANGED, Some(model.clone()));
    }
    Ok(())
}

/// A file that becomes shorter, in place and by being opened anew.
pub(super) fn shrink(program: &Program) -> Outcome {
    let key = "writing/shrinking";
    let mut round = 0;
    while program.goes_on() {
        round += 1;
        let file = OpenOptions::new()
            .create(true)
            .truncate(round % 2 == 0)
            .read(true)
            .write(true)
            .open(program.at(key));
        let file = tell("open", file)?;
        let bytes = pattern(50_000 + round, 200 << 10);
        tell("write", file.write_all_at(&bytes, 0))?;
        tell("shrink", file.set_len(70 << 10))?;
        tell("grow", file.set_len(90 << 10))?;
        let mut model = bytes;
        model.truncate(70 << 10);
        model.resize(90 << 10, 0);
        let mut found = vec![0; model.len()];
        tell("read", file.read_exact_at(&mut found, 0))?;
        if found != model || tell("fstat", file.metadata())?.len() != model.len() as u64 {
            return Err("other bytes, or another size, after shrinking".to_owned());
        }
        tell("fsync", file.sync_all())?;
        program.expect(key, Some(model));
    }
    Ok(())
}

/// A file so large that it is uploaded in parts.
pub(super) fn large(program: &Program) -> Outcome {
    const BLOCK_BYTES: usize = 1 << 20;
    let key = "writing/large";
    let mut round = 0;
    while program.goes_on() {
        round += 1;
        let mut file = tell("create", File::create(program.at(key)))?;
        let block = pattern(90_000 + round, BLOCK_BYTES);
        for _ in 0..18 {
            tell("write", file.write_all(&block))?;
        }
        tell("close", file.sync_all())?;
        program.expect(key, Some(block.repeat(18)));
    }
    Ok(())
}
