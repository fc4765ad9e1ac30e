//! Activations over gRPC, and the service that the list of mounts is part of too.

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::decode::{self, List, split, timestamp};
use super::{Api, mount, words};
use crate::domain::activation::{Activation, NewActivation, Outlook, Target, checked_grace};
use crate::domain::names::{ConnectorName, ImportName, PoolName, ProjectName};
use crate::domain::{Error, Violations};
use crate::ops::activation::{Activate, ActivationView, Deactivate, GetActivation, ListActivations};

#[tonic::async_trait]
impl pb::activation_service_server::ActivationService for Api {
    async fn activate(
        &self,
        request: Request<pb::ActivateRequest>,
    ) -> Result<Response<pb::Activation>, Status> {
        let (caller, body) = split(request)?;
        let target = target(&body)?;
        let project = match body.parent.as_str() {
            "" => project_of(&target).clone(),
            text => decode::name("parent", text)?,
        };
        let permit = self.catalog.permit(&caller, Activate(project)).await?;
        let mut violations = Violations::default();
        let once = decode::once(
            &self.catalog.keyring,
            "Activate",
            &body.request_id,
            &body,
            |view: &ActivationView| pb::Activation::from(view.clone()).encode_to_vec(),
            &mut violations,
        );
        let id = decode::optional_id("activation_id", &body.activation_id, &mut violations);
        let pool = violations.take("pool", body.pool.parse::<PoolName>());
        let mode = words::optional_mode("mode", body.mode, &mut violations);
        violations.finish()?;
        let pool = pool.ok_or_else(|| Error::internal("a pool that was judged good is missing"))?;
        let new = NewActivation { target, pool, mode };
        decode::answer(self.catalog.activate(permit, id, new, once).await?)
    }

    async fn deactivate(
        &self,
        request: Request<pb::DeactivateRequest>,
    ) -> Result<Response<pb::Activation>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, Deactivate(name)).await?;
        let mut violations = Violations::default();
        let grace = words::optional_duration("grace", body.grace, &mut violations);
        let grace = violations.take("grace", checked_grace(grace)).unwrap_or_default();
        violations.finish()?;
        Ok(Response::new(
            self.catalog.deactivate(permit, grace).await?.into(),
        ))
    }

    async fn get_activation(
        &self,
        request: Request<pb::GetActivationRequest>,
    ) -> Result<Response<pb::Activation>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, GetActivation(name)).await?;
        Ok(Response::new(self.catalog.get_activation(permit).await?.into()))
    }

    async fn list_activations(
        &self,
        request: Request<pb::ListActivationsRequest>,
    ) -> Result<Response<pb::ListActivationsResponse>, Status> {
        let (caller, body) = split(request)?;
        let project = decode::name("parent", &body.parent)?;
        let permit = self.catalog.permit(&caller, ListActivations(project)).await?;
        let list = List::read(
            format!(
                "activations of {}, inactive ones: {}",
                body.parent, body.show_inactive
            ),
            body.page_size,
            &body.page_token,
        )?;
        let page = self
            .catalog
            .list_activations(permit, body.show_inactive, list.page())
            .await?;
        let (activations, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListActivationsResponse {
            activations,
            next_page_token,
        }))
    }

    async fn list_mounts(
        &self,
        request: Request<pb::ListMountsRequest>,
    ) -> Result<Response<pb::ListMountsResponse>, Status> {
        mount::list(self, request).await
    }
}

fn target(body: &pb::ActivateRequest) -> Result<Target, Error> {
    use pb::activate_request::Target as Given;
    match &body.target {
        Some(Given::Connector(text)) => Ok(Target::Connector(decode::name::<ConnectorName>(
            "connector",
            text,
        )?)),
        Some(Given::Import(text)) => Ok(Target::Import(decode::name::<ImportName>("import", text)?)),
        None => Err(Error::invalid(
            "target",
            "it is missing; give a `connector` or an `import`",
        )),
    }
}

fn project_of(target: &Target) -> &ProjectName {
    match target {
        Target::Connector(name) => name.project(),
        Target::Import(name) => name.project(),
    }
}

impl From<ActivationView> for pb::Activation {
    fn from(view: ActivationView) -> Self {
        let ActivationView {
            activation,
            mode,
            mount_path,
            outlook,
        } = view;
        let etag = activation.meta.etag();
        let Activation {
            name,
            meta,
            project_uid: _,
            target,
            target_uid: _,
            connector_uid: _,
            publication_uid: _,
            pool,
            pool_uid: _,
            asked_mode: _,
            end_time: _,
        } = activation;
        let Outlook {
            state,
            desired_hosts,
            mounted_hosts,
            message,
        } = outlook;
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
            target: target.to_string(),
            pool: pool.to_string(),
            mode: words::mode(mode),
            state: words::activation_state(state),
            desired_hosts,
            mounted_hosts,
            message,
            mount_path,
        }
    }
}
