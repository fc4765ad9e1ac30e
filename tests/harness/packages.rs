//! Our Debian packages, made by `deploy/package` from the programs that `cargo build --workspace` has built.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::programs::{tool, workspace};

/// The first version that stories install.
pub const FIRST: &str = "0.1.0-1";

/// The version that they upgrade to: the same programs.
pub const NEXT: &str = "0.1.0-2";

/// What this run has packed. The lock is held while packing: whoever needs the same package waits for it.
static PACKED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The file of a package, such as `mooring-agent`, packed once in each run.
///
/// # Panics
/// When it cannot be packed.
pub fn package(name: &str, version: &str) -> PathBuf {
    let folder = workspace().join("target/tmp/packages");
    let path = folder.join(format!("{name}_{version}_{}.deb", architecture()));
    let mut packed = PACKED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if packed.contains(&path) {
        return path;
    }
    // Packed aside and renamed: another run may be reading the file that is there.
    std::fs::create_dir_all(&folder).expect("target can be written");
    let aside = tempfile::tempdir_in(&folder).expect("target can be written");
    pack(name, version, aside.path());
    let file = path.file_name().expect("the path was made with one");
    std::fs::rename(aside.path().join(file), &path).expect("deploy/package names its files so");
    packed.insert(path.clone());
    path
}

fn pack(name: &str, version: &str, folder: &Path) {
    tool("bin/cargo-deb");
    let output = Command::new(workspace().join("deploy/package"))
        .arg(folder)
        .arg("--built")
        .arg(workspace().join("target/debug"))
        .args(["--only", name, "--version", version])
        .output()
        .expect("deploy/package can be run");
    assert!(
        output.status.success(),
        "deploy/package: {}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Debian's word for this machine's processor.
fn architecture() -> String {
    let output = Command::new("dpkg")
        .arg("--print-architecture")
        .output()
        .expect("dpkg is installed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
