//! Profiles: where a person is logged in, and as whom. Each is a directory with the endpoint, the key (0600), the
//! certificate and the CA. Makes no call.

use std::path::{Path, PathBuf};

use mooring_identity::{CredentialPaths, Credentials, files};
use serde::{Deserialize, Serialize};

use crate::errors::Failure;

/// The profile's name when nobody has chosen one.
const DEFAULT: &str = "default";

/// All profiles of a person.
pub(crate) struct Profiles {
    root: PathBuf,
    /// What `--profile` or MOORING_PROFILE says.
    chosen: Option<String>,
}

/// One profile, which may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) name: String,
    directory: PathBuf,
}

/// What a profile knows beside its certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where the catalog is.
    pub(crate) endpoint: String,
    /// Who is logged in, as `users/{user}`.
    pub(crate) user: String,
}

impl Profiles {
    /// The profiles below MOORING_CONFIG_DIR, or where XDG puts them.
    pub(crate) fn open(chosen: Option<String>) -> Result<Self, Failure> {
        let directory = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = directory("MOORING_CONFIG_DIR")
            .or_else(|| directory("XDG_CONFIG_HOME").map(|path| path.join("mooring")))
            .or_else(|| directory("HOME").map(|path| path.join(".config/mooring")))
            .ok_or_else(|| Failure::Local("there is no home directory; set MOORING_CONFIG_DIR".to_owned()))?;
        Ok(Self { root, chosen })
    }

    /// The profile in use: the one chosen for this call, else the current one.
    pub(crate) fn in_use(&self) -> Result<Profile, Failure> {
        match (&self.chosen, self.current()?) {
            (Some(name), _) => self.named(name),
            (None, Some(name)) => self.named(&name),
            (None, None) => self.named(DEFAULT),
        }
    }

    /// A profile by its name.
    pub(crate) fn named(&self, name: &str) -> Result<Profile, Failure> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(good) {
            return Err(Failure::Usage(format!(
                "`{name}` cannot be a profile's name; use up to 64 letters, digits, dots, dashes and underscores"
            )));
        }
        Ok(Profile {
            name: name.to_owned(),
            directory: self.root.join("profiles").join(name),
        })
    }

    /// The name of the current profile, if one was made current.
    pub(crate) fn current(&self) -> Result<Option<String>, Failure> {
        Ok(files::read_public(&self.root.join("current"))?.map(|name| name.trim().to_owned()))
    }

    /// Makes a profile the current one.
    pub(crate) fn make_current(&self, profile: &Profile) -> Result<(), Failure> {
        let text = format!("{}\n", profile.name);
        Ok(files::write_atomic(
            &self.root.join("current"),
            text.as_bytes(),
            files::PUBLIC,
        )?)
    }

    /// All profiles, by name.
    pub(crate) fn all(&self) -> Result<Vec<Profile>, Failure> {
        let directory = self.root.join("profiles");
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(Failure::Local(format!(
                    "cannot read {}: {error}",
                    directory.display()
                )));
            }
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
            .into_iter()
            .filter_map(|name| self.named(&name).ok())
            .map(Ok)
            .collect()
    }

    /// Removes a profile: its four files and its directory, and nothing else.
    pub(crate) fn remove(&self, profile: &Profile) -> Result<(), Failure> {
        if profile.settings()?.is_none() {
            return Err(absent(profile));
        }
        for file in profile.files() {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::Local(format!(
                        "cannot remove {}: {error}",
                        file.display()
                    )));
                }
                _ => {}
            }
        }
        std::fs::remove_dir(&profile.directory).map_err(|error| {
            Failure::Local(format!("cannot remove {}: {error}", profile.directory.display()))
        })
    }
}

/// The answer when a profile that was named does not exist.
pub(crate) fn absent(profile: &Profile) -> Failure {
    Failure::LoggedOut(format!(
        "you are not logged in with profile `{}`; ask an operator for a join file, then `mooring login --join-file FILE`",
        profile.name
    ))
}

impl Profile {
    /// What it knows; `None` when it does not exist.
    pub(crate) fn settings(&self) -> Result<Option<Settings>, Failure> {
        let path = self.settings_file();
        let Some(text) = files::read_public(&path)? else {
            return Ok(None);
        };
        toml::from_str(&text)
            .map(Some)
            .map_err(|error| Failure::Local(format!("{}: {}; log in again", path.display(), error.message())))
    }

    /// Its key and certificate; `None` when it is not logged in.
    pub(crate) fn credentials(&self) -> Result<Option<Credentials>, Failure> {
        Ok(Credentials::load(&self.paths())?)
    }

    /// Writes everything; the settings last, as they are the sign of completeness.
    pub(crate) fn save(&self, settings: &Settings, credentials: &Credentials) -> Result<(), Failure> {
        files::create_private_directory(&self.directory)?;
        credentials.save(&self.paths())?;
        let text = toml::to_string(settings).expect("two strings are always TOML");
        Ok(files::write_atomic(
            &self.settings_file(),
            text.as_bytes(),
            files::PUBLIC,
        )?)
    }

    /// The key that a login works with until it has succeeded: a login that is repeated after a lost reply sends the
    /// same key, by which the catalog knows it again.
    pub(crate) fn pending_key(&self) -> Result<PathBuf, Failure> {
        files::create_private_directory(&self.directory)?;
        Ok(self.directory.join("pending-key.pem"))
    }

    /// Where the key, the certificate and the CA are.
    pub(crate) fn paths(&self) -> CredentialPaths {
        CredentialPaths {
            key: self.directory.join("key.pem"),
            certificate: self.directory.join("cert.pem"),
            ca: self.directory.join("ca.pem"),
        }
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn settings_file(&self) -> PathBuf {
        self.directory.join("profile.toml")
    }

    fn files(&self) -> [PathBuf; 5] {
        let CredentialPaths { key, certificate, ca } = self.paths();
        [
            self.settings_file(),
            certificate,
            ca,
            self.directory.join("pending-key.pem"),
            key,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(dir: &tempfile::TempDir, chosen: Option<&str>) -> Profiles {
        Profiles {
            root: dir.path().to_owned(),
            chosen: chosen.map(str::to_owned),
        }
    }

    #[test]
    fn the_chosen_profile_goes_before_the_current_one_and_that_before_the_default() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(profiles(&dir, None).in_use().unwrap().name, "default");
        let work = profiles(&dir, None).named("work").unwrap();
        profiles(&dir, None).make_current(&work).unwrap();
        assert_eq!(profiles(&dir, None).in_use().unwrap().name, "work");
        assert_eq!(profiles(&dir, Some("home")).in_use().unwrap().name, "home");
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "..", "a/b", ".hidden", "a b", "é"] {
            assert!(profiles(&dir, None).named(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_profile_is_kept_with_a_private_key_file_and_removed_whole() {
        use mooring_identity::{Clock, Principal, testing::TestAuthority};
        use std::os::unix::fs::MetadataExt;
        let clock = Clock::system();
        let ca = TestAuthority::new(clock.now());
        let user = Principal::User(clock.new_uid());
        let credentials = ca.credentials(user, std::time::Duration::from_secs(3600), clock.now());
        let dir = tempfile::tempdir().unwrap();
        let profiles = profiles(&dir, None);
        let profile = profiles.named("work").unwrap();
        let settings = Settings {
            endpoint: "https://localhost:7443".into(),
            user: "users/anna".into(),
        };
        profile.save(&settings, &credentials).unwrap();
        assert_eq!(profile.settings().unwrap().unwrap(), settings);
        assert_eq!(profile.credentials().unwrap().unwrap().principal(), Some(user));
        assert_eq!(
            std::fs::metadata(profile.paths().key).unwrap().mode() & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::metadata(profile.directory()).unwrap().mode() & 0o777,
            0o700
        );
        assert_eq!(profiles.all().unwrap().len(), 1);
        profiles.remove(&profile).unwrap();
        assert!(profiles.all().unwrap().is_empty());
    }
}
