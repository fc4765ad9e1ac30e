//! Small files that must survive a crash whole: written beside their place, synced, then renamed over it.
//! Private ones are 0600 from the first byte. Nothing here deletes a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::Error;

/// Mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that everyone may read.
pub const PUBLIC: u32 = 0o644;

/// Replaces `path` with `content`: after a crash at any moment the old or the new content is there, whole.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |source| Error::File {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let fresh = beside(path).map_err(failed)?;
    let done = write_synced(&fresh, content, mode).and_then(|()| fs::rename(&fresh, path));
    if let Err(source) = done {
        // The unfinished copy may hold a key; the error that matters is the first one.
        let _ = fs::remove_file(&fresh);
        return Err(failed(source));
    }
    sync_directory(path).map_err(failed)
}

/// Like [`write_atomic`], but keeps a file that exists already. Answers whether the file was made now.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<bool, Error> {
    let failed = |source| Error::File {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let fresh = beside(path).map_err(failed)?;
    // A hard link, unlike a rename, never replaces: of two processes that start at once, one wins and both read its file.
    let done = write_synced(&fresh, content, mode).and_then(|()| match fs::hard_link(&fresh, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    });
    let removed = fs::remove_file(&fresh);
    let made = done.map_err(failed)?;
    removed.map_err(failed)?;
    sync_directory(path).map_err(failed)?;
    Ok(made)
}

/// Reads a private file; `None` when there is none. Refuses one that others can read.
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let failed = |source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if mode & 0o077 != 0 {
        return Err(Error::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    fs::read(path)
        .map(|content| Some(Zeroizing::new(content)))
        .map_err(failed)
}

/// Reads a public text file; `None` when there is none.
pub fn read_public(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes the directories above `path` that are missing, for everybody to pass through (0755), whatever the umask says:
/// a program that keeps its own files private would otherwise shut others out of what lies beside them.
pub fn create_parents(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    if parent.is_dir() {
        return Ok(());
    }
    create_parents(parent)?;
    let failed = |source| Error::File {
        action: "create the directory",
        path: parent.to_owned(),
        source,
    };
    match fs::create_dir(parent) {
        Ok(()) => fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && parent.is_dir() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Makes a directory and its parents, the last one readable by its owner only. An existing one is left as it is.
pub fn create_private_directory(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::File {
        action: "create the directory",
        path: path.to_owned(),
        source,
    };
    if path.is_dir() {
        return Ok(());
    }
    create_parents(path)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        outcome => outcome.map_err(failed),
    }
}

fn write_synced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // The umask may have taken bits away from a public file.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// A name in the same directory, so that the rename cannot cross file systems, and unguessable, so that two
/// writers do not meet in it.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let mut random = [0u8; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
        .map_err(|_| io::Error::other("no random bytes"))?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}.tmp", hex::encode(random)));
    Ok(path.with_file_name(name))
}

/// A rename is durable only when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_0600_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"one", PRIVATE).unwrap();
        write_atomic(&path, b"two", PRIVATE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read_private(&path).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no copy is left behind"
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"one", PUBLIC).unwrap();
        let error = read_private(&path).err().unwrap().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_private_directory_shuts_nobody_out_of_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create_private_directory(&path).unwrap();
        create_private_directory(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&dir.path().join("a/b")), 0o755);
        assert_eq!(mode(&dir.path().join("a")), 0o755);
    }

    #[test]
    fn the_first_writer_of_a_new_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(write_new(&path, b"one", PRIVATE).unwrap());
        assert!(!write_new(&path, b"two", PRIVATE).unwrap());
        assert_eq!(read_private(&path).unwrap().unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
