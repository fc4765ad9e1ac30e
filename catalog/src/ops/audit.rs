//! Reading the record of changes.

use super::Catalog;
use crate::domain::audit::{AuditEvent, Place};
use crate::domain::names::Scope;
use crate::domain::{Error, Page, Paged};
use crate::policy::{Action, Permit};
use crate::store;

/// List the changes in a scope.
#[derive(Debug)]
pub struct ListAuditEvents(pub Scope);

impl Action for ListAuditEvents {
    const RPC: &'static str = "mooring.v1.AuditService/ListAuditEvents";

    fn scopes(&self) -> Vec<Scope> {
        vec![self.0.clone()]
    }
}

impl Catalog {
    /// Lists changes, newest first: of a project, of a community with its projects, or of the whole realm.
    pub async fn list_audit_events(
        &self,
        permit: Permit<ListAuditEvents>,
        page: &Page,
    ) -> Result<Paged<AuditEvent>, Error> {
        let snapshot = self.read().await?;
        let (ListAuditEvents(scope), _) = permit.spend(&snapshot).await?;
        let uid = store::access::scope_uid(&snapshot, &scope)
            .await?
            .ok_or_else(|| Error::absent(&scope))?;
        let place = match scope {
            Scope::Realm => Place::default(),
            Scope::Community(_) => Place {
                community: Some(uid),
                project: None,
            },
            Scope::Project(_) => Place {
                community: None,
                project: Some(uid),
            },
        };
        store::audit::list(&snapshot, place, page).await
    }
}
