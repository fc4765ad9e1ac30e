//! Join tokens, of which only the SHA-256 is known.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "join_token")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: Uuid,
    pub token_sha256: Vec<u8>,
    pub pool_uid: Option<Uuid>,
    pub user_uid: Option<Uuid>,
    pub uses_left: i32,
    pub expire_time: i64,
    pub creator: String,
    pub create_time: i64,
    pub host_labels: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
