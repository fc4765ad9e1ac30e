//! What is going on with connectors: where they are mounted, and whether they are published.

use std::collections::HashSet;

use uuid::Uuid;

use crate::domain::Error;
use crate::domain::activation::MountState;
use crate::domain::connector::Connector;
use crate::store::connector_use::ConnectorMount;
use crate::store::{self, Snapshot};

/// A connector and what is going on with it.
#[derive(Clone, Debug)]
pub struct ConnectorView {
    /// The connector.
    pub connector: Connector,
    /// Its mounts for its own project; those of importing projects are theirs to see.
    pub mounts: Vec<ConnectorMount>,
    /// On how many hosts it is mounted, for whichever project.
    pub mounted_hosts: usize,
    /// Whether it is published somewhere.
    pub published: bool,
}

/// One connector and what is going on with it.
pub(super) async fn view(snapshot: &Snapshot, connector: Connector) -> Result<ConnectorView, Error> {
    let mut views = views(snapshot, vec![connector]).await?;
    views
        .pop()
        .ok_or_else(|| Error::internal("a connector has lost its view"))
}

/// Several, with as many queries as for one.
pub(super) async fn views(
    snapshot: &Snapshot,
    connectors: Vec<Connector>,
) -> Result<Vec<ConnectorView>, Error> {
    let uids: Vec<Uuid> = connectors.iter().map(|connector| connector.meta.uid).collect();
    let mut mounts = store::connector_use::mounts(snapshot, &uids).await?;
    let published = store::connector_use::published(snapshot, &uids).await?;
    let view = |connector: Connector| {
        let all = mounts.remove(&connector.meta.uid).unwrap_or_default();
        let hosts: HashSet<_> = all
            .iter()
            .filter(|mount| matches!(mount.state, MountState::Mounted | MountState::Degraded))
            .map(|mount| mount.host.clone())
            .collect();
        let own = all
            .into_iter()
            .filter(|mount| mount.activation.project() == connector.name.project())
            .collect();
        let published = published.contains(&connector.meta.uid);
        ConnectorView {
            connector,
            mounts: own,
            mounted_hosts: hosts.len(),
            published,
        }
    };
    Ok(connectors.into_iter().map(view).collect())
}
