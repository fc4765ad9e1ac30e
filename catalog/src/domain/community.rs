//! Communities: circles of projects with members of their own.

use super::names::CommunityName;
use super::{Meta, Texts, TextsChange};

/// A circle of projects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Community {
    /// Its name.
    pub name: CommunityName,
    /// What every resource has.
    pub meta: Meta,
}

/// A community to create.
#[derive(Clone, Debug)]
pub struct NewCommunity {
    /// What people say of it.
    pub texts: Texts,
}

/// A change of a community.
#[derive(Clone, Debug, Default)]
pub struct CommunityChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// The state it was made from.
    pub etag: String,
}
