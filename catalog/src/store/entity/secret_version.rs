//! Versions of secrets: ciphertext only. A destroyed one has lost it.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "secret_version")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub secret_uid: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    pub state: String,
    pub access_key_id: String,
    pub creator: String,
    pub create_time: i64,
    pub key_epoch: Option<i64>,
    pub wrapped_key: Option<Vec<u8>>,
    pub ciphertext: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
