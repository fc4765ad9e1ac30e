//! Mounts as people see them: what hosts have reported, as far as the caller may see it.

use std::collections::HashMap;

use uuid::Uuid;

use super::Catalog;
use crate::domain::assignment::Assignment;
use crate::domain::names::{ActivationName, ConnectorName, HostName, MountName, ProjectName, Scope};
use crate::domain::{Error, Page, Paged};
use crate::policy::rules::Permission;
use crate::policy::{self, Action, Actor, Permit};
use crate::store::mount::{Of, StoredMount};
use crate::store::{self, Snapshot};

/// List mounts.
#[derive(Debug)]
pub struct ListMounts(pub MountsOf);

/// Whose mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountsOf {
    /// Those for a project.
    Project(ProjectName),
    /// Those of an activation.
    Activation(ActivationName),
    /// Those of a connector, through imports too as far as the caller may see them.
    Connector(ConnectorName),
    /// Those on a host, orphans included.
    Host(HostName),
}

impl std::fmt::Display for MountsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Project(name) => name.fmt(f),
            Self::Activation(name) => name.fmt(f),
            Self::Connector(name) => name.fmt(f),
            Self::Host(name) => name.fmt(f),
        }
    }
}

impl std::str::FromStr for MountsOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .parse()
            .map(Self::Project)
            .or_else(|_| text.parse().map(Self::Activation))
            .or_else(|_: String| text.parse().map(Self::Connector))
            .or_else(|_: String| text.parse().map(Self::Host));
        parsed.map_err(|_: String| {
            format!(
                "it is none of `{}`, `{}`, `{}` and `{}`",
                ProjectName::FORM,
                ActivationName::FORM,
                ConnectorName::FORM,
                HostName::FORM
            )
        })
    }
}

impl Action for ListMounts {
    const RPC: &'static str = "mooring.v1.ActivationService/ListMounts";

    fn scopes(&self) -> Vec<Scope> {
        match &self.0 {
            MountsOf::Project(name) => vec![Scope::Project(name.clone())],
            MountsOf::Activation(name) => vec![Scope::Project(name.project().clone())],
            MountsOf::Connector(name) => vec![Scope::Project(name.project().clone())],
            MountsOf::Host(_) => vec![Scope::Realm],
        }
    }

    fn resource(&self) -> String {
        self.0.to_string()
    }
}

/// A mount as the caller may see it.
#[derive(Clone, Debug)]
pub struct MountView {
    /// Its name.
    pub name: MountName,
    /// What the host has said.
    pub mount: StoredMount,
    /// What was ordered; `None` for an orphan. The connector's name is empty where the caller may not see it.
    pub assignment: Option<Assignment>,
}

impl Catalog {
    /// Lists what hosts have reported.
    pub async fn list_mounts(
        &self,
        permit: Permit<ListMounts>,
        page: &Page,
    ) -> Result<Paged<MountView>, Error> {
        let snapshot = self.read().await?;
        let (ListMounts(parent), actor) = permit.spend(&snapshot).await?;
        let of = resolve(&snapshot, &parent).await?;
        let Paged { items, next } = store::mount::list(&snapshot, of, page).await?;
        let uids = items.iter().map(|(mount, _)| mount.observed.assignment_uid);
        let mut assignments = store::assignment::by_uids(&snapshot, uids).await?;
        let mut sight = Sight {
            actor,
            held: HashMap::new(),
        };
        let mut views = Vec::with_capacity(items.len());
        for (mount, host) in items {
            let mut assignment = assignments.remove(&mount.observed.assignment_uid);
            let project = mount.observed.activation.parse::<ActivationName>().ok();
            if let (MountsOf::Connector(_), Some(activation)) = (&parent, &project)
                && !sight
                    .holds(&snapshot, Permission::ActivationsGet, activation.project())
                    .await?
            {
                continue;
            }
            if let Some(assignment) = &mut assignment {
                let connector: ConnectorName = assignment
                    .spec
                    .connector
                    .parse()
                    .map_err(|problem: String| Error::internal(problem))?;
                if !sight
                    .holds(&snapshot, Permission::ConnectorsGet, connector.project())
                    .await?
                {
                    assignment.spec.connector.clear();
                }
            }
            views.push(MountView {
                name: name_of(&host.name, mount.observed.assignment_uid)?,
                mount,
                assignment,
            });
        }
        Ok(Paged { items: views, next })
    }
}

/// The projects in which the caller may see something, each asked once.
struct Sight {
    actor: Actor,
    held: HashMap<(Permission, ProjectName), bool>,
}

impl Sight {
    async fn holds(
        &mut self,
        snapshot: &Snapshot,
        permission: Permission,
        project: &ProjectName,
    ) -> Result<bool, Error> {
        let key = (permission, project.clone());
        if let Some(known) = self.held.get(&key) {
            return Ok(*known);
        }
        let scope = Scope::Project(project.clone());
        let holds = policy::holds(snapshot, self.actor.uid, permission, &scope).await?;
        self.held.insert(key, holds);
        Ok(holds)
    }
}

/// A mount is named after its assignment.
fn name_of(host: &HostName, assignment_uid: Uuid) -> Result<MountName, Error> {
    let id = assignment_uid
        .to_string()
        .parse()
        .map_err(|problem: String| Error::internal(problem))?;
    Ok(MountName::new(host.clone(), id))
}

async fn resolve(snapshot: &Snapshot, parent: &MountsOf) -> Result<Of, Error> {
    let absent = || Error::absent(parent);
    match parent {
        MountsOf::Project(name) => Ok(Of::Project(store::project::get(snapshot, name).await?.meta.uid)),
        MountsOf::Activation(name) => {
            let activation = store::activation::find(snapshot, name).await?;
            Ok(Of::Activation(activation.ok_or_else(absent)?.meta.uid))
        }
        MountsOf::Connector(name) => {
            let project = store::project::get(snapshot, name.project()).await?;
            let connector = store::connector::find(snapshot, &project, name).await?;
            Ok(Of::Connector(connector.ok_or_else(absent)?.meta.uid))
        }
        MountsOf::Host(name) => {
            let host = store::host::find(snapshot, name).await?;
            Ok(Of::Host(host.ok_or_else(absent)?.meta.uid))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_list_of_mounts_is_one_of_four() {
        for text in [
            "projects/ml",
            "projects/ml/activations/a",
            "projects/ml/connectors/k",
            "hosts/h",
        ] {
            assert_eq!(text.parse::<MountsOf>().unwrap().to_string(), text);
        }
        assert!(
            "pools/p"
                .parse::<MountsOf>()
                .unwrap_err()
                .contains("hosts/{host}")
        );
    }
}
