//! Assignments: what each host must make true; with a removal reason, what it must undo. They outlive their activation until the host has undone it.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "assignment")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: Uuid,
    pub activation_uid: Uuid,
    pub host_uid: Uuid,
    pub connector_uid: Uuid,
    pub generation: i64,
    pub spec: String,
    pub spec_hash: String,
    pub revision: i64,
    pub removal_reason: Option<String>,
    pub removal_grace: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::host::Entity",
        from = "Column::HostUid",
        to = "super::host::Column::Uid"
    )]
    Host,
}

impl Related<super::host::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::Host.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}
