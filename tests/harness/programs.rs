//! Where the programs under test and the real parts beside them are.

use std::path::{Path, PathBuf};

/// What this program was built as is what it uses.
const PROFILE: &str = if cfg!(debug_assertions) {
    "debug"
} else {
    "release"
};

/// A program of this workspace, built by `cargo build --workspace` as this one was.
///
/// # Panics
/// When it has not been built.
pub fn program(name: &str) -> PathBuf {
    let path = workspace().join("target").join(PROFILE).join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace`, or tests/run",
        path.display()
    );
    path
}

/// A program as users get it, with optimisation, for stories that play a whole fleet at full size: `tests/run long` builds
/// it. The gate's sizes do without.
///
/// # Panics
/// When it has not been built.
pub fn optimised_program(name: &str) -> PathBuf {
    if !long() {
        return program(name);
    }
    let path = workspace().join("target/release").join(name);
    assert!(
        path.exists(),
        "{} is missing: run tests/run long, or `cargo build --release --package {name}`",
        path.display()
    );
    path
}

/// A program that `tests/run` installs into the workspace's own folder of tools.
///
/// # Panics
/// When it is not there: a story that needs a real part does not pass without it.
pub fn tool(path: &str) -> PathBuf {
    let path = tool_path(path);
    assert!(
        path.exists(),
        "{} is missing: tests/run installs it",
        path.display()
    );
    path
}

/// Where such a program is, or would be.
pub fn tool_path(path: &str) -> PathBuf {
    workspace().join("target/tools").join(path)
}

/// Whether this is `tests/run long`: full sizes and counts.
pub fn long() -> bool {
    std::env::var_os("MOORING_LONG").is_some()
}

/// How often a fault is caused: a few times in the gate, as often as promised in `tests/run long`.
pub fn rounds(gate: u32, full: u32) -> u32 {
    if long() { full } else { gate }
}

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests' folder is below the workspace's")
}
