//! What every mutation leaves behind: one audit row, and events for those who watch.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use uuid::Uuid;

/// Where a change belongs, for who may read of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The community it concerns.
    pub community: Option<Uuid>,
    /// The project it concerns.
    pub project: Option<Uuid>,
}

/// What happened to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is new.
    Created,
    /// It is different.
    Updated,
    /// It is gone.
    Deleted,
}

impl EventKind {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Updated => "UPDATED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One resource that a mutation changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The resource's name.
    pub resource: String,
    /// The resource's uid.
    pub uid: Uuid,
}

/// One mutation: who changed what. Never holds a secret value.
#[derive(Clone, Debug)]
pub struct Change {
    /// `users/{user}`, `hosts/{host}` or `catalog`.
    pub actor: String,
    /// What was called, such as `CreateConnector`.
    pub method: &'static str,
    /// Where it belongs.
    pub place: Place,
    /// What was changed: the first is what the audit names.
    pub events: Vec<Event>,
    /// What was changed in it.
    pub details: BTreeMap<&'static str, String>,
}

impl Change {
    /// A mutation of one resource.
    pub fn new(
        actor: impl ToString,
        method: &'static str,
        kind: EventKind,
        resource: impl ToString,
        uid: Uuid,
    ) -> Self {
        Self {
            actor: actor.to_string(),
            method,
            place: Place::default(),
            events: vec![Event {
                kind,
                resource: resource.to_string(),
                uid,
            }],
            details: BTreeMap::new(),
        }
    }

    /// In a project, and so in its community.
    pub fn in_project(mut self, project: Uuid, community: Uuid) -> Self {
        self.place = Place {
            community: Some(community),
            project: Some(project),
        };
        self
    }

    /// In a community.
    pub fn in_community(mut self, community: Uuid) -> Self {
        self.place.community = Some(community);
        self
    }

    /// What was changed in it. Never a secret value.
    pub fn detail(mut self, key: &'static str, value: impl ToString) -> Self {
        self.details.insert(key, value.to_string());
        self
    }

    /// Another resource that changed with it.
    pub fn also(mut self, kind: EventKind, resource: impl ToString, uid: Uuid) -> Self {
        self.events.push(Event {
            kind,
            resource: resource.to_string(),
            uid,
        });
        self
    }
}

/// One row of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Its place in the order of all changes: dense, from 1.
    pub revision: i64,
    /// When it was made.
    pub time: OffsetDateTime,
    /// Who made it.
    pub actor: String,
    /// What was called.
    pub method: String,
    /// What was changed.
    pub resource: String,
    /// The resource's uid.
    pub resource_uid: Uuid,
    /// What was changed in it.
    pub details: BTreeMap<String, String>,
}
