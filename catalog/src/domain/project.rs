//! Projects: owners of secrets, connectors, imports and activations; each in exactly one community.

use uuid::Uuid;

use super::names::{CommunityName, ProjectName};
use super::{Meta, Texts, TextsChange};

/// An owner of secrets, connectors, imports and activations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its name.
    pub name: ProjectName,
    /// What every resource has.
    pub meta: Meta,
    /// The community it belongs to.
    pub community: CommunityName,
    /// The community's uid.
    pub community_uid: Uuid,
}

/// A project to create.
#[derive(Clone, Debug)]
pub struct NewProject {
    /// What people say of it.
    pub texts: Texts,
}

/// A change of a project.
#[derive(Clone, Debug, Default)]
pub struct ProjectChange {
    /// What people say of it.
    pub texts: TextsChange,
    /// The state it was made from.
    pub etag: String,
}
