//! Rows of secrets and their versions. Values go in and out as ciphertext only.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::columns::{from_json, json, meta_of, micros, named, parsed, row_of, time};
use super::entity::{connector, secret, secret_version};
use super::{Snapshot, Writing, failed};
use crate::domain::endpoint::Endpoint;
use crate::domain::names::{ConnectorName, ProjectName, SecretName};
use crate::domain::project::Project;
use crate::domain::secret::{Secret, SecretVersion, SecretVersionState, Target};
use crate::domain::{Error, Page, Paged};
use crate::keyring::Sealed;

/// A version that may be used, with its value under lock.
#[derive(Clone, Debug)]
pub struct UsableVersion {
    /// What is known of it.
    pub version: SecretVersion,
    /// The value, for the keyring.
    pub sealed: Sealed,
}

/// The secret with this id in a project.
pub async fn find(
    snapshot: &Snapshot,
    project: &Project,
    name: &SecretName,
) -> Result<Option<Secret>, Error> {
    let row = secret::Entity::find()
        .filter(secret::Column::ProjectUid.eq(project.meta.uid))
        .filter(secret::Column::Id.eq(name.id().as_str()))
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    row.map(|row| of_row(&project.name, row)).transpose()
}

/// A page of a project's secrets, ordered by id.
pub async fn list(snapshot: &Snapshot, project: &Project, page: &Page) -> Result<Paged<Secret>, Error> {
    let rows = secret::Entity::find()
        .filter(secret::Column::ProjectUid.eq(project.meta.uid))
        .filter(Condition::all().add_option(page.after.as_ref().map(|after| secret::Column::Id.gt(after))))
        .order_by_asc(secret::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows
        .into_iter()
        .map(|row| of_row(&project.name, row))
        .collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |secret| secret.name.id().to_string()))
}

/// The connectors that use a secret: name and uid, ordered by name. All of its project.
pub async fn connectors_of(
    snapshot: &Snapshot,
    secret: &Secret,
) -> Result<Vec<(ConnectorName, Uuid)>, Error> {
    let rows = connector::Entity::find()
        .filter(connector::Column::SecretUid.eq(secret.meta.uid))
        .order_by_asc(connector::Column::Id)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let project = secret.name.project();
    rows.into_iter()
        .map(|row| Ok((ConnectorName::new(project.clone(), parsed(&row.id)?), row.uid)))
        .collect()
}

/// Adds a secret.
pub async fn insert(writing: &Writing, secret: &Secret) -> Result<(), Error> {
    secret::Entity::insert(to_row(secret).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed secret.
pub async fn update(writing: &Writing, secret: &Secret) -> Result<(), Error> {
    to_row(secret)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes a secret with all its versions.
pub async fn delete(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    secret::Entity::delete_by_id(uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// One version, without its value.
pub async fn version(snapshot: &Snapshot, secret: Uuid, number: i64) -> Result<Option<SecretVersion>, Error> {
    let row = secret_version::Entity::find_by_id((secret, number))
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    row.map(|row| of_version_row(&row)).transpose()
}

/// A page of the versions of a secret, newest first.
pub async fn versions(snapshot: &Snapshot, secret: Uuid, page: &Page) -> Result<Paged<SecretVersion>, Error> {
    let before = page.after.as_ref().and_then(|after| after.parse::<i64>().ok());
    let rows = secret_version::Entity::find()
        .filter(secret_version::Column::SecretUid.eq(secret))
        .filter(Condition::all().add_option(before.map(|number| secret_version::Column::Number.lt(number))))
        .order_by_desc(secret_version::Column::Number)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows.iter().map(of_version_row).collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |version| version.number.to_string()))
}

/// The version that connectors use: the pinned one, else the newest, if it is enabled.
pub async fn usable_version(
    snapshot: &Snapshot,
    secret: Uuid,
    pinned: Option<i64>,
) -> Result<Option<UsableVersion>, Error> {
    let row = secret_version::Entity::find()
        .filter(secret_version::Column::SecretUid.eq(secret))
        .filter(secret_version::Column::State.eq(SecretVersionState::Enabled.as_str()))
        .filter(Condition::all().add_option(pinned.map(|number| secret_version::Column::Number.eq(number))))
        .order_by_desc(secret_version::Column::Number)
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    row.map(|row| {
        let version = of_version_row(&row)?;
        let (Some(epoch), Some(wrapped_key), Some(ciphertext)) =
            (row.key_epoch, row.wrapped_key, row.ciphertext)
        else {
            return Err(Error::internal("an enabled secret version has lost its value"));
        };
        Ok(UsableVersion {
            version,
            sealed: Sealed {
                epoch,
                wrapped_key,
                ciphertext,
            },
        })
    })
    .transpose()
}

/// Adds a version.
pub async fn insert_version(
    writing: &Writing,
    secret: Uuid,
    version: &SecretVersion,
    sealed: Sealed,
) -> Result<(), Error> {
    let SecretVersion {
        number,
        access_key_id,
        state,
        creator,
        create_time,
    } = version;
    let Sealed {
        epoch,
        wrapped_key,
        ciphertext,
    } = sealed;
    let row = secret_version::Model {
        secret_uid: secret,
        number: *number,
        state: state.as_str().into(),
        access_key_id: access_key_id.clone(),
        creator: creator.clone(),
        create_time: micros(*create_time),
        key_epoch: Some(epoch),
        wrapped_key: Some(wrapped_key),
        ciphertext: Some(ciphertext),
    };
    secret_version::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Sets the state of a version. Destroying it removes the value; the database overwrites the bytes.
pub async fn set_version_state(
    writing: &Writing,
    secret: Uuid,
    number: i64,
    state: SecretVersionState,
) -> Result<(), Error> {
    use sea_orm::sea_query::Expr;
    let mut update = secret_version::Entity::update_many()
        .col_expr(secret_version::Column::State, Expr::value(state.as_str()));
    if state == SecretVersionState::Destroyed {
        update = update
            .col_expr(secret_version::Column::KeyEpoch, Expr::value(Option::<i64>::None))
            .col_expr(
                secret_version::Column::WrappedKey,
                Expr::value(Option::<Vec<u8>>::None),
            )
            .col_expr(
                secret_version::Column::Ciphertext,
                Expr::value(Option::<Vec<u8>>::None),
            );
    }
    update
        .filter(secret_version::Column::SecretUid.eq(secret))
        .filter(secret_version::Column::Number.eq(number))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// A target as it is stored.
#[derive(Serialize, Deserialize)]
struct TargetColumn {
    endpoint: String,
    bucket: Option<String>,
}

fn of_row(project: &ProjectName, row: secret::Model) -> Result<Secret, Error> {
    let targets: Vec<TargetColumn> = from_json(&row.allowed_targets)?;
    let allowed_targets = targets
        .into_iter()
        .map(|TargetColumn { endpoint, bucket }| {
            let bucket = bucket.as_deref().map(parsed).transpose()?;
            Ok(Target {
                endpoint: Endpoint::from_stored(&endpoint),
                bucket,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Secret {
        name: SecretName::new(project.clone(), parsed(&row.id)?),
        project_uid: row.project_uid,
        allowed_targets,
        newest_version: row.newest_version,
        meta: meta_of!(row),
    })
}

fn to_row(secret: &Secret) -> secret::Model {
    let Secret {
        name,
        meta,
        project_uid,
        allowed_targets,
        newest_version,
    } = secret;
    let targets: Vec<TargetColumn> = allowed_targets
        .iter()
        .map(|Target { endpoint, bucket }| TargetColumn {
            endpoint: endpoint.to_string(),
            bucket: bucket.as_ref().map(ToString::to_string),
        })
        .collect();
    row_of!(
        secret,
        name.id(),
        meta,
        project_uid: *project_uid,
        allowed_targets: json(&targets),
        newest_version: *newest_version,
    )
}

fn of_version_row(row: &secret_version::Model) -> Result<SecretVersion, Error> {
    Ok(SecretVersion {
        number: row.number,
        access_key_id: row.access_key_id.clone(),
        state: named(&row.state, SecretVersionState::from_name)?,
        creator: row.creator.clone(),
        create_time: time(row.create_time)?,
    })
}
