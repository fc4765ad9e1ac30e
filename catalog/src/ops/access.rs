//! Roles: who has which, giving and taking them, and explaining what follows from them.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::Catalog;
use super::user::last_operator;
use crate::domain::access::{Binding, Member, Role, Standing};
use crate::domain::audit::{Change, EventKind};
use crate::domain::error::either;
use crate::domain::names::{Scope, UserName};
use crate::domain::{Error, Violations};
use crate::policy::rules::{Operators, Permission};
use crate::policy::{self, Action, Actor, Permit, least_role};
use crate::store::{self, Snapshot, Writing};

/// Bindings a scope may have: what one answer can hold.
pub const BINDINGS_MAX: usize = 1000;

macro_rules! access_action {
    ($(#[$doc:meta])* $action:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action(pub Scope);

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.AccessService/", stringify!($action));

            fn scopes(&self) -> Vec<Scope> {
                vec![self.0.clone()]
            }
        }
    };
}

access_action!(
    /// List the roles given on a scope.
    ListAccessBindings
);
access_action!(
    /// Replace the roles given on a scope.
    SetAccessBindings
);
access_action!(
    /// Give and take roles on a scope.
    UpdateAccessBindings
);
access_action!(
    /// Test permissions on the scope of a resource.
    TestPermissions
);
access_action!(
    /// Explain a permission on the scope of a resource.
    ExplainAccess
);

/// The roles given on a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bindings {
    /// Ordered by member and role.
    pub bindings: BTreeSet<Binding>,
    /// Changes with every change of them.
    pub etag: String,
}

impl Bindings {
    fn new(scope_uid: Uuid, bindings: BTreeSet<Binding>) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(scope_uid.as_bytes());
        for binding in &bindings {
            context.update(binding.to_string().as_bytes());
            context.update(b"\0");
        }
        let etag = hex::encode(&context.finish().as_ref()[..12]);
        Self { bindings, etag }
    }
}

/// Which call gives and takes roles, and so what its record and its fields are called.
#[derive(Clone, Copy)]
enum Replacing {
    /// All of a scope anew.
    All,
    /// Some to give and some to take.
    Some,
}

/// Why somebody has or lacks a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the user has it.
    pub allowed: bool,
    /// The least role that gives it, and on what.
    pub role_needed: String,
    /// The bindings through which the user has it.
    pub granted_by: Vec<String>,
    /// Who can grant it, as far as the caller may see.
    pub can_grant: Vec<String>,
    /// All of it in one sentence.
    pub sentence: String,
}

impl Catalog {
    /// Lists the roles given on a scope.
    pub async fn list_access_bindings(&self, permit: Permit<ListAccessBindings>) -> Result<Bindings, Error> {
        let snapshot = self.read().await?;
        let (ListAccessBindings(scope), _) = permit.spend(&snapshot).await?;
        let uid = scope_uid(&snapshot, &scope).await?;
        Ok(Bindings::new(uid, store::access::bindings(&snapshot, uid).await?))
    }

    /// Replaces all roles given on a scope.
    pub async fn set_access_bindings(
        &self,
        permit: Permit<SetAccessBindings>,
        wanted: BTreeSet<Binding>,
        etag: &str,
    ) -> Result<Bindings, Error> {
        let writing = self.write().await?;
        let (SetAccessBindings(scope), actor) = permit.spend(&writing).await?;
        let uid = scope_uid(&writing, &scope).await?;
        let before = Bindings::new(uid, store::access::bindings(&writing, uid).await?);
        if !etag.is_empty() && etag != before.etag {
            return Err(Error::Stale {
                resource: format!("the access of {scope}"),
            });
        }
        self.replace(writing, &actor, Replacing::All, &scope, uid, before, wanted)
            .await
    }

    /// Gives roles to members and takes roles away, both or neither.
    pub async fn update_access_bindings(
        &self,
        permit: Permit<UpdateAccessBindings>,
        add: &BTreeSet<Binding>,
        remove: &BTreeSet<Binding>,
    ) -> Result<Bindings, Error> {
        let writing = self.write().await?;
        let (UpdateAccessBindings(scope), actor) = permit.spend(&writing).await?;
        let uid = scope_uid(&writing, &scope).await?;
        let before = Bindings::new(uid, store::access::bindings(&writing, uid).await?);
        let mut wanted: BTreeSet<Binding> = before.bindings.difference(remove).cloned().collect();
        wanted.extend(add.iter().cloned());
        self.replace(writing, &actor, Replacing::Some, &scope, uid, before, wanted)
            .await
    }

    /// Which of the permissions the caller has. Says nothing of what does not exist: it is the same as having none.
    pub async fn test_permissions(
        &self,
        permit: Permit<TestPermissions>,
        permissions: &[Permission],
    ) -> Result<Vec<Permission>, Error> {
        let snapshot = self.read().await?;
        let (TestPermissions(scope), actor) = permit.spend(&snapshot).await?;
        let mut held = Vec::new();
        for permission in permissions {
            if policy::holds(&snapshot, actor.uid, *permission, &scope).await? {
                held.push(*permission);
            }
        }
        Ok(held)
    }

    /// Explains whether a user has a permission, why, and who can grant it. About others than themselves, and about who
    /// can grant, only those are told who may see the roles given there.
    pub async fn explain_access(
        &self,
        permit: Permit<ExplainAccess>,
        permission: Permission,
        user: Option<UserName>,
    ) -> Result<Explanation, Error> {
        let snapshot = self.read().await?;
        let (ExplainAccess(scope), actor) = permit.spend(&snapshot).await?;
        if let Some(absent) = policy::known_absent(&snapshot, &actor, std::slice::from_ref(&scope)).await? {
            return Err(Error::absent(absent));
        }
        let sees_roles = policy::holds(&snapshot, actor.uid, Permission::AccessList, &scope).await?;
        let user = user.unwrap_or_else(|| actor.name.clone());
        if user != actor.name {
            policy::require(&snapshot, &actor, Permission::AccessList, &scope).await?;
        }
        let need = permission.need();
        let Some(least) = least_role(need, &scope) else {
            return Err(Error::invalid(
                "permission",
                format!(
                    "`{}` is not judged on {scope}; see `mooring access explain --help`",
                    need.name
                ),
            ));
        };
        let role_needed = format!("{least} on {scope}");
        let subject = store::user::find(&snapshot, &user).await?;
        let (mut allowed, mut granted_by) = (false, Vec::new());
        if let Some(subject) = subject {
            allowed = policy::holds(&snapshot, subject.meta.uid, permission, &scope).await?;
            let standing = store::access::standing(&snapshot, subject.meta.uid, &scope)
                .await?
                .unwrap_or_default();
            granted_by = reasons(&snapshot, &scope, standing, least).await?;
            // On an orphaned community nothing but operating the realm gives it.
            let by_realm = need.operators == Operators::Anywhere || (allowed && granted_by.is_empty());
            if by_realm && store::access::is_operator(&snapshot, subject.meta.uid).await? {
                granted_by.push(format!("{} on realm", Role::Operator));
            }
        }
        let can_grant = if sees_roles {
            policy::who_grants(&snapshot, &scope).await?
        } else {
            BTreeSet::new()
        };
        let can_grant: Vec<String> = can_grant.iter().map(ToString::to_string).collect();
        let sentence = sentence(
            &user,
            need.name,
            &scope,
            allowed,
            &role_needed,
            &granted_by,
            &can_grant,
        );
        Ok(Explanation {
            allowed,
            role_needed,
            granted_by,
            can_grant,
            sentence,
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one private step of two use cases, all of it theirs"
    )]
    async fn replace(
        &self,
        writing: Writing,
        actor: &Actor,
        how: Replacing,
        scope: &Scope,
        scope_uid: Uuid,
        before: Bindings,
        wanted: BTreeSet<Binding>,
    ) -> Result<Bindings, Error> {
        if wanted == before.bindings {
            return Ok(before);
        }
        let added: Vec<&Binding> = wanted.difference(&before.bindings).collect();
        let removed: Vec<&Binding> = before.bindings.difference(&wanted).collect();
        let (method, field) = match how {
            Replacing::All => ("SetAccessBindings", "access_bindings"),
            Replacing::Some => ("UpdateAccessBindings", "add"),
        };
        let mut violations = Violations::default();
        if wanted.len() > BINDINGS_MAX {
            violations.add(
                field,
                format!("there would be {}; at most {BINDINGS_MAX} are kept", wanted.len()),
            );
        }
        let mut users = Vec::new();
        for binding in &added {
            match store::user::find(&writing, &binding.member.0).await? {
                Some(user) => users.push(user.meta.uid),
                None => violations.add(
                    field,
                    format!(
                        "{} does not exist; an operator creates it: mooring users create {}",
                        binding.member.0,
                        binding.member.0.id()
                    ),
                ),
            }
        }
        violations.finish()?;
        check_who_remains(&writing, scope, scope_uid, &wanted).await?;
        for binding in &removed {
            if let Some(user) = store::user::find(&writing, &binding.member.0).await? {
                store::access::delete(&writing, scope_uid, user.meta.uid, binding.role).await?;
            }
        }
        for (binding, user) in added.iter().zip(users) {
            store::access::insert(&writing, scope_uid, user, binding.role).await?;
        }
        let list = |bindings: &[&Binding]| {
            bindings
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        let mut change = Change::new(&actor.name, method, EventKind::Updated, scope, scope_uid)
            .detail("added", list(&added))
            .detail("removed", list(&removed));
        change = match scope {
            Scope::Realm => change,
            Scope::Community(_) => change.in_community(scope_uid),
            Scope::Project(name) => {
                let project = store::project::get(&writing, name).await?;
                change.in_project(scope_uid, project.community_uid)
            }
        };
        writing.commit(change).await?;
        Ok(Bindings::new(scope_uid, wanted))
    }
}

/// Somebody must remain who can grant roles: an enabled operator of the realm, an enabled Admin of a community. A
/// project may lose its Admins, because its community's are Admins of it too.
async fn check_who_remains(
    snapshot: &Snapshot,
    scope: &Scope,
    scope_uid: Uuid,
    wanted: &BTreeSet<Binding>,
) -> Result<(), Error> {
    let role = match scope {
        Scope::Realm => Role::Operator,
        Scope::Community(_) => Role::Admin,
        Scope::Project(_) => return Ok(()),
    };
    let before = store::access::enabled_users_with(snapshot, scope_uid, role).await?;
    for Binding {
        member: Member(name),
        role: given,
    } in wanted
    {
        if *given != role {
            continue;
        }
        if before.contains(name) {
            return Ok(());
        }
        let user = store::user::find(snapshot, name).await?;
        if user.is_some_and(|user| user.state == crate::domain::user::UserState::Enabled) {
            return Ok(());
        }
    }
    match before.first() {
        Some(last) if role == Role::Operator => Err(last_operator(last)),
        Some(last) => Err(Error::Precondition {
            reason: "LastAdmin",
            subject: scope.to_string(),
            problem: format!("{last} is the last admin of {scope}; make somebody else its admin first"),
        }),
        // There was none before either: nothing gets worse.
        None => Ok(()),
    }
}

async fn scope_uid(snapshot: &Snapshot, scope: &Scope) -> Result<Uuid, Error> {
    store::access::scope_uid(snapshot, scope)
        .await?
        .ok_or_else(|| Error::absent(scope))
}

/// The roles of a standing that reach the least one needed.
async fn reasons(
    snapshot: &Snapshot,
    scope: &Scope,
    standing: Standing,
    least: Role,
) -> Result<Vec<String>, Error> {
    let mut reasons = Vec::new();
    if let Some(role) = standing.direct.filter(|role| *role >= least) {
        reasons.push(format!("{role} on {scope}"));
    }
    let passed_on = standing
        .community
        .and_then(crate::domain::access::inherited)
        .filter(|role| *role >= least);
    if let (Some(role), Scope::Project(name)) = (passed_on, scope) {
        let project = store::project::get(snapshot, name).await?;
        reasons.push(format!("{role} on {}", project.community));
    }
    Ok(reasons)
}

fn sentence(
    user: &UserName,
    permission: &str,
    scope: &Scope,
    allowed: bool,
    role_needed: &str,
    granted_by: &[String],
    can_grant: &[String],
) -> String {
    if allowed {
        return format!(
            "{user} has {permission} on {scope}, by {}.",
            granted_by.join(" and ")
        );
    }
    let who = if can_grant.is_empty() {
        match scope {
            Scope::Realm => "an operator".to_owned(),
            Scope::Community(_) => format!("an admin of {scope}"),
            Scope::Project(_) => format!("an admin of {scope} or of its community"),
        }
    } else {
        either(can_grant)
    };
    // Who sees people there sees that it is there.
    let unsure = if can_grant.is_empty() && *scope != Scope::Realm {
        ", or it does not exist"
    } else {
        ""
    };
    format!("{user} lacks {permission} on {scope}{unsure}; it takes {role_needed}, which {who} can grant.")
}
