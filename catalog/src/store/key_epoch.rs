//! Rows of key epochs: keys that are themselves wrapped by the root key.

use sea_orm::{EntityTrait, IntoActiveModel, QueryOrder};

use super::columns::micros;
use super::entity::key_epoch;
use super::{Snapshot, Writing, failed};
use crate::domain::Error;

/// All epochs, the oldest first: number and wrapped key.
pub async fn list(snapshot: &Snapshot) -> Result<Vec<(i64, Vec<u8>)>, Error> {
    let rows = key_epoch::Entity::find()
        .order_by_asc(key_epoch::Column::Epoch)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(rows.into_iter().map(|row| (row.epoch, row.wrapped_key)).collect())
}

/// Adds an epoch.
pub async fn insert(writing: &Writing, epoch: i64, wrapped_key: Vec<u8>) -> Result<(), Error> {
    let row = key_epoch::Model {
        epoch,
        wrapped_key,
        create_time: micros(writing.now()),
    };
    key_epoch::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}
