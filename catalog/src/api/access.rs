//! Roles over gRPC.

use std::collections::BTreeSet;

use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::Api;
use super::decode::{self, split};
use crate::domain::access::{Binding, Role};
use crate::domain::names::{Scope, UserName};
use crate::domain::{Error, Violations};
use crate::ops::access::{
    Bindings, ExplainAccess, Explanation, ListAccessBindings, SetAccessBindings, TestPermissions,
    UpdateAccessBindings,
};
use crate::policy::rules::Permission;

/// Permissions that may be tested in one call.
const TESTED_MAX: usize = 100;

#[tonic::async_trait]
impl pb::access_service_server::AccessService for Api {
    async fn list_access_bindings(
        &self,
        request: Request<pb::ListAccessBindingsRequest>,
    ) -> Result<Response<pb::ListAccessBindingsResponse>, Status> {
        let (caller, body) = split(request)?;
        let scope = decode::name("resource", &body.resource)?;
        let permit = self.catalog.permit(&caller, ListAccessBindings(scope)).await?;
        Ok(Response::new(
            self.catalog.list_access_bindings(permit).await?.into(),
        ))
    }

    async fn set_access_bindings(
        &self,
        request: Request<pb::SetAccessBindingsRequest>,
    ) -> Result<Response<pb::ListAccessBindingsResponse>, Status> {
        let (caller, body) = split(request)?;
        let scope: Scope = decode::name("resource", &body.resource)?;
        let permit = self
            .catalog
            .permit(&caller, SetAccessBindings(scope.clone()))
            .await?;
        let mut violations = Violations::default();
        let wanted = bindings("access_bindings", body.access_bindings, &scope, &mut violations);
        violations.finish()?;
        Ok(Response::new(
            self.catalog
                .set_access_bindings(permit, wanted, &body.etag)
                .await?
                .into(),
        ))
    }

    async fn update_access_bindings(
        &self,
        request: Request<pb::UpdateAccessBindingsRequest>,
    ) -> Result<Response<pb::ListAccessBindingsResponse>, Status> {
        let (caller, body) = split(request)?;
        let scope: Scope = decode::name("resource", &body.resource)?;
        let permit = self
            .catalog
            .permit(&caller, UpdateAccessBindings(scope.clone()))
            .await?;
        let mut violations = Violations::default();
        let add = bindings("add", body.add, &scope, &mut violations);
        let remove = bindings("remove", body.remove, &scope, &mut violations);
        for both in add.intersection(&remove) {
            violations.add(
                "remove",
                format!("{both} is also in `add`; leave it out of one of them"),
            );
        }
        violations.finish()?;
        Ok(Response::new(
            self.catalog
                .update_access_bindings(permit, &add, &remove)
                .await?
                .into(),
        ))
    }

    async fn test_permissions(
        &self,
        request: Request<pb::TestPermissionsRequest>,
    ) -> Result<Response<pb::TestPermissionsResponse>, Status> {
        let (caller, body) = split(request)?;
        let scope = scope_of(&body.resource)?;
        let permit = self.catalog.permit(&caller, TestPermissions(scope)).await?;
        let mut violations = Violations::default();
        if body.permissions.is_empty() || body.permissions.len() > TESTED_MAX {
            violations.add(
                "permissions",
                "there must be 1 to 100 of them, such as `connectors.create`",
            );
        }
        let permissions: Vec<Permission> = body
            .permissions
            .iter()
            .filter_map(|name| permission("permissions", name, &mut violations))
            .collect();
        violations.finish()?;
        let held = self.catalog.test_permissions(permit, &permissions).await?;
        let permissions = held
            .into_iter()
            .map(|permission| permission.need().name.to_owned())
            .collect();
        Ok(Response::new(pb::TestPermissionsResponse { permissions }))
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        let (caller, body) = split(request)?;
        let scope = scope_of(&body.resource)?;
        let permit = self.catalog.permit(&caller, ExplainAccess(scope)).await?;
        let mut violations = Violations::default();
        let asked = permission("permission", &body.permission, &mut violations);
        let user: Option<Option<UserName>> = if body.user.is_empty() {
            Some(None)
        } else {
            violations.take("user", body.user.parse()).map(Some)
        };
        violations.finish()?;
        let (Some(asked), Some(user)) = (asked, user) else {
            return Err(Error::internal("fields that were judged good are missing").into());
        };
        let Explanation {
            allowed,
            role_needed,
            granted_by,
            can_grant,
            sentence,
        } = self.catalog.explain_access(permit, asked, user).await?;
        Ok(Response::new(pb::ExplainAccessResponse {
            allowed,
            role_needed,
            granted_by,
            can_grant,
            explanation: sentence,
        }))
    }
}

/// The scope that rules over a resource.
fn scope_of(resource: &str) -> Result<Scope, Error> {
    Scope::of_resource(resource).map_err(|problem| Error::invalid("resource", problem))
}

fn permission(field: &str, name: &str, violations: &mut Violations) -> Option<Permission> {
    let found = Permission::from_name(name).ok_or_else(|| {
        format!("`{name}` is no permission; one is written like `connectors.create`, as denials name them")
    });
    violations.take(field, found)
}

fn bindings(
    field: &str,
    given: Vec<pb::AccessBinding>,
    scope: &Scope,
    violations: &mut Violations,
) -> BTreeSet<Binding> {
    let mut bindings = BTreeSet::new();
    for (index, pb::AccessBinding { role, member }) in given.into_iter().enumerate() {
        let role = match pb::Role::try_from(role) {
            Ok(pb::Role::Viewer) => Ok(Role::Viewer),
            Ok(pb::Role::Developer) => Ok(Role::Developer),
            Ok(pb::Role::Editor) => Ok(Role::Editor),
            Ok(pb::Role::Admin) => Ok(Role::Admin),
            Ok(pb::Role::Operator) => Ok(Role::Operator),
            Ok(pb::Role::Unspecified) | Err(_) => {
                Err("it is missing; use viewer, developer, editor or admin".to_owned())
            }
        };
        let role = role.and_then(|role| {
            if role.fits(scope) {
                return Ok(role);
            }
            Err(match scope {
                Scope::Realm => format!("{role} is not given on the realm; use operator"),
                Scope::Community(_) | Scope::Project(_) => {
                    format!("{role} is given on `realm` only; use viewer, developer, editor or admin")
                }
            })
        });
        let role = violations.take(format!("{field}[{index}].role"), role);
        let member = violations.take(format!("{field}[{index}].member"), member.parse());
        if let (Some(role), Some(member)) = (role, member) {
            bindings.insert(Binding { member, role });
        }
    }
    bindings
}

impl From<Bindings> for pb::ListAccessBindingsResponse {
    fn from(bindings: Bindings) -> Self {
        let Bindings { bindings, etag } = bindings;
        let binding = |Binding { member, role }| pb::AccessBinding {
            role: match role {
                Role::Viewer => pb::Role::Viewer,
                Role::Developer => pb::Role::Developer,
                Role::Editor => pb::Role::Editor,
                Role::Admin => pb::Role::Admin,
                Role::Operator => pb::Role::Operator,
            }
            .into(),
            member: member.to_string(),
        };
        Self {
            access_bindings: bindings.into_iter().map(binding).collect(),
            etag,
        }
    }
}
