//! Roles: what contains what, what is inherited, and who must remain. Pure; the table of what a role allows is
//! `policy/rules.rs`.

use std::fmt;
use std::str::FromStr;

use super::names::{Scope, UserName};

/// Each role allows all that the ones before it allow. `Operator` stands alone: it exists on the realm only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Sees resources; secrets by name only.
    Viewer,
    /// Creates, changes and activates connectors and secrets.
    Developer,
    /// Publishes, imports, edits the project or community.
    Editor,
    /// Grants roles.
    Admin,
    /// Runs the installation.
    Operator,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 5] = [
        Self::Viewer,
        Self::Developer,
        Self::Editor,
        Self::Admin,
        Self::Operator,
    ];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "VIEWER",
            Self::Developer => "DEVELOPER",
            Self::Editor => "EDITOR",
            Self::Admin => "ADMIN",
            Self::Operator => "OPERATOR",
        }
    }

    /// Reads what [`Role::as_str`] wrote.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether it can be given on this scope.
    pub fn fits(self, scope: &Scope) -> bool {
        match scope {
            Scope::Realm => self == Self::Operator,
            Scope::Community(_) | Scope::Project(_) => self != Self::Operator,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a role is given to. Groups will be a second kind; until then a member is a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member(pub UserName);

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user:{}", self.0.id())
    }
}

impl FromStr for Member {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = text
            .strip_prefix("user:")
            .ok_or("it does not begin with `user:`; write members as `user:anna`")?;
        Ok(Self(UserName::new(id.parse()?)))
    }
}

/// A role given to a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Binding {
    /// Who has it.
    pub member: Member,
    /// The role.
    pub role: Role,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.member, self.role.as_str().to_ascii_lowercase())
    }
}

/// What one user is on one scope: directly, and through the community of the project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The greatest role given on the scope itself.
    pub direct: Option<Role>,
    /// The greatest role in the project's community; `None` for other scopes.
    pub community: Option<Role>,
}

impl Standing {
    /// The role that counts: a community's Viewer, Editor or Admin has that role in every project of it; a
    /// community's Developer does not, because it only says who may create projects and publish.
    pub fn role(self) -> Option<Role> {
        self.direct.max(self.community.and_then(inherited))
    }
}

/// What a role in a community is in its projects.
pub fn inherited(role: Role) -> Option<Role> {
    match role {
        Role::Viewer | Role::Editor | Role::Admin => Some(role),
        Role::Developer | Role::Operator => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_editors_and_admins_of_a_community_are_that_in_its_projects_and_developers_are_not() {
        let of = |direct, community| Standing { direct, community }.role();
        assert_eq!(of(None, Some(Role::Viewer)), Some(Role::Viewer));
        assert_eq!(of(None, Some(Role::Developer)), None);
        assert_eq!(of(None, Some(Role::Editor)), Some(Role::Editor));
        assert_eq!(
            of(Some(Role::Developer), Some(Role::Viewer)),
            Some(Role::Developer)
        );
        assert_eq!(of(Some(Role::Viewer), Some(Role::Admin)), Some(Role::Admin));
        assert_eq!(of(None, None), None);
    }

    #[test]
    fn operator_exists_on_the_realm_only() {
        assert!(Role::Operator.fits(&Scope::Realm));
        assert!(!Role::Admin.fits(&Scope::Realm));
        assert!(!Role::Operator.fits(&"projects/ml".parse().unwrap()));
    }

    #[test]
    fn members_are_written_with_their_kind() {
        assert_eq!("user:anna".parse::<Member>().unwrap().to_string(), "user:anna");
        assert!("anna".parse::<Member>().unwrap_err().contains("user:anna"));
        assert!("user:".parse::<Member>().is_err());
    }
}
