//! Who this host is: what enrolment has told it (`host.toml`), and the lock that keeps two agents from running on
//! one state folder.

use std::fs::File;
use std::io;
use std::path::Path;

use mooring_identity::{CredentialPaths, files};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What enrolment has told this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name, as `hosts/{host}`.
    pub name: String,
    /// Its uid, which its certificate carries.
    pub uid: Uuid,
    /// The installation it belongs to; it obeys no other.
    pub realm_uid: String,
    /// Where the catalog is.
    pub endpoint: String,
}

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file in it cannot be read or written.
    #[error(transparent)]
    Identity(#[from] mooring_identity::Error),
    /// `host.toml` is damaged.
    #[error("{path} is damaged; restore it, or remove it and enrol again: mooring-agent enroll")]
    Damaged {
        /// The file.
        path: String,
        /// What the parser says.
        #[source]
        source: toml::de::Error,
    },
    /// Another agent runs.
    #[error("another mooring-agent runs on {path}; stop it first, or give this one a state_dir of its own")]
    Locked {
        /// The state folder.
        path: String,
    },
    /// The lock file cannot be opened.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Host {
    /// Reads `host.toml`; `None` before enrolment.
    pub fn load(state_dir: &Path) -> Result<Option<Host>, StateError> {
        let path = state_dir.join(FILE);
        let Some(text) = files::read_public(&path)? else {
            return Ok(None);
        };
        toml::from_str(&text)
            .map(Some)
            .map_err(|source| StateError::Damaged {
                path: path.display().to_string(),
                source,
            })
    }

    /// Writes `host.toml`.
    pub fn save(&self, state_dir: &Path) -> Result<(), StateError> {
        let text = toml::to_string(self).expect("four strings are always TOML");
        Ok(files::write_atomic(
            &state_dir.join(FILE),
            text.as_bytes(),
            files::PUBLIC,
        )?)
    }
}

/// Where the host's key, certificate and CA lie.
pub fn credential_paths(state_dir: &Path) -> CredentialPaths {
    CredentialPaths::in_directory(state_dir, "host")
}

/// Held as long as an agent runs; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Makes the state folder (0700) and takes its lock.
    pub fn take(state_dir: &Path) -> Result<StateLock, StateError> {
        files::create_private_directory(state_dir)?;
        let path = state_dir.join("lock");
        let failed = |source| StateError::Lock {
            path: path.display().to_string(),
            source,
        };
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(StateLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Locked {
                path: state_dir.display().to_string(),
            }),
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

const FILE: &str = "host.toml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_reads_back_what_it_writes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Host::load(dir.path()).unwrap(), None);
        let host = Host {
            name: "hosts/gpu-7".into(),
            uid: Uuid::from_u128(7),
            realm_uid: "r".into(),
            endpoint: "https://catalog.example:7443".into(),
        };
        host.save(dir.path()).unwrap();
        assert_eq!(Host::load(dir.path()).unwrap(), Some(host));
    }

    #[test]
    fn two_agents_never_share_a_state_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::take(dir.path()).unwrap();
        assert!(matches!(
            StateLock::take(dir.path()),
            Err(StateError::Locked { .. })
        ));
        drop(first);
        StateLock::take(dir.path()).unwrap();
    }
}
