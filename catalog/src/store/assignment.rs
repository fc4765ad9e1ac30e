//! Rows of assignments: what each host must make true, and what it must undo. Every function that changes what a host
//! shall have takes the revision that the change will carry, and has the host's stream woken by the commit.

use std::collections::BTreeMap;
use std::time::Duration;

use sea_orm::sea_query::{Expr, SimpleExpr};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, EntityTrait, IntoActiveModel, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, Statement,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::columns::{from_json, json, named, padded, values_of};
use super::entity::assignment;
use super::{Snapshot, Writing, failed};
use crate::domain::assignment::{Assignment, AssignmentSpec, RemovalOrder};
use crate::domain::connector::CacheSize;
use crate::domain::{Backend, Error, Mode};

/// A host's assignments and removals that changed after a revision, ordered by uid.
pub async fn of_host_since(
    snapshot: &Snapshot,
    host_uid: Uuid,
    revision: i64,
) -> Result<Vec<Assignment>, Error> {
    let rows = assignment::Entity::find()
        .filter(assignment::Column::HostUid.eq(host_uid))
        .filter(assignment::Column::Revision.gt(revision))
        .order_by_asc(assignment::Column::Uid)
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_row).collect()
}

/// The same of several hosts, each since a revision of its own, by host.
pub async fn of_hosts_since(
    snapshot: &Snapshot,
    asked: &[(Uuid, i64)],
) -> Result<BTreeMap<Uuid, Vec<Assignment>>, Error> {
    /// Two values each: well below what one statement takes.
    const ROWS_PER_STATEMENT: usize = 500;
    let mut by_host: BTreeMap<Uuid, Vec<Assignment>> = BTreeMap::new();
    for some in asked.chunks(ROWS_PER_STATEMENT) {
        let some = some.iter().map(|(uid, since)| [(*uid).into(), (*since).into()]);
        let (list, values) = values_of(some.collect());
        // CROSS: SQLite goes through the list first, whatever it believes of the table.
        let sql = format!(
            "SELECT assignment.* FROM {list} AS asked CROSS JOIN assignment \
             WHERE assignment.host_uid = asked.column1 AND assignment.revision > asked.column2 ORDER BY assignment.uid"
        );
        let statement = Statement::from_sql_and_values(snapshot.db().get_database_backend(), sql, values);
        let rows = assignment::Entity::find()
            .from_raw_sql(statement)
            .all(snapshot.db())
            .await
            .map_err(failed)?;
        for row in rows {
            by_host.entry(row.host_uid).or_default().push(of_row(row)?);
        }
    }
    Ok(by_host)
}

/// An assignment or removal, as far as a report is held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The assignment.
    pub uid: Uuid,
    /// Resource name of its activation.
    pub activation: String,
    /// The revision of its last change.
    pub revision: i64,
    /// It is to be unmounted.
    pub is_removal: bool,
}

/// All assignments and removals of several hosts, by host. Of their specs nothing but the name is read.
pub async fn listed_of_hosts(
    snapshot: &Snapshot,
    hosts: &[Uuid],
) -> Result<BTreeMap<Uuid, Vec<Listed>>, Error> {
    #[derive(Deserialize)]
    struct Name {
        activation: String,
    }
    let rows: Vec<(Uuid, Uuid, i64, Option<String>, String)> = assignment::Entity::find()
        .select_only()
        .column(assignment::Column::Uid)
        .column(assignment::Column::HostUid)
        .column(assignment::Column::Revision)
        .column(assignment::Column::RemovalReason)
        .column(assignment::Column::Spec)
        .filter(assignment::Column::HostUid.is_in(padded(hosts)))
        .into_tuple()
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let mut by_host: BTreeMap<Uuid, Vec<Listed>> = BTreeMap::new();
    for (uid, host_uid, revision, removal, spec) in rows {
        let Name { activation } = from_json(&spec)?;
        by_host.entry(host_uid).or_default().push(Listed {
            uid,
            activation,
            revision,
            is_removal: removal.is_some(),
        });
    }
    Ok(by_host)
}

/// The hosts whose assignments or removals changed after a revision, each with the newest of these changes.
pub async fn hosts_changed_since(snapshot: &Snapshot, revision: i64) -> Result<Vec<(Uuid, i64)>, Error> {
    assignment::Entity::find()
        .select_only()
        .column(assignment::Column::HostUid)
        .column_as(assignment::Column::Revision.max(), "revision")
        .filter(assignment::Column::Revision.gt(revision))
        .group_by(assignment::Column::HostUid)
        .into_tuple()
        .all(snapshot.db())
        .await
        .map_err(failed)
}

/// All assignments and removals of a host.
pub async fn of_host(snapshot: &Snapshot, host_uid: Uuid) -> Result<Vec<Assignment>, Error> {
    of_host_since(snapshot, host_uid, 0).await
}

/// The assignments and removals of activations.
pub async fn of_activations(
    snapshot: &Snapshot,
    activations: impl IntoIterator<Item = Uuid>,
) -> Result<Vec<Assignment>, Error> {
    let rows = assignment::Entity::find()
        .filter(assignment::Column::ActivationUid.is_in(activations))
        .order_by_asc(assignment::Column::Uid)
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_row).collect()
}

/// The assignment or removal of an activation on one host.
pub async fn find(
    snapshot: &Snapshot,
    activation_uid: Uuid,
    host_uid: Uuid,
) -> Result<Option<Assignment>, Error> {
    let row = assignment::Entity::find()
        .filter(assignment::Column::ActivationUid.eq(activation_uid))
        .filter(assignment::Column::HostUid.eq(host_uid))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_row).transpose()
}

/// Assignments and removals by their uids.
pub async fn by_uids(
    snapshot: &Snapshot,
    uids: impl IntoIterator<Item = Uuid>,
) -> Result<BTreeMap<Uuid, Assignment>, Error> {
    let rows = assignment::Entity::find()
        .filter(assignment::Column::Uid.is_in(uids))
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?
        .into_iter()
        .map(|row| Ok((row.uid, of_row(row)?)))
        .collect()
}

/// The assignments of connectors; removals are none.
pub async fn of_connectors(
    snapshot: &Snapshot,
    connectors: impl IntoIterator<Item = Uuid>,
) -> Result<Vec<Assignment>, Error> {
    let rows = assignment::Entity::find()
        .filter(assignment::Column::ConnectorUid.is_in(connectors))
        .filter(assignment::Column::RemovalReason.is_null())
        .order_by_asc(assignment::Column::Uid)
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_row).collect()
}

/// Adds assignments.
pub async fn insert_all(writing: &Writing, assignments: &[Assignment]) -> Result<(), Error> {
    /// Ten columns each: well below what one statement takes, and large enough for a pool to cost few of them.
    const ROWS_PER_STATEMENT: usize = 500;
    for some in assignments.chunks(ROWS_PER_STATEMENT) {
        let rows = some
            .iter()
            .map(|assignment| to_row(assignment).into_active_model());
        assignment::Entity::insert_many(rows)
            .exec_without_returning(writing.db())
            .await
            .map_err(failed)?;
    }
    assignments
        .iter()
        .for_each(|assignment| writing.orders_changed(assignment.host_uid));
    Ok(())
}

/// Stores a changed assignment.
pub async fn update(writing: &Writing, assignment: &Assignment) -> Result<(), Error> {
    to_row(assignment)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    writing.orders_changed(assignment.host_uid);
    Ok(())
}

/// Has the assignments of connectors sent again, because their key has changed.
pub async fn send_again(
    writing: &Writing,
    connectors: impl IntoIterator<Item = Uuid>,
    revision: i64,
) -> Result<(), Error> {
    let which = Condition::all()
        .add(assignment::Column::ConnectorUid.is_in(connectors))
        .add(assignment::Column::RemovalReason.is_null());
    change(writing, which, revision, []).await
}

/// Turns every assignment of an activation into a removal, and shortens the graces of removals under way.
pub async fn remove(
    writing: &Writing,
    activation_uid: Uuid,
    removal: &RemovalOrder,
    revision: i64,
) -> Result<(), Error> {
    let which = assignment::Column::ActivationUid.eq(activation_uid);
    order_removals(writing, &which, removal, revision).await
}

/// Turns every assignment of a host into a removal, and shortens the graces of removals under way; with `all` these
/// are given this reason and grace whatever theirs were.
/// The host's stream is woken even if it has none: it may have more to be told.
pub async fn remove_of_host(
    writing: &Writing,
    host_uid: Uuid,
    removal: &RemovalOrder,
    revision: i64,
    all: bool,
) -> Result<(), Error> {
    writing.orders_changed(host_uid);
    let which = assignment::Column::HostUid.eq(host_uid);
    if all {
        change(writing, Condition::all().add(which), revision, ordered(removal)).await
    } else {
        order_removals(writing, &which, removal, revision).await
    }
}

/// Turns assignments into removals. Removals under way are given this grace if theirs is longer: what was to wait for a
/// day may have to go now.
async fn order_removals(
    writing: &Writing,
    which: &SimpleExpr,
    removal: &RemovalOrder,
    revision: i64,
) -> Result<(), Error> {
    let live = Condition::all()
        .add(which.clone())
        .add(assignment::Column::RemovalReason.is_null());
    change(writing, live, revision, ordered(removal)).await?;
    let slower = Condition::all()
        .add(which.clone())
        .add(assignment::Column::RemovalReason.is_not_null())
        .add(assignment::Column::RemovalGrace.gt(millis(removal.grace)));
    change(writing, slower, revision, [grace(removal)]).await
}

type Change = (assignment::Column, SimpleExpr);

fn ordered(removal: &RemovalOrder) -> [Change; 2] {
    let reason = Expr::value(removal.reason);
    [(assignment::Column::RemovalReason, reason), grace(removal)]
}

fn grace(removal: &RemovalOrder) -> Change {
    let grace = Expr::value(millis(removal.grace));
    (assignment::Column::RemovalGrace, grace)
}

/// Changes rows, and has the streams of their hosts woken.
async fn change(
    writing: &Writing,
    which: Condition,
    revision: i64,
    changes: impl IntoIterator<Item = Change>,
) -> Result<(), Error> {
    let update = assignment::Entity::update_many()
        .col_expr(assignment::Column::Revision, Expr::value(revision))
        .filter(which);
    let update = changes
        .into_iter()
        .fold(update, |update, (column, value)| update.col_expr(column, value));
    let rows = update.exec_with_returning(writing.db()).await.map_err(failed)?;
    rows.iter().for_each(|row| writing.orders_changed(row.host_uid));
    Ok(())
}

/// How many assignments and removals each of these hosts has.
pub async fn counts_of_hosts(
    snapshot: &Snapshot,
    hosts: impl IntoIterator<Item = Uuid>,
) -> Result<BTreeMap<Uuid, i32>, Error> {
    let rows: Vec<(Uuid, i64)> = assignment::Entity::find()
        .select_only()
        .column(assignment::Column::HostUid)
        .column_as(assignment::Column::Uid.count(), "assignments")
        .filter(assignment::Column::HostUid.is_in(hosts))
        .group_by(assignment::Column::HostUid)
        .into_tuple()
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(rows
        .into_iter()
        .map(|(uid, count)| (uid, i32::try_from(count).unwrap_or(i32::MAX)))
        .collect())
}

/// How many unmounts of a drain a host has still to carry out.
pub async fn drained_of_host(snapshot: &Snapshot, host: Uuid) -> Result<u64, Error> {
    assignment::Entity::find()
        .filter(assignment::Column::HostUid.eq(host))
        .filter(assignment::Column::RemovalReason.eq(RemovalOrder::DRAINED))
        .count(snapshot.db())
        .await
        .map_err(failed)
}

/// Forgets removals that hosts have carried out.
pub async fn forget(writing: &Writing, uids: &[Uuid]) -> Result<(), Error> {
    /// One value each: well below what one statement takes.
    const ROWS_PER_STATEMENT: usize = 1000;
    for some in uids.chunks(ROWS_PER_STATEMENT) {
        assignment::Entity::delete_many()
            .filter(assignment::Column::Uid.is_in(padded(some)))
            .filter(assignment::Column::RemovalReason.is_not_null())
            .exec(writing.db())
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// A spec as it is stored. Its own type, so that the domain's can change without rewriting rows unseen.
#[derive(Serialize, Deserialize)]
struct StoredSpec {
    activation: String,
    connector: String,
    project_id: String,
    mount_name: String,
    endpoint: String,
    region: String,
    bucket: String,
    prefix: String,
    mode: String,
    backend: String,
    virtual_host_style: bool,
    /// In MiB.
    #[serde(default)]
    cache_size: i32,
    unix_group: Option<String>,
    allow_http: bool,
    allowed_networks: Vec<String>,
}

/// One spec from the other: the fields once for both directions. What is not a plain text on both sides is given, as an
/// expression over the field's own name. Nothing is left out on either side, so a new field stops the build here.
macro_rules! spec_from {
    ($spec:expr, $From:ident => $To:ident {
        $mode:ident: $to_mode:expr, $backend:ident: $to_backend:expr, $cache_size:ident: $to_cache_size:expr $(,)?
    }) => {{
        let $From {
            activation,
            connector,
            project_id,
            mount_name,
            endpoint,
            region,
            bucket,
            prefix,
            mode: $mode,
            backend: $backend,
            virtual_host_style,
            $cache_size,
            unix_group,
            allow_http,
            allowed_networks,
        } = $spec;
        $To {
            activation,
            connector,
            project_id,
            mount_name,
            endpoint,
            region,
            bucket,
            prefix,
            mode: $to_mode,
            backend: $to_backend,
            virtual_host_style,
            cache_size: $to_cache_size,
            unix_group,
            allow_http,
            allowed_networks,
        }
    }};
}

fn of_row(row: assignment::Model) -> Result<Assignment, Error> {
    let stored: StoredSpec = from_json(&row.spec)?;
    let spec = spec_from!(stored, StoredSpec => AssignmentSpec {
        mode: named(&mode, Mode::from_name)?,
        backend: named(&backend, Backend::from_name)?,
        cache_size: CacheSize::of_mib(cache_size).map_err(Error::internal)?,
    });
    let removal = match (&row.removal_reason, row.removal_grace) {
        (Some(reason), Some(grace)) => Some(RemovalOrder {
            reason: named(reason, RemovalOrder::reason_from_name)?,
            grace: Duration::from_millis(u64::try_from(grace).map_err(Error::internal)?),
        }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(Error::internal("a removal needs both a reason and a grace"));
        }
    };
    Ok(Assignment {
        uid: row.uid,
        activation_uid: row.activation_uid,
        host_uid: row.host_uid,
        connector_uid: row.connector_uid,
        generation: row.generation,
        spec,
        spec_hash: row.spec_hash,
        revision: row.revision,
        removal,
    })
}

fn to_row(assignment: &Assignment) -> assignment::Model {
    let Assignment {
        uid,
        activation_uid,
        host_uid,
        connector_uid,
        generation,
        spec,
        spec_hash,
        revision,
        removal,
    } = assignment;
    let stored = spec_from!(spec.clone(), AssignmentSpec => StoredSpec {
        mode: mode.as_str().to_owned(),
        backend: backend.as_str().to_owned(),
        cache_size: cache_size.mib(),
    });
    assignment::Model {
        uid: *uid,
        activation_uid: *activation_uid,
        host_uid: *host_uid,
        connector_uid: *connector_uid,
        generation: *generation,
        spec: json(&stored),
        spec_hash: spec_hash.clone(),
        revision: *revision,
        removal_reason: removal.as_ref().map(|removal| removal.reason.to_owned()),
        removal_grace: removal.as_ref().map(|removal| millis(removal.grace)),
    }
}

fn millis(grace: Duration) -> i64 {
    i64::try_from(grace.as_millis()).unwrap_or(i64::MAX)
}
