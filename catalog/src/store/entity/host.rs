//! Hosts. Their state is not stored: it follows from `seen_time`.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "host")]
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
    pub pool_uid: Uuid,
    pub pool: String,
    pub unschedulable: bool,
    pub seen_time: Option<i64>,
    pub agent_version: String,
    pub kernel_version: String,
    pub backends: String,
    pub certificate_expire_time: i64,
    pub hpke_public_key: Vec<u8>,
    pub key_pin: String,
    pub drain_time: Option<i64>,
    pub ban_time: Option<i64>,
    pub ban_reason: Option<String>,
    pub ban_done_time: Option<i64>,
    pub clone_time: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
