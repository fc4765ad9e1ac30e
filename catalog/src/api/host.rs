//! Hosts over gRPC, and the service that pools and join tokens are part of too.

use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::decode::{self, List, Mask, split, timestamp};
use super::{Api, join_token, pool, words};
use crate::domain::Violations;
use crate::domain::activation::{GRACE_MAX, checked_grace};
use crate::domain::host::{Host, HostChange, HostFacts, checked_ban_reason};
use crate::domain::names::PoolName;
use crate::ops::host::duty::{BanHost, CordonHost, DrainHost, UncordonHost};
use crate::ops::host::{DeleteHost, GetHost, HostView, ListHosts, UpdateHost};

#[tonic::async_trait]
impl pb::host_service_server::HostService for Api {
    async fn create_pool(
        &self,
        request: Request<pb::CreatePoolRequest>,
    ) -> Result<Response<pb::Pool>, Status> {
        pool::create(self, request).await
    }

    async fn get_pool(&self, request: Request<pb::GetPoolRequest>) -> Result<Response<pb::Pool>, Status> {
        pool::get(self, request).await
    }

    async fn list_pools(
        &self,
        request: Request<pb::ListPoolsRequest>,
    ) -> Result<Response<pb::ListPoolsResponse>, Status> {
        pool::list(self, request).await
    }

    async fn update_pool(
        &self,
        request: Request<pb::UpdatePoolRequest>,
    ) -> Result<Response<pb::Pool>, Status> {
        pool::update(self, request).await
    }

    async fn delete_pool(&self, request: Request<pb::DeletePoolRequest>) -> Result<Response<()>, Status> {
        pool::delete(self, request).await
    }

    async fn get_host(&self, request: Request<pb::GetHostRequest>) -> Result<Response<pb::Host>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, GetHost(name)).await?;
        Ok(Response::new(self.catalog.get_host(permit).await?.into()))
    }

    async fn list_hosts(
        &self,
        request: Request<pb::ListHostsRequest>,
    ) -> Result<Response<pb::ListHostsResponse>, Status> {
        let (caller, body) = split(request)?;
        let pool = match body.pool.as_str() {
            "" => None,
            text => Some(decode::name::<PoolName>("pool", text)?),
        };
        let permit = self.catalog.permit(&caller, ListHosts(pool)).await?;
        let list = List::read(
            format!("hosts of {}", body.pool),
            body.page_size,
            &body.page_token,
        )?;
        let page = self.catalog.list_hosts(permit, list.page()).await?;
        let (hosts, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListHostsResponse {
            hosts,
            next_page_token,
        }))
    }

    async fn update_host(
        &self,
        request: Request<pb::UpdateHostRequest>,
    ) -> Result<Response<pb::Host>, Status> {
        let (caller, body) = split(request)?;
        let given = decode::body(body.host);
        let name = decode::name("host.name", &given.name)?;
        let permit = self.catalog.permit(&caller, UpdateHost(name)).await?;
        let mut violations = Violations::default();
        let mutable = ["display_name", "description", "labels", "unschedulable"];
        let mask = Mask::read(body.update_mask, &mutable, &["pool"], &mut violations);
        let texts = mask.texts(
            "host",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        let unschedulable = mask.pick("unschedulable", given.unschedulable);
        violations.finish()?;
        let change = HostChange {
            texts,
            unschedulable,
            etag: given.etag,
        };
        Ok(Response::new(
            self.catalog.update_host(permit, change).await?.into(),
        ))
    }

    async fn delete_host(&self, request: Request<pb::DeleteHostRequest>) -> Result<Response<()>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DeleteHost(name)).await?;
        self.catalog.delete_host(permit, &body.etag, body.force).await?;
        Ok(Response::new(()))
    }

    async fn cordon_host(
        &self,
        request: Request<pb::CordonHostRequest>,
    ) -> Result<Response<pb::Host>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, CordonHost(name)).await?;
        Ok(Response::new(self.catalog.cordon_host(permit).await?.into()))
    }

    async fn uncordon_host(
        &self,
        request: Request<pb::UncordonHostRequest>,
    ) -> Result<Response<pb::Host>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, UncordonHost(name)).await?;
        Ok(Response::new(self.catalog.uncordon_host(permit).await?.into()))
    }

    async fn drain_host(&self, request: Request<pb::DrainHostRequest>) -> Result<Response<pb::Host>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DrainHost(name)).await?;
        let mut violations = Violations::default();
        let grace = words::optional_duration("grace", body.grace, &mut violations);
        // Who empties a host for maintenance waits for those who work on it, unless the operator says how long.
        let grace = checked_grace(Some(grace.unwrap_or(GRACE_MAX)));
        let grace = violations.take("grace", grace).unwrap_or_default();
        violations.finish()?;
        Ok(Response::new(
            self.catalog.drain_host(permit, grace).await?.into(),
        ))
    }

    async fn ban_host(&self, request: Request<pb::BanHostRequest>) -> Result<Response<pb::Host>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, BanHost(name)).await?;
        let reason = checked_ban_reason(&body.reason)
            .map_err(|problem| crate::domain::Error::invalid("reason", problem))?;
        Ok(Response::new(self.catalog.ban_host(permit, reason).await?.into()))
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Result<Response<pb::JoinToken>, Status> {
        join_token::create(self, request).await
    }

    async fn list_join_tokens(
        &self,
        request: Request<pb::ListJoinTokensRequest>,
    ) -> Result<Response<pb::ListJoinTokensResponse>, Status> {
        join_token::list(self, request).await
    }

    async fn revoke_join_token(
        &self,
        request: Request<pb::RevokeJoinTokenRequest>,
    ) -> Result<Response<()>, Status> {
        join_token::revoke(self, request).await
    }
}

impl From<HostView> for pb::Host {
    fn from(view: HostView) -> Self {
        let HostView {
            host,
            state,
            mounts,
            message,
        } = view;
        let etag = host.meta.etag();
        let Host {
            name,
            meta,
            pool,
            pool_uid: _,
            unschedulable,
            seen_time,
            facts:
                HostFacts {
                    agent_version,
                    kernel_version,
                    backends,
                },
            certificate_expire_time,
            hpke_public_key: _,
            key: _,
            drain_time,
            ban,
            clone_time,
        } = host;
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
            pool: pool.to_string(),
            unschedulable,
            state: words::host_state(state),
            seen_time: seen_time.map(timestamp),
            agent_version,
            kernel_version,
            backends: backends
                .into_iter()
                .map(|(backend, version)| pb::HostBackend {
                    backend: words::backend(Some(backend)),
                    version,
                })
                .collect(),
            certificate_expire_time: Some(timestamp(certificate_expire_time)),
            mount_count: mounts,
            message,
            drain_time: drain_time.map(timestamp),
            ban_time: ban.map(|ban| timestamp(ban.time)),
            clone_time: clone_time.map(timestamp),
        }
    }
}
