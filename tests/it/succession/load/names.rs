//! Programs that make, move and remove names: what is hardest to do again.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;

use mooring_tests::store::Store;

use super::{Outcome, Program, pattern, tell};

pub(super) fn prepare(store: &Store) {
    for key in ["folders/", "files/", "removed/"] {
        store.put(key, b"");
    }
    store.put("moves/a", b"moved bytes");
    for name in ["one", "two", "three"] {
        store.put(&format!("trees/a/{name}"), name);
    }
}

/// `mkdir` must never find what it has made itself, nor `rmdir` miss it.
pub(super) fn folders(program: &Program) -> Outcome {
    let mut round = 0;
    while program.goes_on() {
        round += 1;
        let path = program.at(&format!("folders/d{}", round % 5));
        tell("mkdir", fs::create_dir(&path))?;
        match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return Err(format!("a second mkdir: {other:?}")),
        }
        tell("rmdir", fs::remove_dir(&path))?;
    }
    Ok(())
}

/// Exclusive creation, and removal.
pub(super) fn files(program: &Program) -> Outcome {
    let mut round = 0;
    while program.goes_on() {
        round += 1;
        let key = format!("files/f{}", round % 5);
        let path = program.at(&key);
        let mut file = tell(
            "exclusive create",
            File::options().create_new(true).write(true).open(&path),
        )?;
        tell("write", file.write_all(b"short"))?;
        if round % 3 == 0 {
            // Removed before it was ever in the store.
            tell("unlink of an open file", fs::remove_file(&path))?;
            drop(file);
        } else {
            drop(file);
            tell("unlink", fs::remove_file(&path))?;
        }
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return Err(format!("after unlink: {other:?}")),
        }
        program.expect(&key, None);
    }
    Ok(())
}

/// One file, back and forth, and sometimes over another one.
pub(super) fn rename_files(program: &Program) -> Outcome {
    let (a, b) = (program.at("moves/a"), program.at("moves/b"));
    let mut round = 0;
    while program.goes_on() {
        round += 1;
        if round % 4 == 0 {
            tell("write what is replaced", fs::write(&b, b"to be replaced"))?;
        }
        tell("rename", fs::rename(&a, &b))?;
        let found = tell("read", fs::read(&b))?;
        if found != b"moved bytes" {
            return Err(format!("{} other bytes after a rename", found.len()));
        }
        match fs::metadata(&a) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return Err(format!("the old name after a rename: {other:?}")),
        }
        tell("rename back", fs::rename(&b, &a))?;
    }
    program.expect("moves/a", Some(b"moved bytes".to_vec()));
    program.expect("moves/b", None);
    Ok(())
}

/// One folder with files in it, back and forth.
pub(super) fn rename_folders(program: &Program) -> Outcome {
    let (a, b) = (program.at("trees/a"), program.at("trees/b"));
    let open = tell("open", File::open(a.join("one")))?;
    while program.goes_on() {
        tell("rename of a folder", fs::rename(&a, &b))?;
        for name in ["one", "two", "three"] {
            let found = tell("read below a renamed folder", fs::read(b.join(name)))?;
            if found != name.as_bytes() {
                return Err(format!("{name} has other bytes"));
            }
        }
        let mut start = [0; 3];
        tell("read of what was open", open.read_exact_at(&mut start, 0))?;
        tell("rename of a folder back", fs::rename(&b, &a))?;
        if b.exists() {
            return Err("the old name of a folder exists".to_owned());
        }
    }
    for name in ["one", "two", "three"] {
        program.expect(&format!("trees/a/{name}"), Some(name.as_bytes().to_vec()));
        program.expect(&format!("trees/b/{name}"), None);
    }
    Ok(())
}

/// Files that have no name any more, only handles.
pub(super) fn removed_files(program: &Program) -> Outcome {
    let mut round = 0;
    while program.goes_on() {
        round += 1;
        let path = program.at(&format!("removed/r{}", round % 3));
        let file = tell(
            "create",
            File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(&path),
        )?;
        let bytes = pattern(50_000 + round, 20_000);
        tell("write", file.write_all_at(&bytes, 0))?;
        if round % 2 == 0 {
            tell("fsync", file.sync_all())?;
        }
        tell("unlink", fs::remove_file(&path))?;
        let more = pattern(60_000 + round, 5_000);
        tell("write without a name", file.write_all_at(&more, 18_000))?;
        let mut found = vec![0; 23_000];
        tell("read without a name", file.read_exact_at(&mut found, 0))?;
        if found[..18_000] != bytes[..18_000] || found[18_000..] != more[..] {
            return Err("other bytes without a name".to_owned());
        }
    }
    Ok(())
}
