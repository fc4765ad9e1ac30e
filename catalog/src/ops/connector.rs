//! Connectors: created with or without their secret, changed with care for what is published or mounted, deleted
//! when nothing is.

use super::{Answer, Catalog, Once, field_list};
use crate::domain::audit::{Change, EventKind};
use crate::domain::connector::{
    Connector, ConnectorChange, Impact, NewConnector, NewConnectorSecret, SecretRef, Spec,
};
use crate::domain::names::{ConnectorName, ProjectName, Scope};
use crate::domain::project::Project;
use crate::domain::secret::{CompanionSecret, NewSecret};
use crate::domain::{Error, Id, Meta, Page, Paged};
use crate::policy::rules::Permission;
use crate::policy::{self, Action, Permit};
use crate::store::{self, Snapshot, Writing};

mod rules;
mod users;
mod view;

use rules::{changed_fields, changed_spec, check, secret_in};
pub use view::ConnectorView;
use view::{view, views};

macro_rules! connector_action {
    ($(#[$doc:meta])* $action:ident($target:ty), $project:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action(pub $target);

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.ConnectorService/", stringify!($action));

            fn scopes(&self) -> Vec<Scope> {
                let project: fn(&$target) -> &ProjectName = $project;
                vec![Scope::Project(project(&self.0).clone())]
            }
        }
    };
}

connector_action!(
    /// Create a connector in this project.
    CreateConnector(ProjectName), |project| project
);
connector_action!(
    /// Read a connector.
    GetConnector(ConnectorName), ConnectorName::project
);
connector_action!(
    /// List a project's connectors.
    ListConnectors(ProjectName), |project| project
);
connector_action!(
    /// Change a connector.
    UpdateConnector(ConnectorName), ConnectorName::project
);
connector_action!(
    /// Delete a connector.
    DeleteConnector(ConnectorName), ConnectorName::project
);

impl Catalog {
    /// Creates a connector, and its secret if one comes with it: both or neither.
    pub async fn create_connector(
        &self,
        permit: Permit<CreateConnector>,
        id: Option<Id>,
        new: NewConnector,
        once: Once<ConnectorView>,
    ) -> Result<Answer<ConnectorView>, Error> {
        let writing = self.write().await?;
        let (CreateConnector(project), actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let project = store::project::get(&writing, &project).await?;
        let uid = self.clock.new_uid();
        let id = id.unwrap_or_else(|| Id::made_of(uid, 'k'));
        let name = ConnectorName::new(project.name.clone(), id.clone());
        if store::connector::find(&writing, &project, &name).await?.is_some() {
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "exists already; choose another id",
            });
        }
        let NewConnector {
            texts,
            endpoint,
            region,
            bucket,
            prefix,
            mount_name,
            access_key_id,
            secret,
            mode,
            backend,
            virtual_host_style,
            cache_size,
        } = new;
        let mut change = Change::new(&actor.name, "CreateConnector", EventKind::Created, &name, uid)
            .in_project(project.meta.uid, project.community_uid);
        let (secret, secret_version) = match secret {
            NewConnectorSecret::None => (None, None),
            NewConnectorSecret::Existing(name, version) => {
                (Some(secret_in(&writing, &project, &name).await?), version)
            }
            NewConnectorSecret::Companion(CompanionSecret {
                id: secret_id,
                texts,
                value,
            }) => {
                policy::require(
                    &writing,
                    &actor,
                    Permission::SecretsCreate,
                    &Scope::Project(project.name.clone()),
                )
                .await?;
                let new = NewSecret {
                    texts,
                    allowed_targets: Vec::new(),
                    value,
                };
                let secret = self
                    .add_secret(
                        &writing,
                        &project,
                        Some(secret_id.unwrap_or(id.clone())),
                        new,
                        &actor,
                    )
                    .await?;
                change = change
                    .also(EventKind::Created, &secret.name, secret.meta.uid)
                    .detail("secret", &secret.name);
                (
                    Some(SecretRef {
                        uid: secret.meta.uid,
                        name: secret.name,
                    }),
                    None,
                )
            }
        };
        let spec = Spec {
            endpoint,
            region,
            bucket,
            prefix,
            mount_name: mount_name.unwrap_or(id),
            access_key_id,
            secret,
            secret_version,
            mode,
            backend,
            virtual_host_style,
            cache_size,
        };
        let meta = Meta::new(uid, texts, actor.name.to_string(), writing.now());
        let connector = Connector {
            name,
            meta,
            project_uid: project.meta.uid,
            spec,
        };
        check(&writing, &project, &connector).await?;
        store::connector::insert(&writing, &connector).await?;
        let view = ConnectorView {
            connector,
            mounts: Vec::new(),
            mounted_hosts: 0,
            published: false,
        };
        once.keep(&writing, &actor, &view).await?;
        writing.commit(change).await?;
        Ok(Answer::New(view))
    }

    /// Reads a connector, and where it is mounted.
    pub async fn get_connector(&self, permit: Permit<GetConnector>) -> Result<ConnectorView, Error> {
        let snapshot = self.read().await?;
        let (GetConnector(name), _) = permit.spend(&snapshot).await?;
        let (_, connector) = find(&snapshot, &name).await?;
        view(&snapshot, connector).await
    }

    /// Lists a project's connectors.
    pub async fn list_connectors(
        &self,
        permit: Permit<ListConnectors>,
        page: &Page,
    ) -> Result<Paged<ConnectorView>, Error> {
        let snapshot = self.read().await?;
        let (ListConnectors(project), _) = permit.spend(&snapshot).await?;
        let project = store::project::get(&snapshot, &project).await?;
        let Paged { items, next } = store::connector::list(&snapshot, &project, page).await?;
        Ok(Paged {
            items: views(&snapshot, items).await?,
            next,
        })
    }

    /// Changes a connector. Of a published one, everything but its texts is for editors; of an active one, what is
    /// mounted changes only with `restart_mounts`.
    pub async fn update_connector(
        &self,
        permit: Permit<UpdateConnector>,
        change: ConnectorChange,
    ) -> Result<ConnectorView, Error> {
        let writing = self.write().await?;
        let (UpdateConnector(name), actor) = permit.spend(&writing).await?;
        let (project, mut connector) = find(&writing, &name).await?;
        connector.meta.check_etag(&change.etag, &name)?;
        let restart_mounts = change.restart_mounts;
        let texts = change.texts.clone();
        let mut fields: Vec<&str> = texts.fields().collect();
        let spec = changed_spec(&writing, &project, &connector, change).await?;
        let impact = connector.spec.impact_of(&spec);
        if impact > Impact::Texts {
            if !store::connector_use::published(&writing, &[connector.meta.uid])
                .await?
                .is_empty()
            {
                let scope = Scope::Project(project.name.clone());
                policy::require(&writing, &actor, Permission::ConnectorsUpdatePublished, &scope).await?;
            }
            fields.extend(changed_fields(&connector.spec, &spec));
        }
        if impact == Impact::Remount && !restart_mounts {
            let live = store::connector_use::live_activations(&writing, connector.meta.uid).await?;
            if !live.is_empty() {
                let remedy = "this change restarts its mounts, on which open files fail: repeat it with `restart_mounts`";
                return Err(Error::Precondition {
                    reason: "MountsMustRestart",
                    subject: name.to_string(),
                    problem: users::in_use(&writing, &actor, &name, &live, &[], remedy)
                        .await?
                        .to_string(),
                });
            }
        }
        connector.spec = spec;
        connector.meta.change(texts, writing.now());
        if impact > Impact::Texts {
            check(&writing, &project, &connector).await?;
        }
        store::connector::update(&writing, &connector).await?;
        let uid = connector.meta.uid;
        self.connector_changed(&writing, &connector, impact).await?;
        let view = view(&writing, connector).await?;
        let change = Change::new(&actor.name, "UpdateConnector", EventKind::Updated, &name, uid)
            .in_project(project.meta.uid, project.community_uid)
            .detail("fields", field_list(fields.into_iter()));
        writing.commit(change).await?;
        Ok(view)
    }

    /// Deletes a connector that is neither active nor published.
    pub async fn delete_connector(&self, permit: Permit<DeleteConnector>, etag: &str) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeleteConnector(name), actor) = permit.spend(&writing).await?;
        let (project, connector) = find(&writing, &name).await?;
        connector.meta.check_etag(etag, &name)?;
        let uid = connector.meta.uid;
        let mut activations = store::connector_use::live_activations(&writing, uid).await?;
        for name in self.standing_activations(&writing, uid).await? {
            if !activations.contains(&name) {
                activations.push(name);
            }
        }
        let publications = store::connector_use::publications(&writing, uid).await?;
        if !(activations.is_empty() && publications.is_empty()) {
            let remedy = "deactivate and withdraw those first";
            return Err(users::in_use(&writing, &actor, &name, &activations, &publications, remedy).await?);
        }
        store::activation::delete_ended_of_target(&writing, uid).await?;
        store::connector::delete(&writing, uid).await?;
        let change = Change::new(&actor.name, "DeleteConnector", EventKind::Deleted, &name, uid)
            .in_project(project.meta.uid, project.community_uid);
        writing.commit(change).await?;
        Ok(())
    }

    /// Hosts that have it mounted are told: another key, or another mount.
    async fn connector_changed(
        &self,
        writing: &Writing,
        connector: &Connector,
        impact: Impact,
    ) -> Result<(), Error> {
        self.follow_connector(writing, connector, impact).await
    }
}

async fn find(snapshot: &Snapshot, name: &ConnectorName) -> Result<(Project, Connector), Error> {
    let project = store::project::get(snapshot, name.project()).await?;
    let connector = store::connector::find(snapshot, &project, name)
        .await?
        .ok_or_else(|| Error::absent(name))?;
    Ok((project, connector))
}
