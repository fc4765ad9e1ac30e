//! Carries out single steps of a plan: start, stop, another key. Knows how a mount is made and unmade; does not decide
//! when, and remembers nothing between two calls.

mod adopt;
mod foreign;
mod fuse;
pub mod keep;
pub mod launch;
mod mountpoint;
mod native;
mod succeed;
pub mod through;
mod tidy;
mod unmount;
mod words;
pub mod worker;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use mooring_control::WorkerStatus;
use mooring_identity::{Clock, HpkeKeyPair};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backends::Programs;
use crate::desired::{About, Spec};
use crate::observed::record::{Record, Runs};

pub use mountpoint::prepare_mount_root;
pub use succeed::Cause;
pub use unmount::Stopped;

/// What mounting needs to know of this host. All methods that block are to be called outside the async threads.
pub struct Mounter {
    /// Below it lie all mounts.
    pub mount_root: PathBuf,
    /// Below it, each mount has a private folder for staged writes.
    pub cache_dir: PathBuf,
    /// The programs that serve mounts.
    pub programs: Programs,
    /// How programs are started here.
    pub launcher: launch::Launcher,
    /// What lets mounts outlive their workers.
    pub keeper: keep::Keeper,
    /// Records, sockets and logs.
    pub runs: Runs,
    /// This host, for which keys are sealed.
    pub host_uid: Uuid,
    /// Opens the envelopes.
    pub hpke: HpkeKeyPair,
    /// For the time of a mount.
    pub clock: Clock,
    /// This host is banned: no key is opened any more.
    pub over: AtomicBool,
}

impl Mounter {
    /// Mounts, after clearing away what `leftover` describes. Blocks until the mount answers or has failed. The one place
    /// where an order's backend decides how. Once `cancel` is cancelled nothing is begun any more.
    pub fn start(
        &self,
        about: &About,
        spec: &Spec,
        leftover: Option<&Record>,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        match spec.foreign {
            None => self.start_native(about, spec, leftover, cancel),
            Some(program) => self.start_foreign(program, about, spec, leftover, cancel),
        }
    }

    /// Gives a live mount another key, or mounts it anew with that.
    pub fn set_credential(
        &self,
        about: &About,
        record: &Record,
        spec: &Spec,
        cancel: &CancellationToken,
    ) -> Result<WorkerStatus, MountError> {
        match record.foreign() {
            None => self.set_native_credential(record, spec),
            Some(program) => self.set_foreign_credential(program, about, record, spec, cancel),
        }
    }
}

/// Asked right before a program is started or is given a key: what nobody wants any more, or what the next agent goes on
/// with, is not begun.
fn go_on(cancel: &CancellationToken) -> Result<(), MountError> {
    match cancel.is_cancelled() {
        false => Ok(()),
        true => Err(MountError::CalledOff),
    }
}

/// What is said of an order without a key. Why there is none, the activation says.
pub const NO_KEY_SENT: &str =
    "the catalog has sent no key: give the connector a secret that has an enabled version";

impl Mounter {
    /// What the program that serves a mount has said last; nothing secret.
    pub fn last_words(&self, uid: Uuid) -> String {
        words::last(&self.runs.log(uid))
    }
}

/// Why a step failed; a variant is who can do something about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// There is no key that this host can use: the connector's owner.
    #[error("{message}")]
    Credential {
        /// One CamelCase word.
        reason: &'static str,
        /// Cause and remedy.
        message: String,
    },
    /// The S3 service does not answer, or refuses: the connector's owner.
    #[error("{message}")]
    Store {
        /// One CamelCase word.
        reason: &'static str,
        /// Cause and remedy.
        message: String,
    },
    /// This host lacks something: its operator.
    #[error("{message}")]
    Host {
        /// One CamelCase word.
        reason: &'static str,
        /// Cause and remedy.
        message: String,
    },
    /// The installed program has failed to go on with a live mount: whoever has installed it.
    #[error("{message}")]
    UpgradeRefused {
        /// Cause and remedy.
        message: String,
    },
    /// Another worker serves the mount, of which no record tells yet: this host's operator.
    #[error("{message}")]
    NotNoted {
        /// Cause and remedy.
        message: String,
    },
    /// No failure: nobody wants it any more, or the next agent goes on with it.
    #[error("the agent ends, or this host is banned; nothing more is started")]
    CalledOff,
}

impl MountError {
    /// One CamelCase word.
    pub fn reason(&self) -> &'static str {
        match self {
            MountError::Credential { reason, .. }
            | MountError::Store { reason, .. }
            | MountError::Host { reason, .. } => reason,
            MountError::UpgradeRefused { .. } => "UpgradeRefused",
            MountError::NotNoted { .. } => "RecordUnwritable",
            MountError::CalledOff => "CalledOff",
        }
    }

    fn host(reason: &'static str, message: impl Into<String>) -> MountError {
        MountError::Host {
            reason,
            message: message.into(),
        }
    }

    fn io(action: &str, path: &Path, error: impl std::fmt::Display) -> MountError {
        MountError::host(
            "HostError",
            format!("cannot {action} {}: {error}", path.display()),
        )
    }
}
