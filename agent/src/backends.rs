//! The programs that can mount on this host: our own, and GeeseFS and s3fs, which other people make and an operator
//! installs. Which are there is looked at again and again, so that installing one is all that it takes.
//!
//! A program is run only to ask for its version, and only when its file has changed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mooring_proto::agent::v1 as pb;
use mooring_proto::v1::Backend;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A program that only prints its version and takes longer is broken.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at three files.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Longest version that is told.
const VERSION_CHARS_MAX: usize = 40;

/// A backend whose program is not ours. It mounts by itself, and dies with all handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Foreign {
    /// GeeseFS.
    Geesefs,
    /// s3fs.
    S3fs,
}

impl Foreign {
    /// The one that a backend names; `None` for our own.
    pub fn of(backend: Backend) -> Option<Foreign> {
        match backend {
            Backend::Geesefs => Some(Foreign::Geesefs),
            Backend::S3fs => Some(Foreign::S3fs),
            Backend::Unspecified | Backend::Default => None,
        }
    }

    /// What connectors call it.
    pub fn backend(self) -> Backend {
        match self {
            Foreign::Geesefs => Backend::Geesefs,
            Foreign::S3fs => Backend::S3fs,
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Foreign::Geesefs => "GeeseFS",
            Foreign::S3fs => "s3fs",
        }
    }

    /// The key of the agent's configuration that says where it is.
    pub fn key(self) -> &'static str {
        match self {
            Foreign::Geesefs => "geesefs",
            Foreign::S3fs => "s3fs",
        }
    }

    /// File system type of its mounts, as the kernel shows it.
    pub fn file_system(self) -> &'static str {
        match self {
            Foreign::Geesefs => "fuse.geesefs",
            Foreign::S3fs => "fuse.s3fs",
        }
    }

    /// How an operator gets it.
    fn installation(self) -> &'static str {
        match self {
            Foreign::Geesefs => "build it with deploy/geesefs/build, or take its vendor's program",
            Foreign::S3fs => "apt install s3fs",
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// Our own worker.
    pub mooring_fs: PathBuf,
    /// GeeseFS.
    pub geesefs: PathBuf,
    /// s3fs.
    pub s3fs: PathBuf,
}

/// Our own program cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} cannot be run ({cause}); install it, or set mooring_fs in the agent's configuration. It is used as soon as it is there",
    .path.display()
)]
pub struct WorkerMissing {
    path: PathBuf,
    cause: String,
}

/// A backend cannot be used on this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this host has no {} at {} ({cause}); {}, or name its place with {} in the agent's configuration. It is used as soon as it is there",
    .program.name(), .path.display(), .program.installation(), .program.key()
)]
pub struct Missing {
    program: Foreign,
    path: PathBuf,
    cause: String,
}

impl Programs {
    /// Where our own program is; it can be run at this moment.
    pub fn worker(&self) -> Result<&Path, WorkerMissing> {
        let path = &self.mooring_fs;
        runnable(path).map_err(|cause| WorkerMissing {
            path: path.clone(),
            cause,
        })?;
        Ok(path)
    }

    /// Where the program of a foreign backend is; it can be run at this moment.
    pub fn find(&self, program: Foreign) -> Result<&Path, Missing> {
        let path = match program {
            Foreign::Geesefs => &self.geesefs,
            Foreign::S3fs => &self.s3fs,
        };
        runnable(path).map_err(|cause| Missing {
            program,
            path: path.clone(),
            cause,
        })?;
        Ok(path)
    }

    /// Whether a process that runs this file runs one of them, as it is installed, as it was before an upgrade, or as
    /// its makers call it: what is installed may be a script that runs it.
    pub fn are_named(&self, running: &Path) -> bool {
        let name = |path: &Path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some(name.trim_end_matches(" (deleted)").to_owned())
        };
        // Such as geesefs-linux-amd64.
        let makers = ["mooring-fs", "geesefs", "s3fs"];
        if name(running).is_some_and(|running| makers.iter().any(|made| running.starts_with(made))) {
            return true;
        }
        [&self.mooring_fs, &self.geesefs, &self.s3fs]
            .into_iter()
            .flat_map(|installed| [Some(installed.clone()), installed.canonicalize().ok()])
            .flatten()
            .any(|installed| name(&installed) == name(running))
    }
}

/// Or why it is not.
fn runnable(program: &Path) -> Result<(), String> {
    rustix::fs::access(program, rustix::fs::Access::EXEC_OK).map_err(|errno| errno.to_string())
}

/// Knows which versions are installed.
#[derive(Debug)]
pub struct Detector {
    programs: Programs,
    known: BTreeMap<&'static str, (File, Option<String>)>,
}

/// Tells a file from the one that was there before it; `None` for no file.
type File = Option<(u64, u64, u64, i64, i64)>;

impl Detector {
    /// Knows nothing yet.
    pub fn new(programs: Programs) -> Detector {
        Detector {
            programs,
            known: BTreeMap::new(),
        }
    }

    /// Looks, and asks what has changed for its version.
    pub async fn look(&mut self) -> Vec<pb::BackendFact> {
        let Programs {
            mooring_fs,
            geesefs,
            s3fs,
        } = self.programs.clone();
        let mut facts = Vec::new();
        for (backend, path) in [("DEFAULT", mooring_fs), ("GEESEFS", geesefs), ("S3FS", s3fs)] {
            if let Some(version) = self.version(backend, &path).await {
                facts.push(pb::BackendFact {
                    backend: backend.to_owned(),
                    version,
                });
            }
        }
        facts
    }

    async fn version(&mut self, backend: &'static str, path: &Path) -> Option<String> {
        let file = identity(path);
        if let Some((known, version)) = self.known.get(backend)
            && *known == file
        {
            return version.clone();
        }
        let asked = match file {
            None => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
            Some(_) => version_of(path).await,
        };
        match (&asked, backend, file) {
            (Ok(version), _, _) => {
                tracing::info!(backend, version, program = %path.display(), "can mount with it")
            }
            (Err(error), "DEFAULT", _) => tracing::error!(program = %path.display(), %error,
                "mooring-fs cannot be run, so nothing can be mounted; install it, or correct mooring_fs"),
            // Most hosts have one of the others at most.
            (Err(_), _, None) => {}
            (Err(error), _, Some(_)) => tracing::warn!(backend, program = %path.display(), %error,
                "the program does not tell its version, so it is not used; install it anew"),
        }
        let version = asked.ok();
        self.known.insert(backend, (file, version.clone()));
        version
    }
}

/// Looks until `shutdown`, and tells when something has changed.
pub async fn watch(mut detector: Detector, facts: watch::Sender<pb::HostFacts>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return, // cancel-safe: no state
            () = tokio::time::sleep(LOOK_INTERVAL) => {} // cancel-safe: no state
        }
        let backends = detector.look().await;
        facts.send_if_modified(|facts| {
            let changed = facts.backends != backends;
            facts.backends = backends;
            changed
        });
    }
}

fn identity(path: &Path) -> File {
    let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
    ))
}

async fn version_of(program: &Path) -> std::io::Result<String> {
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .env_clear()
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_TIMEOUT, output)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    if !output.status.success() {
        return Err(std::io::Error::other(format!(
            "--version ends with {}",
            output.status
        )));
    }
    // GeeseFS answers on standard error.
    let text = [output.stdout, output.stderr].concat();
    Ok(version_in(&String::from_utf8_lossy(&text)))
}

/// The first word of the first line that is a version: `mooring-fs 0.1.0`, `geesefs version 0.43.8`, `… System V1.90 (…`.
fn version_in(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.split_whitespace()
        .map(|word| word.trim_start_matches(['v', 'V']))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        .map_or_else(
            || "unknown".to_owned(),
            |word| word.chars().take(VERSION_CHARS_MAX).collect(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(folder: &Path) -> Programs {
        Programs {
            mooring_fs: folder.join("mooring-fs"),
            geesefs: folder.join("geesefs"),
            s3fs: folder.join("s3fs"),
        }
    }

    /// A program that has been moved into place, as packages do: one that is still being written cannot be run.
    fn install(path: &Path, says: &str) {
        use std::os::unix::fs::PermissionsExt;
        let new = path.with_extension("new");
        std::fs::write(&new, format!("#!/bin/sh\n{says}\n")).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    #[test]
    fn each_program_says_its_version_in_its_own_way() {
        for (text, version) in [
            ("mooring-fs 0.1.0\n", "0.1.0"),
            ("geesefs version 0.43.8\n", "0.43.8"),
            (
                "Amazon Simple Storage Service File System V1.90 (commit:unknown) with GnuTLS(gcrypt)\nCopyright (C) 2010",
                "1.90",
            ),
            ("who knows\n", "unknown"),
        ] {
            assert_eq!(version_in(text), version);
        }
    }

    #[tokio::test]
    async fn a_program_that_is_installed_later_is_found_and_one_that_is_removed_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let programs = programs(dir.path());
        let mut detector = Detector::new(programs.clone());
        install(&programs.mooring_fs, "echo mooring-fs 1.2");
        let found = |facts: &[pb::BackendFact]| {
            let texts: Vec<_> = facts
                .iter()
                .map(|fact| format!("{} {}", fact.backend, fact.version))
                .collect();
            texts.join(", ")
        };
        assert_eq!(found(&detector.look().await), "DEFAULT 1.2");
        install(&programs.geesefs, "echo geesefs version 0.43.8 >&2");
        install(&programs.s3fs, "exit 1");
        assert_eq!(found(&detector.look().await), "DEFAULT 1.2, GEESEFS 0.43.8");
        install(&programs.s3fs, "echo File System V1.90");
        std::fs::remove_file(&programs.geesefs).unwrap();
        assert_eq!(found(&detector.look().await), "DEFAULT 1.2, S3FS 1.90");
    }

    #[test]
    fn who_misses_a_program_is_told_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let installed = programs(dir.path());
        assert!(installed.are_named(Path::new("/usr/bin/mooring-fs (deleted)")));
        assert!(
            installed.are_named(Path::new("/opt/s3fs")) && !installed.are_named(Path::new("/usr/bin/sed"))
        );
        assert!(installed.are_named(Path::new("/opt/geesefs-linux-amd64")));
        let missing = programs(dir.path()).find(Foreign::S3fs).unwrap_err().to_string();
        assert!(
            missing.contains("apt install s3fs") && missing.contains("as soon as it is there"),
            "{missing}"
        );
        let missing = programs(dir.path()).worker().unwrap_err().to_string();
        assert!(
            missing.contains("mooring-fs cannot be run") && missing.contains("set mooring_fs"),
            "{missing}"
        );
    }
}
