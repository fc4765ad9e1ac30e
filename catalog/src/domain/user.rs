//! Users: people and programs that call the API.

use time::OffsetDateTime;

use super::names::UserName;
use super::{Meta, Texts, TextsChange};

/// A person or a program that calls the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: UserName,
    /// What every resource has.
    pub meta: Meta,
    /// Whether it may call.
    pub state: UserState,
    /// When it last enrolled by a join token; `None` if it never did.
    pub login_time: Option<OffsetDateTime>,
}

/// Whether a user may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UserState {
    /// May call.
    Enabled,
    /// Every call is refused.
    Disabled,
}

impl UserState {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
        }
    }

    /// Reads what [`UserState::as_str`] wrote.
    pub fn from_name(text: &str) -> Option<Self> {
        [Self::Enabled, Self::Disabled]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// A user to create.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// What people say of it.
    pub texts: Texts,
}

/// A change of a user.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// The state it was made from.
    pub etag: String,
}
