//! The operator of the fleet: makes what there is to mount, lets machines join, and changes things.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mooring_identity::{ClientTls, Credentials, JoinString, PrivateKey, client};
use mooring_proto::v1 as pb;
use pb::activation_service_client::ActivationServiceClient;
use pb::auth_service_client::AuthServiceClient;
use pb::community_service_client::CommunityServiceClient;
use pb::connector_service_client::ConnectorServiceClient;
use pb::host_service_client::HostServiceClient;
use pb::project_service_client::ProjectServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// The longest a call may take: a change for the whole fleet included.
const CALL_MAX: Duration = Duration::from_secs(120);
/// Most machines that one token lets in.
const USES_MAX: usize = 10_000;

/// Somebody who may do anything, on one connection.
#[derive(Clone)]
pub(crate) struct Operator {
    channel: Channel,
}

impl Operator {
    pub(crate) async fn log_in(join: &JoinString) -> anyhow::Result<Self> {
        let key = PrivateKey::generate()?;
        let pinned = client::connect_pinned(&join.endpoint, join.pin).await?;
        let request = pb::LoginRequest {
            token: join.token().to_owned(),
            csr_pem: key.certificate_request()?,
        };
        let answer = AuthServiceClient::new(pinned.channel).login(request).await?;
        let credentials = Credentials::new(key, answer.into_inner().certificate_pem, pinned.ca_pem)?;
        let channel = ClientTls::new(&credentials)?.channel(&join.endpoint)?;
        Ok(Self { channel })
    }

    /// Community, project and two connectors: `lake`, which single hosts get, and `sea`, which all get.
    pub(crate) async fn furnish(&self) -> anyhow::Result<()> {
        let community = pb::CreateCommunityRequest {
            community_id: "research".into(),
            ..Default::default()
        };
        let mut communities = CommunityServiceClient::new(self.channel.clone());
        communities.create_community(within(community)).await?;
        let project = pb::CreateProjectRequest {
            project_id: "ml".into(),
            project: Some(pb::Project {
                community: "communities/research".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut projects = ProjectServiceClient::new(self.channel.clone());
        projects.create_project(within(project)).await?;
        for id in ["lake", "sea"] {
            self.create_connector(id).await?;
        }
        Ok(())
    }

    async fn create_connector(&self, id: &str) -> anyhow::Result<()> {
        let request = pb::CreateConnectorRequest {
            parent: "projects/ml".into(),
            connector_id: id.into(),
            connector: Some(pb::Connector {
                // Nobody connects to it.
                endpoint: "https://s3.example.com".into(),
                bucket: format!("bucket-{id}"),
                access_key_id: "AKIDEXAMPLE".into(),
                ..Default::default()
            }),
            new_secret: Some(pb::NewSecret {
                secret_id: format!("{id}-key"),
                secret_access_key: "pretended-by-mooring-fleet".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut connectors = ConnectorServiceClient::new(self.channel.clone());
        connectors.create_connector(within(request)).await?;
        Ok(())
    }

    /// Makes a pool and the right for so many machines to join it; each token with the number of machines it is for.
    pub(crate) async fn pool(
        &self,
        id: &str,
        machines: usize,
    ) -> anyhow::Result<Vec<(Arc<JoinString>, usize)>> {
        let mut hosts = HostServiceClient::new(self.channel.clone());
        let request = pb::CreatePoolRequest {
            pool_id: id.into(),
            pool: Some(pb::Pool {
                admitted_projects: vec!["projects/ml".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        hosts.create_pool(within(request)).await?;
        let mut tokens = Vec::new();
        let mut left = machines;
        while left > 0 {
            let uses = left.min(USES_MAX);
            let request = pb::CreateJoinTokenRequest {
                uses: i32::try_from(uses)?,
                subject: Some(pb::create_join_token_request::Subject::Pool(format!(
                    "pools/{id}"
                ))),
                ..Default::default()
            };
            let token = hosts.create_join_token(within(request)).await?.into_inner();
            tokens.push((Arc::new(token.join_string.parse()?), uses));
            left -= uses;
        }
        Ok(tokens)
    }

    /// Activates a connector on a pool, under this id.
    pub(crate) async fn activate(&self, connector: &str, pool: &str, id: &str) -> Result<(), Status> {
        let request = pb::ActivateRequest {
            parent: "projects/ml".into(),
            activation_id: id.into(),
            pool: format!("pools/{pool}"),
            target: Some(pb::activate_request::Target::Connector(format!(
                "projects/ml/connectors/{connector}"
            ))),
            ..Default::default()
        };
        let mut activations = ActivationServiceClient::new(self.channel.clone());
        activations.activate(within(request)).await?;
        Ok(())
    }

    pub(crate) async fn deactivate(&self, activation: &str) -> Result<(), Status> {
        let request = pb::DeactivateRequest {
            name: activation.into(),
            ..Default::default()
        };
        let mut activations = ActivationServiceClient::new(self.channel.clone());
        activations.deactivate(within(request)).await?;
        Ok(())
    }

    /// Whether an activation is in effect on all of its hosts, and what is said of it.
    pub(crate) async fn is_active(&self, activation: &str) -> anyhow::Result<(bool, String)> {
        let request = pb::GetActivationRequest {
            name: activation.into(),
        };
        let mut activations = ActivationServiceClient::new(self.channel.clone());
        let found = activations.get_activation(within(request)).await?.into_inner();
        Ok((found.state() == pb::ActivationState::Active, found.message))
    }

    /// Waits until the catalog answers at all.
    pub(crate) async fn reach(&self) -> anyhow::Result<()> {
        let mut auth = AuthServiceClient::new(self.channel.clone());
        let mut last = None;
        for _ in 0..600 {
            match auth.who_am_i(within(pb::WhoAmIRequest {})).await {
                Ok(_) => return Ok(()),
                Err(status) => last = Some(status),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(last.context("the catalog was never asked")?.into())
    }
}

/// Whether what was there before is not gone yet: try again.
pub(crate) fn is_still_unmounting(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition
}

fn within<T>(request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(CALL_MAX);
    request
}
