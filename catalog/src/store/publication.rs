//! Rows of publications.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect,
};
use uuid::Uuid;

use super::columns::{meta_of, micros, named, parsed, row_of, time};
use super::entity::{community, publication};
use super::{Snapshot, Writing, failed};
use crate::domain::names::{CommunityName, PublicationName};
use crate::domain::publication::{Publication, PublicationState};
use crate::domain::{Error, Mode, Page, Paged};

/// The publication with this name.
pub async fn find(snapshot: &Snapshot, name: &PublicationName) -> Result<Option<Publication>, Error> {
    let row = publication::Entity::find()
        .find_also_related(community::Entity)
        .filter(publication::Column::Id.eq(name.id().as_str()))
        .filter(community::Column::Id.eq(name.community().id().as_str()))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_rows).transpose()
}

/// The publication with this uid.
pub async fn by_uid(snapshot: &Snapshot, uid: Uuid) -> Result<Option<Publication>, Error> {
    let row = publication::Entity::find_by_id(uid)
        .find_also_related(community::Entity)
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_rows).transpose()
}

/// A page of what is offered in a community, ordered by id.
pub async fn list(
    snapshot: &Snapshot,
    community_uid: Uuid,
    page: &Page,
) -> Result<Paged<Publication>, Error> {
    let rows = publication::Entity::find()
        .find_also_related(community::Entity)
        .filter(publication::Column::CommunityUid.eq(community_uid))
        .filter(
            Condition::all().add_option(page.after.as_ref().map(|after| publication::Column::Id.gt(after))),
        )
        .order_by_asc(publication::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_rows).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |publication| {
        publication.name.id().to_string()
    }))
}

/// Those that a connector is offered as and that are not over.
pub async fn open_of_connector(snapshot: &Snapshot, connector_uid: Uuid) -> Result<Vec<Publication>, Error> {
    let rows = publication::Entity::find()
        .find_also_related(community::Entity)
        .filter(publication::Column::ConnectorUid.eq(connector_uid))
        .filter(publication::Column::State.ne(PublicationState::Withdrawn.as_str()))
        .order_by_asc(publication::Column::Uid)
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_rows).collect()
}

/// Whether a connector is published anywhere, a withdrawal that is under way included.
pub async fn is_published(snapshot: &Snapshot, connector_uid: Uuid) -> Result<bool, Error> {
    Ok(!open_of_connector(snapshot, connector_uid).await?.is_empty())
}

/// Those whose withdrawal is under way.
pub async fn withdrawing(snapshot: &Snapshot) -> Result<Vec<Publication>, Error> {
    let rows = publication::Entity::find()
        .find_also_related(community::Entity)
        .filter(publication::Column::WithdrawTime.is_not_null())
        .all(snapshot.db())
        .await;
    rows.map_err(failed)?.into_iter().map(of_rows).collect()
}

/// Adds a publication.
pub async fn insert(writing: &Writing, publication: &Publication) -> Result<(), Error> {
    publication::Entity::insert(to_row(publication).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed publication.
pub async fn update(writing: &Writing, publication: &Publication) -> Result<(), Error> {
    to_row(publication)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes a publication that is over and has no imports.
pub async fn delete(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    publication::Entity::delete_by_id(uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Forgets what was offered in a community that is deleted: all of it is over, and its projects, which had the imports,
/// are gone.
pub(super) async fn delete_of_community(writing: &Writing, community_uid: Uuid) -> Result<(), Error> {
    publication::Entity::delete_many()
        .filter(publication::Column::CommunityUid.eq(community_uid))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

fn of_rows((row, community): (publication::Model, Option<community::Model>)) -> Result<Publication, Error> {
    let community =
        community.ok_or_else(|| Error::internal(format!("publication {} has no community", row.id)))?;
    let until = row.withdraw_time.map(time).transpose()?;
    Ok(Publication {
        name: PublicationName::new(CommunityName::new(parsed(&community.id)?), parsed(&row.id)?),
        community_uid: row.community_uid,
        connector: parsed(&row.connector)?,
        connector_uid: row.connector_uid,
        max_mode: row
            .max_mode
            .as_deref()
            .map(|mode| named(mode, Mode::from_name))
            .transpose()?,
        state: named(&row.state, |state| PublicationState::from_name(state, until))?,
        meta: meta_of!(row),
    })
}

fn to_row(publication: &Publication) -> publication::Model {
    let Publication {
        name,
        meta,
        community_uid,
        connector,
        connector_uid,
        max_mode,
        state,
    } = publication;
    let until = match state {
        PublicationState::Withdrawing { until } => Some(micros(*until)),
        PublicationState::Published | PublicationState::Withdrawn => None,
    };
    row_of!(
        publication,
        name.id(),
        meta,
        community_uid: *community_uid,
        connector: connector.to_string(),
        connector_uid: *connector_uid,
        max_mode: max_mode.map(|mode| mode.as_str().to_owned()),
        state: state.as_str().to_owned(),
        withdraw_time: until,
    )
}
