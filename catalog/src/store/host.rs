//! Rows of hosts.

use std::collections::BTreeMap;

use mooring_identity::{HpkePublicKey, KeyPin};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, Statement,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::columns::{from_json, json, meta_of, micros, named, padded, parsed, row_of, time, values_of};
use super::entity::host;
use super::{Snapshot, Writing, failed};
use crate::domain::host::{Ban, Host, HostFacts};
use crate::domain::names::HostName;
use crate::domain::{Backend, Error, Page, Paged};

/// The host with this name.
pub async fn find(snapshot: &Snapshot, name: &HostName) -> Result<Option<Host>, Error> {
    let row = host::Entity::find()
        .filter(host::Column::Id.eq(name.id().as_str()))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_row).transpose()
}

/// The host with this uid.
pub async fn by_uid(snapshot: &Snapshot, uid: Uuid) -> Result<Option<Host>, Error> {
    let row = host::Entity::find_by_id(uid)
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    row.map(of_row).transpose()
}

/// The hosts with these uids, by uid.
pub async fn by_uids(snapshot: &Snapshot, uids: &[Uuid]) -> Result<BTreeMap<Uuid, Host>, Error> {
    let rows = host::Entity::find()
        .filter(host::Column::Uid.is_in(padded(uids)))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    rows.into_iter().map(|row| Ok((row.uid, of_row(row)?))).collect()
}

/// A host, as far as one has to know to have it look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its pool.
    pub pool_uid: Uuid,
    /// Whether it is banned.
    pub is_banned: bool,
}

/// All hosts there are.
pub async fn all(snapshot: &Snapshot) -> Result<BTreeMap<Uuid, Known>, Error> {
    let rows: Vec<(Uuid, Uuid, Option<i64>)> = host::Entity::find()
        .select_only()
        .column(host::Column::Uid)
        .column(host::Column::PoolUid)
        .column(host::Column::BanTime)
        .into_tuple()
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let known = |(uid, pool_uid, ban_time): (Uuid, Uuid, Option<i64>)| {
        let is_banned = ban_time.is_some();
        (uid, Known { pool_uid, is_banned })
    };
    Ok(rows.into_iter().map(known).collect())
}

/// A banned host with one of these keys.
pub async fn banned_with(
    snapshot: &Snapshot,
    key: KeyPin,
    hpke: &HpkePublicKey,
) -> Result<Option<HostName>, Error> {
    let row = host::Entity::find()
        .filter(host::Column::BanTime.is_not_null())
        .filter(
            Condition::any()
                .add(host::Column::KeyPin.eq(key.to_string()))
                .add(host::Column::HpkePublicKey.eq(hpke.as_bytes().to_vec())),
        )
        .one(snapshot.db())
        .await;
    Ok(row
        .map_err(failed)?
        .map(of_row)
        .transpose()?
        .map(|host| host.name))
}

/// A page of the hosts of a pool, or of all, ordered by id.
pub async fn list(snapshot: &Snapshot, pool: Option<Uuid>, page: &Page) -> Result<Paged<Host>, Error> {
    let rows = host::Entity::find()
        .filter(
            Condition::all()
                .add_option(pool.map(|uid| host::Column::PoolUid.eq(uid)))
                .add_option(page.after.as_ref().map(|after| host::Column::Id.gt(after))),
        )
        .order_by_asc(host::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_row).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |host| host.name.id().to_string()))
}

/// All hosts of a pool.
pub async fn of_pool(snapshot: &Snapshot, pool: Uuid) -> Result<Vec<Host>, Error> {
    let rows = host::Entity::find()
        .filter(host::Column::PoolUid.eq(pool))
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_row).collect()
}

/// The hosts of a pool that take no new mounts, without those that are banned.
pub async fn cordoned_of_pool(snapshot: &Snapshot, pool: Uuid) -> Result<Vec<Host>, Error> {
    let rows = host::Entity::find()
        .filter(host::Column::PoolUid.eq(pool))
        .filter(host::Column::Unschedulable.eq(true))
        .filter(host::Column::BanTime.is_null())
        .order_by_asc(host::Column::Id)
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_row).collect()
}

/// Has all hosts of a pool told again what they shall know.
pub async fn tell_all_of(writing: &Writing, pool: Uuid) -> Result<(), Error> {
    let uids: Vec<Uuid> = host::Entity::find()
        .select_only()
        .column(host::Column::Uid)
        .filter(host::Column::PoolUid.eq(pool))
        .into_tuple()
        .all(writing.db())
        .await
        .map_err(failed)?;
    uids.into_iter().for_each(|uid| writing.orders_changed(uid));
    Ok(())
}

/// Adds a host.
pub async fn insert(writing: &Writing, host: &Host) -> Result<(), Error> {
    host::Entity::insert(to_row(host).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed host.
pub async fn update(writing: &Writing, host: &Host) -> Result<(), Error> {
    to_row(host)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Notes when hosts were last heard of; never an earlier time than the one that is stored.
pub async fn set_seen(writing: &Writing, heard: &[(Uuid, OffsetDateTime)]) -> Result<(), Error> {
    let set = "seen_time = given.column2";
    let which = "host.seen_time IS NULL OR host.seen_time < given.column2";
    set_times(writing, heard, set, which).await
}

/// Notes until when the certificates of hosts last.
pub async fn set_certified(writing: &Writing, certified: &[(Uuid, OffsetDateTime)]) -> Result<(), Error> {
    set_times(
        writing,
        certified,
        "certificate_expire_time = given.column2",
        "TRUE",
    )
    .await
}

/// One statement for many hosts. Of `set` and `which` nothing comes from outside.
async fn set_times(
    writing: &Writing,
    times: &[(Uuid, OffsetDateTime)],
    set: &'static str,
    which: &'static str,
) -> Result<(), Error> {
    /// Two values each: well below what one statement takes, and so many that a fleet costs few statements.
    const ROWS_PER_STATEMENT: usize = 500;
    for some in times.chunks(ROWS_PER_STATEMENT) {
        let some = some
            .iter()
            .map(|(uid, time)| [(*uid).into(), micros(*time).into()]);
        let (list, values) = values_of(some.collect());
        let sql = format!(
            "UPDATE host SET {set} FROM {list} AS given WHERE host.uid = given.column1 AND ({which})"
        );
        let statement = Statement::from_sql_and_values(writing.db().get_database_backend(), sql, values);
        writing.db().execute_raw(statement).await.map_err(failed)?;
    }
    Ok(())
}

/// Removes a host, with its assignments and mounts.
pub async fn delete(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    host::Entity::delete_by_id(uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

pub(super) fn of_row(row: host::Model) -> Result<Host, Error> {
    let backends: Vec<(String, String)> = from_json(&row.backends)?;
    let backends = backends
        .into_iter()
        .map(|(backend, version)| Ok((named(&backend, Backend::from_name)?, version)))
        .collect::<Result<_, Error>>()?;
    Ok(Host {
        name: HostName::new(parsed(&row.id)?),
        pool: parsed(&row.pool)?,
        pool_uid: row.pool_uid,
        unschedulable: row.unschedulable,
        seen_time: row.seen_time.map(time).transpose()?,
        facts: HostFacts {
            agent_version: row.agent_version,
            kernel_version: row.kernel_version,
            backends,
        },
        certificate_expire_time: time(row.certificate_expire_time)?,
        hpke_public_key: row.hpke_public_key,
        key: row.key_pin.parse().map_err(Error::internal)?,
        drain_time: row.drain_time.map(time).transpose()?,
        ban: match (row.ban_time, row.ban_reason) {
            (Some(since), Some(reason)) => Some(Ban {
                time: time(since)?,
                reason,
                done: row.ban_done_time.map(time).transpose()?,
            }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Error::internal("a ban needs both a time and a reason"));
            }
        },
        clone_time: row.clone_time.map(time).transpose()?,
        meta: meta_of!(row),
    })
}

fn to_row(host: &Host) -> host::Model {
    let Host {
        name,
        meta,
        pool,
        pool_uid,
        unschedulable,
        seen_time,
        facts:
            HostFacts {
                agent_version,
                kernel_version,
                backends,
            },
        certificate_expire_time,
        hpke_public_key,
        key,
        drain_time,
        ban,
        clone_time,
    } = host;
    let backends: Vec<_> = backends
        .iter()
        .map(|(backend, version)| (backend.as_str(), version))
        .collect();
    row_of!(
        host,
        name.id(),
        meta,
        pool_uid: *pool_uid,
        pool: pool.to_string(),
        unschedulable: *unschedulable,
        seen_time: seen_time.map(micros),
        agent_version: agent_version.clone(),
        kernel_version: kernel_version.clone(),
        backends: json(&backends),
        certificate_expire_time: micros(*certificate_expire_time),
        hpke_public_key: hpke_public_key.clone(),
        key_pin: key.to_string(),
        drain_time: drain_time.map(micros),
        ban_time: ban.as_ref().map(|ban| micros(ban.time)),
        ban_reason: ban.as_ref().map(|ban| ban.reason.clone()),
        ban_done_time: ban.as_ref().and_then(|ban| ban.done).map(micros),
        clone_time: clone_time.map(micros),
    )
}
