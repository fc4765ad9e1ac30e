//! Secrets over gRPC. Values come in and never go out.

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::Api;
use super::decode::{self, List, Mask, split, timestamp};
use crate::domain::Violations;
use crate::domain::connector::AccessKeyId;
use crate::domain::endpoint::Endpoint;
use crate::domain::names::{SecretName, SecretVersionName};
use crate::domain::secret::{
    self, NamedVersion, NewSecret, NewValue, Secret, SecretChange, SecretVersion, SecretVersionState,
    TARGETS_MAX, Target,
};
use crate::ops::secret::{
    AddSecretVersion, CreateSecret, DeleteSecret, DestroySecretVersion, DisableSecretVersion,
    EnableSecretVersion, GetSecret, ListSecretVersions, ListSecrets, UpdateSecret,
};

#[tonic::async_trait]
impl pb::secret_service_server::SecretService for Api {
    async fn create_secret(
        &self,
        request: Request<pb::CreateSecretRequest>,
    ) -> Result<Response<pb::Secret>, Status> {
        let (caller, mut body) = split(request)?;
        let project = decode::name("parent", &body.parent)?;
        let permit = self.catalog.permit(&caller, CreateSecret(project)).await?;
        let mut violations = Violations::default();
        let once = decode::once(
            &self.catalog.keyring,
            "CreateSecret",
            &body.request_id,
            &body,
            |secret: &Secret| pb::Secret::from(secret.clone()).encode_to_vec(),
            &mut violations,
        );
        let id = decode::optional_id("secret_id", &body.secret_id, &mut violations);
        let value = new_value(
            std::mem::take(&mut body.secret_access_key),
            "secret_access_key",
            body.access_key_id,
            "access_key_id",
            &mut violations,
        );
        let given = decode::body(body.secret);
        let texts = decode::texts(
            "secret",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        let allowed_targets = targets(given.allowed_targets, &mut violations);
        violations.finish()?;
        let value = value.ok_or_else(missing_value)?;
        let new = NewSecret {
            texts,
            allowed_targets,
            value,
        };
        decode::answer(self.catalog.create_secret(permit, id, new, once).await?)
    }

    async fn get_secret(
        &self,
        request: Request<pb::GetSecretRequest>,
    ) -> Result<Response<pb::Secret>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, GetSecret(name)).await?;
        Ok(Response::new(self.catalog.get_secret(permit).await?.into()))
    }

    async fn list_secrets(
        &self,
        request: Request<pb::ListSecretsRequest>,
    ) -> Result<Response<pb::ListSecretsResponse>, Status> {
        let (caller, body) = split(request)?;
        let project = decode::name("parent", &body.parent)?;
        let permit = self.catalog.permit(&caller, ListSecrets(project)).await?;
        let list = List::read(
            format!("{}/secrets", body.parent),
            body.page_size,
            &body.page_token,
        )?;
        let page = self.catalog.list_secrets(permit, list.page()).await?;
        let (secrets, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListSecretsResponse {
            secrets,
            next_page_token,
        }))
    }

    async fn update_secret(
        &self,
        request: Request<pb::UpdateSecretRequest>,
    ) -> Result<Response<pb::Secret>, Status> {
        let (caller, body) = split(request)?;
        let given = decode::body(body.secret);
        let name = decode::name("secret.name", &given.name)?;
        let permit = self.catalog.permit(&caller, UpdateSecret(name)).await?;
        let mut violations = Violations::default();
        let mutable = ["display_name", "description", "labels", "allowed_targets"];
        let mask = Mask::read(body.update_mask, &mutable, &["newest_version"], &mut violations);
        let texts = mask.texts(
            "secret",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        let allowed_targets = mask
            .pick("allowed_targets", given.allowed_targets)
            .map(|given| targets(given, &mut violations));
        violations.finish()?;
        let change = SecretChange {
            texts,
            allowed_targets,
            etag: given.etag,
        };
        Ok(Response::new(
            self.catalog.update_secret(permit, change).await?.into(),
        ))
    }

    async fn delete_secret(&self, request: Request<pb::DeleteSecretRequest>) -> Result<Response<()>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DeleteSecret(name)).await?;
        self.catalog.delete_secret(permit, &body.etag).await?;
        Ok(Response::new(()))
    }

    async fn add_secret_version(
        &self,
        request: Request<pb::AddSecretVersionRequest>,
    ) -> Result<Response<pb::SecretVersion>, Status> {
        let (caller, mut body) = split(request)?;
        let secret = decode::name("parent", &body.parent)?;
        let permit = self.catalog.permit(&caller, AddSecretVersion(secret)).await?;
        let mut violations = Violations::default();
        let once = decode::once(
            &self.catalog.keyring,
            "AddSecretVersion",
            &body.request_id,
            &body,
            |version: &NamedVersion| pb::SecretVersion::from(version.clone()).encode_to_vec(),
            &mut violations,
        );
        let value = new_value(
            std::mem::take(&mut body.secret_access_key),
            "secret_access_key",
            body.access_key_id,
            "access_key_id",
            &mut violations,
        );
        violations.finish()?;
        let value = value.ok_or_else(missing_value)?;
        decode::answer(self.catalog.add_secret_version(permit, value, once).await?)
    }

    async fn list_secret_versions(
        &self,
        request: Request<pb::ListSecretVersionsRequest>,
    ) -> Result<Response<pb::ListSecretVersionsResponse>, Status> {
        let (caller, body) = split(request)?;
        let secret: SecretName = decode::name("parent", &body.parent)?;
        let permit = self
            .catalog
            .permit(&caller, ListSecretVersions(secret.clone()))
            .await?;
        let list = List::read(format!("{secret}/versions"), body.page_size, &body.page_token)?;
        let page = self.catalog.list_secret_versions(permit, list.page()).await?;
        let (secret_versions, next_page_token) = list.answer(page.map(|version| NamedVersion {
            secret: secret.clone(),
            version,
        }));
        Ok(Response::new(pb::ListSecretVersionsResponse {
            secret_versions,
            next_page_token,
        }))
    }

    async fn enable_secret_version(
        &self,
        request: Request<pb::EnableSecretVersionRequest>,
    ) -> Result<Response<pb::SecretVersion>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, EnableSecretVersion(name)).await?;
        Ok(Response::new(
            self.catalog.enable_secret_version(permit).await?.into(),
        ))
    }

    async fn disable_secret_version(
        &self,
        request: Request<pb::DisableSecretVersionRequest>,
    ) -> Result<Response<pb::SecretVersion>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DisableSecretVersion(name)).await?;
        Ok(Response::new(
            self.catalog.disable_secret_version(permit).await?.into(),
        ))
    }

    async fn destroy_secret_version(
        &self,
        request: Request<pb::DestroySecretVersionRequest>,
    ) -> Result<Response<pb::SecretVersion>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DestroySecretVersion(name)).await?;
        Ok(Response::new(
            self.catalog.destroy_secret_version(permit).await?.into(),
        ))
    }
}

/// A new value; `None` when something about it was noted as wrong.
pub(super) fn new_value(
    secret_access_key: String,
    key_field: &str,
    access_key_id: String,
    id_field: &str,
    violations: &mut Violations,
) -> Option<NewValue> {
    let secret_access_key = violations.take(key_field, secret::check_value(secret_access_key));
    let access_key_id = violations.take(id_field, access_key_id.parse::<AccessKeyId>());
    Some(NewValue {
        secret_access_key: secret_access_key?,
        access_key_id: access_key_id?.to_string(),
    })
}

fn missing_value() -> crate::domain::Error {
    crate::domain::Error::internal("a value that was judged good is missing")
}

/// Where a secret may be used. Only the form of the endpoint is judged: the connector's own is judged with the rules.
fn targets(given: Vec<pb::SecretTarget>, violations: &mut Violations) -> Vec<Target> {
    if given.len() > TARGETS_MAX {
        violations.add(
            "secret.allowed_targets",
            format!("there are {}; at most {TARGETS_MAX} are kept", given.len()),
        );
        return Vec::new();
    }
    let mut targets = Vec::new();
    for (index, pb::SecretTarget { endpoint, bucket }) in given.into_iter().enumerate() {
        let at = |field: &str| format!("secret.allowed_targets[{index}].{field}");
        let endpoint = violations.take(at("endpoint"), Endpoint::of_form(&endpoint));
        let bucket = if bucket.is_empty() {
            Some(None)
        } else {
            violations.take(at("bucket"), bucket.parse()).map(Some)
        };
        if let (Some(endpoint), Some(bucket)) = (endpoint, bucket) {
            targets.push(Target { endpoint, bucket });
        }
    }
    targets.sort();
    targets.dedup();
    targets
}

impl From<Secret> for pb::Secret {
    fn from(secret: Secret) -> Self {
        let etag = secret.meta.etag();
        let Secret {
            name,
            meta,
            project_uid: _,
            allowed_targets,
            newest_version,
        } = secret;
        Self {
            name: name.to_string(),
            uid: meta.uid.to_string(),
            display_name: meta.texts.display_name,
            description: meta.texts.description,
            labels: meta.texts.labels,
            creator: meta.creator,
            create_time: Some(timestamp(meta.create_time)),
            update_time: Some(timestamp(meta.update_time)),
            etag,
            allowed_targets: allowed_targets
                .into_iter()
                .map(|Target { endpoint, bucket }| pb::SecretTarget {
                    endpoint: endpoint.to_string(),
                    bucket: bucket.map(|bucket| bucket.to_string()).unwrap_or_default(),
                })
                .collect(),
            newest_version,
        }
    }
}

impl From<NamedVersion> for pb::SecretVersion {
    fn from(NamedVersion { secret, version }: NamedVersion) -> Self {
        let SecretVersion {
            number,
            access_key_id,
            state,
            creator,
            create_time,
        } = version;
        Self {
            name: SecretVersionName::new(secret, number).to_string(),
            access_key_id,
            state: match state {
                SecretVersionState::Enabled => pb::SecretVersionState::Enabled,
                SecretVersionState::Disabled => pb::SecretVersionState::Disabled,
                SecretVersionState::Destroyed => pb::SecretVersionState::Destroyed,
            }
            .into(),
            create_time: Some(timestamp(create_time)),
            creator,
        }
    }
}
