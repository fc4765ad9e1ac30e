//! The record of changes over gRPC.

use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::Api;
use super::decode::{self, List, split, timestamp};
use crate::domain::audit::AuditEvent;
use crate::ops::audit::ListAuditEvents;

#[tonic::async_trait]
impl pb::audit_service_server::AuditService for Api {
    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let (caller, body) = split(request)?;
        let scope = decode::name("parent", &body.parent)?;
        let permit = self.catalog.permit(&caller, ListAuditEvents(scope)).await?;
        let list = List::read(
            format!("{}/auditEvents", body.parent),
            body.page_size,
            &body.page_token,
        )?;
        let page = self.catalog.list_audit_events(permit, list.page()).await?;
        let (audit_events, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListAuditEventsResponse {
            audit_events,
            next_page_token,
        }))
    }
}

impl From<AuditEvent> for pb::AuditEvent {
    fn from(event: AuditEvent) -> Self {
        let AuditEvent {
            revision,
            time,
            actor,
            method,
            resource,
            resource_uid,
            details,
        } = event;
        Self {
            revision,
            event_time: Some(timestamp(time)),
            actor,
            method,
            resource,
            resource_uid: resource_uid.to_string(),
            details,
        }
    }
}
