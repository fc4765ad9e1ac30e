//! Folder names in use: unique among the connectors and imports of a project.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "mount_name")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub project_uid: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub mount_name: String,
    pub owner_uid: Uuid,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
