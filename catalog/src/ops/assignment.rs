//! From wishes to orders: which hosts get what, and when they are told again. Every function here works within the
//! transaction of the use case that changed something; the hosts that are concerned are woken by its commit.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Catalog;
use crate::domain::Error;
use crate::domain::activation::{Activation, ENDED_KEPT_MAX, Target, effective_mode};
use crate::domain::assignment::{Assignment, AssignmentSpec, RemovalOrder, next_generation};
use crate::domain::connector::{Connector, Impact};
use crate::domain::host::Host;
use crate::domain::import::Import;
use crate::domain::publication::Publication;
use crate::store::{self, Snapshot, Writing};

/// What an activation leads to: the connector, and through what.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    /// The connector behind it.
    pub(super) connector: Connector,
    /// The import and its publication, if it is not the project's own connector.
    pub(super) through: Option<(Import, Publication)>,
}

impl Resolved {
    /// Follows an activation to its connector. `None` when one of them is gone, which only ended activations survive.
    pub(super) async fn of(snapshot: &Snapshot, activation: &Activation) -> Result<Option<Self>, Error> {
        let Some(connector) = store::connector::by_uid(snapshot, activation.connector_uid).await? else {
            return Ok(None);
        };
        let through = match &activation.target {
            Target::Connector(_) => None,
            Target::Import(_) => {
                let Some(import) = store::import::by_uid(snapshot, activation.target_uid).await? else {
                    return Ok(None);
                };
                let Some(publication) = store::publication::by_uid(snapshot, import.publication_uid).await?
                else {
                    return Ok(None);
                };
                Some((import, publication))
            }
        };
        Ok(Some(Self { connector, through }))
    }

    /// The mode of a mount for which `asked` was asked.
    pub(super) fn mode(&self, asked: Option<crate::domain::Mode>) -> crate::domain::Mode {
        let (published, imported) = match &self.through {
            Some((import, publication)) => (publication.max_mode, import.mode),
            None => (None, None),
        };
        effective_mode(self.connector.spec.mode, [published, imported, asked])
    }

    /// The folder below the project's.
    pub(super) fn mount_name(&self) -> &crate::domain::Id {
        match &self.through {
            Some((import, _)) => &import.mount_name,
            None => &self.connector.spec.mount_name,
        }
    }
}

impl Catalog {
    /// Has every host of an activation's pool told what it shall have, if that is news. Hosts that take no new mounts
    /// keep what they have and get nothing more.
    pub(super) async fn assign(&self, writing: &Writing, activation: &Activation) -> Result<(), Error> {
        let spec = self.spec_of(writing, activation).await?;
        let known = store::assignment::of_activations(writing, [activation.meta.uid]).await?;
        let mut known: BTreeMap<Uuid, Assignment> = known
            .into_iter()
            .map(|assignment| (assignment.host_uid, assignment))
            .collect();
        let mut new = Vec::new();
        for host in store::host::of_pool(writing, activation.pool_uid).await? {
            let known = known.remove(&host.meta.uid);
            new.extend(self.order(writing, activation, &spec, &host, known).await?);
        }
        store::assignment::insert_all(writing, &new).await
    }

    /// The same for several.
    pub(super) async fn assign_all(
        &self,
        writing: &Writing,
        activations: &[Activation],
    ) -> Result<(), Error> {
        for activation in activations {
            self.assign(writing, activation).await?;
        }
        Ok(())
    }

    /// Has one host told what its pool has been given, and calls off what a drain has ordered it to unmount if it takes
    /// mounts again. Costs nothing for the pool's other hosts, so that a rack can join.
    pub(super) async fn assign_host(&self, writing: &Writing, host: &Host) -> Result<(), Error> {
        let mut new = Vec::new();
        for activation in store::activation::live_of_pool(writing, host.pool_uid).await? {
            let spec = self.spec_of(writing, &activation).await?;
            let known = store::assignment::find(writing, activation.meta.uid, host.meta.uid).await?;
            new.extend(self.order(writing, &activation, &spec, host, known).await?);
        }
        store::assignment::insert_all(writing, &new).await
    }

    /// What is new for one host: changes what it has, or answers an assignment to add.
    async fn order(
        &self,
        writing: &Writing,
        activation: &Activation,
        (spec, spec_hash): &(AssignmentSpec, String),
        host: &Host,
        known: Option<Assignment>,
    ) -> Result<Option<Assignment>, Error> {
        // A drain that was called off: what the host has not unmounted yet, it keeps.
        let called_off = |known: &Assignment| {
            let drained = |removal: &RemovalOrder| removal.reason == RemovalOrder::DRAINED;
            !host.unschedulable && known.removal.as_ref().is_some_and(drained)
        };
        match known {
            Some(known) if known.spec_hash == *spec_hash && !called_off(&known) => Ok(None),
            Some(mut assignment) => {
                if called_off(&assignment) {
                    assignment.removal = None;
                }
                let stored = Some((assignment.generation, assignment.spec_hash.as_str()));
                assignment.generation = next_generation(stored, spec_hash);
                assignment.spec = spec.clone();
                assignment.spec_hash.clone_from(spec_hash);
                assignment.revision = writing.next_revision().await?;
                store::assignment::update(writing, &assignment).await?;
                Ok(None)
            }
            None if host.unschedulable => Ok(None),
            None => Ok(Some(Assignment {
                uid: self.clock.new_uid(),
                activation_uid: activation.meta.uid,
                host_uid: host.meta.uid,
                connector_uid: activation.connector_uid,
                generation: next_generation(None, spec_hash),
                spec: spec.clone(),
                spec_hash: spec_hash.clone(),
                revision: writing.next_revision().await?,
                removal: None,
            })),
        }
    }

    /// Ends an activation: its hosts are told to unmount.
    pub(super) async fn end_activation(
        &self,
        writing: &Writing,
        activation: &mut Activation,
        removal: &RemovalOrder,
    ) -> Result<(), Error> {
        let revision = writing.next_revision().await?;
        activation.end_time = Some(writing.now());
        activation.meta.touch(writing.now());
        store::activation::update(writing, activation).await?;
        store::activation::delete_ended_beyond(writing, activation.project_uid, ENDED_KEPT_MAX).await?;
        store::assignment::remove(writing, activation.meta.uid, removal, revision).await
    }

    /// Tells the hosts of a connector that it has changed.
    pub(super) async fn follow_connector(
        &self,
        writing: &Writing,
        connector: &Connector,
        impact: Impact,
    ) -> Result<(), Error> {
        match impact {
            Impact::Texts => Ok(()),
            Impact::Credential => self.send_keys_again(writing, &[connector.meta.uid]).await,
            Impact::Remount => {
                let live = store::activation::live_of_connector(writing, connector.meta.uid).await?;
                self.assign_all(writing, &live).await?;
                // Endpoint and bucket are what an envelope is bound to, and the key may have changed along with them.
                self.send_keys_again(writing, &[connector.meta.uid]).await
            }
        }
    }

    /// Has hosts given the key of these connectors again, sealed anew.
    pub(super) async fn send_keys_again(&self, writing: &Writing, connectors: &[Uuid]) -> Result<(), Error> {
        if connectors.is_empty() {
            return Ok(());
        }
        let revision = writing.next_revision().await?;
        store::assignment::send_again(writing, connectors.iter().copied(), revision).await
    }

    /// What an activation means on each of its hosts, and the hash of it.
    async fn spec_of(
        &self,
        snapshot: &Snapshot,
        activation: &Activation,
    ) -> Result<(AssignmentSpec, String), Error> {
        let missing = |what: &str| Error::internal(format!("{} has no {what}", activation.name));
        let resolved = Resolved::of(snapshot, activation)
            .await?
            .ok_or_else(|| missing("target"))?;
        let pool = store::pool::by_uid(snapshot, activation.pool_uid)
            .await?
            .ok_or_else(|| missing("pool"))?;
        let connector = &resolved.connector;
        let project = activation.name.project();
        let rules = &self.settings.endpoint_rules;
        let spec = AssignmentSpec {
            activation: activation.name.to_string(),
            connector: connector.name.to_string(),
            project_id: project.id().to_string(),
            mount_name: resolved.mount_name().to_string(),
            endpoint: connector.spec.endpoint.to_string(),
            region: connector.spec.region.to_string(),
            bucket: connector.spec.bucket.to_string(),
            prefix: connector.spec.prefix.to_string(),
            mode: resolved.mode(activation.asked_mode),
            backend: connector.spec.backend,
            virtual_host_style: connector.spec.virtual_host_style,
            cache_size: connector.spec.cache_size,
            unix_group: pool.groups.get(project).map(|group| group.as_str().to_owned()),
            allow_http: rules.allow_http,
            allowed_networks: rules.allowed_networks.iter().map(ToString::to_string).collect(),
        };
        let hash = spec.hash();
        Ok((spec, hash))
    }
}

/// Why no key of a connector can be sent; `None` if one can. Names the connector only: who imports it may not see the
/// names of its project's secrets.
pub(super) async fn missing_key(snapshot: &Snapshot, connector: &Connector) -> Result<Option<String>, Error> {
    let name = &connector.name;
    let short = format!("{}/{}", name.project().id(), name.id());
    let Some(secret) = &connector.spec.secret else {
        return Ok(Some(format!(
            "{name} has no secret; give it one: mooring connectors update {short} --secret SECRET"
        )));
    };
    let usable = store::secret::usable_version(snapshot, secret.uid, connector.spec.secret_version).await?;
    let Some(usable) = usable else {
        let which = if connector.spec.secret_version.is_some() {
            "pinned version is not enabled"
        } else {
            "secret has no enabled version"
        };
        return Ok(Some(format!(
            "there is no usable key: the {which} for {name}; enable one, or add one with `mooring secrets add-version`"
        )));
    };
    if usable.version.access_key_id.is_empty() && connector.spec.access_key_id.as_str().is_empty() {
        return Ok(Some(format!(
            "{name} has no access key id, and neither has the version of its secret that it uses; give it one: mooring \
             connectors update {short} --access-key-id ID"
        )));
    }
    Ok(None)
}
