//! The end of all keys on this machine. Each file is overwritten before it is removed, for file systems that leave bytes
//! where they are.
//!
//! Invariant: a wipe that is cut off at any moment is finished by the next start, before any key is used again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use mooring_identity::{Credentials, HpkeKeyPair};

use super::{BanDesk, load};
use crate::enroll::HPKE_KEY;
use crate::host::{StateError, credential_paths};

/// Removes every key, and every file with envelopes in it.
pub(super) fn wipe(state_dir: &Path) {
    let paths = credential_paths(state_dir);
    let mut files: Vec<PathBuf> = ["ledger", "ledger.damaged", "ledger.other-realm", HPKE_KEY]
        .map(|name| state_dir.join(name))
        .into();
    files.push(paths.key);
    files.push(paths.certificate);
    // Copies that a killed agent was about to rename.
    let copies = std::fs::read_dir(state_dir).into_iter().flatten().flatten();
    files.extend(
        copies
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "tmp")),
    );
    for path in files {
        if let Err(error) = wipe_file(&path) {
            tracing::error!(path = %path.display(), %error, "a key cannot be wiped; remove the file by hand");
        }
    }
    // The names, too, are gone after a power loss.
    if let Err(error) = File::open(state_dir).and_then(|folder| folder.sync_all()) {
        tracing::error!(path = %state_dir.display(), %error, "it is not certain that the keys stay wiped");
    }
}

/// At a start: finishes a wipe that was cut off. The ban is proved, and some of the keys are gone or overwritten, so
/// everything was unmounted before. Answers whether there is a ban whose keys are all gone now.
pub fn go_on_wiping(state_dir: &Path) -> Result<bool, StateError> {
    let (Some(signed), Some(desk)) = (load(state_dir)?, BanDesk::of(state_dir)?) else {
        return Ok(false);
    };
    if desk.read(&signed).is_err() || is_whole(state_dir) {
        return Ok(false);
    }
    wipe(state_dir);
    Ok(true)
}

/// Whether all keys are there and can be used: then the ban is still to be carried out, from its beginning.
fn is_whole(state_dir: &Path) -> bool {
    let path = state_dir.join(HPKE_KEY);
    let credentials = Credentials::load(&credential_paths(state_dir));
    let hpke = HpkeKeyPair::load(&path);
    // Any bytes would do for this key, also those that it was overwritten with.
    let overwritten = std::fs::read(&path).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0));
    matches!((credentials, hpke), (Ok(Some(_)), Ok(Some(_)))) && !overwritten
}

fn wipe_file(path: &Path) -> io::Result<()> {
    use io::Write as _;
    let mut file = match File::options().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    file.write_all(&vec![0; length])?;
    file.sync_all()?;
    std::fs::remove_file(path)
}
