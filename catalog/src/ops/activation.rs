//! Activations: wishes that developers of a project make and end. What hosts make of them is told with every answer.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::assignment::{Resolved, missing_key};
use super::{Answer, Catalog, Once};
use crate::domain::activation::{
    Activation, ActivationState, HostPart, NewActivation, Outlook, Target, default_id, outlook_of_ended,
    outlook_of_live, told_of_cordoned, told_of_withdrawal,
};
use crate::domain::assignment::RemovalOrder;
use crate::domain::audit::{Change, EventKind};
use crate::domain::host::HostState;
use crate::domain::import::checked_mode;
use crate::domain::names::{ActivationName, ProjectName, Scope};
use crate::domain::project::Project;
use crate::domain::publication::Publication;
use crate::domain::{Error, Id, Meta, Mode, Page, Paged, Texts};
use crate::policy::{Action, Permit};
use crate::store::{self, Snapshot};

macro_rules! activation_action {
    ($(#[$doc:meta])* $action:ident($target:ty), $rpc:literal, $project:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action(pub $target);

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.ActivationService/", $rpc);

            fn scopes(&self) -> Vec<Scope> {
                let project: fn(&$target) -> &ProjectName = $project;
                vec![Scope::Project(project(&self.0).clone())]
            }
        }
    };
}

activation_action!(
    /// Activate something for this project.
    Activate(ProjectName), "Activate", |project| project
);
activation_action!(
    /// End an activation.
    Deactivate(ActivationName), "Deactivate", ActivationName::project
);
activation_action!(
    /// Read an activation.
    GetActivation(ActivationName), "GetActivation", ActivationName::project
);
activation_action!(
    /// List a project's activations.
    ListActivations(ProjectName), "ListActivations", |project| project
);

/// An activation and how far the hosts are.
#[derive(Clone, Debug)]
pub struct ActivationView {
    /// The activation.
    pub activation: Activation,
    /// What is mounted in the end; `None` when the target is gone.
    pub mode: Option<Mode>,
    /// Folder below the hosts' mount root; empty when the target is gone.
    pub mount_path: String,
    /// How far the hosts are.
    pub outlook: Outlook,
}

impl Catalog {
    /// Activates a connector or an import on a pool that admits the project.
    pub async fn activate(
        &self,
        permit: Permit<Activate>,
        id: Option<Id>,
        new: NewActivation,
        once: Once<ActivationView>,
    ) -> Result<Answer<ActivationView>, Error> {
        let writing = self.write().await?;
        let (Activate(project), actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let project = store::project::get(&writing, &project).await?;
        let NewActivation {
            target,
            pool: pool_name,
            mode,
        } = new;
        let (target_uid, resolved) = find_target(&writing, &project, &target).await?;
        checked_mode(mode, resolved.mode(None), "what the target allows")
            .map_err(|problem| Error::invalid("mode", problem))?;
        // A pool that is hidden and one that does not exist read the same: only operators see them all.
        let pool = store::pool::find(&writing, &pool_name).await?;
        let pool = pool.filter(|pool| pool.admission.admits(&project.name)).ok_or_else(|| Error::Precondition {
            reason: "PoolDoesNotAdmitProject",
            subject: pool_name.to_string(),
            problem: format!(
                "{pool_name} does not exist or does not admit {}; ask an operator to run: mooring pools update {} \
                 --add-admitted-projects {}",
                project.name,
                pool_name.id(),
                project.name.id()
            ),
        })?;
        self.check_free(&writing, &target, target_uid, pool.meta.uid)
            .await?;
        let name = ActivationName::new(
            project.name.clone(),
            id.unwrap_or_else(|| default_id(&target, &pool.name)),
        );
        self.make_room(&writing, &name).await?;
        let uid = self.clock.new_uid();
        let activation = Activation {
            name,
            meta: Meta::new(uid, Texts::default(), actor.name.to_string(), writing.now()),
            project_uid: project.meta.uid,
            target,
            target_uid,
            connector_uid: resolved.connector.meta.uid,
            publication_uid: resolved
                .through
                .as_ref()
                .map(|(_, publication)| publication.meta.uid),
            pool: pool.name,
            pool_uid: pool.meta.uid,
            asked_mode: mode,
            end_time: None,
        };
        store::activation::insert(&writing, &activation).await?;
        self.assign(&writing, &activation).await?;
        let change = Change::new(&actor.name, "Activate", EventKind::Created, &activation.name, uid)
            .in_project(project.meta.uid, project.community_uid)
            .detail("target", &activation.target)
            .detail("pool", &activation.pool);
        let view = self.activation_view(&writing, activation).await?;
        once.keep(&writing, &actor, &view).await?;
        writing.commit(change).await?;
        Ok(Answer::New(view))
    }

    /// Ends an activation; one that has ended is answered as it is. Hosts wait `grace` for open files.
    pub async fn deactivate(
        &self,
        permit: Permit<Deactivate>,
        grace: Duration,
    ) -> Result<ActivationView, Error> {
        let writing = self.write().await?;
        let (Deactivate(name), actor) = permit.spend(&writing).await?;
        let project = store::project::get(&writing, name.project()).await?;
        let mut activation = find(&writing, &name).await?;
        if activation.end_time.is_some() {
            return self.activation_view(&writing, activation).await;
        }
        let removal = RemovalOrder {
            reason: RemovalOrder::DEACTIVATED,
            grace,
        };
        self.end_activation(&writing, &mut activation, &removal).await?;
        let change = Change::new(
            &actor.name,
            "Deactivate",
            EventKind::Updated,
            &name,
            activation.meta.uid,
        )
        .in_project(project.meta.uid, project.community_uid)
        .detail("grace_seconds", grace.as_secs());
        let view = self.activation_view(&writing, activation).await?;
        writing.commit(change).await?;
        Ok(view)
    }

    /// Reads an activation and how far its hosts are.
    pub async fn get_activation(&self, permit: Permit<GetActivation>) -> Result<ActivationView, Error> {
        let snapshot = self.read().await?;
        let (GetActivation(name), _) = permit.spend(&snapshot).await?;
        let activation = find(&snapshot, &name).await?;
        self.activation_view(&snapshot, activation).await
    }

    /// Lists a project's activations; those that are over only with `show_inactive`.
    pub async fn list_activations(
        &self,
        permit: Permit<ListActivations>,
        show_inactive: bool,
        page: &Page,
    ) -> Result<Paged<ActivationView>, Error> {
        let snapshot = self.read().await?;
        let (ListActivations(project), _) = permit.spend(&snapshot).await?;
        let project = store::project::get(&snapshot, &project).await?;
        let Paged { items, next } =
            store::activation::list(&snapshot, project.meta.uid, show_inactive, page).await?;
        Ok(Paged {
            items: self.activation_views(&snapshot, items).await?,
            next,
        })
    }

    /// Names of the activations of a target that are live or still being unmounted somewhere.
    pub(super) async fn standing_activations(
        &self,
        snapshot: &Snapshot,
        target_uid: Uuid,
    ) -> Result<Vec<ActivationName>, Error> {
        let activations = store::activation::of_target(snapshot, target_uid).await?;
        let views = self.activation_views(snapshot, activations).await?;
        let standing = views
            .into_iter()
            .filter(|view| view.outlook.state != ActivationState::Inactive);
        Ok(standing.map(|view| view.activation.name).collect())
    }

    /// One live activation per target and pool, and none while hosts still unmount the one before: both would be at the
    /// same folder.
    async fn check_free(
        &self,
        snapshot: &Snapshot,
        target: &Target,
        target_uid: Uuid,
        pool_uid: Uuid,
    ) -> Result<(), Error> {
        let before = store::activation::of_target_and_pool(snapshot, target_uid, pool_uid).await?;
        for view in self.activation_views(snapshot, before).await? {
            let name = &view.activation.name;
            let (reason, problem) = match view.outlook.state {
                ActivationState::Inactive => continue,
                ActivationState::Deactivating => (
                    "StillUnmounting",
                    format!(
                        "{name} of {target} is still being unmounted there ({}); try again when it is INACTIVE",
                        view.outlook.message
                    ),
                ),
                ActivationState::Pending
                | ActivationState::Active
                | ActivationState::Degraded
                | ActivationState::Failed => (
                    "AlreadyActive",
                    format!("{target} is active there already, as {name}; deactivate that first, or use it"),
                ),
            };
            return Err(Error::Precondition {
                reason,
                subject: name.to_string(),
                problem,
            });
        }
        Ok(())
    }

    /// The name of an activation that is over is free again.
    async fn make_room(&self, writing: &store::Writing, name: &ActivationName) -> Result<(), Error> {
        let Some(before) = store::activation::find(writing, name).await? else {
            return Ok(());
        };
        let view = self.activation_view(writing, before).await?;
        match view.outlook.state {
            ActivationState::Inactive => store::activation::delete(writing, view.activation.meta.uid).await,
            ActivationState::Deactivating => Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "is still being unmounted; wait until it is INACTIVE, or choose another id",
            }),
            ActivationState::Pending
            | ActivationState::Active
            | ActivationState::Degraded
            | ActivationState::Failed => Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "exists already; choose another id",
            }),
        }
    }

    async fn activation_view(
        &self,
        snapshot: &Snapshot,
        activation: Activation,
    ) -> Result<ActivationView, Error> {
        let mut views = self.activation_views(snapshot, vec![activation]).await?;
        views
            .pop()
            .ok_or_else(|| Error::internal("an activation has lost its view"))
    }

    async fn activation_views(
        &self,
        snapshot: &Snapshot,
        activations: Vec<Activation>,
    ) -> Result<Vec<ActivationView>, Error> {
        let mut parts = self.host_parts(snapshot, &activations).await?;
        let cordoned = cordoned(snapshot, &activations).await?;
        let mut views = Vec::with_capacity(activations.len());
        for activation in activations {
            let mut parts = parts.remove(&activation.meta.uid).unwrap_or_default();
            let resolved = Resolved::of(snapshot, &activation).await?;
            let ended = activation.end_time.is_some();
            let outlook = if ended {
                outlook_of_ended(&parts)
            } else {
                if let Some(resolved) = &resolved {
                    let missing = missing_key(snapshot, &resolved.connector).await?;
                    parts
                        .iter_mut()
                        .for_each(|part| part.credential_missing.clone_from(&missing));
                }
                let outlook = outlook_of_live(activation.pool.id().as_str(), &parts);
                let closed = cordoned.get(&activation.pool_uid).map_or(&[][..], Vec::as_slice);
                told_of_cordoned(outlook, &parts, closed)
            };
            let outlook = match publication_of(snapshot, &activation, resolved.as_ref()).await? {
                Some(publication) => told_of_withdrawal(outlook, &publication, ended),
                None => outlook,
            };
            let project = activation.name.project().id();
            views.push(ActivationView {
                mode: resolved
                    .as_ref()
                    .map(|resolved| resolved.mode(activation.asked_mode)),
                mount_path: resolved
                    .as_ref()
                    .map(|resolved| format!("{project}/{}", resolved.mount_name()))
                    .unwrap_or_default(),
                outlook,
                activation,
            });
        }
        Ok(views)
    }

    /// What hosts make of activations: of live ones what they shall have, of ended ones what they still have to undo.
    async fn host_parts(
        &self,
        snapshot: &Snapshot,
        activations: &[Activation],
    ) -> Result<BTreeMap<Uuid, Vec<HostPart>>, Error> {
        let uids: Vec<Uuid> = activations.iter().map(|activation| activation.meta.uid).collect();
        let live: std::collections::BTreeSet<Uuid> = activations
            .iter()
            .filter(|activation| activation.end_time.is_none())
            .map(|activation| activation.meta.uid)
            .collect();
        let mut parts: BTreeMap<Uuid, Vec<HostPart>> = BTreeMap::new();
        for part in store::mount::parts_of(snapshot, &uids).await? {
            if part.is_removal && live.contains(&part.activation_uid) {
                // Its host is drained or banned and has no part in it any more.
                continue;
            }
            // It has at least this one.
            let host_state = part.duty.state(snapshot.now(), self.settings.host_lost_after, 1);
            parts.entry(part.activation_uid).or_default().push(HostPart {
                host: part.host.to_string(),
                host_state,
                generation: part.generation,
                credential_missing: None,
                report: part.report,
            });
        }
        for of_one in parts.values_mut() {
            of_one.sort_by(|a, b| a.host.cmp(&b.host));
        }
        Ok(parts)
    }

    /// How a host with so many mounts is, at the time of the transaction.
    pub(super) fn host_state(
        &self,
        snapshot: &Snapshot,
        host: &crate::domain::host::Host,
        mounts: i32,
    ) -> HostState {
        host.state(snapshot.now(), self.settings.host_lost_after, mounts)
    }
}

/// Hosts that take no new mounts and are no less members, by the pools of live activations.
async fn cordoned(
    snapshot: &Snapshot,
    activations: &[Activation],
) -> Result<BTreeMap<Uuid, Vec<String>>, Error> {
    let live = activations
        .iter()
        .filter(|activation| activation.end_time.is_none());
    let pools: std::collections::BTreeSet<Uuid> = live.map(|activation| activation.pool_uid).collect();
    let mut cordoned = BTreeMap::new();
    for pool in pools {
        let hosts = store::host::cordoned_of_pool(snapshot, pool).await?;
        let names = hosts.into_iter().map(|host| host.name.to_string());
        cordoned.insert(pool, names.collect());
    }
    Ok(cordoned)
}

/// The publication behind an activation; also when its connector is gone, which an ended one survives.
async fn publication_of(
    snapshot: &Snapshot,
    activation: &Activation,
    resolved: Option<&Resolved>,
) -> Result<Option<Publication>, Error> {
    match (
        resolved.map(|resolved| &resolved.through),
        activation.publication_uid,
    ) {
        (Some(through), _) => Ok(through.as_ref().map(|(_, publication)| publication.clone())),
        (None, Some(uid)) => store::publication::by_uid(snapshot, uid).await,
        (None, None) => Ok(None),
    }
}

async fn find(snapshot: &Snapshot, name: &ActivationName) -> Result<Activation, Error> {
    store::activation::find(snapshot, name)
        .await?
        .ok_or_else(|| Error::absent(name))
}

/// The target of a new activation: a connector or an import of the same project, which may be activated now.
async fn find_target(
    snapshot: &Snapshot,
    project: &Project,
    target: &Target,
) -> Result<(Uuid, Resolved), Error> {
    let elsewhere = |field: &str| {
        let problem = format!(
            "it belongs to another project than {}; publish it in the project's community, import it and activate the import",
            project.name
        );
        Error::invalid(field, problem)
    };
    match target {
        Target::Connector(name) => {
            if name.project() != &project.name {
                return Err(elsewhere("connector"));
            }
            let connector = store::connector::find(snapshot, project, name).await?;
            let connector = connector.ok_or_else(|| Error::absent(name))?;
            Ok((
                connector.meta.uid,
                Resolved {
                    connector,
                    through: None,
                },
            ))
        }
        Target::Import(name) => {
            if name.project() != &project.name {
                return Err(elsewhere("import"));
            }
            let import = store::import::find(snapshot, name)
                .await?
                .ok_or_else(|| Error::absent(name))?;
            let publication = store::publication::by_uid(snapshot, import.publication_uid).await?;
            let publication =
                publication.ok_or_else(|| Error::internal(format!("{name} has no publication")))?;
            let connector = store::connector::by_uid(snapshot, publication.connector_uid).await?;
            let connector = connector.filter(|_| publication.state.is_open()).ok_or_else(|| Error::Precondition {
                reason: "PublicationWithdrawn",
                subject: publication.name.to_string(),
                problem: format!(
                    "{} is withdrawn, so {name} cannot be activated; ask the publisher, or delete the import",
                    publication.name
                ),
            })?;
            Ok((
                import.meta.uid,
                Resolved {
                    connector,
                    through: Some((import, publication)),
                },
            ))
        }
    }
}
