//! Secrets: encrypted keys of S3 accounts, and where they may be used.

use mooring_identity::SecretBytes;
use time::OffsetDateTime;
use uuid::Uuid;

use super::connector::Bucket;
use super::endpoint::Endpoint;
use super::names::{ProjectName, SecretName};
use super::{Backend, Id, Meta, Texts, TextsChange};

/// Longest secret access key: AWS has 40 characters, others up to 128.
const VALUE_LENGTH_MAX: usize = 256;
/// Targets a secret may have.
pub const TARGETS_MAX: usize = 64;

/// A key of an S3 account. Its values are in its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub name: SecretName,
    /// What every resource has.
    pub meta: Meta,
    /// The project it belongs to.
    pub project_uid: Uuid,
    /// Where it may be used; empty means with every connector of the project.
    pub allowed_targets: Vec<Target>,
    /// Number of the newest version.
    pub newest_version: i64,
}

impl Secret {
    /// Whether it may be used for this endpoint and bucket.
    pub fn covers(&self, endpoint: &Endpoint, bucket: &Bucket) -> bool {
        self.allowed_targets.is_empty()
            || self
                .allowed_targets
                .iter()
                .any(|target| target.covers(endpoint, bucket))
    }
}

/// A place where a secret may be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The bucket; `None` means every bucket there.
    pub bucket: Option<Bucket>,
}

impl Target {
    fn covers(&self, endpoint: &Endpoint, bucket: &Bucket) -> bool {
        self.endpoint == *endpoint && self.bucket.as_ref().is_none_or(|allowed| allowed == bucket)
    }
}

/// One value of a secret, without the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// Numbered from 1.
    pub number: i64,
    /// Key id that belongs to the value and overrides the connector's; empty for none.
    pub access_key_id: String,
    /// Whether it may be used.
    pub state: SecretVersionState,
    /// Who added it.
    pub creator: String,
    /// When.
    pub create_time: OffsetDateTime,
}

/// A version and the secret it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedVersion {
    /// The secret.
    pub secret: SecretName,
    /// The version.
    pub version: SecretVersion,
}

/// Whether a secret version may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretVersionState {
    /// May be used.
    Enabled,
    /// May not, until it is enabled again.
    Disabled,
    /// The value is gone for ever.
    Destroyed,
}

impl SecretVersionState {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::Destroyed => "DESTROYED",
        }
    }

    /// Reads what [`SecretVersionState::as_str`] wrote.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::Enabled, Self::Disabled, Self::Destroyed]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// A secret to create, with its first value.
pub struct NewSecret {
    /// What people say of it.
    pub texts: Texts,
    /// Where it may be used.
    pub allowed_targets: Vec<Target>,
    /// Its first value.
    pub value: NewValue,
}

/// A secret to create together with a connector.
pub struct CompanionSecret {
    /// Its id; the connector's if none is given.
    pub id: Option<Id>,
    /// What people say of it.
    pub texts: Texts,
    /// Its first value.
    pub value: NewValue,
}

/// A new value of a secret. Not `Debug`, not `Clone`; wipes itself.
pub struct NewValue {
    /// The secret access key.
    pub secret_access_key: SecretBytes,
    /// Key id that belongs to it; empty for none.
    pub access_key_id: String,
}

impl NewValue {
    /// Whether a backend's program can be given this key: s3fs reads it from a line `ID:SECRET`.
    pub fn check_for(&self, backend: Backend) -> Result<(), String> {
        match backend {
            Backend::Default | Backend::Geesefs => Ok(()),
            Backend::S3fs if !self.secret_access_key.expose().contains(&b':') => Ok(()),
            Backend::S3fs => Err(
                "s3fs cannot be given a key with a colon in it; use another key, or another backend".into(),
            ),
        }
    }
}

/// A change of a secret.
#[derive(Clone, Debug, Default)]
pub struct SecretChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// Where it may be used.
    pub allowed_targets: Option<Vec<Target>>,
    /// The state it was made from.
    pub etag: String,
}

/// The name of a secret in a project.
pub fn name_in(project: &ProjectName, id: Id) -> SecretName {
    SecretName::new(project.clone(), id)
}

/// Judges a secret access key; the error never repeats it.
pub fn check_value(text: String) -> Result<SecretBytes, String> {
    let bytes = SecretBytes::new(text.into_bytes());
    let problem = match bytes.expose() {
        [] => "it is missing; give the secret access key of the S3 account",
        [first, .., last] if first.is_ascii_whitespace() || last.is_ascii_whitespace() => {
            "it begins or ends with white space; give the key alone"
        }
        value if value.len() > VALUE_LENGTH_MAX => {
            "it is longer than 256 bytes; give the secret access key alone"
        }
        value if !value.iter().all(u8::is_ascii_graphic) => {
            "it has spaces, line breaks or non-ASCII characters; give the secret access key alone"
        }
        _ => return Ok(bytes),
    };
    Err(problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    fn secret(targets: &[(&str, Option<&str>)]) -> Secret {
        Secret {
            name: "projects/ml/secrets/s".parse().unwrap(),
            meta: Meta::new(
                Uuid::from_u128(1),
                Texts::default(),
                "users/a",
                OffsetDateTime::UNIX_EPOCH,
            ),
            project_uid: Uuid::from_u128(2),
            allowed_targets: targets
                .iter()
                .map(|(endpoint, bucket)| Target {
                    endpoint: Endpoint::of_form(endpoint).unwrap(),
                    bucket: bucket.map(|bucket| bucket.parse().unwrap()),
                })
                .collect(),
            newest_version: 1,
        }
    }

    #[test]
    fn a_secret_covers_its_targets_and_no_others() {
        let (here, there) = ("https://s3.example.com", "https://s3.example.org");
        let covers = |secret: &Secret, endpoint: &str, bucket: &str| {
            secret.covers(&Endpoint::of_form(endpoint).unwrap(), &bucket.parse().unwrap())
        };
        assert!(covers(&secret(&[]), here, "data"));
        let one = secret(&[(here, Some("data"))]);
        assert!(covers(&one, here, "data"));
        assert!(
            covers(&one, "https://S3.example.com/", "data"),
            "the same endpoint, written otherwise"
        );
        assert!(!covers(&one, here, "other"));
        assert!(!covers(&one, there, "data"));
        assert!(covers(&secret(&[(here, None)]), here, "other"));
    }

    #[test]
    fn a_value_that_is_no_key_is_refused_without_repeating_it() {
        for text in [
            "",
            " planted",
            "planted\n",
            "plan ted",
            "plänted",
            &"planted".repeat(50),
        ] {
            let problem = check_value(text.to_owned()).err().unwrap();
            assert!(!problem.contains("planted"), "{problem}");
        }
        assert!(check_value("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY=".into()).is_ok());
    }

    #[test]
    fn a_key_that_s3fs_would_split_is_for_other_backends() {
        let value = |text: &str| NewValue {
            secret_access_key: check_value(text.into()).unwrap(),
            access_key_id: String::new(),
        };
        let colon = value("planted:key");
        assert!(colon.check_for(Backend::Default).is_ok() && colon.check_for(Backend::Geesefs).is_ok());
        let problem = colon.check_for(Backend::S3fs).unwrap_err();
        assert!(
            problem.contains("colon") && !problem.contains("planted"),
            "{problem}"
        );
        assert!(value("wJalrXUtnFEMI/K7MDENG+x=").check_for(Backend::S3fs).is_ok());
    }
}
