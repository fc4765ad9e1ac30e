//! Connectors.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "connector")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: Uuid,
    pub id: String,
    pub display_name: String,
    pub description: String,
    pub labels: String,
    pub creator: String,
    pub create_time: i64,
    pub update_time: i64,
    pub version: i64,
    pub project_uid: Uuid,
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    pub prefix: String,
    pub mount_name: String,
    pub access_key_id: String,
    pub secret_uid: Option<Uuid>,
    pub secret_version: Option<i64>,
    pub mode: String,
    pub backend: String,
    pub virtual_host_style: bool,
    pub cache_size_mib: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::project::Entity",
        from = "Column::ProjectUid",
        to = "super::project::Column::Uid"
    )]
    Project,
    #[sea_orm(
        belongs_to = "super::secret::Entity",
        from = "Column::SecretUid",
        to = "super::secret::Column::Uid"
    )]
    Secret,
}

impl Related<super::project::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Project.def()
    }
}

impl Related<super::secret::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Secret.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
