//! What somebody is told who may not: which permission is missing, which role gives it, and who could grant that. It
//! decides nothing.
//!
//! Invariant: to whoever may not see the scope, all of it is made of the request's words, so it reads the same, byte for
//! byte, whether the scope is hidden or absent. People are named to those who may see the roles given there; that
//! something does not exist is said to those who may list what there is.

use std::collections::BTreeSet;

use super::rules::{Need, Permission};
use super::{Actor, holds, least_role};
use crate::domain::access::Role;
use crate::domain::names::{Scope, UserName};
use crate::domain::{Denial, Error};
use crate::store::{self, Snapshot};

/// The error for a caller without the permission.
pub(super) async fn refusal(
    snapshot: &Snapshot,
    actor: &Actor,
    need: &Need,
    scopes: &[Scope],
    resource: String,
) -> Result<Error, Error> {
    if let Some(absent) = known_absent(snapshot, actor, scopes).await? {
        return Ok(Error::absent(absent));
    }
    let judged = scopes
        .iter()
        .find_map(|scope| Some((least_role(need, scope)?, scope)));
    let can_grant = match judged {
        Some((_, scope)) if holds(snapshot, actor.uid, Permission::AccessList, scope).await? => {
            who_grants(snapshot, scope).await?
        }
        Some(_) | None => BTreeSet::new(),
    };
    let role_needed = match judged {
        Some((least, scope)) => format!("{least} on {scope}"),
        None => format!("{} on realm", Role::Operator),
    };
    Ok(Error::Denied(Denial {
        permission: need.name,
        resource,
        role_needed,
        can_grant: can_grant.into_iter().collect(),
    }))
}

/// The first of the scopes that does not exist, if the caller may know: whoever sees all communities and projects.
pub async fn known_absent<'a>(
    snapshot: &Snapshot,
    actor: &Actor,
    scopes: &'a [Scope],
) -> Result<Option<&'a Scope>, Error> {
    for scope in scopes {
        let sees_all = match scope {
            Scope::Realm => continue,
            Scope::Community(_) => Permission::CommunitiesGet,
            Scope::Project(_) => Permission::ProjectsGet,
        };
        if store::access::scope_uid(snapshot, scope).await?.is_none()
            && holds(snapshot, actor.uid, sees_all, &Scope::Realm).await?
        {
            return Ok(Some(scope));
        }
    }
    Ok(None)
}

/// The people who can give roles on a scope: its Admins, and those of the project's community. Nobody on a scope that
/// does not exist. For those who may see the roles given there.
pub async fn who_grants(snapshot: &Snapshot, scope: &Scope) -> Result<BTreeSet<UserName>, Error> {
    let Some(uid) = store::access::scope_uid(snapshot, scope).await? else {
        return Ok(BTreeSet::new());
    };
    let role = match scope {
        Scope::Realm => Role::Operator,
        Scope::Community(_) | Scope::Project(_) => Role::Admin,
    };
    let mut people = store::access::enabled_users_with(snapshot, uid, role).await?;
    if let Scope::Project(name) = scope {
        let project = store::project::get(snapshot, name).await?;
        people.extend(store::access::enabled_users_with(snapshot, project.community_uid, role).await?);
    }
    Ok(people)
}
