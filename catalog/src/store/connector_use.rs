//! Who uses connectors: where they are mounted, where they are published, which activations keep them. Questions for
//! many connectors at once, so that a list costs as many queries as one.

use std::collections::{HashMap, HashSet};

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};
use uuid::Uuid;

use super::columns::{named, parsed};
use super::entity::{activation, assignment, community, host, mount, project, publication};
use super::{Snapshot, failed};
use crate::domain::Error;
use crate::domain::activation::MountState;
use crate::domain::names::{ActivationName, CommunityName, HostName, ProjectName, PublicationName};

/// How a publication that is over is stored: its connector counts as published no more.
const WITHDRAWN: &str = "WITHDRAWN";

/// One host's report of a connector's mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorMount {
    /// The host.
    pub host: HostName,
    /// The activation that asks for it.
    pub activation: ActivationName,
    /// The folder on the host.
    pub path: String,
    /// What the host has reported last.
    pub state: MountState,
}

/// What hosts have reported of these connectors, ordered by host; what is unmounted is left out.
pub async fn mounts(
    snapshot: &Snapshot,
    connectors: &[Uuid],
) -> Result<HashMap<Uuid, Vec<ConnectorMount>>, Error> {
    let orders = assignment::Entity::find()
        .find_also_related(host::Entity)
        .filter(assignment::Column::ConnectorUid.is_in(connectors.iter().copied()))
        .order_by_asc(host::Column::Id)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    // A subquery and no list: a database takes some ten thousand values in one statement, and a fleet has more mounts.
    let uids = assignment::Entity::find()
        .select_only()
        .column(assignment::Column::Uid)
        .filter(assignment::Column::ConnectorUid.is_in(connectors.iter().copied()))
        .into_query();
    let reports: HashMap<(Uuid, Uuid), mount::Model> = mount::Entity::find()
        .filter(mount::Column::AssignmentUid.in_subquery(uids))
        .all(snapshot.db())
        .await
        .map_err(failed)?
        .into_iter()
        .map(|report| ((report.host_uid, report.assignment_uid), report))
        .collect();
    let mut mounts: HashMap<Uuid, Vec<ConnectorMount>> = HashMap::new();
    for (order, host) in orders {
        let (Some(report), Some(host)) = (reports.get(&(order.host_uid, order.uid)), host) else {
            continue;
        };
        let state = named(&report.state, MountState::from_name)?;
        if state == MountState::Unmounted {
            continue;
        }
        mounts
            .entry(order.connector_uid)
            .or_default()
            .push(ConnectorMount {
                host: HostName::new(parsed(&host.id)?),
                activation: parsed(&report.activation)?,
                path: report.path.clone(),
                state,
            });
    }
    Ok(mounts)
}

/// Which of these connectors are published somewhere; a withdrawal under way counts.
pub async fn published(snapshot: &Snapshot, connectors: &[Uuid]) -> Result<HashSet<Uuid>, Error> {
    let rows = publication::Entity::find()
        .select_only()
        .column(publication::Column::ConnectorUid)
        .filter(publication::Column::ConnectorUid.is_in(connectors.iter().copied()))
        .filter(publication::Column::State.ne(WITHDRAWN))
        .into_tuple::<Uuid>()
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(rows.into_iter().collect())
}

/// Names of the publications of a connector that are not over.
pub async fn publications(snapshot: &Snapshot, connector: Uuid) -> Result<Vec<PublicationName>, Error> {
    let rows = publication::Entity::find()
        .find_also_related(community::Entity)
        .filter(publication::Column::ConnectorUid.eq(connector))
        .filter(publication::Column::State.ne(WITHDRAWN))
        .order_by_asc(publication::Column::Uid)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let mut names = Vec::with_capacity(rows.len());
    for (row, community) in rows {
        let community = community.ok_or_else(|| Error::internal("a publication is in no community"))?;
        names.push(PublicationName::new(
            CommunityName::new(parsed(&community.id)?),
            parsed(&row.id)?,
        ));
    }
    Ok(names)
}

/// Names of the live activations of a connector, through imports too.
pub async fn live_activations(snapshot: &Snapshot, connector: Uuid) -> Result<Vec<ActivationName>, Error> {
    let rows = activation::Entity::find()
        .find_also_related(project::Entity)
        .filter(activation::Column::ConnectorUid.eq(connector))
        .filter(activation::Column::EndTime.is_null())
        .order_by_asc(activation::Column::Uid)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let mut names = Vec::with_capacity(rows.len());
    for (row, project) in rows {
        let project = project.ok_or_else(|| Error::internal("an activation is in no project"))?;
        names.push(ActivationName::new(
            ProjectName::new(parsed(&project.id)?),
            parsed(&row.id)?,
        ));
    }
    Ok(names)
}
