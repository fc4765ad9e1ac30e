//! Rows of roles: who is what, where.

use std::collections::{BTreeSet, HashMap};

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter};
use uuid::Uuid;

use super::columns::{named, parsed};
use super::entity::{binding, community, project, user};
use super::{Snapshot, Writing, failed};
use crate::domain::Error;
use crate::domain::access::{Binding, Member, Role, Standing};
use crate::domain::names::{CommunityName, ProjectName, Scope, UserName};

/// Whether a user operates the realm.
pub async fn is_operator(snapshot: &Snapshot, user: Uuid) -> Result<bool, Error> {
    let realm = super::realm::get(snapshot).await?;
    Ok(greatest(snapshot, user, realm.uid).await? == Some(Role::Operator))
}

/// What a user is on a scope; `None` if the scope does not exist.
pub async fn standing(snapshot: &Snapshot, user: Uuid, scope: &Scope) -> Result<Option<Standing>, Error> {
    let (scope_uid, community_uid) = match scope {
        Scope::Realm => (super::realm::get(snapshot).await?.uid, None),
        Scope::Community(_) => match scope_uid(snapshot, scope).await? {
            Some(uid) => (uid, None),
            None => return Ok(None),
        },
        Scope::Project(name) => {
            let row = project::Entity::find().filter(project::Column::Id.eq(name.id().as_str()));
            match row.one(snapshot.db()).await.map_err(failed)? {
                Some(row) => (row.uid, Some(row.community_uid)),
                None => return Ok(None),
            }
        }
    };
    let rows = binding::Entity::find()
        .filter(binding::Column::UserUid.eq(user))
        .filter(binding::Column::ScopeUid.is_in([scope_uid, community_uid.unwrap_or(scope_uid)]))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let mut standing = Standing::default();
    for row in rows {
        let role = Some(named(&row.role, Role::from_name)?);
        if row.scope_uid == scope_uid {
            standing.direct = standing.direct.max(role);
        } else {
            standing.community = standing.community.max(role);
        }
    }
    Ok(Some(standing))
}

/// The uid of a scope, if it exists.
pub async fn scope_uid(snapshot: &Snapshot, scope: &Scope) -> Result<Option<Uuid>, Error> {
    match scope {
        Scope::Realm => Ok(Some(super::realm::get(snapshot).await?.uid)),
        Scope::Community(name) => {
            let row = community::Entity::find().filter(community::Column::Id.eq(name.id().as_str()));
            Ok(row.one(snapshot.db()).await.map_err(failed)?.map(|row| row.uid))
        }
        Scope::Project(name) => {
            let row = project::Entity::find().filter(project::Column::Id.eq(name.id().as_str()));
            Ok(row.one(snapshot.db()).await.map_err(failed)?.map(|row| row.uid))
        }
    }
}

/// The roles given on a scope, ordered by member and role.
pub async fn bindings(snapshot: &Snapshot, scope_uid: Uuid) -> Result<BTreeSet<Binding>, Error> {
    let rows = binding::Entity::find()
        .find_also_related(user::Entity)
        .filter(binding::Column::ScopeUid.eq(scope_uid))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    rows.into_iter()
        .map(|(row, user)| {
            let user = user.ok_or_else(|| Error::internal("a role belongs to no user"))?;
            let member = Member(UserName::new(parsed(&user.id)?));
            Ok(Binding {
                member,
                role: named(&row.role, Role::from_name)?,
            })
        })
        .collect()
}

/// The roles of one user, each with what it was given on, ordered by that.
pub async fn scopes_of(snapshot: &Snapshot, user: Uuid) -> Result<Vec<(Scope, Role)>, Error> {
    let rows = binding::Entity::find()
        .filter(binding::Column::UserUid.eq(user))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let uids = || rows.iter().map(|row| row.scope_uid);
    let communities = community::Entity::find().filter(community::Column::Uid.is_in(uids()));
    let projects = project::Entity::find().filter(project::Column::Uid.is_in(uids()));
    let mut scopes = HashMap::from([(super::realm::get(snapshot).await?.uid, Scope::Realm)]);
    for row in communities.all(snapshot.db()).await.map_err(failed)? {
        scopes.insert(row.uid, Scope::Community(CommunityName::new(parsed(&row.id)?)));
    }
    for row in projects.all(snapshot.db()).await.map_err(failed)? {
        scopes.insert(row.uid, Scope::Project(ProjectName::new(parsed(&row.id)?)));
    }
    let mut roles = Vec::new();
    for row in &rows {
        if let Some(scope) = scopes.get(&row.scope_uid) {
            roles.push((scope.clone(), named(&row.role, Role::from_name)?));
        }
    }
    roles.sort();
    Ok(roles)
}

/// The enabled users who have this role on the scope.
pub async fn enabled_users_with(
    snapshot: &Snapshot,
    scope_uid: Uuid,
    role: Role,
) -> Result<BTreeSet<UserName>, Error> {
    let rows = binding::Entity::find()
        .find_also_related(user::Entity)
        .filter(binding::Column::ScopeUid.eq(scope_uid))
        .filter(binding::Column::Role.eq(role.as_str()))
        .filter(user::Column::State.eq(crate::domain::user::UserState::Enabled.as_str()))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    rows.into_iter()
        .filter_map(|(_, user)| user)
        .map(|user| Ok(UserName::new(parsed(&user.id)?)))
        .collect()
}

/// Gives a role. It must not have been given yet.
pub async fn insert(writing: &Writing, scope_uid: Uuid, user_uid: Uuid, role: Role) -> Result<(), Error> {
    let row = binding::Model {
        user_uid,
        scope_uid,
        role: role.as_str().into(),
    };
    binding::Entity::insert(row.into_active_model())
        .exec_without_returning(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Takes a role.
pub async fn delete(writing: &Writing, scope_uid: Uuid, user_uid: Uuid, role: Role) -> Result<(), Error> {
    binding::Entity::delete_by_id((user_uid, scope_uid, role.as_str().to_owned()))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Takes all roles that were given on a scope.
pub(super) async fn delete_of_scope(writing: &Writing, scope_uid: Uuid) -> Result<(), Error> {
    binding::Entity::delete_many()
        .filter(binding::Column::ScopeUid.eq(scope_uid))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

/// Takes all roles of a user.
pub(super) async fn delete_of_user(writing: &Writing, user_uid: Uuid) -> Result<(), Error> {
    binding::Entity::delete_many()
        .filter(binding::Column::UserUid.eq(user_uid))
        .exec(writing.db())
        .await
        .map_err(failed)?;
    Ok(())
}

async fn greatest(snapshot: &Snapshot, user: Uuid, scope_uid: Uuid) -> Result<Option<Role>, Error> {
    let rows = binding::Entity::find()
        .filter(binding::Column::UserUid.eq(user))
        .filter(binding::Column::ScopeUid.eq(scope_uid))
        .all(snapshot.db())
        .await
        .map_err(failed)?;
    let roles = rows
        .iter()
        .map(|row| named(&row.role, Role::from_name))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(roles.into_iter().max())
}
