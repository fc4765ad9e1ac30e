//! Folder names on the hosts: unique among the connectors and imports of a project, so both claim theirs here.

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter};
use uuid::Uuid;

use super::entity::mount_name;
use super::{Writing, failed};
use crate::domain::{Error, Id};

/// Claims a folder name for a connector or import, in exchange for the one it had. False if another one has it.
pub async fn claim(writing: &Writing, project: Uuid, name: &Id, owner: Uuid) -> Result<bool, Error> {
    let taken = mount_name::Entity::find_by_id((project, name.to_string()))
        .one(writing.db())
        .await
        .map_err(failed)?;
    match taken {
        Some(row) if row.owner_uid == owner => return Ok(true),
        Some(_) => return Ok(false),
        None => {}
    }
    release(writing, owner).await?;
    let row = mount_name::Model {
        project_uid: project,
        mount_name: name.to_string(),
        owner_uid: owner,
    };
    mount_name::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(true)
}

/// Gives back the folder name of a connector or import.
pub async fn release(writing: &Writing, owner: Uuid) -> Result<(), Error> {
    mount_name::Entity::delete_many()
        .filter(mount_name::Column::OwnerUid.eq(owner))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}
