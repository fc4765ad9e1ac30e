//! Offers and imports for tests.

use mooring_proto::v1 as pb;
use mooring_proto::v1::publication_service_server::PublicationService as _;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{World, request};
use crate::policy::Caller;

pub(crate) async fn publish(
    world: &World,
    by: &Caller,
    connector: &str,
    community: &str,
) -> Result<pb::Publication, Status> {
    let body = pb::PublishConnectorRequest {
        connector: connector.into(),
        community: format!("communities/{community}"),
        ..Default::default()
    };
    world
        .api
        .publish_connector(request(by, body))
        .await
        .map(tonic::Response::into_inner)
}

pub(crate) async fn import_as(
    world: &World,
    by: &Caller,
    project: &str,
    publication: &str,
    id: &str,
) -> Result<pb::Import, Status> {
    let body = pb::ImportPublicationRequest {
        parent: format!("projects/{project}"),
        import_id: id.into(),
        import: Some(pb::Import {
            publication: publication.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    world
        .api
        .import_publication(request(by, body))
        .await
        .map(tonic::Response::into_inner)
}

pub(crate) async fn withdraw(
    world: &World,
    by: &Caller,
    name: &str,
    how: pb::WithdrawalMode,
) -> Result<pb::Publication, Status> {
    let body = pb::WithdrawPublicationRequest {
        name: name.into(),
        withdrawal: how.into(),
        grace: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
    };
    world
        .api
        .withdraw_publication(request(by, body))
        .await
        .map(tonic::Response::into_inner)
}

/// The resource that a denial names.
pub(crate) fn denied_on(status: &Status) -> String {
    let info = status.get_error_details().error_info().unwrap().clone();
    info.metadata["resource"].clone()
}

pub(crate) fn missing(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let info = status.get_error_details().error_info().unwrap().clone();
    (
        info.metadata["permission"].clone(),
        info.metadata["role_needed"].clone(),
    )
}

/// Community `research` with project `ml`, its connector `reports` and consumer project `web`; pool `gpu`.
pub(crate) async fn shared_world() -> World {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world.project("web", "research", &world.operator).await;
    world.connector("reports", "ml", &world.operator).await;
    world.pool("gpu").await;
    world
}
