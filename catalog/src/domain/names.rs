//! Resource names as types: who holds one holds a name of the right form. They say nothing of whether the resource
//! exists. Parsing errors are sentences that name cause and remedy; they never depend on what is stored.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The last part of a name: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`. Also the form of mount names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Box<str>);

/// Longest id: one label of a DNS name.
pub const ID_LENGTH_MAX: usize = 63;

impl Id {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id for a resource whose creator chose none: the kind's letter and the random end of its uid.
    pub fn made_of(uid: Uuid, letter: char) -> Self {
        let simple = uid.simple().to_string();
        Self(format!("{letter}{}", &simple[simple.len() - 12..]).into())
    }

    /// Makes an id of any text, such as a machine's name: what is not allowed becomes a hyphen. `None` if nothing is left.
    pub fn like(text: &str) -> Option<Self> {
        let mut id: String = text
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| {
                if c.is_ascii_lowercase() || c.is_ascii_digit() {
                    c
                } else {
                    '-'
                }
            })
            .take(ID_LENGTH_MAX)
            .collect();
        id = id.trim_matches('-').to_owned();
        id.parse().ok()
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let problem = if text.is_empty() {
            "it is empty"
        } else if text.len() > ID_LENGTH_MAX {
            "it is longer than 63 characters"
        } else if !text.chars().all(good) {
            "it has characters other than lower case letters, digits and hyphens"
        } else if text.starts_with('-') || text.ends_with('-') {
            "it begins or ends with a hyphen"
        } else {
            return Ok(Self(text.into()));
        };
        Err(format!(
            "{problem}; use 1 to 63 lower case letters, digits and hyphens, such as `my-data`"
        ))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Cuts `collection/id/collection/id` into its ids, if the collections are the expected ones.
fn cut<'a, const N: usize>(text: &'a str, collections: [&str; N]) -> Option<[&'a str; N]> {
    let mut parts = text.split('/');
    let mut ids = [""; N];
    for (id, collection) in ids.iter_mut().zip(collections) {
        if parts.next()? != collection {
            return None;
        }
        *id = parts.next()?;
    }
    parts.next().is_none().then_some(ids)
}

fn not_of_the_form(form: &str, text: &str) -> String {
    if text.is_empty() {
        return format!("it is missing; give a name of the form `{form}`");
    }
    format!("it is not a name of the form `{form}`")
}

macro_rules! top_level_name {
    ($(#[$doc:meta])* $name:ident, $collection:literal, $form:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Id);

        impl $name {
            /// The form of the name, as people read it.
            pub const FORM: &str = $form;

            /// The name with this id.
            pub fn new(id: Id) -> Self {
                Self(id)
            }

            /// The last part.
            pub fn id(&self) -> &Id {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($collection, "/{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let [id] = cut(text, [$collection]).ok_or_else(|| not_of_the_form($form, text))?;
                Ok(Self(id.parse()?))
            }
        }
    };
}

macro_rules! child_name {
    ($(#[$doc:meta])* $name:ident, $parent_type:ident, $parent:ident, $parents:literal, $collection:literal, $form:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            $parent: $parent_type,
            id: Id,
        }

        impl $name {
            /// The form of the name, as people read it.
            pub const FORM: &str = $form;

            /// The name with this parent and id.
            pub fn new($parent: $parent_type, id: Id) -> Self {
                Self { $parent, id }
            }

            /// What it belongs to.
            pub fn $parent(&self) -> &$parent_type {
                &self.$parent
            }

            /// The last part.
            pub fn id(&self) -> &Id {
                &self.id
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}/", $collection, "/{}"), self.$parent, self.id)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let [parent, id] =
                    cut(text, [$parents, $collection]).ok_or_else(|| not_of_the_form($form, text))?;
                Ok(Self { $parent: $parent_type(parent.parse()?), id: id.parse()? })
            }
        }
    };
}

top_level_name!(
    /// `communities/{community}`.
    CommunityName, "communities", "communities/{community}"
);
top_level_name!(
    /// `projects/{project}`.
    ProjectName, "projects", "projects/{project}"
);
top_level_name!(
    /// `users/{user}`.
    UserName, "users", "users/{user}"
);
top_level_name!(
    /// `pools/{pool}`.
    PoolName, "pools", "pools/{pool}"
);
top_level_name!(
    /// `hosts/{host}`.
    HostName, "hosts", "hosts/{host}"
);
child_name!(
    /// `projects/{project}/secrets/{secret}`.
    SecretName, ProjectName, project, "projects", "secrets", "projects/{project}/secrets/{secret}"
);
child_name!(
    /// `projects/{project}/connectors/{connector}`.
    ConnectorName, ProjectName, project, "projects", "connectors", "projects/{project}/connectors/{connector}"
);
child_name!(
    /// `communities/{community}/publications/{publication}`.
    PublicationName, CommunityName, community, "communities", "publications",
    "communities/{community}/publications/{publication}"
);
child_name!(
    /// `projects/{project}/imports/{import}`.
    ImportName, ProjectName, project, "projects", "imports", "projects/{project}/imports/{import}"
);
child_name!(
    /// `projects/{project}/activations/{activation}`.
    ActivationName, ProjectName, project, "projects", "activations", "projects/{project}/activations/{activation}"
);
child_name!(
    /// `hosts/{host}/mounts/{mount}`.
    MountName, HostName, host, "hosts", "mounts", "hosts/{host}/mounts/{mount}"
);

/// `projects/{project}/secrets/{secret}/versions/{version}`, numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretVersionName {
    secret: SecretName,
    number: i64,
}

impl SecretVersionName {
    /// The form of the name, as people read it.
    pub const FORM: &str = "projects/{project}/secrets/{secret}/versions/{version}";

    /// The name of this version of a secret.
    pub fn new(secret: SecretName, number: i64) -> Self {
        Self { secret, number }
    }

    /// The secret.
    pub fn secret(&self) -> &SecretName {
        &self.secret
    }

    /// The version's number.
    pub fn number(&self) -> i64 {
        self.number
    }
}

impl fmt::Display for SecretVersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/versions/{}", self.secret, self.number)
    }
}

impl FromStr for SecretVersionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [project, secret, version] = cut(text, ["projects", "secrets", "versions"])
            .ok_or_else(|| not_of_the_form(Self::FORM, text))?;
        let canonical = !version.starts_with('0') && version.bytes().all(|b| b.is_ascii_digit());
        let number = version.parse::<i64>().ok().filter(|_| canonical);
        let number = number.ok_or("a version is a number from 1; see `mooring secrets list-versions`")?;
        Ok(Self {
            secret: SecretName::new(ProjectName(project.parse()?), secret.parse()?),
            number,
        })
    }
}

/// `joinTokens/{join_token}`; the id is the token's uid and says nothing of the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JoinTokenName(Uuid);

impl JoinTokenName {
    /// The form of the name, as people read it.
    pub const FORM: &str = "joinTokens/{join_token}";

    /// The name of the token with this uid.
    pub fn new(uid: Uuid) -> Self {
        Self(uid)
    }

    /// The token's uid.
    pub fn uid(&self) -> Uuid {
        self.0
    }
}

impl fmt::Display for JoinTokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "joinTokens/{}", self.0)
    }
}

impl FromStr for JoinTokenName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [id] = cut(text, ["joinTokens"]).ok_or_else(|| not_of_the_form(Self::FORM, text))?;
        let uid = Uuid::try_parse(id).map_err(|_| not_of_the_form(Self::FORM, text))?;
        Ok(Self(uid))
    }
}

/// Where roles are given, and on what permissions are judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The whole installation.
    Realm,
    /// A community.
    Community(CommunityName),
    /// A project.
    Project(ProjectName),
}

impl Scope {
    /// The scope that rules over the resource with this name, such as the project of a connector. Pools, hosts, users
    /// and join tokens belong to the realm.
    pub fn of_resource(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next()) {
            (Some("projects"), Some(id)) => Ok(Self::Project(ProjectName(id.parse()?))),
            (Some("communities"), Some(id)) => Ok(Self::Community(CommunityName(id.parse()?))),
            (Some("users" | "pools" | "hosts" | "joinTokens"), Some(_)) | (Some("realm"), None) => {
                Ok(Self::Realm)
            }
            _ => Err("it names no resource; give a name such as `projects/ml`, or `realm`".into()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Realm => f.write_str("realm"),
            Self::Community(name) => name.fmt(f),
            Self::Project(name) => name.fmt(f),
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "realm" {
            return Ok(Self::Realm);
        }
        if let Some([id]) = cut(text, ["projects"]) {
            return Ok(Self::Project(ProjectName(id.parse()?)));
        }
        if let Some([id]) = cut(text, ["communities"]) {
            return Ok(Self::Community(CommunityName(id.parse()?)));
        }
        Err("it is none of `projects/{project}`, `communities/{community}` and `realm`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_what_they_write() {
        fn check<T: FromStr<Err = String> + fmt::Display>(text: &str) {
            assert_eq!(
                text.parse::<T>().map(|name| name.to_string()),
                Ok(text.to_owned())
            );
        }
        check::<CommunityName>("communities/research");
        check::<ConnectorName>("projects/ml/connectors/reports");
        check::<PublicationName>("communities/c/publications/p");
        check::<SecretVersionName>("projects/ml/secrets/s/versions/12");
        check::<JoinTokenName>("joinTokens/0190f0f0-0000-7000-8000-000000000001");
        check::<Scope>("realm");
        check::<Scope>("projects/ml");
    }

    #[test]
    fn hostile_and_sloppy_names_are_refused_with_a_remedy() {
        for text in [
            "",
            "ml",
            "projects",
            "projects/",
            "projects/ml/",
            "projects/ML",
            "projects/../x",
            "projects/-a",
            "projects/a-",
            "projects/a\0b",
            "projects/ä",
            "communities/ml",
            "projects/ml/secrets/x",
            &format!("projects/{}", "a".repeat(64)),
        ] {
            let problem = text.parse::<ProjectName>().unwrap_err();
            assert!(
                problem.contains(';') || problem.contains("form"),
                "{text}: {problem}"
            );
        }
        assert!(
            "projects/ml/secrets/s/versions/01"
                .parse::<SecretVersionName>()
                .is_err()
        );
        assert!(
            "projects/ml/secrets/s/versions/0"
                .parse::<SecretVersionName>()
                .is_err()
        );
        assert!(
            "projects/ml/secrets/s/versions/+1"
                .parse::<SecretVersionName>()
                .is_err()
        );
    }

    #[test]
    fn ids_are_made_of_machine_names() {
        assert_eq!(
            Id::like("GPU_1.example.com").map(|id| id.to_string()),
            Some("gpu-1-example-com".into())
        );
        assert_eq!(Id::like("--"), None);
        let uid = Uuid::from_u128(0x0190_f0f0_0000_7000_8000_0123_4567_89ab);
        assert_eq!(Id::made_of(uid, 'p').as_str(), "p0123456789ab");
    }

    #[test]
    fn the_scope_of_a_resource_is_what_owns_it() {
        assert_eq!(
            Scope::of_resource("projects/ml/connectors/x")
                .unwrap()
                .to_string(),
            "projects/ml"
        );
        assert_eq!(
            Scope::of_resource("communities/c/publications/x")
                .unwrap()
                .to_string(),
            "communities/c"
        );
        assert_eq!(Scope::of_resource("hosts/h").unwrap(), Scope::Realm);
        assert!(Scope::of_resource("buckets/b").is_err());
    }
}
