//! The messages, in both directions.
//!
//! Unknown fields are ignored and new fields have defaults, so that an agent and a worker of
//! neighbouring versions understand each other; [`PROTOCOL_VERSION`] changes only when they cannot.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// The version both sides say in their `Hello`.
pub const PROTOCOL_VERSION: u32 = 1;

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// First message of every connection.
    Hello {
        /// [`PROTOCOL_VERSION`] of the agent.
        version: u32,
    },
    /// Serve this mount; its FUSE descriptor comes with the packet. Answered by `Started` or `Failed`.
    Start {
        /// What to serve.
        config: WorkerConfig,
    },
    /// Say whether [`ToWorker::Succeed`] could be followed: whether this program can read the table that the
    /// mount's present worker keeps. Changes nothing, and needs no descriptor; the worker waits for its
    /// `Start` or `Succeed` as before. Answered by `Prepared` or `Failed`.
    ///
    /// The sender asks before it ends a healthy worker for the sake of another program.
    Prepare {
        /// What there would be to serve.
        config: WorkerConfig,
    },
    /// Go on with a mount whose worker is dead; the descriptor of the live connection comes with the packet,
    /// and what the dead one knew is in the folder [`WorkerConfig::succession`]. Answered by `Started` or
    /// `Failed`; after a failure another worker may try.
    ///
    /// The sender has made sure that the old worker has ended: two that serve one connection would steal
    /// each other's requests.
    Succeed {
        /// What to serve, as in `Start`.
        config: WorkerConfig,
    },
    /// Use this key from the next request on. Answered by `Status` or `Failed`.
    SetCredential {
        /// The new key.
        credential: Credential,
    },
    /// Answered by `Status`.
    Status,
    /// The mount is about to go: upload what is waiting, within `grace`. Answered by `Status` once
    /// everything is in S3 or the grace has passed. The worker ends when its mount is unmounted.
    Stop {
        /// How long to wait for uploads.
        grace: Duration,
    },
}

/// What the worker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// First message of every connection.
    Hello {
        /// [`PROTOCOL_VERSION`] of the worker.
        version: u32,
        /// The worker's process.
        pid: u32,
        /// Whether it already serves a mount.
        started: bool,
        /// Which assignment it serves, once started.
        assignment_uid: Option<String>,
        /// Number of the FUSE descriptor in the worker's process, once started: an agent that has restarted
        /// gets its duplicate back with it (`pidfd_getfd`).
        #[serde(default)]
        fuse_descriptor: Option<i32>,
        /// Whether another worker can succeed this one on the same descriptor. Known once started.
        #[serde(default)]
        resend: bool,
        /// Version of the worker's program; empty for those that did not say yet.
        #[serde(default)]
        program_version: String,
    },
    /// The table can be read, and there is nothing else that would keep this worker from going on with the
    /// mount, as far as it can tell without doing so.
    Prepared,
    /// The mount answers.
    Started {
        /// Whether another worker can succeed this one on the same descriptor: the kernel sends again what
        /// was on its way when a worker dies (6.9 and later), and the worker keeps its table.
        #[serde(default)]
        resend: bool,
        /// Number of the FUSE descriptor in the worker's process.
        #[serde(default)]
        fuse_descriptor: Option<i32>,
    },
    /// How the mount does.
    Status(WorkerStatus),
    /// The last message could not be done.
    Failed {
        /// What went wrong.
        reason: String,
        /// What a person can do about it.
        remedy: String,
        /// The store did answer, and refused the key or what the key may do.
        #[serde(default)]
        key_refused: bool,
    },
}

/// Everything a worker needs besides the descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// Whose work this is; repeated in `Hello`.
    pub assignment_uid: String,
    /// Base URL of the store, such as `https://s3.example.org`.
    pub endpoint: String,
    /// Region for the signature.
    pub region: String,
    /// Bucket.
    pub bucket: String,
    /// Only keys below this prefix; empty for the whole bucket.
    #[serde(default)]
    pub prefix: String,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// Memory for what is read, in MiB; zero leaves it to the worker.
    #[serde(default)]
    pub cache_size_mib: u32,
    /// Refuse every change.
    pub read_only: bool,
    /// Owner of everything in the mount.
    pub uid: u32,
    /// Group of everything in the mount.
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u32,
    /// Permission bits of folders.
    pub dir_mode: u32,
    /// How long names, sizes and listings may be remembered.
    pub metadata_ttl: Duration,
    /// Folder for staged writes, of this mount alone.
    pub cache_dir: PathBuf,
    /// Folder (0700, on tmpfs, of this mount alone) for what a successor must know. Without one, the mount
    /// ends with its worker.
    #[serde(default)]
    pub succession: Option<PathBuf>,
    /// Where the worker may connect to.
    #[serde(default)]
    pub endpoint_rules: EndpointRules,
    /// The key.
    pub credential: Credential,
}

/// Which addresses an endpoint may resolve to; checked at every connect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRules {
    /// Plain HTTP is allowed.
    #[serde(default)]
    pub allow_http: bool,
    /// Networks (CIDR) exempt from the rule against loopback, link-local and metadata addresses.
    #[serde(default)]
    pub allowed_networks: Vec<String>,
}

/// An S3 key.
#[derive(Debug, Serialize, Deserialize)]
pub struct Credential {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: Secret,
}

/// How a mount does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// Whether the mount is being served.
    pub started: bool,
    /// What is open, waiting or on its way.
    pub activity: MountActivity,
    /// Keys of the bucket that are no valid file names, as far as they were met.
    pub hidden_keys: HiddenKeys,
    /// Why the last request to the store failed, unless a later one succeeded; never a secret.
    pub store_error: Option<String>,
    /// With `store_error`: the store did answer, and refused the key or what the key may do.
    pub key_refused: bool,
    /// Whether the store accepted the last write, `None` before the first.
    pub writable: Option<bool>,
}

/// What is open, waiting or on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountActivity {
    /// Open files.
    pub open_files: u64,
    /// Files with bytes that are not in S3 yet.
    pub dirty_files: u64,
    /// Of these, how many are being uploaded.
    pub uploading_files: u64,
    /// Copies that were saved beside a file because somebody else had changed it.
    pub conflict_copies: u64,
}

/// Keys that cannot be shown as files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HiddenKeys {
    /// How many different ones were met.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<String>,
}
