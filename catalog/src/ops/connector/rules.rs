//! What a connector must be, as far as only the store can tell, and what a change makes of it.

use crate::domain::connector::{Connector, ConnectorChange, SecretRef, Spec};
use crate::domain::names::SecretName;
use crate::domain::project::Project;
use crate::domain::{Backend, Error, Violations};
use crate::store::{self, Snapshot, Writing};

/// The rules that need the store: all that are broken, at once.
pub(super) async fn check(writing: &Writing, project: &Project, connector: &Connector) -> Result<(), Error> {
    let mut violations = Violations::default();
    let Spec {
        endpoint,
        bucket,
        mount_name,
        access_key_id,
        secret,
        secret_version,
        backend,
        cache_size,
        ..
    } = &connector.spec;
    if *backend == Backend::S3fs && !cache_size.is_default() {
        violations.add(
            "connector.options.cache_size_mib",
            "backend S3FS keeps nothing of what it reads; give 0, or choose DEFAULT or GEESEFS",
        );
    }
    if !store::mount_name::claim(writing, project.meta.uid, mount_name, connector.meta.uid).await? {
        violations.add(
            "connector.mount_name",
            format!(
                "another connector or import of {} has the folder `{mount_name}`; choose another name",
                project.name
            ),
        );
    }
    match secret {
        None => {
            if secret_version.is_some() {
                violations.add(
                    "connector.secret_version",
                    "there is no secret to pin; give `secret` too, or leave it out",
                );
            }
        }
        Some(secret_ref) => {
            let secret = store::secret::find(writing, project, &secret_ref.name)
                .await?
                .ok_or_else(|| Error::absent(&secret_ref.name))?;
            if !secret.covers(endpoint, bucket) {
                violations.add(
                    "connector.secret",
                    format!(
                        "{} may not be used for bucket {bucket} at {endpoint}; add that to its allowed targets, or use \
                         another secret",
                        secret.name
                    ),
                );
            }
            let version = match secret_version {
                Some(number) => store::secret::version(writing, secret.meta.uid, *number).await?,
                None => store::secret::usable_version(writing, secret.meta.uid, None)
                    .await?
                    .map(|usable| usable.version),
            };
            if let (Some(number), None) = (secret_version, &version) {
                violations.add(
                    "connector.secret_version",
                    format!(
                        "{} has no version {number}; see `mooring secrets list-versions`",
                        secret.name
                    ),
                );
            }
            if access_key_id.as_str().is_empty()
                && version.is_some_and(|version| version.access_key_id.is_empty())
            {
                violations.add(
                    "connector.access_key_id",
                    "it is missing, and the version of the secret carries none; give the access key id of the S3 account",
                );
            }
        }
    }
    violations.finish()
}

/// A secret of the project, for a connector of it.
pub(super) async fn secret_in(
    snapshot: &Snapshot,
    project: &Project,
    name: &SecretName,
) -> Result<SecretRef, Error> {
    if name.project() != &project.name {
        return Err(Error::invalid(
            "connector.secret",
            format!(
                "it belongs to another project; use a secret of {}, or publish the connector there",
                project.name
            ),
        ));
    }
    let secret = store::secret::find(snapshot, project, name)
        .await?
        .ok_or_else(|| {
            Error::invalid(
                "connector.secret",
                format!("{name} does not exist; see `mooring secrets list`"),
            )
        })?;
    Ok(SecretRef {
        uid: secret.meta.uid,
        name: secret.name,
    })
}

/// What a connector becomes by a change.
pub(super) async fn changed_spec(
    snapshot: &Snapshot,
    project: &Project,
    connector: &Connector,
    change: ConnectorChange,
) -> Result<Spec, Error> {
    let ConnectorChange {
        texts: _,
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
        etag: _,
        restart_mounts: _,
    } = change;
    let now = connector.spec.clone();
    let secret = match secret {
        None => now.secret,
        Some(None) => None,
        Some(Some(name)) => Some(secret_in(snapshot, project, &name).await?),
    };
    Ok(Spec {
        endpoint: endpoint.unwrap_or(now.endpoint),
        region: region.unwrap_or(now.region),
        bucket: bucket.unwrap_or(now.bucket),
        prefix: prefix.unwrap_or(now.prefix),
        mount_name: match mount_name {
            None => now.mount_name,
            Some(given) => given.unwrap_or_else(|| connector.name.id().clone()),
        },
        access_key_id: access_key_id.unwrap_or(now.access_key_id),
        secret,
        secret_version: secret_version.unwrap_or(now.secret_version),
        mode: mode.unwrap_or(now.mode),
        backend: backend.unwrap_or(now.backend),
        virtual_host_style: virtual_host_style.unwrap_or(now.virtual_host_style),
        cache_size: cache_size.unwrap_or(now.cache_size),
    })
}

/// Names of the fields in which two specs differ, for the audit.
pub(super) fn changed_fields(before: &Spec, after: &Spec) -> Vec<&'static str> {
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
    } = after;
    [
        (before.endpoint != *endpoint, "endpoint"),
        (before.region != *region, "region"),
        (before.bucket != *bucket, "bucket"),
        (before.prefix != *prefix, "prefix"),
        (before.mount_name != *mount_name, "mount_name"),
        (before.access_key_id != *access_key_id, "access_key_id"),
        (before.secret != *secret, "secret"),
        (before.secret_version != *secret_version, "secret_version"),
        (before.mode != *mode, "mode"),
        (before.backend != *backend, "backend"),
        (
            before.virtual_host_style != *virtual_host_style,
            "options.virtual_host_style",
        ),
        (before.cache_size != *cache_size, "options.cache_size_mib"),
    ]
    .into_iter()
    .filter_map(|(differs, field)| differs.then_some(field))
    .collect()
}
