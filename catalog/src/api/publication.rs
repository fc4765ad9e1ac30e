//! Publications over gRPC, and the service that imports are part of too.

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::decode::{self, List, Mask, split, timestamp};
use super::{Api, import, words};
use crate::domain::Violations;
use crate::domain::publication::{
    NewPublication, Publication, PublicationChange, PublicationState, Withdrawal, checked_grace,
};
use crate::ops::publication::{GetPublication, ListPublications, PublishConnector};

#[tonic::async_trait]
impl pb::publication_service_server::PublicationService for Api {
    async fn publish_connector(
        &self,
        request: Request<pb::PublishConnectorRequest>,
    ) -> Result<Response<pb::Publication>, Status> {
        let (caller, body) = split(request)?;
        let connector = decode::name("connector", &body.connector)?;
        let community = decode::name("community", &body.community)?;
        let permit = self
            .catalog
            .permit(&caller, PublishConnector { connector, community })
            .await?;
        let mut violations = Violations::default();
        let once = decode::once(
            &self.catalog.keyring,
            "PublishConnector",
            &body.request_id,
            &body,
            |publication: &Publication| pb::Publication::from(publication.clone()).encode_to_vec(),
            &mut violations,
        );
        let id = decode::optional_id("publication_id", &body.publication_id, &mut violations);
        let given = decode::body(body.publication);
        let texts = decode::texts(
            "publication",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        let max_mode = words::optional_mode("publication.max_mode", given.max_mode, &mut violations);
        violations.finish()?;
        let new = NewPublication { texts, max_mode };
        decode::answer(self.catalog.publish_connector(permit, id, new, once).await?)
    }

    async fn update_publication(
        &self,
        request: Request<pb::UpdatePublicationRequest>,
    ) -> Result<Response<pb::Publication>, Status> {
        let (caller, body) = split(request)?;
        let given = decode::body(body.publication);
        let name = decode::name("publication.name", &given.name)?;
        let action = self.catalog.update_publication_action(&caller, name).await?;
        let permit = self.catalog.permit(&caller, action).await?;
        let mut violations = Violations::default();
        let mutable = ["display_name", "description", "labels", "max_mode"];
        let mask = Mask::read(body.update_mask, &mutable, &[], &mut violations);
        let texts = mask.texts(
            "publication",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        let max_mode = mask
            .pick("max_mode", given.max_mode)
            .map(|number| words::optional_mode("publication.max_mode", number, &mut violations));
        violations.finish()?;
        let change = PublicationChange {
            texts,
            max_mode,
            etag: given.etag,
        };
        Ok(Response::new(
            self.catalog.update_publication(permit, change).await?.into(),
        ))
    }

    async fn withdraw_publication(
        &self,
        request: Request<pb::WithdrawPublicationRequest>,
    ) -> Result<Response<pb::Publication>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let action = self.catalog.withdraw_publication_action(name).await?;
        let permit = self.catalog.permit(&caller, action).await?;
        let mut violations = Violations::default();
        let grace = words::optional_duration("grace", body.grace, &mut violations);
        let grace = violations.take("grace", checked_grace(grace)).unwrap_or_default();
        let how = match pb::WithdrawalMode::try_from(body.withdrawal) {
            Ok(pb::WithdrawalMode::Unspecified | pb::WithdrawalMode::Block) => Withdrawal::Block,
            Ok(pb::WithdrawalMode::Drain) => Withdrawal::Drain { grace },
            Ok(pb::WithdrawalMode::Force) => Withdrawal::Force,
            Err(_) => {
                violations.add(
                    "withdrawal",
                    "it is no mode of withdrawal; use BLOCK, DRAIN or FORCE",
                );
                Withdrawal::Block
            }
        };
        violations.finish()?;
        Ok(Response::new(
            self.catalog.withdraw_publication(permit, how).await?.into(),
        ))
    }

    async fn get_publication(
        &self,
        request: Request<pb::GetPublicationRequest>,
    ) -> Result<Response<pb::Publication>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, GetPublication(name)).await?;
        Ok(Response::new(self.catalog.get_publication(permit).await?.into()))
    }

    async fn list_publications(
        &self,
        request: Request<pb::ListPublicationsRequest>,
    ) -> Result<Response<pb::ListPublicationsResponse>, Status> {
        let (caller, body) = split(request)?;
        let community = decode::name("parent", &body.parent)?;
        let permit = self.catalog.permit(&caller, ListPublications(community)).await?;
        let list = List::read(
            format!("publications of {}", body.parent),
            body.page_size,
            &body.page_token,
        )?;
        let page = self.catalog.list_publications(permit, list.page()).await?;
        let (publications, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListPublicationsResponse {
            publications,
            next_page_token,
        }))
    }

    async fn import_publication(
        &self,
        request: Request<pb::ImportPublicationRequest>,
    ) -> Result<Response<pb::Import>, Status> {
        import::create(self, request).await
    }

    async fn get_import(
        &self,
        request: Request<pb::GetImportRequest>,
    ) -> Result<Response<pb::Import>, Status> {
        import::get(self, request).await
    }

    async fn list_imports(
        &self,
        request: Request<pb::ListImportsRequest>,
    ) -> Result<Response<pb::ListImportsResponse>, Status> {
        import::list(self, request).await
    }

    async fn update_import(
        &self,
        request: Request<pb::UpdateImportRequest>,
    ) -> Result<Response<pb::Import>, Status> {
        import::update(self, request).await
    }

    async fn delete_import(&self, request: Request<pb::DeleteImportRequest>) -> Result<Response<()>, Status> {
        import::delete(self, request).await
    }
}

impl From<Publication> for pb::Publication {
    fn from(publication: Publication) -> Self {
        let etag = publication.meta.etag();
        let Publication {
            name,
            meta,
            community_uid: _,
            connector,
            connector_uid: _,
            max_mode,
            state,
        } = publication;
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
            connector: connector.to_string(),
            max_mode: words::mode(max_mode),
            state: words::publication_state(Some(state)),
            withdraw_time: match state {
                PublicationState::Withdrawing { until } => Some(timestamp(until)),
                PublicationState::Published | PublicationState::Withdrawn => None,
            },
        }
    }
}
