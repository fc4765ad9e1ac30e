//! The catalog as a gRPC server: what stands in front of the handlers, and how they are put together. A handler has four
//! steps: who and what, may they, decode, do and answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{Incoming, PeerLayer};
use mooring_proto::agent::v1 as agent_pb;
use mooring_proto::v1 as pb;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use crate::ops::Catalog;

pub mod access;
pub mod activation;
pub mod audit;
pub mod auth;
pub mod community;
pub mod connector;
pub mod decode;
mod doorway;
pub mod enrollment;
mod gate;
pub mod host;
pub mod import;
pub mod join_token;
pub mod mount;
pub mod pool;
pub mod project;
pub mod publication;
pub mod secret;
pub mod session;
pub mod status;
pub mod user;
pub mod words;

/// The longest a call may take; a stream only until it begins. Calls are a few milliseconds of SQLite.
const CALL_DURATION_MAX: Duration = Duration::from_secs(30);
/// Calls at a time on one connection: a command line has one, a busy program a few dozen.
const CALLS_PER_CONNECTION_MAX: usize = 128;
/// After this a connection is asked to end, so that certificates are shown anew and replicas share the load.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long calls on an old connection may go on.
const CONNECTION_AGE_GRACE: Duration = Duration::from_secs(60);
/// How often a silent peer is asked whether it is there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long it may take to say so.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest report of a host: 10,000 mounts of a KiB each.
const REPORT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the handlers of all services share.
#[derive(Clone)]
pub struct Api {
    /// The use cases.
    pub catalog: Arc<Catalog>,
}

/// Serves until `shutdown` is ready, then lets calls end.
pub async fn serve(
    catalog: Arc<Catalog>,
    incoming: Incoming,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let api = Api {
        catalog: catalog.clone(),
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(mooring_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let gate = gate::GateLayer::new(catalog.clone());
    let incoming = doorway::Doorway::new(incoming, gate.calls());
    Server::builder()
        .timeout(CALL_DURATION_MAX)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .max_connection_age(CONNECTION_AGE_MAX)
        .max_connection_age_grace(CONNECTION_AGE_GRACE)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(PeerLayer::new(catalog.authority.trust_domain().clone()))
        .layer(gate)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(pb::access_service_server::AccessServiceServer::new(api.clone()))
        .add_service(pb::activation_service_server::ActivationServiceServer::new(
            api.clone(),
        ))
        .add_service(pb::audit_service_server::AuditServiceServer::new(api.clone()))
        .add_service(pb::auth_service_server::AuthServiceServer::new(api.clone()))
        .add_service(pb::community_service_server::CommunityServiceServer::new(
            api.clone(),
        ))
        .add_service(pb::connector_service_server::ConnectorServiceServer::new(
            api.clone(),
        ))
        .add_service(agent_pb::enrollment_service_server::EnrollmentServiceServer::new(
            api.clone(),
        ))
        .add_service(pb::host_service_server::HostServiceServer::new(api.clone()))
        .add_service(pb::project_service_server::ProjectServiceServer::new(api.clone()))
        .add_service(pb::publication_service_server::PublicationServiceServer::new(
            api.clone(),
        ))
        .add_service(
            agent_pb::session_service_server::SessionServiceServer::new(api.clone())
                .max_decoding_message_size(REPORT_BYTES_MAX),
        )
        .add_service(pb::secret_service_server::SecretServiceServer::new(api.clone()))
        .add_service(pb::user_service_server::UserServiceServer::new(api))
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
