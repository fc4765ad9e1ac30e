//! Rows of projects.

use std::collections::BTreeSet;

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait,
};
use uuid::Uuid;

use super::columns::{meta_of, parsed, row_of};
use super::entity::{binding, community, project};
use super::{Snapshot, Writing, failed};
use crate::domain::access::{Role, inherited};
use crate::domain::names::{CommunityName, ProjectName};
use crate::domain::project::Project;
use crate::domain::{Error, Page, Paged};

/// The project with this name.
pub async fn find(snapshot: &Snapshot, name: &ProjectName) -> Result<Option<Project>, Error> {
    let row = project::Entity::find()
        .find_also_related(community::Entity)
        .filter(project::Column::Id.eq(name.id().as_str()))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_rows).transpose()
}

/// The project with this name, which must exist because a permit for it was judged in this transaction.
pub async fn get(snapshot: &Snapshot, name: &ProjectName) -> Result<Project, Error> {
    find(snapshot, name).await?.ok_or_else(|| Error::absent(name))
}

/// Which of these projects there are.
pub async fn existing(
    snapshot: &Snapshot,
    names: impl Iterator<Item = &ProjectName>,
) -> Result<BTreeSet<ProjectName>, Error> {
    /// Below what one statement takes.
    const AT_ONCE: usize = 500;
    let ids: Vec<&str> = names.map(|name| name.id().as_str()).collect();
    let mut known = BTreeSet::new();
    for some in ids.chunks(AT_ONCE) {
        let rows: Vec<String> = project::Entity::find()
            .select_only()
            .column(project::Column::Id)
            .filter(project::Column::Id.is_in(some.iter().copied()))
            .into_tuple()
            .all(snapshot.db())
            .await
            .map_err(failed)?;
        for id in rows {
            known.insert(ProjectName::new(parsed(&id)?));
        }
    }
    Ok(known)
}

/// A page of the projects that a user may see through roles on them or on their communities; of all with `all`.
/// Ordered by id.
pub async fn list(snapshot: &Snapshot, user: Uuid, all: bool, page: &Page) -> Result<Paged<Project>, Error> {
    let scopes = |roles: Option<Vec<&'static str>>| {
        binding::Entity::find()
            .select_only()
            .column(binding::Column::ScopeUid)
            .filter(binding::Column::UserUid.eq(user))
            .filter(Condition::all().add_option(roles.map(|roles| binding::Column::Role.is_in(roles))))
            .into_query()
    };
    let passed_on = Role::ALL
        .into_iter()
        .filter_map(inherited)
        .map(Role::as_str)
        .collect();
    let seen = Condition::any()
        .add(project::Column::Uid.in_subquery(scopes(None)))
        .add(project::Column::CommunityUid.in_subquery(scopes(Some(passed_on))));
    let rows = project::Entity::find()
        .find_also_related(community::Entity)
        .filter(Condition::all().add_option((!all).then_some(seen)))
        .filter(Condition::all().add_option(page.after.as_ref().map(|after| project::Column::Id.gt(after))))
        .order_by_asc(project::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_rows).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |project| project.name.id().to_string()))
}

/// Adds a project.
pub async fn insert(writing: &Writing, project: &Project) -> Result<(), Error> {
    project::Entity::insert(to_row(project).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed project.
pub async fn update(writing: &Writing, project: &Project) -> Result<(), Error> {
    to_row(project)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes a project, the roles given on it, and its name for ever.
pub async fn delete(writing: &Writing, project: &Project) -> Result<(), Error> {
    super::access::delete_of_scope(writing, project.meta.uid).await?;
    super::activation::delete_ended_of_project(writing, project.meta.uid).await?;
    project::Entity::delete_by_id(project.meta.uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    super::realm::retire(writing, &project.name, project.meta.uid).await
}

fn of_rows((row, community): (project::Model, Option<community::Model>)) -> Result<Project, Error> {
    let community =
        community.ok_or_else(|| Error::internal(format!("project {} has no community", row.id)))?;
    Ok(Project {
        name: ProjectName::new(parsed(&row.id)?),
        community: CommunityName::new(parsed(&community.id)?),
        community_uid: row.community_uid,
        meta: meta_of!(row),
    })
}

fn to_row(project: &Project) -> project::Model {
    let Project {
        name,
        meta,
        community: _,
        community_uid,
    } = project;
    row_of!(project, name.id(), meta, community_uid: *community_uid)
}
