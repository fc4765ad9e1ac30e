//! Who joined with a token and which key: a lost reply is answered again for a while.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "join_use")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub token_uid: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub key_sha256: Vec<u8>,
    pub subject_uid: Uuid,
    pub use_time: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
