//! Rows of connectors.

use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect,
};
use uuid::Uuid;

use super::columns::{meta_of, named, parsed, row_of};
use super::entity::{connector, project, secret};
use super::{Snapshot, Writing, failed};
use crate::domain::connector::{CacheSize, Connector, SecretRef, Spec};
use crate::domain::endpoint::Endpoint;
use crate::domain::names::{ConnectorName, ProjectName, SecretName};
use crate::domain::project::Project;
use crate::domain::{Backend, Error, Mode, Page, Paged};

/// The connector with this id in a project.
pub async fn find(
    snapshot: &Snapshot,
    project: &Project,
    name: &ConnectorName,
) -> Result<Option<Connector>, Error> {
    let row = connector::Entity::find()
        .find_also_related(secret::Entity)
        .filter(connector::Column::ProjectUid.eq(project.meta.uid))
        .filter(connector::Column::Id.eq(name.id().as_str()))
        .one(snapshot.db())
        .await
        .map_err(failed)?;
    row.map(|(row, secret)| of_rows(&project.name, row, secret))
        .transpose()
}

/// The connectors with these uids, in no order.
pub async fn by_uids(snapshot: &Snapshot, uids: &[Uuid]) -> Result<Vec<Connector>, Error> {
    let rows = connector::Entity::find()
        .find_also_related(secret::Entity)
        .find_also(connector::Entity, project::Entity)
        .filter(connector::Column::Uid.is_in(uids.iter().copied()))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    rows.into_iter()
        .map(|(row, secret, project)| {
            let project =
                project.ok_or_else(|| Error::internal(format!("connector {} has no project", row.id)))?;
            of_rows(&ProjectName::new(parsed(&project.id)?), row, secret)
        })
        .collect()
}

/// The connector with this uid.
pub async fn by_uid(snapshot: &Snapshot, uid: Uuid) -> Result<Option<Connector>, Error> {
    Ok(by_uids(snapshot, &[uid]).await?.pop())
}

/// A page of a project's connectors, ordered by id.
pub async fn list(snapshot: &Snapshot, project: &Project, page: &Page) -> Result<Paged<Connector>, Error> {
    let rows = connector::Entity::find()
        .find_also_related(secret::Entity)
        .filter(connector::Column::ProjectUid.eq(project.meta.uid))
        .filter(Condition::all().add_option(page.after.as_ref().map(|after| connector::Column::Id.gt(after))))
        .order_by_asc(connector::Column::Id)
        .limit(page.size as u64 + 1)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let items = rows
        .into_iter()
        .map(|(row, secret)| of_rows(&project.name, row, secret))
        .collect::<Result<_, _>>()?;
    Ok(Paged::cut(items, page, |connector| {
        connector.name.id().to_string()
    }))
}

/// The connectors of a project that use this secret.
pub async fn of_secret(
    snapshot: &Snapshot,
    project: &ProjectName,
    secret: Uuid,
) -> Result<Vec<Connector>, Error> {
    let rows = connector::Entity::find()
        .find_also_related(secret::Entity)
        .filter(connector::Column::SecretUid.eq(secret))
        .order_by_asc(connector::Column::Id)
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    rows.into_iter()
        .map(|(row, secret)| of_rows(project, row, secret))
        .collect()
}

/// Adds a connector.
pub async fn insert(writing: &Writing, connector: &Connector) -> Result<(), Error> {
    connector::Entity::insert(to_row(connector).into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Stores a changed connector.
pub async fn update(writing: &Writing, connector: &Connector) -> Result<(), Error> {
    to_row(connector)
        .into_active_model()
        .reset_all()
        .update(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Removes a connector and gives its folder name back.
pub async fn delete(writing: &Writing, uid: Uuid) -> Result<(), Error> {
    super::mount_name::release(writing, uid).await?;
    connector::Entity::delete_by_id(uid)
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

fn of_rows(
    project: &ProjectName,
    row: connector::Model,
    secret: Option<secret::Model>,
) -> Result<Connector, Error> {
    let secret = secret
        .map(|secret| {
            let name = SecretName::new(project.clone(), parsed(&secret.id)?);
            Ok::<_, Error>(SecretRef {
                uid: secret.uid,
                name,
            })
        })
        .transpose()?;
    Ok(Connector {
        name: ConnectorName::new(project.clone(), parsed(&row.id)?),
        project_uid: row.project_uid,
        spec: Spec {
            endpoint: Endpoint::from_stored(&row.endpoint),
            region: parsed(&row.region)?,
            bucket: parsed(&row.bucket)?,
            prefix: parsed(&row.prefix)?,
            mount_name: parsed(&row.mount_name)?,
            access_key_id: parsed(&row.access_key_id)?,
            secret,
            secret_version: row.secret_version,
            mode: named(&row.mode, Mode::from_name)?,
            backend: named(&row.backend, Backend::from_name)?,
            virtual_host_style: row.virtual_host_style,
            cache_size: i32::try_from(row.cache_size_mib)
                .map_err(Error::internal)
                .and_then(|mib| CacheSize::of_mib(mib).map_err(Error::internal))?,
        },
        meta: meta_of!(row),
    })
}

fn to_row(connector: &Connector) -> connector::Model {
    let Connector {
        name,
        meta,
        project_uid,
        spec,
    } = connector;
    let Spec {
        endpoint,
        region,
        bucket,
        prefix,
        mount_name,
        access_key_id,
        secret,
        secret_version,
        mode,
        backend,
        virtual_host_style,
        cache_size,
    } = spec;
    row_of!(
        connector,
        name.id(),
        meta,
        project_uid: *project_uid,
        endpoint: endpoint.to_string(),
        region: region.to_string(),
        bucket: bucket.to_string(),
        prefix: prefix.to_string(),
        mount_name: mount_name.to_string(),
        access_key_id: access_key_id.to_string(),
        secret_uid: secret.as_ref().map(|secret| secret.uid),
        secret_version: *secret_version,
        mode: mode.as_str().into(),
        backend: backend.as_str().into(),
        virtual_host_style: *virtual_host_style,
        cache_size_mib: cache_size.mib().into(),
    )
}
