//! Rows of imports.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect,
};
use uuid::Uuid;

use super::columns::{meta_of, named, parsed, row_of};
use super::entity::{import, project};
use super::{Snapshot, Writing, failed};
use crate::domain::import::Import;
use crate::domain::names::{ImportName, ProjectName};
use crate::domain::{Error, Mode, Page, Paged};

/// The import with this name.
pub async fn find(snapshot: &Snapshot, name: &ImportName) -> Result<Option<Import>, Error> {
    let row = import::Entity::find()
        .find_also_related(project::Entity)
        .filter(import::Column::Id.eq(name.id().as_str()))
        .filter(project::Column::Id.eq(name.project().id().as_str()))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_rows).transpose()
}

/// The import with this uid.
pub async fn by_uid(snapshot: &Snapshot, uid: Uuid) -> Result<Option<Import>, Error> {
    let row = import::Entity::find_by_id(uid)
        .find_also_related(project::Entity)
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_rows).transpose()
}

/// A page of a project's imports, ordered by id.
pub async fn list(snapshot: &Snapshot, project_uid: Uuid, page: &Page) -> Result<Paged<Import>, Error> {
    let rows = import::Entity::find()
        .find_also_related(project::Entity)
        .filter(import::Column::ProjectUid.eq(project_uid))
        .filter(Condition::all().add_option(page.after.as_ref().map(|after| import::Column::Id.gt(after))))
        .order_by_asc(import::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_rows).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |import| import.name.id().to_string()))
}

/// All imports of a publication, ordered by uid.
pub async fn of_publication(snapshot: &Snapshot, publication_uid: Uuid) -> Result<Vec<Import>, Error> {
    let rows = import::Entity::find()
        .find_also_related(project::Entity)
        .filter(import::Column::PublicationUid.eq(publication_uid))
        .order_by_asc(import::Column::Uid)
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_rows).collect()
}

/// Adds an import.
pub async fn insert(writing: &Writing, import: &Import) -> Result<(), Error> {
    import::Entity::insert(to_row(import).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed import.
pub async fn update(writing: &Writing, import: &Import) -> Result<(), Error> {
    to_row(import)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes an import and gives its folder name back.
pub async fn delete(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    super::mount_name::release(writing, uid).await?;
    import::Entity::delete_by_id(uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

fn of_rows((row, project): (import::Model, Option<project::Model>)) -> Result<Import, Error> {
    let project = project.ok_or_else(|| Error::internal(format!("import {} has no project", row.id)))?;
    Ok(Import {
        name: ImportName::new(ProjectName::new(parsed(&project.id)?), parsed(&row.id)?),
        project_uid: row.project_uid,
        publication: parsed(&row.publication)?,
        publication_uid: row.publication_uid,
        mount_name: parsed(&row.mount_name)?,
        mode: row
            .mode
            .as_deref()
            .map(|mode| named(mode, Mode::from_name))
            .transpose()?,
        meta: meta_of!(row),
    })
}

fn to_row(import: &Import) -> import::Model {
    let Import {
        name,
        meta,
        project_uid,
        publication,
        publication_uid,
        mount_name,
        mode,
    } = import;
    row_of!(
        import,
        name.id(),
        meta,
        project_uid: *project_uid,
        publication_uid: *publication_uid,
        publication: publication.to_string(),
        mount_name: mount_name.to_string(),
        mode: mode.map(|mode| mode.as_str().to_owned()),
    )
}
