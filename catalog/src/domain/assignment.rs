//! Assignments: what one host must make true for one activation. A spec is everything a host needs to mount but the
//! key; its hash tells a host whether what it runs is what is wanted, and its generation orders the specs of one
//! assignment.
//!
//! Invariants: two equal specs have one hash, on every version of the catalog that writes [`HASH_HEAD`]; a generation
//! rises exactly when the hash changes.

use std::time::Duration;

use uuid::Uuid;

use super::connector::CacheSize;
use super::{Backend, Mode};

/// First bytes of what is hashed. A change of the layout below needs a new head, and with it a new hash for every
/// assignment: each host then compares what it runs once more.
const HASH_HEAD: &[u8] = b"mooring assignment spec v1";

/// What one host must make true for one activation, or must undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its identifier.
    pub uid: Uuid,
    /// The activation.
    pub activation_uid: Uuid,
    /// The host.
    pub host_uid: Uuid,
    /// The connector.
    pub connector_uid: Uuid,
    /// Raised with every change of the spec.
    pub generation: i64,
    /// What to mount.
    pub spec: AssignmentSpec,
    /// Hash of the spec.
    pub spec_hash: String,
    /// The revision that last changed it, its key or its removal.
    pub revision: i64,
    /// The order to undo it. Kept until the host has.
    pub removal: Option<RemovalOrder>,
}

/// An order to unmount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalOrder {
    /// Why, in one CamelCase word: one of the constants below.
    pub reason: &'static str,
    /// How long to wait for open files before the folder is detached.
    pub grace: Duration,
}

impl RemovalOrder {
    /// Somebody deactivated it.
    pub const DEACTIVATED: &'static str = "Deactivated";
    /// The publication behind it was withdrawn.
    pub const WITHDRAWN: &'static str = "PublicationWithdrawn";
    /// The host is drained; it gets it again when it takes mounts again.
    pub const DRAINED: &'static str = "HostDrained";
    /// The host is banned.
    pub const BANNED: &'static str = "HostBanned";

    /// Reads a reason back.
    pub fn reason_from_name(text: &str) -> Option<&'static str> {
        [Self::DEACTIVATED, Self::WITHDRAWN, Self::DRAINED, Self::BANNED]
            .into_iter()
            .find(|reason| *reason == text)
    }
}

/// What a host mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignmentSpec {
    /// Resource name of the activation.
    pub activation: String,
    /// Resource name of the connector.
    pub connector: String,
    /// Id of the project it is mounted for: the folder below the mount root.
    pub project_id: String,
    /// Folder below the project's.
    pub mount_name: String,
    /// URL of the S3 service.
    pub endpoint: String,
    /// Region for the signature.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Only keys that begin with this.
    pub prefix: String,
    /// Effective mode.
    pub mode: Mode,
    /// Which program mounts.
    pub backend: Backend,
    /// Addresses the bucket in the host name.
    pub virtual_host_style: bool,
    /// Memory for what is read.
    pub cache_size: CacheSize,
    /// Unix group that may enter; `None` means root only.
    pub unix_group: Option<String>,
    /// Plain http is allowed.
    pub allow_http: bool,
    /// Networks that are allowed although they point inward.
    pub allowed_networks: Vec<String>,
}

impl AssignmentSpec {
    /// Hash of the spec: hexadecimal SHA-256 over the head and then every field in the order of the struct. A text is
    /// preceded by its length as eight big-endian bytes; a number, an enum or a flag is one byte; an absent group is
    /// one zero byte, a present one is a one byte and its text; a list is preceded by its length. Behind the last, and only
    /// if there is one, the cache size in MiB as four big-endian bytes: specs without one are as old as that.
    pub fn hash(&self) -> String {
        let Self {
            activation,
            connector,
            project_id,
            mount_name,
            endpoint,
            region,
            bucket,
            prefix,
            mode,
            backend,
            virtual_host_style,
            cache_size,
            unix_group,
            allow_http,
            allowed_networks,
        } = self;
        let mut bytes = HASH_HEAD.to_vec();
        for text in [
            activation, connector, project_id, mount_name, endpoint, region, bucket, prefix,
        ] {
            put_text(&mut bytes, text);
        }
        bytes.push(match mode {
            Mode::ReadOnly => 1,
            Mode::ReadWrite => 2,
        });
        bytes.push(match backend {
            Backend::Default => 1,
            Backend::Geesefs => 2,
            Backend::S3fs => 3,
        });
        bytes.push(u8::from(*virtual_host_style));
        match unix_group {
            None => bytes.push(0),
            Some(group) => {
                bytes.push(1);
                put_text(&mut bytes, group);
            }
        }
        bytes.push(u8::from(*allow_http));
        bytes.extend_from_slice(&(allowed_networks.len() as u64).to_be_bytes());
        for network in allowed_networks {
            put_text(&mut bytes, network);
        }
        if !cache_size.is_default() {
            bytes.extend_from_slice(&cache_size.mib().to_be_bytes());
        }
        hex::encode(ring::digest::digest(&ring::digest::SHA256, &bytes))
    }
}

/// Which generation follows when `next` takes the place of what is stored as (generation, hash).
pub fn next_generation(stored: Option<(i64, &str)>, next: &str) -> i64 {
    match stored {
        None => 1,
        Some((generation, hash)) if hash == next => generation,
        Some((generation, _)) => generation + 1,
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> AssignmentSpec {
        AssignmentSpec {
            activation: "projects/ml/activations/reports-gpu".into(),
            connector: "projects/ml/connectors/reports".into(),
            project_id: "ml".into(),
            mount_name: "reports".into(),
            endpoint: "https://s3.example".into(),
            region: "us-east-1".into(),
            bucket: "reports".into(),
            prefix: String::new(),
            mode: Mode::ReadOnly,
            backend: Backend::Default,
            virtual_host_style: false,
            cache_size: CacheSize::default(),
            unix_group: None,
            allow_http: false,
            allowed_networks: vec![],
        }
    }

    #[test]
    fn the_hash_of_a_spec_is_the_same_in_every_version_of_the_catalog() {
        // Computed by hand with Python's hashlib from the layout in the comment; a change here is a change of
        // every assignment in the field.
        assert_eq!(
            spec().hash(),
            "83f7c3d61b7d4de850830798597ac739f09b739beda886bc1abd0179637fc6c7"
        );
    }

    #[test]
    fn every_field_counts() {
        let changes: [fn(&mut AssignmentSpec); 15] = [
            |s| s.activation.push('x'),
            |s| s.connector.push('x'),
            |s| s.project_id.push('x'),
            |s| s.mount_name.push('x'),
            |s| s.endpoint.push('x'),
            |s| s.region.push('x'),
            |s| s.bucket.push('x'),
            |s| s.prefix.push('x'),
            |s| s.mode = Mode::ReadWrite,
            |s| s.backend = Backend::S3fs,
            |s| s.virtual_host_style = true,
            |s| s.cache_size = CacheSize::of_mib(64).unwrap(),
            |s| s.unix_group = Some(String::new()),
            |s| s.allow_http = true,
            |s| s.allowed_networks.push(String::new()),
        ];
        let mut seen = std::collections::BTreeSet::from([spec().hash()]);
        for change in changes {
            let mut changed = spec();
            change(&mut changed);
            assert!(seen.insert(changed.hash()), "{changed:?} hashes like another");
        }
    }

    #[test]
    fn text_that_moves_from_one_field_to_the_next_changes_the_hash() {
        let moved = AssignmentSpec {
            bucket: "report".into(),
            prefix: "s".into(),
            ..spec()
        };
        assert_ne!(moved.hash(), spec().hash());
    }

    #[test]
    fn a_generation_rises_exactly_when_the_hash_changes() {
        assert_eq!(next_generation(None, "a"), 1);
        assert_eq!(next_generation(Some((4, "a")), "a"), 4);
        assert_eq!(next_generation(Some((4, "a")), "b"), 5);
    }
}
