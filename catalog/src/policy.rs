//! Who may do what. A [`Permit`] is the only way into a use case, and only this file makes one. It is judged twice: here,
//! before any field of the request is looked at, and again when it is spent, inside the transaction that acts on it,
//! so that a role that was taken away meanwhile no longer counts.
//!
//! Invariants: what has no rule is denied. To whoever may not see a scope, a denial is made of the request's words only
//! (`policy/denial.rs`), so it reads the same, byte for byte, whether a resource is hidden or absent.

use time::OffsetDateTime;
use uuid::Uuid;

use mooring_identity::{KeyPin, Peer, PeerIdentity, Principal};

use crate::domain::Error;
use crate::domain::access::{Role, Standing};
use crate::domain::names::{Scope, UserName};
use crate::domain::user::UserState;
use crate::store::{self, Snapshot};

mod denial;
pub mod rules;

pub use denial::{known_absent, who_grants};

use rules::{Access, Need, Operators, Permission};

/// Who calls, as the certificate says. What they may is judged per request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// No certificate.
    Anybody,
    /// A person or a program.
    User(Identity),
    /// A host's agent.
    Host(Identity),
}

/// What a verified certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's or host's uid.
    pub uid: Uuid,
    /// The certificate's serial number.
    pub serial: String,
    /// Its last moment.
    pub not_after: OffsetDateTime,
    /// SHA-256 of its public key.
    pub key: KeyPin,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::User(identity) => write!(f, "user/{}", identity.uid),
            Self::Host(identity) => write!(f, "host/{}", identity.uid),
        }
    }
}

impl Caller {
    /// Who is at the other end of a connection.
    pub fn of(peer: &Peer) -> Self {
        let Some(PeerIdentity {
            principal,
            serial,
            not_after,
            key_sha256,
            ..
        }) = peer.identity()
        else {
            return Self::Anybody;
        };
        let identity = Identity {
            uid: principal.uid(),
            serial: serial.clone(),
            not_after: *not_after,
            key: *key_sha256,
        };
        match principal {
            Principal::User(_) => Self::User(identity),
            Principal::Host(_) => Self::Host(identity),
        }
    }

    /// The caller as a user with a valid certificate.
    pub fn user(&self, now: OffsetDateTime) -> Result<&Identity, Error> {
        match self {
            Self::User(identity) => {
                identity.valid(now, "your certificate has ended; renew it with `mooring login`")
            }
            Self::Anybody => Err(Error::Unauthenticated {
                reason: "this call needs a certificate; run `mooring login`",
            }),
            Self::Host(_) => Err(Error::Unauthenticated {
                reason: "this call is for people; it came with a host's certificate",
            }),
        }
    }

    /// The caller as a host with a valid certificate. Whether the host still exists, the use case asks.
    pub fn host(&self, now: OffsetDateTime) -> Result<&Identity, Error> {
        match self {
            Self::Host(identity) => identity.valid_host(now),
            Self::Anybody => Err(Error::Unauthenticated {
                reason: "this call needs a host's certificate; enrol the host",
            }),
            Self::User(_) => Err(Error::Unauthenticated {
                reason: "this call is for hosts; it came with a user's certificate",
            }),
        }
    }
}

impl Identity {
    /// Refuses a host's certificate that has ended. A stream outlives the check at its beginning, so each of its steps
    /// asks again.
    pub fn valid_host(&self, now: OffsetDateTime) -> Result<&Self, Error> {
        self.valid(
            now,
            "the host's certificate has ended; its agent recovers by itself with the host's key",
        )
    }

    fn valid(&self, now: OffsetDateTime, ended: &'static str) -> Result<&Self, Error> {
        if now > self.not_after {
            Err(Error::Unauthenticated { reason: ended })
        } else {
            Ok(self)
        }
    }
}

/// Something a user asks for: which rpc, on what.
pub trait Action {
    /// The rpc, as the table of rules names it.
    const RPC: &'static str;

    /// On what it is judged. The first that the permission knows is what a denial names, so it must come from the
    /// request and not from the store. Empty for rpcs that every user may call.
    fn scopes(&self) -> Vec<Scope>;

    /// The resource as the request named it, for the denial.
    fn resource(&self) -> String {
        self.scopes()
            .first()
            .map_or_else(|| "realm".into(), ToString::to_string)
    }
}

/// A judged action. It carries its target, so check and act cannot disagree.
#[derive(Debug)]
pub struct Permit<A> {
    action: A,
    caller: Caller,
}

/// Who acts: an enabled user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The user's uid.
    pub uid: Uuid,
    /// The user's name.
    pub name: UserName,
    /// What the certificate says.
    pub identity: Identity,
}

/// Judges an action before its fields are looked at.
pub async fn permit<A: Action>(snapshot: &Snapshot, caller: &Caller, action: A) -> Result<Permit<A>, Error> {
    judge(snapshot, caller, &action).await?;
    Ok(Permit {
        action,
        caller: caller.clone(),
    })
}

impl<A: Action> Permit<A> {
    /// Gives the action out, if it is still allowed in this transaction.
    pub async fn spend(self, snapshot: &Snapshot) -> Result<(A, Actor), Error> {
        let actor = judge(snapshot, &self.caller, &self.action).await?;
        Ok((self.action, actor))
    }
}

/// Judges an action once more, for whoever was permitted it on another target: the transaction has found that the
/// name is somebody else's by now. The denial is the one that a caller without any right gets.
pub async fn judge_again<A: Action>(snapshot: &Snapshot, actor: &Actor, action: &A) -> Result<(), Error> {
    allowed(snapshot, actor, action).await
}

/// Asks for one more permission, which follows from what is stored: a published connector needs Editor.
pub async fn require(
    snapshot: &Snapshot,
    actor: &Actor,
    permission: Permission,
    scope: &Scope,
) -> Result<(), Error> {
    if holds(snapshot, actor.uid, permission, scope).await? {
        return Ok(());
    }
    let scopes = std::slice::from_ref(scope);
    Err(denial::refusal(snapshot, actor, permission.need(), scopes, scope.to_string()).await?)
}

/// Whether a user has a permission on a scope. False for scopes that do not exist, unless the realm gives it.
pub async fn holds(
    snapshot: &Snapshot,
    user: Uuid,
    permission: Permission,
    scope: &Scope,
) -> Result<bool, Error> {
    let need = permission.need();
    let operator = match need.operators {
        Operators::Never => false,
        Operators::OnRealm => *scope == Scope::Realm && store::access::is_operator(snapshot, user).await?,
        Operators::OnRealmAndOrphans => {
            rules_itself(snapshot, scope)
                .await?
                .is_none_or(|rules_itself| !rules_itself)
                && store::access::is_operator(snapshot, user).await?
        }
        Operators::Anywhere => store::access::is_operator(snapshot, user).await?,
    };
    if operator {
        return Ok(true);
    }
    let standing = store::access::standing(snapshot, user, scope)
        .await?
        .unwrap_or_default();
    Ok(role_holds(need, scope, standing))
}

/// Whether a scope has people of its own who grant roles on it; `None` for the realm. A project is never without: its
/// community's Admins, or whoever the operators make that.
async fn rules_itself(snapshot: &Snapshot, scope: &Scope) -> Result<Option<bool>, Error> {
    match scope {
        Scope::Realm => Ok(None),
        Scope::Project(_) => Ok(Some(true)),
        Scope::Community(_) => match store::access::scope_uid(snapshot, scope).await? {
            Some(uid) => {
                let admins = store::access::enabled_users_with(snapshot, uid, Role::Admin).await?;
                Ok(Some(!admins.is_empty()))
            }
            // What does not exist must look like what is hidden.
            None => Ok(Some(true)),
        },
    }
}

/// Whether the roles on the scope itself give the permission.
pub fn role_holds(need: &Need, scope: &Scope, standing: Standing) -> bool {
    least_role(need, scope).is_some_and(|least| standing.role() >= Some(least))
}

/// The least role that gives the permission on this scope.
pub fn least_role(need: &Need, scope: &Scope) -> Option<Role> {
    match scope {
        Scope::Realm => (need.operators != Operators::Never).then_some(Role::Operator),
        Scope::Community(_) => need.community,
        Scope::Project(_) => need.project,
    }
}

/// The user behind a valid certificate, if it may call at all.
pub async fn enabled_user(snapshot: &Snapshot, caller: &Caller) -> Result<Actor, Error> {
    let identity = caller.user(snapshot.now())?;
    user_in_state(snapshot, identity).await
}

/// The user behind a certificate that may have ended.
pub async fn user_in_state(snapshot: &Snapshot, identity: &Identity) -> Result<Actor, Error> {
    let user = store::user::by_uid(snapshot, identity.uid)
        .await?
        .ok_or(Error::Unauthenticated {
            reason: "the user of this certificate does not exist any more; ask an operator",
        })?;
    match user.state {
        UserState::Enabled => Ok(Actor {
            uid: identity.uid,
            name: user.name,
            identity: identity.clone(),
        }),
        UserState::Disabled => Err(Error::Unauthenticated {
            reason: "the user of this certificate is disabled; an operator can enable it again: mooring users enable USER",
        }),
    }
}

async fn judge<A: Action>(snapshot: &Snapshot, caller: &Caller, action: &A) -> Result<Actor, Error> {
    let actor = enabled_user(snapshot, caller).await?;
    allowed(snapshot, &actor, action).await?;
    Ok(actor)
}

async fn allowed<A: Action>(snapshot: &Snapshot, actor: &Actor, action: &A) -> Result<(), Error> {
    let rule = rules::rule_of(A::RPC).ok_or_else(|| Error::internal(format!("{} has no rule", A::RPC)))?;
    let scopes = action.scopes();
    match rule.access {
        Access::Anybody | Access::ExpiredUser | Access::User => Ok(()),
        Access::Host => Err(Error::internal(format!(
            "{} is for hosts and takes no permit",
            A::RPC
        ))),
        Access::With(permission) => {
            if on_some_scope(snapshot, actor.uid, permission, &scopes).await? {
                return Ok(());
            }
            Err(denial::refusal(snapshot, actor, permission.need(), &scopes, action.resource()).await?)
        }
        Access::WithAll(permissions) => {
            for permission in permissions {
                if !on_some_scope(snapshot, actor.uid, *permission, &scopes).await? {
                    let need = permission.need();
                    // Each is missing somewhere else, and is named with the place where it can be granted.
                    let judged = scopes.iter().find(|scope| least_role(need, scope).is_some());
                    let resource = judged.map_or_else(|| action.resource(), ToString::to_string);
                    return Err(denial::refusal(snapshot, actor, need, &scopes, resource).await?);
                }
            }
            Ok(())
        }
        Access::WithAny(permissions) => {
            for permission in permissions {
                if on_some_scope(snapshot, actor.uid, *permission, &scopes).await? {
                    return Ok(());
                }
            }
            let known = permissions
                .iter()
                .find(|p| scopes.iter().any(|s| least_role(p.need(), s).is_some()));
            let named = known
                .or(permissions.first())
                .ok_or_else(|| Error::internal("a rule without permissions"))?;
            Err(denial::refusal(snapshot, actor, named.need(), &scopes, action.resource()).await?)
        }
    }
}

async fn on_some_scope(
    snapshot: &Snapshot,
    user: Uuid,
    permission: Permission,
    scopes: &[Scope],
) -> Result<bool, Error> {
    for scope in scopes {
        if holds(snapshot, user, permission, scope).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
