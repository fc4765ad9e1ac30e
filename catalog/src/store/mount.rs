//! Rows of mounts: what hosts have reported last.

use std::collections::BTreeMap;

use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait, Statement, Value,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::columns::{from_json, json, micros, named, padded, parsed, time, values_of};
use super::entity::{assignment, host, mount};
use super::{Snapshot, Writing, failed};
use crate::domain::activation::{MountState, PartReport};
use crate::domain::host::{Duty, Host};
use crate::domain::mount::{
    Condition as MountCondition, ConditionStatus, ConditionType, ObservedMount, message_of,
};
use crate::domain::names::HostName;
use crate::domain::{Error, Page, Paged};

/// A mount as it was reported, and when it last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMount {
    /// The host that has it.
    pub host_uid: Uuid,
    /// What the host said.
    pub observed: ObservedMount,
    /// When a report last changed it.
    pub update_time: OffsetDateTime,
}

/// Whose mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A host's, orphans included.
    Host(Uuid),
    /// An activation's.
    Activation(Uuid),
    /// A connector's, through imports too.
    Connector(Uuid),
    /// A project's: those of its activations.
    Project(Uuid),
}

/// A page of mounts with their hosts, ordered by host and path.
pub async fn list(snapshot: &Snapshot, of: Of, page: &Page) -> Result<Paged<(StoredMount, Host)>, Error> {
    let assignments = |condition: Condition| {
        assignment::Entity::find()
            .select_only()
            .column(assignment::Column::Uid)
            .filter(condition)
            .filter(by_its_own_host())
            .into_query()
    };
    let wanted = match of {
        Of::Host(uid) => Condition::all().add(mount::Column::HostUid.eq(uid)),
        Of::Activation(uid) => {
            let own = Condition::all().add(assignment::Column::ActivationUid.eq(uid));
            Condition::all().add(mount::Column::AssignmentUid.in_subquery(assignments(own)))
        }
        Of::Connector(uid) => {
            let own = Condition::all().add(assignment::Column::ConnectorUid.eq(uid));
            Condition::all().add(mount::Column::AssignmentUid.in_subquery(assignments(own)))
        }
        Of::Project(uid) => {
            let activations = super::activation::uids_of_project(uid);
            let own = Condition::all().add(assignment::Column::ActivationUid.in_subquery(activations));
            Condition::all().add(mount::Column::AssignmentUid.in_subquery(assignments(own)))
        }
    };
    // The key of a page is host, path and assignment; no path and no id holds a zero byte.
    let after = page.after.as_deref().and_then(|after| {
        let mut parts = after.split('\0');
        Some((parts.next()?, parts.next()?, parts.next()?.parse::<Uuid>().ok()?))
    });
    let after = after.map(|(host_id, path, uid)| {
        Condition::any()
            .add(host::Column::Id.gt(host_id))
            .add(
                Condition::all()
                    .add(host::Column::Id.eq(host_id))
                    .add(mount::Column::Path.gt(path)),
            )
            .add(
                Condition::all()
                    .add(host::Column::Id.eq(host_id))
                    .add(mount::Column::Path.eq(path))
                    .add(mount::Column::AssignmentUid.gt(uid)),
            )
    });
    let rows = mount::Entity::find()
        .find_also_related(host::Entity)
        .filter(wanted)
        .filter(Condition::all().add_option(after))
        .order_by_asc(host::Column::Id)
        .order_by_asc(mount::Column::Path)
        .order_by_asc(mount::Column::AssignmentUid)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows
        .into_iter()
        .map(|(row, host)| {
            let host = host.ok_or_else(|| Error::internal("a mount belongs to no host"))?;
            Ok((of_row(row)?, super::host::of_row(host)?))
        })
        .collect::<Result<_, Error>>()?;
    Ok(Paged::cut(items, page, |(mount, host): &(StoredMount, Host)| {
        let ObservedMount {
            path, assignment_uid, ..
        } = &mount.observed;
        format!("{}\0{path}\0{assignment_uid}", host.name.id())
    }))
}

/// What a host says of another host's assignment counts for nothing: a machine that holds what it had under an earlier
/// name shows it as its own orphan only.
fn by_its_own_host() -> Expr {
    Expr::col((mount::Entity, mount::Column::HostUid))
        .equals((assignment::Entity, assignment::Column::HostUid))
}

/// A host's mounts by assignment.
pub async fn of_host(snapshot: &Snapshot, host_uid: Uuid) -> Result<BTreeMap<Uuid, ObservedMount>, Error> {
    let rows = mount::Entity::find()
        .filter(mount::Column::HostUid.eq(host_uid))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    rows.into_iter()
        .map(|row| Ok((row.assignment_uid, of_row(row)?.observed)))
        .collect()
}

/// The mounts of several hosts, by host and assignment.
pub async fn of_hosts(
    snapshot: &Snapshot,
    hosts: &[Uuid],
) -> Result<BTreeMap<Uuid, BTreeMap<Uuid, ObservedMount>>, Error> {
    let rows = mount::Entity::find()
        .filter(mount::Column::HostUid.is_in(padded(hosts)))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let mut by_host: BTreeMap<Uuid, BTreeMap<Uuid, ObservedMount>> = BTreeMap::new();
    for row in rows {
        let StoredMount {
            host_uid, observed, ..
        } = of_row(row)?;
        let mounts = by_host.entry(host_uid).or_default();
        mounts.insert(observed.assignment_uid, observed);
    }
    Ok(by_host)
}

/// An assignment or removal of an activation, with as much of its host and its mount as an outlook needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The activation.
    pub activation_uid: Uuid,
    /// The generation that is ordered.
    pub generation: i64,
    /// It is to be unmounted.
    pub is_removal: bool,
    /// The host.
    pub host: HostName,
    /// What the host's state follows from.
    pub duty: Duty,
    /// What the host has reported of it. The message of a mount that is as it shall be is left out: it has none that
    /// counts.
    pub report: Option<PartReport>,
}

/// The parts of activations: one statement, and no more of each row than is needed. Whoever waits for an activation of a
/// large pool asks for all of them several times a second.
pub async fn parts_of(snapshot: &Snapshot, activations: &[Uuid]) -> Result<Vec<Part>, Error> {
    #[derive(FromQueryResult)]
    struct Row {
        activation_uid: Uuid,
        generation: i64,
        removal_reason: Option<String>,
        host_id: String,
        seen_time: Option<i64>,
        drain_time: Option<i64>,
        ban_time: Option<i64>,
        state: Option<String>,
        mounted_generation: Option<i64>,
        conditions: Option<String>,
    }
    if activations.is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<Value> = padded(activations).map(Value::from).collect();
    let places: Vec<String> = (1..=values.len()).map(|place| format!("${place}")).collect();
    let mounted = MountState::Mounted.as_str();
    let sql = format!(
        "SELECT assignment.activation_uid, assignment.generation, assignment.removal_reason, \
             host.id AS host_id, host.seen_time, host.drain_time, host.ban_time, \
             mount.state, mount.generation AS mounted_generation, \
             CASE WHEN mount.state = '{mounted}' AND assignment.removal_reason IS NULL THEN NULL \
                 ELSE mount.conditions END AS conditions \
         FROM assignment JOIN host ON host.uid = assignment.host_uid \
         LEFT JOIN mount ON mount.host_uid = assignment.host_uid AND mount.assignment_uid = assignment.uid \
         WHERE assignment.activation_uid IN ({})",
        places.join(", ")
    );
    let statement = Statement::from_sql_and_values(snapshot.db().get_database_backend(), sql, values);
    let rows = Row::find_by_statement(statement).all(snapshot.db()).await;
    let part = |row: Row| {
        let report = match (row.state, row.mounted_generation) {
            (Some(state), Some(generation)) => Some(PartReport {
                state: named(&state, MountState::from_name)?,
                generation,
                message: match row.conditions {
                    Some(conditions) => message_of(&conditions_of(&conditions)?),
                    None => String::new(),
                },
            }),
            (None, _) | (_, None) => None,
        };
        Ok(Part {
            activation_uid: row.activation_uid,
            generation: row.generation,
            is_removal: row.removal_reason.is_some(),
            host: HostName::new(parsed(&row.host_id)?),
            duty: Duty {
                seen_time: row.seen_time.map(time).transpose()?,
                is_drained: row.drain_time.is_some(),
                is_banned: row.ban_time.is_some(),
            },
            report,
        })
    };
    rows.map_err(failed)?.into_iter().map(part).collect()
}

/// Stores what hosts say of mounts, by host and assignment.
pub async fn put_all(writing: &Writing, mounts: &BTreeMap<(Uuid, Uuid), ObservedMount>) -> Result<(), Error> {
    /// Nine columns each: well below what one statement takes.
    const ROWS_PER_STATEMENT: usize = 128;
    let key = [mount::Column::HostUid, mount::Column::AssignmentUid];
    let others = [
        mount::Column::Activation,
        mount::Column::Generation,
        mount::Column::State,
        mount::Column::Path,
        mount::Column::Conditions,
        mount::Column::MountTime,
        mount::Column::UpdateTime,
    ];
    let rows: Vec<mount::Model> = mounts
        .iter()
        .map(|((host_uid, _), observed)| to_row(*host_uid, observed, writing.now()))
        .collect();
    for some in rows.chunks(ROWS_PER_STATEMENT) {
        mount::Entity::insert_many(some.iter().cloned().map(IntoActiveModel::into_active_model))
            .on_conflict(OnConflict::columns(key).update_columns(others).to_owned())
            .exec_without_returning(writing.db())
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Forgets mounts that hosts have no longer, by host and assignment.
pub async fn delete(writing: &Writing, mounts: &[(Uuid, Uuid)]) -> Result<(), Error> {
    /// Two values each: well below what one statement takes.
    const ROWS_PER_STATEMENT: usize = 500;
    for some in mounts.chunks(ROWS_PER_STATEMENT) {
        let some = some
            .iter()
            .map(|(host, assignment)| [(*host).into(), (*assignment).into()]);
        let (list, values) = values_of(some.collect());
        let sql = format!("DELETE FROM mount WHERE (host_uid, assignment_uid) IN {list}");
        let statement = Statement::from_sql_and_values(writing.db().get_database_backend(), sql, values);
        writing.db().execute_raw(statement).await.map_err(failed)?;
    }
    Ok(())
}

/// A condition as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredCondition {
    kind: String,
    status: String,
    reason: String,
    message: String,
    since: Option<i64>,
}

fn conditions_of(stored: &str) -> Result<Vec<MountCondition>, Error> {
    let conditions: Vec<StoredCondition> = from_json(stored)?;
    conditions
        .into_iter()
        .map(
            |StoredCondition {
                 kind,
                 status,
                 reason,
                 message,
                 since,
             }| {
                Ok(MountCondition {
                    kind: named(&kind, ConditionType::from_name)?,
                    status: named(&status, ConditionStatus::from_name)?,
                    reason,
                    message,
                    since: since.map(time).transpose()?,
                })
            },
        )
        .collect()
}

fn of_row(row: mount::Model) -> Result<StoredMount, Error> {
    let conditions = conditions_of(&row.conditions)?;
    Ok(StoredMount {
        host_uid: row.host_uid,
        observed: ObservedMount {
            assignment_uid: row.assignment_uid,
            activation: row.activation,
            generation: row.generation,
            state: named(&row.state, MountState::from_name)?,
            path: row.path,
            conditions,
            mount_time: row.mount_time.map(time).transpose()?,
        },
        update_time: time(row.update_time)?,
    })
}

fn to_row(host_uid: Uuid, observed: &ObservedMount, now: OffsetDateTime) -> mount::Model {
    let ObservedMount {
        assignment_uid,
        activation,
        generation,
        state,
        path,
        conditions,
        mount_time,
    } = observed;
    let conditions: Vec<_> = conditions
        .iter()
        .map(
            |MountCondition {
                 kind,
                 status,
                 reason,
                 message,
                 since,
             }| StoredCondition {
                kind: kind.as_str().to_owned(),
                status: status.as_str().to_owned(),
                reason: reason.clone(),
                message: message.clone(),
                since: since.map(micros),
            },
        )
        .collect();
    mount::Model {
        host_uid,
        assignment_uid: *assignment_uid,
        activation: activation.clone(),
        generation: *generation,
        state: state.as_str().to_owned(),
        path: path.clone(),
        conditions: json(&conditions),
        mount_time: mount_time.map(micros),
        update_time: micros(now),
    }
}
