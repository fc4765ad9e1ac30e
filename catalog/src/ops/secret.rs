//! Secrets: created with their first value, rotated by versions, never read. What a published connector uses is
//! changed by editors only.

use super::{Answer, Catalog, Once, field_list};
use crate::domain::audit::{Change, EventKind};
use crate::domain::names::{ProjectName, Scope, SecretName, SecretVersionName};
use crate::domain::project::Project;
use crate::domain::secret::{
    NamedVersion, NewSecret, NewValue, Secret, SecretChange, SecretVersion, SecretVersionState,
};
use crate::domain::{Error, Id, Meta, Page, Paged, Violations};
use crate::keyring::SecretContext;
use crate::policy::rules::Permission;
use crate::policy::{self, Action, Actor, Permit};
use crate::store::{self, Snapshot, Writing};

macro_rules! secret_action {
    ($(#[$doc:meta])* $action:ident($target:ty), $rpc:literal, $project:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action(pub $target);

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.SecretService/", $rpc);

            fn scopes(&self) -> Vec<Scope> {
                let project: fn(&$target) -> &ProjectName = $project;
                vec![Scope::Project(project(&self.0).clone())]
            }
        }
    };
}

secret_action!(
    /// Create a secret in this project.
    CreateSecret(ProjectName), "CreateSecret", |project| project
);
secret_action!(
    /// Read a secret.
    GetSecret(SecretName), "GetSecret", SecretName::project
);
secret_action!(
    /// List a project's secrets.
    ListSecrets(ProjectName), "ListSecrets", |project| project
);
secret_action!(
    /// Change a secret.
    UpdateSecret(SecretName), "UpdateSecret", SecretName::project
);
secret_action!(
    /// Delete a secret.
    DeleteSecret(SecretName), "DeleteSecret", SecretName::project
);
secret_action!(
    /// Add a version.
    AddSecretVersion(SecretName), "AddSecretVersion", SecretName::project
);
secret_action!(
    /// List the versions of a secret.
    ListSecretVersions(SecretName), "ListSecretVersions", SecretName::project
);
secret_action!(
    /// Enable a version.
    EnableSecretVersion(SecretVersionName), "EnableSecretVersion", |version| version.secret().project()
);
secret_action!(
    /// Disable a version.
    DisableSecretVersion(SecretVersionName), "DisableSecretVersion", |version| version.secret().project()
);
secret_action!(
    /// Destroy a version.
    DestroySecretVersion(SecretVersionName), "DestroySecretVersion", |version| version.secret().project()
);

impl Catalog {
    /// Creates a secret and its first version.
    pub async fn create_secret(
        &self,
        permit: Permit<CreateSecret>,
        id: Option<Id>,
        new: NewSecret,
        once: Once<Secret>,
    ) -> Result<Answer<Secret>, Error> {
        let writing = self.write().await?;
        let (CreateSecret(project), actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let project = store::project::get(&writing, &project).await?;
        let secret = self.add_secret(&writing, &project, id, new, &actor).await?;
        once.keep(&writing, &actor, &secret).await?;
        let uid = secret.meta.uid;
        let change = Change::new(&actor.name, "CreateSecret", EventKind::Created, &secret.name, uid)
            .in_project(project.meta.uid, project.community_uid);
        writing.commit(change).await?;
        Ok(Answer::New(secret))
    }

    /// Reads a secret: all but its value.
    pub async fn get_secret(&self, permit: Permit<GetSecret>) -> Result<Secret, Error> {
        let snapshot = self.read().await?;
        let (GetSecret(name), _) = permit.spend(&snapshot).await?;
        Ok(find(&snapshot, &name).await?.1)
    }

    /// Lists a project's secrets, without their values.
    pub async fn list_secrets(
        &self,
        permit: Permit<ListSecrets>,
        page: &Page,
    ) -> Result<Paged<Secret>, Error> {
        let snapshot = self.read().await?;
        let (ListSecrets(project), _) = permit.spend(&snapshot).await?;
        let project = store::project::get(&snapshot, &project).await?;
        store::secret::list(&snapshot, &project, page).await
    }

    /// Changes a secret's texts or allowed targets. Those must go on covering every connector that uses it.
    pub async fn update_secret(
        &self,
        permit: Permit<UpdateSecret>,
        change: SecretChange,
    ) -> Result<Secret, Error> {
        let writing = self.write().await?;
        let (UpdateSecret(name), actor) = permit.spend(&writing).await?;
        let (project, mut secret) = find(&writing, &name).await?;
        let SecretChange {
            texts,
            allowed_targets,
            etag,
        } = change;
        secret.meta.check_etag(&etag, &name)?;
        let mut fields: Vec<&str> = texts.fields().collect();
        if let Some(allowed_targets) = allowed_targets.filter(|targets| *targets != secret.allowed_targets) {
            self.require_for_published(&writing, &actor, &secret).await?;
            secret.allowed_targets = allowed_targets;
            check_still_covers(&writing, &project, &secret).await?;
            fields.push("allowed_targets");
        }
        secret.meta.change(texts, writing.now());
        store::secret::update(&writing, &secret).await?;
        let uid = secret.meta.uid;
        let change = Change::new(&actor.name, "UpdateSecret", EventKind::Updated, &name, uid)
            .in_project(project.meta.uid, project.community_uid)
            .detail("fields", field_list(fields.into_iter()));
        writing.commit(change).await?;
        Ok(secret)
    }

    /// Deletes a secret that no connector uses, with all its versions.
    pub async fn delete_secret(&self, permit: Permit<DeleteSecret>, etag: &str) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeleteSecret(name), actor) = permit.spend(&writing).await?;
        let (project, secret) = find(&writing, &name).await?;
        secret.meta.check_etag(etag, &name)?;
        let connectors = store::secret::connectors_of(&writing, &secret).await?;
        if !connectors.is_empty() {
            let users: Vec<String> = connectors
                .iter()
                .map(|(connector, _)| connector.to_string())
                .collect();
            return Err(Error::in_use(
                &name,
                &users,
                "give those another secret or delete them first",
            ));
        }
        store::secret::delete(&writing, secret.meta.uid).await?;
        let change = Change::new(
            &actor.name,
            "DeleteSecret",
            EventKind::Deleted,
            &name,
            secret.meta.uid,
        )
        .in_project(project.meta.uid, project.community_uid);
        writing.commit(change).await?;
        Ok(())
    }

    /// Adds a version, which connectors that are not pinned use from now on.
    pub async fn add_secret_version(
        &self,
        permit: Permit<AddSecretVersion>,
        value: NewValue,
        once: Once<NamedVersion>,
    ) -> Result<Answer<NamedVersion>, Error> {
        let writing = self.write().await?;
        let (AddSecretVersion(name), actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let (project, mut secret) = find(&writing, &name).await?;
        self.require_for_published(&writing, &actor, &secret).await?;
        check_key_id(&writing, &project, &secret, &value).await?;
        secret.newest_version += 1;
        secret.meta.touch(writing.now());
        store::secret::update(&writing, &secret).await?;
        let version = self.add_version(&writing, &secret, value, &actor).await?;
        let number = version.number;
        let answer = NamedVersion {
            secret: name,
            version,
        };
        once.keep(&writing, &actor, &answer).await?;
        self.secret_changed(&writing, &secret).await?;
        self.commit_version(writing, &actor, "AddSecretVersion", &project, &secret, number)
            .await?;
        Ok(Answer::New(answer))
    }

    /// Lists the versions of a secret, newest first.
    pub async fn list_secret_versions(
        &self,
        permit: Permit<ListSecretVersions>,
        page: &Page,
    ) -> Result<Paged<SecretVersion>, Error> {
        let snapshot = self.read().await?;
        let (ListSecretVersions(name), _) = permit.spend(&snapshot).await?;
        let (_, secret) = find(&snapshot, &name).await?;
        store::secret::versions(&snapshot, secret.meta.uid, page).await
    }

    /// Lets connectors use a disabled version again.
    pub async fn enable_secret_version(
        &self,
        permit: Permit<EnableSecretVersion>,
    ) -> Result<NamedVersion, Error> {
        let writing = self.write().await?;
        let (EnableSecretVersion(name), actor) = permit.spend(&writing).await?;
        self.set_version_state(
            writing,
            name,
            actor,
            "EnableSecretVersion",
            SecretVersionState::Enabled,
        )
        .await
    }

    /// Keeps connectors from using a version.
    pub async fn disable_secret_version(
        &self,
        permit: Permit<DisableSecretVersion>,
    ) -> Result<NamedVersion, Error> {
        let writing = self.write().await?;
        let (DisableSecretVersion(name), actor) = permit.spend(&writing).await?;
        self.set_version_state(
            writing,
            name,
            actor,
            "DisableSecretVersion",
            SecretVersionState::Disabled,
        )
        .await
    }

    /// Destroys the value of a version for ever.
    pub async fn destroy_secret_version(
        &self,
        permit: Permit<DestroySecretVersion>,
    ) -> Result<NamedVersion, Error> {
        let writing = self.write().await?;
        let (DestroySecretVersion(name), actor) = permit.spend(&writing).await?;
        self.set_version_state(
            writing,
            name,
            actor,
            "DestroySecretVersion",
            SecretVersionState::Destroyed,
        )
        .await
    }

    /// Adds a secret with its first version, within somebody's transaction.
    pub(super) async fn add_secret(
        &self,
        writing: &Writing,
        project: &Project,
        id: Option<Id>,
        new: NewSecret,
        actor: &Actor,
    ) -> Result<Secret, Error> {
        let uid = self.clock.new_uid();
        let name = SecretName::new(project.name.clone(), id.unwrap_or_else(|| Id::made_of(uid, 's')));
        if store::secret::find(writing, project, &name).await?.is_some() {
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "exists already; choose another id, or add a version to it",
            });
        }
        let NewSecret {
            texts,
            allowed_targets,
            value,
        } = new;
        let secret = Secret {
            name,
            meta: Meta::new(uid, texts, actor.name.to_string(), writing.now()),
            project_uid: project.meta.uid,
            allowed_targets,
            newest_version: 1,
        };
        store::secret::insert(writing, &secret).await?;
        self.add_version(writing, &secret, value, actor).await?;
        Ok(secret)
    }

    async fn add_version(
        &self,
        writing: &Writing,
        secret: &Secret,
        value: NewValue,
        actor: &Actor,
    ) -> Result<SecretVersion, Error> {
        let NewValue {
            secret_access_key,
            access_key_id,
        } = value;
        let context = SecretContext {
            secret_uid: secret.meta.uid,
            version: secret.newest_version,
            project_uid: secret.project_uid,
        };
        let sealed = self
            .keyring
            .seal(context, &secret_access_key)
            .map_err(Error::internal)?;
        let version = SecretVersion {
            number: secret.newest_version,
            access_key_id,
            state: SecretVersionState::Enabled,
            creator: actor.name.to_string(),
            create_time: writing.now(),
        };
        store::secret::insert_version(writing, secret.meta.uid, &version, sealed).await?;
        Ok(version)
    }

    async fn set_version_state(
        &self,
        writing: Writing,
        name: SecretVersionName,
        actor: Actor,
        method: &'static str,
        state: SecretVersionState,
    ) -> Result<NamedVersion, Error> {
        let (project, mut secret) = find(&writing, name.secret()).await?;
        let uid = secret.meta.uid;
        let mut version = store::secret::version(&writing, uid, name.number())
            .await?
            .ok_or_else(|| Error::absent(&name))?;
        if version.state == state {
            return Ok(NamedVersion {
                secret: secret.name,
                version,
            });
        }
        if version.state == SecretVersionState::Destroyed {
            return Err(Error::Precondition {
                reason: "Destroyed",
                subject: name.to_string(),
                problem: format!(
                    "{name} is destroyed for ever; add a new version with `mooring secrets add-version`"
                ),
            });
        }
        self.require_for_published(&writing, &actor, &secret).await?;
        // The one step that nobody can take back is not the first: mounts that miss the key show it while it can be enabled.
        if state == SecretVersionState::Destroyed && version.state == SecretVersionState::Enabled {
            return Err(Error::Precondition {
                reason: "Enabled",
                subject: name.to_string(),
                problem: format!(
                    "{name} is enabled, and its value could never be brought back; disable it first, and destroy it when \
                     nothing misses it: mooring secrets disable-version {name}"
                ),
            });
        }
        store::secret::set_version_state(&writing, uid, name.number(), state).await?;
        secret.meta.touch(writing.now());
        store::secret::update(&writing, &secret).await?;
        version.state = state;
        self.secret_changed(&writing, &secret).await?;
        self.commit_version(writing, &actor, method, &project, &secret, name.number())
            .await?;
        Ok(NamedVersion {
            secret: secret.name,
            version,
        })
    }

    async fn commit_version(
        &self,
        writing: Writing,
        actor: &Actor,
        method: &'static str,
        project: &Project,
        secret: &Secret,
        number: i64,
    ) -> Result<(), Error> {
        let change = Change::new(
            &actor.name,
            method,
            EventKind::Updated,
            &secret.name,
            secret.meta.uid,
        )
        .in_project(project.meta.uid, project.community_uid)
        .detail("version", number);
        writing.commit(change).await?;
        Ok(())
    }

    /// Whoever changes the key of a published connector changes what other projects see: that is for editors.
    async fn require_for_published(
        &self,
        writing: &Writing,
        actor: &Actor,
        secret: &Secret,
    ) -> Result<(), Error> {
        let connectors = store::secret::connectors_of(writing, secret).await?;
        let uids: Vec<_> = connectors.into_iter().map(|(_, uid)| uid).collect();
        if store::connector_use::published(writing, &uids).await?.is_empty() {
            return Ok(());
        }
        let scope = Scope::Project(secret.name.project().clone());
        policy::require(writing, actor, Permission::SecretsUpdatePublished, &scope).await
    }

    /// Hosts that hold a key of this secret get the new one, without a remount.
    async fn secret_changed(&self, writing: &Writing, secret: &Secret) -> Result<(), Error> {
        let connectors = store::secret::connectors_of(writing, secret).await?;
        let uids: Vec<_> = connectors.into_iter().map(|(_, uid)| uid).collect();
        self.send_keys_again(writing, &uids).await
    }
}

/// Refuses a version that would leave connectors without an access key id: those that use the newest version and have
/// none of their own. Their mounts would lose the key that they have.
async fn check_key_id(
    snapshot: &Snapshot,
    project: &Project,
    secret: &Secret,
    value: &NewValue,
) -> Result<(), Error> {
    if !value.access_key_id.is_empty() {
        return Ok(());
    }
    let connectors = store::connector::of_secret(snapshot, &project.name, secret.meta.uid).await?;
    let without: Vec<String> = connectors
        .iter()
        .filter(|connector| connector.spec.secret_version.is_none())
        .filter(|connector| connector.spec.access_key_id.as_str().is_empty())
        .map(|connector| connector.name.to_string())
        .collect();
    if without.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(
        "access_key_id",
        format!(
            "it is missing, and {} that would use this version {} none of {} own; give the access key id that belongs to \
             this key",
            without.join(", "),
            if without.len() == 1 { "has" } else { "have" },
            if without.len() == 1 { "its" } else { "their" },
        ),
    ))
}

async fn find(snapshot: &Snapshot, name: &SecretName) -> Result<(Project, Secret), Error> {
    let project = store::project::get(snapshot, name.project()).await?;
    let secret = store::secret::find(snapshot, &project, name)
        .await?
        .ok_or_else(|| Error::absent(name))?;
    Ok((project, secret))
}

/// Narrower targets must not cut off a connector behind its back.
async fn check_still_covers(snapshot: &Snapshot, project: &Project, secret: &Secret) -> Result<(), Error> {
    let mut violations = Violations::default();
    for connector in store::connector::of_secret(snapshot, &project.name, secret.meta.uid).await? {
        if !secret.covers(&connector.spec.endpoint, &connector.spec.bucket) {
            violations.add(
                "secret.allowed_targets",
                format!(
                    "{} uses it for bucket {} at {}, which they do not cover; add that target, or change the connector first",
                    connector.name, connector.spec.bucket, connector.spec.endpoint
                ),
            );
        }
    }
    violations.finish()
}
