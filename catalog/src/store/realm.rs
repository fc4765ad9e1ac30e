//! The installation itself: its uid, its epoch, the counter of changes, and the names that are not given out again.

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter};
use uuid::Uuid;

use super::columns::micros;
use super::entity::{realm, retired_name};
use super::{Snapshot, Writing, failed};
use crate::domain::Error;

/// There is one realm in a database.
const ROW: i32 = 1;

/// The installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Realm {
    /// Its identifier: hosts obey no other.
    pub uid: Uuid,
    /// Raised by the operator after a database was restored.
    pub epoch: i64,
    /// Number of the newest change.
    pub revision: i64,
}

/// The realm; `None` before the first start.
pub async fn find(snapshot: &Snapshot) -> Result<Option<Realm>, Error> {
    let row = realm::Entity::find_by_id(ROW)
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(row.map(
        |realm::Model {
             uid, epoch, revision, ..
         }| Realm { uid, epoch, revision },
    ))
}

/// The realm of a catalog that has been started.
pub async fn get(snapshot: &Snapshot) -> Result<Realm, Error> {
    find(snapshot)
        .await?
        .ok_or_else(|| Error::internal("the database holds no realm"))
}

/// Makes the realm.
pub async fn insert(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    let row = realm::Model {
        id: ROW,
        uid,
        epoch: 1,
        revision: 0,
        create_time: micros(writing.now()),
    };
    realm::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Raises the epoch and answers the new one.
pub async fn raise_epoch(writing: &Writing) -> Result<i64, Error> {
    bump(writing, realm::Column::Epoch).await.map(|row| row.epoch)
}

/// Whether a name may not be given out any more.
pub async fn is_retired(snapshot: &Snapshot, name: &impl ToString) -> Result<bool, Error> {
    let row = retired_name::Entity::find_by_id(name.to_string())
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(row.is_some())
}

/// Never gives this name out again.
pub(super) async fn retire(writing: &Writing, name: &impl ToString, uid: Uuid) -> Result<(), Error> {
    let row = retired_name::Model {
        name: name.to_string(),
        uid,
        delete_time: micros(writing.now()),
    };
    retired_name::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Counts one change. The row is locked from here to the end of the transaction, hence «late».
pub(super) async fn next_revision(writing: &Writing) -> Result<i64, Error> {
    bump(writing, realm::Column::Revision)
        .await
        .map(|row| row.revision)
}

/// The newest revision outside of a transaction; 0 in an empty database.
pub(super) async fn revision_if_any(connection: &impl ConnectionTrait) -> Result<i64, Error> {
    let row = realm::Entity::find_by_id(ROW)
        .one(connection)
        .await
        .map_err(failed)?;
    Ok(row.map_or(0, |row| row.revision))
}

async fn bump(writing: &Writing, column: realm::Column) -> Result<realm::Model, Error> {
    let rows = realm::Entity::update_many()
        .col_expr(column, Expr::col(column).add(1))
        .filter(realm::Column::Id.eq(ROW))
        .exec_with_returning(writing.db())
        .await
        .map_err(failed)?;
    rows.into_iter()
        .next()
        .ok_or_else(|| Error::internal("the database holds no realm"))
}
