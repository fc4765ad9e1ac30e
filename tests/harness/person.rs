//! A person at a terminal: the real command line with a profile of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mooring_identity::JoinString;
use serde_json::Value;

use crate::programs::program;

/// Somebody who has logged in.
pub struct Person {
    profile: PathBuf,
}

impl Person {
    /// Logs in with a join file, with a profile below `folder`.
    ///
    /// # Panics
    /// When the login fails.
    pub fn log_in(folder: &Path, name: &str, join_file: &Path) -> Person {
        let person = Person::nobody(folder, name);
        person.run(&[
            "login",
            "--join-file",
            join_file.to_str().expect("paths of stories are UTF-8"),
        ]);
        person
    }

    /// Somebody who has not logged in.
    pub fn nobody(folder: &Path, name: &str) -> Person {
        Person {
            profile: folder.join(format!("profile-{name}")),
        }
    }

    /// Runs a command given as one line, whose words have no spaces in them; it must succeed.
    pub fn mooring(&self, line: &str) -> String {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a command that must succeed; returns its standard output.
    ///
    /// # Panics
    /// When it fails, with what it has said.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success(),
            "mooring {}: {}\n{}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command and reads its answer as JSON.
    pub fn json(&self, line: &str) -> Value {
        let text = self.mooring(&format!("-o json {line}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("mooring {line}: {error}:\n{text}"))
    }

    /// Runs a command that must be refused; returns what it says on standard error.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn refused(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = self.output(&arguments);
        assert!(!output.status.success(), "mooring {line}: it succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a command, whatever comes of it.
    pub fn output(&self, arguments: &[&str]) -> Output {
        Command::new(program("mooring"))
            .env("MOORING_CONFIG_DIR", &self.profile)
            .args(arguments)
            .output()
            .expect("the command line starts")
    }

    /// Where the profile is kept.
    pub fn profile(&self) -> &Path {
        &self.profile
    }
}

/// A copy of a join file that names another catalog and keeps its token and pin.
///
/// # Panics
/// When it is no join file.
pub fn readdressed(join_file: &Path, address: &str) -> PathBuf {
    let join = JoinString::read(join_file).expect("it holds a join string");
    let path = join_file.with_extension("moved");
    JoinString::new(format!("https://{address}"), join.token(), join.pin)
        .write(&path)
        .expect("the folder can be written");
    path
}
