//! Who changed what: one row for each revision.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub revision: i64,
    pub event_time: i64,
    pub actor: String,
    pub method: String,
    pub resource: String,
    pub resource_uid: Uuid,
    pub community_uid: Option<Uuid>,
    pub project_uid: Option<Uuid>,
    pub details: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
