//! Rows of users.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect,
};
use uuid::Uuid;

use super::columns::{meta_of, micros, named, parsed, row_of, time};
use super::entity::{join_token, user};
use super::{Snapshot, Writing, failed};
use crate::domain::names::UserName;
use crate::domain::user::{User, UserState};
use crate::domain::{Error, Page, Paged};

/// The user with this name.
pub async fn find(snapshot: &Snapshot, name: &UserName) -> Result<Option<User>, Error> {
    let row = user::Entity::find()
        .filter(user::Column::Id.eq(name.id().as_str()))
        .one(snapshot.db())
        .await;
    row.map_err(failed)?.map(of_row).transpose()
}

/// The user whom a certificate names.
pub async fn by_uid(snapshot: &Snapshot, uid: Uuid) -> Result<Option<User>, Error> {
    user::Entity::find_by_id(uid)
        .one(snapshot.db())
        .await
        .map_err(failed)?
        .map(of_row)
        .transpose()
}

/// A page of the users, ordered by id.
pub async fn list(snapshot: &Snapshot, page: &Page) -> Result<Paged<User>, Error> {
    let rows = user::Entity::find()
        .filter(Condition::all().add_option(page.after.as_ref().map(|after| user::Column::Id.gt(after))))
        .order_by_asc(user::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.into_iter().map(of_row).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |user| user.name.id().to_string()))
}

/// Adds a user.
pub async fn insert(writing: &Writing, user: &User) -> Result<(), Error> {
    user::Entity::insert(to_row(user).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed user.
pub async fn update(writing: &Writing, user: &User) -> Result<(), Error> {
    to_row(user)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes a user with all its roles and join tokens, and its name for ever.
pub async fn delete(writing: &Writing, user: &User) -> Result<(), Error> {
    super::access::delete_of_user(writing, user.meta.uid).await?;
    join_token::Entity::delete_many()
        .filter(join_token::Column::UserUid.eq(user.meta.uid))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    user::Entity::delete_by_id(user.meta.uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    super::realm::retire(writing, &user.name, user.meta.uid).await
}

fn of_row(row: user::Model) -> Result<User, Error> {
    Ok(User {
        name: UserName::new(parsed(&row.id)?),
        state: named(&row.state, UserState::from_name)?,
        login_time: row.login_time.map(time).transpose()?,
        meta: meta_of!(row),
    })
}

fn to_row(user: &User) -> user::Model {
    let User {
        name,
        meta,
        state,
        login_time,
    } = user;
    row_of!(user, name.id(), meta, state: state.as_str().into(), login_time: login_time.map(micros))
}
