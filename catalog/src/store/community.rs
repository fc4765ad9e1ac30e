//! Rows of communities.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait,
};
use uuid::Uuid;

use super::columns::{meta_of, row_of};
use super::entity::{binding, community, project};
use super::{Snapshot, Writing, failed};
use crate::domain::community::Community;
use crate::domain::names::CommunityName;
use crate::domain::{Error, Page, Paged};

/// The community with this name.
pub async fn find(snapshot: &Snapshot, name: &CommunityName) -> Result<Option<Community>, Error> {
    let row = community::Entity::find()
        .filter(community::Column::Id.eq(name.id().as_str()))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_row).transpose()
}

/// A page of the communities in which a user has a role; of all with `all`. Ordered by id.
pub async fn list(
    snapshot: &Snapshot,
    user: Uuid,
    all: bool,
    page: &Page,
) -> Result<Paged<Community>, Error> {
    let own = binding::Entity::find()
        .select_only()
        .column(binding::Column::ScopeUid)
        .filter(binding::Column::UserUid.eq(user));
    let rows = community::Entity::find()
        .filter(
            Condition::all().add_option((!all).then(|| community::Column::Uid.in_subquery(own.into_query()))),
        )
        .filter(Condition::all().add_option(page.after.as_ref().map(|after| community::Column::Id.gt(after))))
        .order_by_asc(community::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_row).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |community| {
        community.name.id().to_string()
    }))
}

/// How many projects it has.
pub async fn project_count(snapshot: &Snapshot, uid: Uuid) -> Result<u64, Error> {
    project::Entity::find()
        .filter(project::Column::CommunityUid.eq(uid))
        .count(snapshot.db())
        .await
        .map_err(failed)
}

/// Adds a community.
pub async fn insert(writing: &Writing, community: &Community) -> Result<(), Error> {
    community::Entity::insert(to_row(community).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed community.
pub async fn update(writing: &Writing, community: &Community) -> Result<(), Error> {
    to_row(community)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes a community, the roles given on it, and its name for ever.
pub async fn delete(writing: &Writing, community: &Community) -> Result<(), Error> {
    super::access::delete_of_scope(writing, community.meta.uid).await?;
    super::publication::delete_of_community(writing, community.meta.uid).await?;
    community::Entity::delete_by_id(community.meta.uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    super::realm::retire(writing, &community.name, community.meta.uid).await
}

fn of_row(row: community::Model) -> Result<Community, Error> {
    Ok(Community {
        name: CommunityName::new(super::columns::parsed(&row.id)?),
        meta: meta_of!(row),
    })
}

fn to_row(community: &Community) -> community::Model {
    let Community { name, meta } = community;
    row_of!(community, name.id(), meta)
}
