//! Mounts: what hosts have reported last.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "mount")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub host_uid: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub assignment_uid: Uuid,
    pub activation: String,
    pub generation: i64,
    pub state: String,
    pub path: String,
    pub conditions: String,
    pub mount_time: Option<i64>,
    pub update_time: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::host::Entity",
        from = "Column::HostUid",
        to = "super::host::Column::Uid"
    )]
    Host,
    #[sea_orm(
        belongs_to = "super::assignment::Entity",
        from = "Column::AssignmentUid",
        to = "super::assignment::Column::Uid"
    )]
    Assignment,
}

impl Related<super::host::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Host.def()
    }
}

impl Related<super::assignment::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Assignment.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
