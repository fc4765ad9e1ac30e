//! Answers to calls that carried a request id: the same call gets the same answer for 24 hours.

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter};
use time::Duration;
use uuid::Uuid;

use super::columns::micros;
use super::entity::request;
use super::{Snapshot, Writing, failed};
use crate::domain::Error;

/// How long an answer is kept.
const KEPT: Duration = Duration::hours(24);

/// What was answered to a request id.
#[derive(Debug)]
pub struct Answered {
    /// What was called.
    pub method: String,
    /// Keyed hash of the request.
    pub fingerprint: Vec<u8>,
    /// The answer, encoded.
    pub answer: Vec<u8>,
}

/// What a caller was answered to this request id within the last 24 hours.
pub async fn find(snapshot: &Snapshot, caller: Uuid, request_id: Uuid) -> Result<Option<Answered>, Error> {
    let row = request::Entity::find_by_id((caller, request_id))
        .filter(request::Column::ExpireTime.gt(micros(snapshot.now())))
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(row.map(
        |request::Model {
             method,
             fingerprint,
             answer,
             ..
         }| Answered {
            method,
            fingerprint,
            answer,
        },
    ))
}

/// Keeps an answer, and drops those that are over.
pub async fn insert(
    writing: &Writing,
    caller: Uuid,
    request_id: Uuid,
    answered: Answered,
) -> Result<(), Error> {
    request::Entity::delete_many()
        .filter(request::Column::ExpireTime.lte(micros(writing.now())))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    let Answered {
        method,
        fingerprint,
        answer,
    } = answered;
    let expire_time = micros(writing.now() + KEPT);
    let row = request::Model {
        caller_uid: caller,
        request_id,
        method,
        fingerprint,
        answer,
        expire_time,
    };
    request::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}
