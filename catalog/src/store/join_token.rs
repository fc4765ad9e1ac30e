//! Rows of join tokens. Of a token only its SHA-256 is stored, and it is consumed in one statement.

use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect,
};
use uuid::Uuid;

use super::columns::{from_json, json, micros, time};
use super::entity::{join_token, join_use};
use super::{Snapshot, Writing, failed};
use crate::domain::join_token::{JoinToken, REPLAY_WINDOW, Subject, SubjectKind, TokenDigest};
use crate::domain::{Error, Page, Paged};

/// Adds a join token, known by its digest.
pub async fn insert(writing: &Writing, token: &JoinToken, digest: TokenDigest) -> Result<(), Error> {
    let JoinToken {
        uid,
        subject,
        uses_left,
        expire_time,
        creator,
        create_time,
        host_labels,
    } = token;
    let (pool_uid, user_uid) = match subject {
        Subject::Pool(uid) => (Some(*uid), None),
        Subject::User(uid) => (None, Some(*uid)),
    };
    let row = join_token::Model {
        uid: *uid,
        token_sha256: digest.0.to_vec(),
        pool_uid,
        user_uid,
        uses_left: *uses_left,
        expire_time: micros(*expire_time),
        creator: creator.clone(),
        create_time: micros(*create_time),
        host_labels: json(host_labels),
    };
    join_token::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Takes one use of a token, if it is known, has uses left, has not ended and is for this kind of subject. One
/// statement, so that of two who come at once with the last use one wins.
pub async fn consume(
    writing: &Writing,
    digest: TokenDigest,
    kind: SubjectKind,
) -> Result<Option<JoinToken>, Error> {
    let subject = match kind {
        SubjectKind::Pool => join_token::Column::PoolUid,
        SubjectKind::User => join_token::Column::UserUid,
    };
    let rows = join_token::Entity::update_many()
        .col_expr(
            join_token::Column::UsesLeft,
            Expr::col(join_token::Column::UsesLeft).sub(1),
        )
        .filter(join_token::Column::TokenSha256.eq(digest.0.to_vec()))
        .filter(join_token::Column::UsesLeft.gt(0))
        .filter(join_token::Column::ExpireTime.gt(micros(writing.now())))
        .filter(subject.is_not_null())
        .exec_with_returning(writing.db())
        .await
        .map_err(failed)?;
    rows.into_iter().next().map(of_row).transpose()
}

/// Whether [`consume`] would find a use of this token now.
pub async fn lets_in(snapshot: &Snapshot, digest: TokenDigest, kind: SubjectKind) -> Result<bool, Error> {
    let subject = match kind {
        SubjectKind::Pool => join_token::Column::PoolUid,
        SubjectKind::User => join_token::Column::UserUid,
    };
    let row = join_token::Entity::find()
        .filter(join_token::Column::TokenSha256.eq(digest.0.to_vec()))
        .filter(join_token::Column::UsesLeft.gt(0))
        .filter(join_token::Column::ExpireTime.gt(micros(snapshot.now())))
        .filter(subject.is_not_null())
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(row.is_some())
}

/// Notes who joined with a token and which key (SHA-256 of the public key, or of several), for [`used_by`].
pub async fn insert_use(
    writing: &Writing,
    token_uid: Uuid,
    key_sha256: [u8; 32],
    subject_uid: Uuid,
) -> Result<(), Error> {
    let row = join_use::Model {
        token_uid,
        key_sha256: key_sha256.to_vec(),
        subject_uid,
        use_time: micros(writing.now()),
    };
    // A machine that joins again later with the same keys, say after its host was deleted, is another subject.
    let again = OnConflict::columns([join_use::Column::TokenUid, join_use::Column::KeySha256])
        .update_columns([join_use::Column::SubjectUid, join_use::Column::UseTime])
        .to_owned();
    join_use::Entity::insert(row.into_active_model())
        .on_conflict(again)
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Who joined with this token and this key within the last 10 minutes: its reply was lost, so it gets another.
pub async fn used_by(
    snapshot: &Snapshot,
    digest: TokenDigest,
    key_sha256: [u8; 32],
) -> Result<Option<Uuid>, Error> {
    let token = join_token::Entity::find()
        .filter(join_token::Column::TokenSha256.eq(digest.0.to_vec()))
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    let Some(token) = token else {
        return Ok(None);
    };
    let used = join_use::Entity::find_by_id((token.uid, key_sha256.to_vec()))
        .filter(join_use::Column::UseTime.gt(micros(snapshot.now() - REPLAY_WINDOW)))
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    Ok(used.map(|used| used.subject_uid))
}

/// A page of the tokens, newest first.
pub async fn list(snapshot: &Snapshot, page: &Page) -> Result<Paged<JoinToken>, Error> {
    let before = page.after.as_ref().and_then(|after| after.parse::<Uuid>().ok());
    let rows = join_token::Entity::find()
        .filter(Condition::all().add_option(before.map(|uid| join_token::Column::Uid.lt(uid))))
        .order_by_desc(join_token::Column::Uid)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_row).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |token: &JoinToken| token.uid.to_string()))
}

/// The token with this uid.
pub async fn by_uid(snapshot: &Snapshot, uid: Uuid) -> Result<Option<JoinToken>, Error> {
    let row = join_token::Entity::find_by_id(uid)
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    row.map(of_row).transpose()
}

/// Makes a token useless.
pub async fn delete(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    join_token::Entity::delete_by_id(uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Makes all tokens of a pool useless.
pub async fn delete_of_pool(writing: &Writing, pool_uid: Uuid) -> Result<(), Error> {
    join_token::Entity::delete_many()
        .filter(join_token::Column::PoolUid.eq(pool_uid))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Forgets tokens that have ended some time ago: nobody's lost reply needs them any more.
pub async fn delete_ended(writing: &Writing) -> Result<(), Error> {
    join_token::Entity::delete_many()
        .filter(join_token::Column::ExpireTime.lt(micros(writing.now() - REPLAY_WINDOW)))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Makes all tokens of a person useless.
pub async fn delete_of_user(writing: &Writing, user_uid: Uuid) -> Result<(), Error> {
    join_token::Entity::delete_many()
        .filter(join_token::Column::UserUid.eq(user_uid))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

fn of_row(row: join_token::Model) -> Result<JoinToken, Error> {
    let subject = match (row.pool_uid, row.user_uid) {
        (Some(uid), None) => Subject::Pool(uid),
        (None, Some(uid)) => Subject::User(uid),
        (None, None) | (Some(_), Some(_)) => {
            return Err(Error::internal("a join token must be for a pool or for a user"));
        }
    };
    Ok(JoinToken {
        uid: row.uid,
        subject,
        uses_left: row.uses_left,
        expire_time: time(row.expire_time)?,
        creator: row.creator,
        create_time: time(row.create_time)?,
        host_labels: from_json(&row.host_labels)?,
    })
}
