//! Listings for tests: what is in them, by name where only that is looked at.

use mooring_proto::v1 as pb;
use mooring_proto::v1::activation_service_server::ActivationService as _;
use mooring_proto::v1::community_service_server::CommunityService as _;
use mooring_proto::v1::host_service_server::HostService as _;
use mooring_proto::v1::project_service_server::ProjectService as _;

use super::{World, request};
use crate::policy::Caller;

impl World {
    /// The names of the communities that somebody sees.
    pub(crate) async fn communities(&self, by: &Caller) -> Vec<String> {
        let body = pb::ListCommunitiesRequest::default();
        let list = self.api.list_communities(request(by, body)).await.unwrap();
        let items = list.into_inner().communities.into_iter();
        items.map(|community| community.name).collect()
    }

    /// The names of the projects that somebody sees.
    pub(crate) async fn projects(&self, by: &Caller) -> Vec<String> {
        let body = pb::ListProjectsRequest::default();
        let list = self.api.list_projects(request(by, body)).await.unwrap();
        let items = list.into_inner().projects.into_iter();
        items.map(|project| project.name).collect()
    }

    /// The names of the pools that somebody sees.
    pub(crate) async fn pools(&self, by: &Caller) -> Vec<String> {
        let body = pb::ListPoolsRequest::default();
        let list = self.api.list_pools(request(by, body)).await.unwrap();
        list.into_inner()
            .pools
            .into_iter()
            .map(|pool| pool.name)
            .collect()
    }

    /// The names of a project's activations.
    pub(crate) async fn activations(&self, by: &Caller, project: &str, show_inactive: bool) -> Vec<String> {
        let body = pb::ListActivationsRequest {
            parent: format!("projects/{project}"),
            show_inactive,
            ..Default::default()
        };
        let list = self.api.list_activations(request(by, body)).await.unwrap();
        let items = list.into_inner().activations.into_iter();
        items.map(|activation| activation.name).collect()
    }

    /// The mounts of a project, an activation, a connector or a host.
    pub(crate) async fn mounts(&self, by: &Caller, parent: &str) -> Vec<pb::Mount> {
        let body = pb::ListMountsRequest {
            parent: parent.into(),
            ..Default::default()
        };
        self.api
            .list_mounts(request(by, body))
            .await
            .unwrap()
            .into_inner()
            .mounts
    }
}
