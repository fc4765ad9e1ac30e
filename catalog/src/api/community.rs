//! Communities over gRPC.

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::Api;
use super::decode::{self, List, Mask, TEXT_FIELDS, split, timestamp};
use crate::domain::Violations;
use crate::domain::community::{Community, CommunityChange, NewCommunity};
use crate::ops::community::{
    CreateCommunity, DeleteCommunity, GetCommunity, ListCommunities, UpdateCommunity,
};

#[tonic::async_trait]
impl pb::community_service_server::CommunityService for Api {
    async fn create_community(
        &self,
        request: Request<pb::CreateCommunityRequest>,
    ) -> Result<Response<pb::Community>, Status> {
        let (caller, body) = split(request)?;
        let permit = self.catalog.permit(&caller, CreateCommunity).await?;
        let mut violations = Violations::default();
        let once = decode::once(
            &self.catalog.keyring,
            "CreateCommunity",
            &body.request_id,
            &body,
            |community: &Community| pb::Community::from(community.clone()).encode_to_vec(),
            &mut violations,
        );
        let id = decode::optional_id("community_id", &body.community_id, &mut violations);
        let given = decode::body(body.community);
        let texts = decode::texts(
            "community",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        violations.finish()?;
        let new = NewCommunity { texts };
        decode::answer(self.catalog.create_community(permit, id, new, once).await?)
    }

    async fn get_community(
        &self,
        request: Request<pb::GetCommunityRequest>,
    ) -> Result<Response<pb::Community>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, GetCommunity(name)).await?;
        Ok(Response::new(self.catalog.get_community(permit).await?.into()))
    }

    async fn list_communities(
        &self,
        request: Request<pb::ListCommunitiesRequest>,
    ) -> Result<Response<pb::ListCommunitiesResponse>, Status> {
        let (caller, body) = split(request)?;
        let permit = self.catalog.permit(&caller, ListCommunities).await?;
        let list = List::read("communities", body.page_size, &body.page_token)?;
        let page = self.catalog.list_communities(permit, list.page()).await?;
        let (communities, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListCommunitiesResponse {
            communities,
            next_page_token,
        }))
    }

    async fn update_community(
        &self,
        request: Request<pb::UpdateCommunityRequest>,
    ) -> Result<Response<pb::Community>, Status> {
        let (caller, body) = split(request)?;
        let given = decode::body(body.community);
        let name = decode::name("community.name", &given.name)?;
        let permit = self.catalog.permit(&caller, UpdateCommunity(name)).await?;
        let mut violations = Violations::default();
        let mask = Mask::read(body.update_mask, &TEXT_FIELDS, &[], &mut violations);
        let texts = mask.texts(
            "community",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        violations.finish()?;
        let change = CommunityChange {
            texts,
            etag: given.etag,
        };
        Ok(Response::new(
            self.catalog.update_community(permit, change).await?.into(),
        ))
    }

    async fn delete_community(
        &self,
        request: Request<pb::DeleteCommunityRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DeleteCommunity(name)).await?;
        self.catalog.delete_community(permit, &body.etag).await?;
        Ok(Response::new(()))
    }
}

impl From<Community> for pb::Community {
    fn from(community: Community) -> Self {
        let etag = community.meta.etag();
        let Community { name, meta } = community;
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
        }
    }
}
