//! Connectors: what to mount. The parts of one are newtypes, so who holds a connector holds a good one.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::endpoint::Endpoint;
use super::names::{ConnectorName, SecretName};
use super::secret::CompanionSecret;
use super::{Backend, Id, Meta, Mode, Texts, TextsChange};

/// Longest prefix. S3 keys end at 1024 bytes, and what is below the prefix needs room.
const PREFIX_BYTES_MAX: usize = 800;
/// Longest access key id.
const ACCESS_KEY_ID_LENGTH_MAX: usize = 128;

/// What to mount: bucket, key, mode and backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connector {
    /// Its name.
    pub name: ConnectorName,
    /// What every resource has.
    pub meta: Meta,
    /// The project it belongs to.
    pub project_uid: Uuid,
    /// What it is.
    pub spec: Spec,
}

/// What a connector is, beyond its name and texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The S3 service.
    pub endpoint: Endpoint,
    /// For the signature.
    pub region: Region,
    /// The bucket.
    pub bucket: Bucket,
    /// Only keys that begin with this.
    pub prefix: Prefix,
    /// Name of the folder on the hosts.
    pub mount_name: Id,
    /// Access key id; empty if the secret's versions carry theirs.
    pub access_key_id: AccessKeyId,
    /// The secret with the key.
    pub secret: Option<SecretRef>,
    /// Pins one version of the secret.
    pub secret_version: Option<i64>,
    /// Whether mounts can be written to.
    pub mode: Mode,
    /// Which program mounts.
    pub backend: Backend,
    /// Addresses the bucket in the host name.
    pub virtual_host_style: bool,
    /// Memory for what is read.
    pub cache_size: CacheSize,
}

/// Memory that a mount may use for what it reads, in MiB; zero leaves it to the program that mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSize(u32);

impl CacheSize {
    /// With less, large files would be read piecemeal.
    const LEAST_MIB: u32 = 16;
    /// 1 TiB: more than a host has.
    const MOST_MIB: u32 = 1 << 20;

    /// A size as people give it.
    pub fn of_mib(mib: i32) -> Result<Self, String> {
        match u32::try_from(mib) {
            Ok(mib) if mib == 0 || (Self::LEAST_MIB..=Self::MOST_MIB).contains(&mib) => Ok(Self(mib)),
            Ok(_) | Err(_) => Err(format!(
                "it is {mib} MiB; give {} to {}, or 0 to leave it to the program that mounts",
                Self::LEAST_MIB,
                Self::MOST_MIB
            )),
        }
    }

    /// MiB; zero leaves it to the program.
    pub fn mib(self) -> i32 {
        // At most [`Self::MOST_MIB`].
        self.0.cast_signed()
    }

    /// Whether it leaves it to the program.
    pub fn is_default(self) -> bool {
        self.0 == 0
    }
}

/// A secret as a connector refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Its uid.
    pub uid: Uuid,
    /// Its name.
    pub name: SecretName,
}

/// A connector to create.
pub struct NewConnector {
    /// What people say of it.
    pub texts: Texts,
    /// The S3 service.
    pub endpoint: Endpoint,
    /// For the signature.
    pub region: Region,
    /// The bucket.
    pub bucket: Bucket,
    /// Only keys that begin with this.
    pub prefix: Prefix,
    /// Name of the folder on the hosts; the connector's id if none is given.
    pub mount_name: Option<Id>,
    /// Access key id.
    pub access_key_id: AccessKeyId,
    /// Where the key comes from.
    pub secret: NewConnectorSecret,
    /// Whether mounts can be written to.
    pub mode: Mode,
    /// Which program mounts.
    pub backend: Backend,
    /// Addresses the bucket in the host name.
    pub virtual_host_style: bool,
    /// Memory for what is read.
    pub cache_size: CacheSize,
}

/// Where the key of a new connector comes from.
pub enum NewConnectorSecret {
    /// It has none yet.
    None,
    /// A secret that exists, perhaps pinned to one version.
    Existing(SecretName, Option<i64>),
    /// One that is created with it.
    Companion(CompanionSecret),
}

/// A change of a connector: `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct ConnectorChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// The S3 service.
    pub endpoint: Option<Endpoint>,
    /// For the signature.
    pub region: Option<Region>,
    /// The bucket.
    pub bucket: Option<Bucket>,
    /// Only keys that begin with this.
    pub prefix: Option<Prefix>,
    /// Name of the folder on the hosts; `Some(None)` for the connector's id.
    pub mount_name: Option<Option<Id>>,
    /// Access key id.
    pub access_key_id: Option<AccessKeyId>,
    /// The secret; `Some(None)` for none.
    pub secret: Option<Option<SecretName>>,
    /// Pins one version; `Some(None)` for the newest.
    pub secret_version: Option<Option<i64>>,
    /// Whether mounts can be written to.
    pub mode: Option<Mode>,
    /// Which program mounts.
    pub backend: Option<Backend>,
    /// Addresses the bucket in the host name.
    pub virtual_host_style: Option<bool>,
    /// Memory for what is read.
    pub cache_size: Option<CacheSize>,
    /// The state it was made from.
    pub etag: String,
    /// Live mounts are restarted where the change asks for it.
    pub restart_mounts: bool,
}

/// What a change of a connector means for what is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impact {
    /// Nothing that hosts know has changed.
    Texts,
    /// Hosts get another key, without a remount.
    Credential,
    /// Mounts must be restarted.
    Remount,
}

impl Spec {
    /// What it means for hosts that this becomes that.
    pub fn impact_of(&self, next: &Self) -> Impact {
        let Self {
            endpoint,
            region,
            bucket,
            prefix,
            mount_name,
            access_key_id,
            secret,
            secret_version,
            mode,
            backend,
            virtual_host_style,
            cache_size,
        } = next;
        let mounted_as = self.endpoint == *endpoint
            && self.region == *region
            && self.bucket == *bucket
            && self.prefix == *prefix
            && self.mount_name == *mount_name
            && self.mode == *mode
            && self.backend == *backend
            && self.virtual_host_style == *virtual_host_style
            && self.cache_size == *cache_size;
        let key_as = self.access_key_id == *access_key_id
            && self.secret == *secret
            && self.secret_version == *secret_version;
        match (mounted_as, key_as) {
            (true, true) => Impact::Texts,
            (true, false) => Impact::Credential,
            (false, _) => Impact::Remount,
        }
    }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_type!(
    /// A bucket: 3 to 63 lower case letters, digits and hyphens. No dots: TLS names and mount options break on them.
    Bucket, check_bucket
);
text_type!(
    /// A region for the signature.
    Region, check_region
);
text_type!(
    /// The beginning of all keys that are seen: empty, or ending in a slash.
    Prefix, check_prefix
);
text_type!(
    /// An access key id; may be empty.
    AccessKeyId, check_access_key_id
);

impl Default for Region {
    fn default() -> Self {
        Self("us-east-1".into())
    }
}

fn check_bucket(text: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let problem = if text.is_empty() {
        "it is missing; give the name of the bucket"
    } else if text.contains('.') {
        "it has a dot, which breaks TLS names; copy or alias the bucket under a name without dots"
    } else if !(3..=63).contains(&text.len()) {
        "it is not 3 to 63 characters long; give the bucket's name alone, without endpoint or prefix"
    } else if !text.chars().all(good) || text.starts_with('-') || text.ends_with('-') {
        "it is no bucket name; use lower case letters, digits and hyphens, with a letter or digit at both ends"
    } else {
        return Ok(());
    };
    Err(problem.into())
}

fn check_region(text: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&text.len()) && text.chars().all(good) && !text.starts_with('-') {
        return Ok(());
    }
    Err("it is no region; use 1 to 63 lower case letters, digits and hyphens, such as `us-east-1`, or leave it out".into())
}

fn check_prefix(text: &str) -> Result<(), String> {
    let Some(inside) = text.strip_suffix('/') else {
        if text.is_empty() {
            return Ok(());
        }
        return Err("it does not end in a slash; write `reports/` for the keys below `reports`".into());
    };
    let problem = if text.len() > PREFIX_BYTES_MAX {
        "it is longer than 800 bytes; choose a shorter one"
    } else if inside.chars().any(char::is_control) {
        "it has control characters; leave them out"
    } else if inside.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "it has an empty part, `.` or `..`; write it as `a/b/`"
    } else {
        return Ok(());
    };
    Err(problem.into())
}

fn check_access_key_id(text: &str) -> Result<(), String> {
    if text.len() > ACCESS_KEY_ID_LENGTH_MAX {
        return Err("it is longer than 128 characters; give the access key id alone".into());
    }
    if !text
        .chars()
        .all(|c| c.is_ascii_graphic() && !matches!(c, '/' | ':' | ',' | '='))
    {
        return Err("it has characters that no access key id has; give the id, not the secret key".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr<Err = String>>(text: &str, expected: Option<&str>) {
        match (text.parse::<T>().err(), expected) {
            (None, None) => {}
            (Some(problem), Some(expected)) => assert!(problem.contains(expected), "{text:?}: {problem}"),
            (problem, expected) => panic!("{text:?}: {problem:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn buckets_have_no_dots_and_cannot_look_like_options() {
        check::<Bucket>("data-1", None);
        check::<Bucket>("abc", None);
        check::<Bucket>("my.bucket", Some("dot"));
        check::<Bucket>("ab", Some("3 to 63"));
        check::<Bucket>(&"a".repeat(64), Some("3 to 63"));
        check::<Bucket>("-o-allow-other", Some("letter or digit at both ends"));
        check::<Bucket>("data-", Some("both ends"));
        check::<Bucket>("Data", Some("lower case"));
        check::<Bucket>("a/b/c", Some("lower case"));
        check::<Bucket>("abc\0", Some("lower case"));
        check::<Bucket>("", Some("missing"));
    }

    #[test]
    fn prefixes_end_in_a_slash_and_do_not_climb() {
        check::<Prefix>("", None);
        check::<Prefix>("a/b c/ü/", None);
        check::<Prefix>("a", Some("slash"));
        check::<Prefix>("/", Some("empty part"));
        check::<Prefix>("/a/", Some("empty part"));
        check::<Prefix>("a//b/", Some("empty part"));
        check::<Prefix>("../", Some("`..`"));
        check::<Prefix>("a/../b/", Some("`..`"));
        check::<Prefix>("a\0/", Some("control"));
        check::<Prefix>(&format!("{}/", "a".repeat(800)), Some("800"));
    }

    #[test]
    fn mount_names_cannot_leave_their_folder() {
        check::<Id>("reports-2024", None);
        for text in ["../../etc", "..", ".", "a/b", "-rf", "a b", "A", ""] {
            check::<Id>(text, Some("use 1 to 63 lower case"));
        }
    }

    #[test]
    fn regions_and_key_ids_have_their_form() {
        check::<Region>("eu-central-1", None);
        check::<Region>("EU", Some("us-east-1"));
        check::<AccessKeyId>("", None);
        check::<AccessKeyId>("AKIAIOSFODNN7EXAMPLE", None);
        check::<AccessKeyId>("wJalr/K7MDENG", Some("not the secret key"));
        check::<AccessKeyId>("a b", Some("access key id"));
    }

    #[test]
    fn hosts_are_asked_for_a_remount_only_when_the_mount_itself_changes() {
        let spec = Spec {
            endpoint: Endpoint::of_form("https://s3.example.com").unwrap(),
            region: Region::default(),
            bucket: "data".parse().unwrap(),
            prefix: "".parse().unwrap(),
            mount_name: "data".parse().unwrap(),
            access_key_id: "AK".parse().unwrap(),
            secret: None,
            secret_version: None,
            mode: Mode::ReadOnly,
            backend: Backend::Default,
            virtual_host_style: false,
            cache_size: CacheSize::default(),
        };
        assert_eq!(spec.impact_of(&spec.clone()), Impact::Texts);
        let key = Spec {
            access_key_id: "AK2".parse().unwrap(),
            ..spec.clone()
        };
        assert_eq!(spec.impact_of(&key), Impact::Credential);
        let mode = Spec {
            mode: Mode::ReadWrite,
            ..spec.clone()
        };
        assert_eq!(spec.impact_of(&mode), Impact::Remount);
    }
}
