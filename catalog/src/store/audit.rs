//! Audit rows and events: written with every revision, never changed.

use std::collections::BTreeMap;

use sea_orm::{ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};

use super::columns::{from_json, micros, text_map, time};
use super::entity::{audit, event};
use super::{Snapshot, Writing, failed};
use crate::domain::audit::{AuditEvent, Change, Place};
use crate::domain::{Error, Page, Paged};

/// Writes the audit row and the events of a revision.
pub(super) async fn insert(writing: &Writing, revision: i64, change: Change) -> Result<(), Error> {
    let Change {
        actor,
        method,
        place,
        events,
        details,
    } = change;
    let first = events
        .first()
        .ok_or_else(|| Error::internal(format!("{method} changed nothing")))?;
    tracing::debug!(revision, method, %actor, resource = %first.resource, "change");
    let row = audit::Model {
        revision,
        event_time: micros(writing.now()),
        actor,
        method: method.into(),
        resource: first.resource.clone(),
        resource_uid: first.uid,
        community_uid: place.community,
        project_uid: place.project,
        details: text_map(&details),
    };
    audit::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    let rows = events.into_iter().zip(0..).map(|(changed, seq)| {
        let row = event::Model {
            revision,
            seq,
            kind: changed.kind.as_str().into(),
            resource: changed.resource,
            resource_uid: changed.uid,
            community_uid: place.community,
            project_uid: place.project,
        };
        row.into_active_model()
    });
    event::Entity::insert_many(rows)
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// A page of the changes in a place (everywhere for an empty one), newest first.
pub async fn list(snapshot: &Snapshot, place: Place, page: &Page) -> Result<Paged<AuditEvent>, Error> {
    let before = page.after.as_ref().and_then(|after| after.parse::<i64>().ok());
    let rows = audit::Entity::find()
        .filter(
            Condition::all()
                .add_option(place.community.map(|uid| audit::Column::CommunityUid.eq(uid)))
                .add_option(place.project.map(|uid| audit::Column::ProjectUid.eq(uid)))
                .add_option(before.map(|revision| audit::Column::Revision.lt(revision))),
        )
        .order_by_desc(audit::Column::Revision)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_row).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |event| event.revision.to_string()))
}

fn of_row(row: audit::Model) -> Result<AuditEvent, Error> {
    let details: BTreeMap<String, String> = from_json(&row.details)?;
    Ok(AuditEvent {
        revision: row.revision,
        time: time(row.event_time)?,
        actor: row.actor,
        method: row.method,
        resource: row.resource,
        resource_uid: row.resource_uid,
        details,
    })
}
