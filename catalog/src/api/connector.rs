//! Connectors over gRPC.

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::decode::{self, List, Mask, split, timestamp};
use super::secret::new_value;
use super::{Api, words};
use crate::domain::connector::{
    CacheSize, Connector, ConnectorChange, NewConnector, NewConnectorSecret, Region, Spec,
};
use crate::domain::endpoint::{Endpoint, EndpointRules};
use crate::domain::names::SecretName;
use crate::domain::secret::CompanionSecret;
use crate::domain::{Backend, Error, Mode, Texts, Violations};
use crate::ops::connector::{
    ConnectorView, CreateConnector, DeleteConnector, GetConnector, ListConnectors, UpdateConnector,
};
use crate::store::connector_use::ConnectorMount;

#[tonic::async_trait]
impl pb::connector_service_server::ConnectorService for Api {
    async fn create_connector(
        &self,
        request: Request<pb::CreateConnectorRequest>,
    ) -> Result<Response<pb::Connector>, Status> {
        let (caller, body) = split(request)?;
        let project = decode::name("parent", &body.parent)?;
        let permit = self.catalog.permit(&caller, CreateConnector(project)).await?;
        let mut violations = Violations::default();
        let once = decode::once(
            &self.catalog.keyring,
            "CreateConnector",
            &body.request_id,
            &body,
            |view: &ConnectorView| pb::Connector::from(view.clone()).encode_to_vec(),
            &mut violations,
        );
        let id = decode::optional_id("connector_id", &body.connector_id, &mut violations);
        let rules = &self.catalog.settings.endpoint_rules;
        let new = new_connector(
            decode::body(body.connector),
            body.new_secret,
            rules,
            &mut violations,
        );
        violations.finish()?;
        let new =
            new.ok_or_else(|| Error::internal("a connector whose fields were judged good is missing"))?;
        decode::answer(self.catalog.create_connector(permit, id, new, once).await?)
    }

    async fn get_connector(
        &self,
        request: Request<pb::GetConnectorRequest>,
    ) -> Result<Response<pb::Connector>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, GetConnector(name)).await?;
        Ok(Response::new(self.catalog.get_connector(permit).await?.into()))
    }

    async fn list_connectors(
        &self,
        request: Request<pb::ListConnectorsRequest>,
    ) -> Result<Response<pb::ListConnectorsResponse>, Status> {
        let (caller, body) = split(request)?;
        let project = decode::name("parent", &body.parent)?;
        let permit = self.catalog.permit(&caller, ListConnectors(project)).await?;
        let list = List::read(
            format!("{}/connectors", body.parent),
            body.page_size,
            &body.page_token,
        )?;
        let page = self.catalog.list_connectors(permit, list.page()).await?;
        let (connectors, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListConnectorsResponse {
            connectors,
            next_page_token,
        }))
    }

    async fn update_connector(
        &self,
        request: Request<pb::UpdateConnectorRequest>,
    ) -> Result<Response<pb::Connector>, Status> {
        let (caller, body) = split(request)?;
        let given = decode::body(body.connector);
        let name = decode::name("connector.name", &given.name)?;
        let permit = self.catalog.permit(&caller, UpdateConnector(name)).await?;
        let mut violations = Violations::default();
        let rules = &self.catalog.settings.endpoint_rules;
        let change = change(
            given,
            body.update_mask,
            body.restart_mounts,
            rules,
            &mut violations,
        );
        violations.finish()?;
        Ok(Response::new(
            self.catalog.update_connector(permit, change).await?.into(),
        ))
    }

    async fn delete_connector(
        &self,
        request: Request<pb::DeleteConnectorRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DeleteConnector(name)).await?;
        self.catalog.delete_connector(permit, &body.etag).await?;
        Ok(Response::new(()))
    }
}

/// A connector to create; `None` when something was noted as wrong.
fn new_connector(
    given: pb::Connector,
    new_secret: Option<pb::NewSecret>,
    rules: &EndpointRules,
    violations: &mut Violations,
) -> Option<NewConnector> {
    let texts = decode::texts(
        "connector",
        given.display_name,
        given.description,
        given.labels,
        violations,
    );
    let endpoint = violations.take("connector.endpoint", Endpoint::parse(&given.endpoint, rules));
    let region = region(&given.region, violations);
    let bucket = violations.take("connector.bucket", given.bucket.parse());
    let prefix = violations.take("connector.prefix", given.prefix.parse());
    let mount_name = decode::optional_id("connector.mount_name", &given.mount_name, violations);
    let access_key_id = violations.take("connector.access_key_id", given.access_key_id.parse());
    let version = pinned(given.secret_version, violations);
    let secret = match (given.secret.as_str(), new_secret) {
        ("", None) => {
            if version.is_some() {
                violations.add(
                    "connector.secret_version",
                    "there is no secret to pin; give `secret` too, or leave it out",
                );
            }
            Some(NewConnectorSecret::None)
        }
        (name, None) => violations
            .take("connector.secret", name.parse())
            .map(|name: SecretName| NewConnectorSecret::Existing(name, version)),
        ("", Some(new)) => companion(new, violations).map(NewConnectorSecret::Companion),
        (_, Some(_)) => {
            violations.add(
                "connector.secret",
                "it is given together with `new_secret`; give one of them",
            );
            None
        }
    };
    let mode = words::optional_mode("connector.mode", given.mode, violations).unwrap_or(Mode::ReadOnly);
    let backend =
        words::optional_backend("connector.backend", given.backend, violations).unwrap_or(Backend::Default);
    if let Some(NewConnectorSecret::Companion(CompanionSecret { value, .. })) = &secret {
        violations.take("new_secret.secret_access_key", value.check_for(backend));
    }
    let options = given.options.unwrap_or_default();
    let cache_size = cache_size(options.cache_size_mib, violations);
    Some(NewConnector {
        texts,
        endpoint: endpoint?,
        region: region?,
        bucket: bucket?,
        prefix: prefix?,
        mount_name,
        access_key_id: access_key_id?,
        secret: secret?,
        mode,
        backend,
        virtual_host_style: options.virtual_host_style,
        cache_size: cache_size?,
    })
}

fn cache_size(mib: i32, violations: &mut Violations) -> Option<CacheSize> {
    violations.take("connector.options.cache_size_mib", CacheSize::of_mib(mib))
}

fn companion(new: pb::NewSecret, violations: &mut Violations) -> Option<CompanionSecret> {
    let pb::NewSecret {
        secret_id,
        secret_access_key,
        display_name,
    } = new;
    let id = decode::optional_id("new_secret.secret_id", &secret_id, violations);
    let texts = Texts {
        display_name,
        ..Texts::default()
    }
    .check("new_secret", violations);
    // The key id is the connector's; a version added later may bring its own.
    let key = "new_secret.secret_access_key";
    let value = new_value(secret_access_key, key, String::new(), key, violations)?;
    Some(CompanionSecret { id, texts, value })
}

fn change(
    given: pb::Connector,
    mask: Option<prost_types::FieldMask>,
    restart_mounts: bool,
    rules: &EndpointRules,
    violations: &mut Violations,
) -> ConnectorChange {
    const MUTABLE: [&str; 16] = [
        "display_name",
        "description",
        "labels",
        "endpoint",
        "region",
        "bucket",
        "prefix",
        "mount_name",
        "access_key_id",
        "secret",
        "secret_version",
        "mode",
        "backend",
        "options",
        "options.virtual_host_style",
        "options.cache_size_mib",
    ];
    let mask = Mask::read(mask, &MUTABLE, &[], violations);
    let texts = mask.texts(
        "connector",
        given.display_name,
        given.description,
        given.labels,
        violations,
    );
    let mut parse = Parse {
        mask: &mask,
        violations,
    };
    let endpoint = parse.field("endpoint", given.endpoint, |text| Endpoint::parse(text, rules));
    let region = parse.field("region", given.region, |text| {
        if text.is_empty() {
            Ok(Region::default())
        } else {
            text.parse()
        }
    });
    let bucket = parse.field("bucket", given.bucket, str::parse);
    let prefix = parse.field("prefix", given.prefix, str::parse);
    let mount_name = parse.field("mount_name", given.mount_name, |text| {
        if text.is_empty() {
            Ok(None)
        } else {
            text.parse().map(Some)
        }
    });
    let access_key_id = parse.field("access_key_id", given.access_key_id, str::parse);
    let secret = parse.field("secret", given.secret, |text| {
        if text.is_empty() {
            Ok(None)
        } else {
            text.parse().map(Some)
        }
    });
    let secret_version = mask
        .pick("secret_version", given.secret_version)
        .map(|number| pinned(number, violations));
    let picked_mode = mask
        .pick("mode", given.mode)
        .map(|given| words::optional_mode("connector.mode", given, violations).unwrap_or(Mode::ReadOnly));
    let picked_backend = mask.pick("backend", given.backend).map(|given| {
        words::optional_backend("connector.backend", given, violations).unwrap_or(Backend::Default)
    });
    let options = given.options.unwrap_or_default();
    let virtual_host_style = mask
        .pick("options", options.virtual_host_style)
        .or_else(|| mask.pick("options.virtual_host_style", options.virtual_host_style));
    let cache_size = mask
        .pick("options", options.cache_size_mib)
        .or_else(|| mask.pick("options.cache_size_mib", options.cache_size_mib))
        .and_then(|mib| cache_size(mib, violations));
    ConnectorChange {
        texts,
        endpoint,
        region,
        bucket,
        prefix,
        mount_name,
        access_key_id,
        secret,
        secret_version,
        mode: picked_mode,
        backend: picked_backend,
        virtual_host_style,
        cache_size,
        etag: given.etag,
        restart_mounts,
    }
}

/// Parses the fields that a mask picks, and notes what is wrong.
struct Parse<'a> {
    mask: &'a Mask,
    violations: &'a mut Violations,
}

impl Parse<'_> {
    fn field<T>(
        &mut self,
        field: &str,
        text: String,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.mask.pick(field, text)?;
        self.violations.take(format!("connector.{field}"), parse(&text))
    }
}

fn region(text: &str, violations: &mut Violations) -> Option<Region> {
    if text.is_empty() {
        Some(Region::default())
    } else {
        violations.take("connector.region", text.parse())
    }
}

fn pinned(number: i64, violations: &mut Violations) -> Option<i64> {
    if number < 0 {
        violations.add(
            "connector.secret_version",
            "it is negative; give a version's number, or 0 for the newest",
        );
    }
    (number > 0).then_some(number)
}

impl From<ConnectorView> for pb::Connector {
    fn from(view: ConnectorView) -> Self {
        let ConnectorView {
            connector,
            mounts,
            mounted_hosts,
            published,
        } = view;
        let etag = connector.meta.etag();
        let Connector {
            name,
            meta,
            project_uid: _,
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
            endpoint: endpoint.to_string(),
            region: region.to_string(),
            bucket: bucket.to_string(),
            prefix: prefix.to_string(),
            mount_name: mount_name.to_string(),
            access_key_id: access_key_id.to_string(),
            secret: secret.map(|secret| secret.name.to_string()).unwrap_or_default(),
            secret_version: secret_version.unwrap_or_default(),
            mode: words::mode(Some(mode)),
            backend: words::backend(Some(backend)),
            options: Some(pb::ConnectorOptions {
                virtual_host_style,
                cache_size_mib: cache_size.mib(),
            }),
            mounts: mounts.into_iter().map(Into::into).collect(),
            mounted_hosts: i32::try_from(mounted_hosts).unwrap_or(i32::MAX),
            published,
        }
    }
}

impl From<ConnectorMount> for pb::ConnectorMount {
    fn from(mount: ConnectorMount) -> Self {
        let ConnectorMount {
            host,
            activation,
            path,
            state,
        } = mount;
        Self {
            host: host.to_string(),
            activation: activation.to_string(),
            path,
            state: words::mount_state(state),
        }
    }
}
