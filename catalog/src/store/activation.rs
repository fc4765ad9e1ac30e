//! Rows of activations: the wishes. How far the hosts are follows from assignments and mounts.

use sea_orm::sea_query::{Expr, ExprTrait, SelectStatement};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect, QueryTrait, Select, SelectTwo,
};
use uuid::Uuid;

use super::columns::{meta_of, micros, named, parsed, row_of, time};
use super::entity::{activation, assignment, project};
use super::{Snapshot, Writing, failed};
use crate::domain::activation::Activation;
use crate::domain::names::{ActivationName, ProjectName};
use crate::domain::{Error, Mode, Page, Paged};

/// The activation with this name.
pub async fn find(snapshot: &Snapshot, name: &ActivationName) -> Result<Option<Activation>, Error> {
    let row = with_project(activation::Entity::find())
        .filter(activation::Column::Id.eq(name.id().as_str()))
        .filter(project::Column::Id.eq(name.project().id().as_str()))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_rows).transpose()
}

/// The activation with this uid.
pub async fn by_uid(snapshot: &Snapshot, uid: Uuid) -> Result<Option<Activation>, Error> {
    let row = with_project(activation::Entity::find_by_id(uid))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_rows).transpose()
}

/// A page of a project's activations, ordered by id. Without `show_inactive` only those that are live or that a host
/// still has to undo.
pub async fn list(
    snapshot: &Snapshot,
    project_uid: Uuid,
    show_inactive: bool,
    page: &Page,
) -> Result<Paged<Activation>, Error> {
    let own = Expr::col((assignment::Entity, assignment::Column::ActivationUid))
        .equals((activation::Entity, activation::Column::Uid));
    let remains = assignment::Entity::find()
        .select_only()
        .column(assignment::Column::Uid)
        .filter(own)
        .into_query();
    let standing = Condition::any()
        .add(activation::Column::EndTime.is_null())
        .add(Expr::exists(remains));
    let rows = with_project(activation::Entity::find())
        .filter(activation::Column::ProjectUid.eq(project_uid))
        .filter(Condition::all().add_option((!show_inactive).then_some(standing)))
        .filter(
            Condition::all().add_option(page.after.as_ref().map(|after| activation::Column::Id.gt(after))),
        )
        .order_by_asc(activation::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_rows).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |activation| {
        activation.name.id().to_string()
    }))
}

/// The activations of a target on a pool, ended ones included.
pub async fn of_target_and_pool(
    snapshot: &Snapshot,
    target_uid: Uuid,
    pool_uid: Uuid,
) -> Result<Vec<Activation>, Error> {
    let of_both = Condition::all()
        .add(activation::Column::TargetUid.eq(target_uid))
        .add(activation::Column::PoolUid.eq(pool_uid));
    filtered(snapshot, of_both).await
}

/// The live activations of a target.
pub async fn live_of_target(snapshot: &Snapshot, target_uid: Uuid) -> Result<Vec<Activation>, Error> {
    live(snapshot, activation::Column::TargetUid, target_uid).await
}

/// The live activations of a connector, through imports too.
pub async fn live_of_connector(snapshot: &Snapshot, connector_uid: Uuid) -> Result<Vec<Activation>, Error> {
    live(snapshot, activation::Column::ConnectorUid, connector_uid).await
}

/// All activations of a target, ended ones included.
pub async fn of_target(snapshot: &Snapshot, target_uid: Uuid) -> Result<Vec<Activation>, Error> {
    filtered(
        snapshot,
        Condition::all().add(activation::Column::TargetUid.eq(target_uid)),
    )
    .await
}

/// The live activations of a publication's imports.
pub async fn live_of_publication(
    snapshot: &Snapshot,
    publication_uid: Uuid,
) -> Result<Vec<Activation>, Error> {
    live(snapshot, activation::Column::PublicationUid, publication_uid).await
}

/// The live activations on a pool.
pub async fn live_of_pool(snapshot: &Snapshot, pool_uid: Uuid) -> Result<Vec<Activation>, Error> {
    live(snapshot, activation::Column::PoolUid, pool_uid).await
}

/// The live activations of a project.
pub async fn live_of_project(snapshot: &Snapshot, project_uid: Uuid) -> Result<Vec<Activation>, Error> {
    live(snapshot, activation::Column::ProjectUid, project_uid).await
}

/// Asks for the uids of all activations of a project, as a part of another question.
pub(super) fn uids_of_project(project_uid: Uuid) -> SelectStatement {
    activation::Entity::find()
        .select_only()
        .column(activation::Column::Uid)
        .filter(activation::Column::ProjectUid.eq(project_uid))
        .into_query()
}

/// All live activations.
pub async fn all_live(snapshot: &Snapshot) -> Result<Vec<Activation>, Error> {
    filtered(
        snapshot,
        Condition::all().add(activation::Column::EndTime.is_null()),
    )
    .await
}

/// Adds an activation.
pub async fn insert(writing: &Writing, activation: &Activation) -> Result<(), Error> {
    activation::Entity::insert(to_row(activation).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed activation.
pub async fn update(writing: &Writing, activation: &Activation) -> Result<(), Error> {
    to_row(activation)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Forgets an activation. What hosts still have to undo stays in their assignments.
pub async fn delete(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    activation::Entity::delete_by_id(uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Forgets the ended activations of a project but the `kept` that ended last.
pub async fn delete_ended_beyond(writing: &Writing, project_uid: Uuid, kept: u64) -> Result<(), Error> {
    /// More than one ends with each call, so this catches up.
    const AT_ONCE: u64 = 100;
    let old: Vec<Uuid> = activation::Entity::find()
        .select_only()
        .column(activation::Column::Uid)
        .filter(activation::Column::ProjectUid.eq(project_uid))
        .filter(activation::Column::EndTime.is_not_null())
        .order_by_desc(activation::Column::EndTime)
        .order_by_desc(activation::Column::Uid)
        .offset(kept)
        .limit(AT_ONCE)
        .into_tuple()
        .all(writing.db())
        .await
        .map_err(failed)?;
    if old.is_empty() {
        return Ok(());
    }
    activation::Entity::delete_many()
        .filter(activation::Column::Uid.is_in(old))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Forgets the ended activations of a connector or import that is deleted.
pub async fn delete_ended_of_target(writing: &Writing, target_uid: Uuid) -> Result<(), Error> {
    activation::Entity::delete_many()
        .filter(activation::Column::TargetUid.eq(target_uid))
        .filter(activation::Column::EndTime.is_not_null())
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Forgets the ended activations of a project that is deleted.
pub async fn delete_ended_of_project(writing: &Writing, project_uid: Uuid) -> Result<(), Error> {
    activation::Entity::delete_many()
        .filter(activation::Column::ProjectUid.eq(project_uid))
        .filter(activation::Column::EndTime.is_not_null())
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

async fn live(snapshot: &Snapshot, column: activation::Column, uid: Uuid) -> Result<Vec<Activation>, Error> {
    filtered(
        snapshot,
        Condition::all()
            .add(column.eq(uid))
            .add(activation::Column::EndTime.is_null()),
    )
    .await
}

async fn filtered(snapshot: &Snapshot, condition: Condition) -> Result<Vec<Activation>, Error> {
    let rows = with_project(activation::Entity::find())
        .filter(condition)
        .order_by_asc(activation::Column::Uid)
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_rows).collect()
}

fn with_project(select: Select<activation::Entity>) -> SelectTwo<activation::Entity, project::Entity> {
    select.find_also_related(project::Entity)
}

fn of_rows((row, project): (activation::Model, Option<project::Model>)) -> Result<Activation, Error> {
    let project = project.ok_or_else(|| Error::internal(format!("activation {} has no project", row.id)))?;
    Ok(Activation {
        name: ActivationName::new(ProjectName::new(parsed(&project.id)?), parsed(&row.id)?),
        project_uid: row.project_uid,
        target: parsed(&row.target)?,
        target_uid: row.target_uid,
        connector_uid: row.connector_uid,
        publication_uid: row.publication_uid,
        pool: parsed(&row.pool)?,
        pool_uid: row.pool_uid,
        asked_mode: row
            .asked_mode
            .as_deref()
            .map(|mode| named(mode, Mode::from_name))
            .transpose()?,
        end_time: row.end_time.map(time).transpose()?,
        meta: meta_of!(row),
    })
}

fn to_row(activation: &Activation) -> activation::Model {
    let Activation {
        name,
        meta,
        project_uid,
        target,
        target_uid,
        connector_uid,
        publication_uid,
        pool,
        pool_uid,
        asked_mode,
        end_time,
    } = activation;
    row_of!(
        activation,
        name.id(),
        meta,
        project_uid: *project_uid,
        target: target.to_string(),
        target_uid: *target_uid,
        connector_uid: *connector_uid,
        publication_uid: *publication_uid,
        pool_uid: *pool_uid,
        pool: pool.to_string(),
        asked_mode: asked_mode.map(|mode| mode.as_str().to_owned()),
        end_time: end_time.map(micros),
    )
}
