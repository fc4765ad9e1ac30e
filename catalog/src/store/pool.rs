//! Rows of pools.

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};
use uuid::Uuid;

use super::columns::{from_json, json, meta_of, parsed, row_of};
use super::entity::{host, pool};
use super::{Snapshot, Writing, failed};
use crate::domain::names::PoolName;
use crate::domain::pool::{Admission, Pool};
use crate::domain::{Error, Page, Paged, Violations};

/// The pool with this name.
pub async fn find(snapshot: &Snapshot, name: &PoolName) -> Result<Option<Pool>, Error> {
    let row = pool::Entity::find()
        .filter(pool::Column::Id.eq(name.id().as_str()))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_row).transpose()
}

/// The pool with this uid.
pub async fn by_uid(snapshot: &Snapshot, uid: Uuid) -> Result<Option<Pool>, Error> {
    let row = pool::Entity::find_by_id(uid)
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    row.map(of_row).transpose()
}

/// A page of all pools, ordered by id.
pub async fn list(snapshot: &Snapshot, page: &Page) -> Result<Paged<Pool>, Error> {
    let rows = pool::Entity::find()
        .filter(Condition::all().add_option(page.after.as_ref().map(|after| pool::Column::Id.gt(after))))
        .order_by_asc(pool::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_row).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |pool| pool.name.id().to_string()))
}

/// How many hosts each of these pools has.
pub async fn host_counts(snapshot: &Snapshot, pools: &[Uuid]) -> Result<BTreeMap<Uuid, i32>, Error> {
    let rows: Vec<(Uuid, i64)> = host::Entity::find()
        .select_only()
        .column(host::Column::PoolUid)
        .column_as(host::Column::Uid.count(), "hosts")
        .filter(host::Column::PoolUid.is_in(pools.iter().copied()))
        .group_by(host::Column::PoolUid)
        .into_tuple()
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(rows
        .into_iter()
        .map(|(uid, hosts)| (uid, i32::try_from(hosts).unwrap_or(i32::MAX)))
        .collect())
}

/// How long the hosts of each pool may start mounts without the catalog, where that is bounded.
pub async fn offline_maxima(snapshot: &Snapshot) -> Result<BTreeMap<Uuid, Duration>, Error> {
    let rows: Vec<(Uuid, i64)> = pool::Entity::find()
        .select_only()
        .column(pool::Column::Uid)
        .column(pool::Column::OfflineMax)
        .filter(pool::Column::OfflineMax.is_not_null())
        .into_tuple()
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    rows.into_iter()
        .map(|(uid, max)| Ok((uid, millis(max)?)))
        .collect()
}

/// Whether a pool has hosts.
pub async fn has_hosts(snapshot: &Snapshot, uid: Uuid) -> Result<bool, Error> {
    let hosts = host::Entity::find()
        .filter(host::Column::PoolUid.eq(uid))
        .count(snapshot.db())
        .await;
    Ok(hosts.map_err(failed)? > 0)
}

/// Adds a pool.
pub async fn insert(writing: &Writing, pool: &Pool) -> Result<(), Error> {
    pool::Entity::insert(to_row(pool).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed pool.
pub async fn update(writing: &Writing, pool: &Pool) -> Result<(), Error> {
    to_row(pool)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes a pool.
pub async fn delete(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    super::join_token::delete_of_pool(writing, uid).await?;
    pool::Entity::delete_by_id(uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

fn of_row(row: pool::Model) -> Result<Pool, Error> {
    let admitted: Vec<String> = from_json(&row.admitted)?;
    let groups: BTreeMap<String, String> = from_json(&row.project_groups)?;
    // What is stored was checked when it was given; what does not read now is damage.
    let mut violations = Violations::default();
    let admission = Admission::parse(&admitted, "admitted", &mut violations);
    let groups = crate::domain::pool::parse_groups(&groups, "project_groups", &mut violations);
    violations.finish().map_err(Error::internal)?;
    Ok(Pool {
        name: PoolName::new(parsed(&row.id)?),
        admission,
        groups,
        offline_max: row.offline_max.map(millis).transpose()?,
        meta: meta_of!(row),
    })
}

fn to_row(pool: &Pool) -> pool::Model {
    let Pool {
        name,
        meta,
        admission,
        groups,
        offline_max,
    } = pool;
    let groups: BTreeMap<_, _> = groups
        .iter()
        .map(|(project, group)| (project.to_string(), group.as_str()))
        .collect();
    row_of!(
        pool,
        name.id(),
        meta,
        admitted: json(&admission.to_texts()),
        project_groups: json(&groups),
        offline_max: offline_max.map(|max| i64::try_from(max.as_millis()).unwrap_or(i64::MAX)),
    )
}

fn millis(stored: i64) -> Result<Duration, Error> {
    Ok(Duration::from_millis(
        u64::try_from(stored).map_err(Error::internal)?,
    ))
}
