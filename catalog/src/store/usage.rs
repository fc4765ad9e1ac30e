//! What stands in the way of a deletion or change: who uses what. One question for each resource, over all tables.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::entity::{connector, import, project, publication, secret};
use super::{Snapshot, failed};
use crate::domain::Error;
use crate::domain::community::Community;
use crate::domain::project::Project;
use crate::domain::publication::PublicationState;

/// Users named at most: an error lists a few and counts the rest.
const LISTED_MAX: u64 = 100;

/// What keeps a community from being deleted.
pub async fn of_community(snapshot: &Snapshot, community: &Community) -> Result<Vec<String>, Error> {
    let rows = project::Entity::find()
        .filter(project::Column::CommunityUid.eq(community.meta.uid))
        .order_by_asc(project::Column::Id)
        .limit(LISTED_MAX)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let publications = publication::Entity::find()
        .filter(publication::Column::CommunityUid.eq(community.meta.uid))
        .filter(publication::Column::State.ne(PublicationState::Withdrawn.as_str()))
        .order_by_asc(publication::Column::Id)
        .limit(LISTED_MAX)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let name = &community.name;
    let projects = rows.into_iter().map(|row| format!("projects/{}", row.id));
    let publications = publications
        .into_iter()
        .map(|row| format!("{name}/publications/{}", row.id));
    Ok(projects.chain(publications).collect())
}

/// What keeps a project from being deleted.
pub async fn of_project(snapshot: &Snapshot, project: &Project) -> Result<Vec<String>, Error> {
    let connectors = connector::Entity::find()
        .filter(connector::Column::ProjectUid.eq(project.meta.uid))
        .order_by_asc(connector::Column::Id)
        .limit(LISTED_MAX)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let secrets = secret::Entity::find()
        .filter(secret::Column::ProjectUid.eq(project.meta.uid))
        .order_by_asc(secret::Column::Id)
        .limit(LISTED_MAX)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let imports = import::Entity::find()
        .filter(import::Column::ProjectUid.eq(project.meta.uid))
        .order_by_asc(import::Column::Id)
        .limit(LISTED_MAX)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let name = &project.name;
    let imports = imports
        .into_iter()
        .map(|row| format!("{name}/imports/{}", row.id));
    let connectors = connectors
        .into_iter()
        .map(|row| format!("{name}/connectors/{}", row.id));
    Ok(connectors
        .chain(imports)
        .chain(
            secrets
                .into_iter()
                .map(|row| format!("{name}/secrets/{}", row.id)),
        )
        .collect())
}
