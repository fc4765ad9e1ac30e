//! Join tokens: made, listed and revoked by operators. The token itself leaves the catalog once, in the answer.

use mooring_identity::JoinString;
use zeroize::Zeroizing;

use super::Catalog;
use super::realm::new_token;
use crate::domain::audit::{Change, EventKind};
use crate::domain::join_token::{JoinToken, Subject, TokenDigest};
use crate::domain::names::{JoinTokenName, PoolName, Scope, UserName};
use crate::domain::{Error, Labels, Page, Paged};
use crate::policy::{Action, Permit};
use crate::store::{self, Snapshot};

macro_rules! join_token_action {
    ($(#[$doc:meta])* $action:ident $(($target:ty))?, $rpc:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action $((pub $target))?;

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.HostService/", $rpc);

            fn scopes(&self) -> Vec<Scope> {
                vec![Scope::Realm]
            }
        }
    };
}

join_token_action!(
    /// Make a join token.
    CreateJoinToken, "CreateJoinToken"
);
join_token_action!(
    /// List join tokens.
    ListJoinTokens, "ListJoinTokens"
);
join_token_action!(
    /// Revoke a join token.
    RevokeJoinToken(JoinTokenName), "RevokeJoinToken"
);

/// Who joins with a new token, by name.
#[derive(Clone, Debug)]
pub enum NewSubject {
    /// Hosts, which become members of this pool.
    Pool(PoolName),
    /// This person.
    User(UserName),
}

/// A token to make.
#[derive(Clone, Debug)]
pub struct NewJoinToken {
    /// Who joins with it.
    pub subject: NewSubject,
    /// How long it can be used.
    pub ttl: time::Duration,
    /// How many may join.
    pub uses: i32,
    /// Labels of the hosts that join with it.
    pub host_labels: Labels,
}

/// A token with its subject by name. `None` when that is gone.
#[derive(Clone, Debug)]
pub struct JoinTokenView {
    /// The token, without its text.
    pub token: JoinToken,
    /// The pool, if it is for hosts.
    pub pool: Option<PoolName>,
    /// The user, if it is for a person.
    pub user: Option<UserName>,
}

impl Catalog {
    /// Makes a join token. Answers it with the join string, which is not kept.
    pub async fn create_join_token(
        &self,
        permit: Permit<CreateJoinToken>,
        new: NewJoinToken,
    ) -> Result<(JoinTokenView, Zeroizing<String>), Error> {
        let writing = self.write().await?;
        let (CreateJoinToken, actor) = permit.spend(&writing).await?;
        let NewJoinToken {
            subject,
            ttl,
            uses,
            host_labels,
        } = new;
        let (subject, pool, user) = match subject {
            NewSubject::Pool(name) => {
                let pool = store::pool::find(&writing, &name)
                    .await?
                    .ok_or_else(|| Error::absent(&name))?;
                (Subject::Pool(pool.meta.uid), Some(name), None)
            }
            NewSubject::User(name) => {
                let user = store::user::find(&writing, &name)
                    .await?
                    .ok_or_else(|| Error::absent(&name))?;
                (Subject::User(user.meta.uid), None, Some(name))
            }
        };
        let token = JoinToken {
            uid: self.clock.new_uid(),
            subject,
            uses_left: uses,
            expire_time: writing.now() + ttl,
            creator: actor.name.to_string(),
            create_time: writing.now(),
            host_labels,
        };
        let text = new_token(&self.clock);
        store::join_token::delete_ended(&writing).await?;
        store::join_token::insert(&writing, &token, TokenDigest::of(&text)).await?;
        let name = JoinTokenName::new(token.uid);
        let change = Change::new(
            &actor.name,
            "CreateJoinToken",
            EventKind::Created,
            &name,
            token.uid,
        )
        .detail("uses", uses)
        .detail("expire_time", token.expire_time);
        let change = match (&pool, &user) {
            (Some(pool), _) => change.detail("pool", pool),
            (None, Some(user)) => change.detail("user", user),
            (None, None) => change,
        };
        writing.commit(change).await?;
        let join = JoinString::new(
            self.settings.endpoint.as_str(),
            text.as_str(),
            self.authority.key_pin(),
        );
        Ok((JoinTokenView { token, pool, user }, join.to_text()))
    }

    /// Lists the join tokens, newest first.
    pub async fn list_join_tokens(
        &self,
        permit: Permit<ListJoinTokens>,
        page: &Page,
    ) -> Result<Paged<JoinTokenView>, Error> {
        let snapshot = self.read().await?;
        let (ListJoinTokens, _) = permit.spend(&snapshot).await?;
        let Paged { items, next } = store::join_token::list(&snapshot, page).await?;
        let mut views = Vec::with_capacity(items.len());
        for token in items {
            views.push(view(&snapshot, token).await?);
        }
        Ok(Paged { items: views, next })
    }

    /// Makes a join token useless from now on. Who has joined with it stays.
    pub async fn revoke_join_token(&self, permit: Permit<RevokeJoinToken>) -> Result<(), Error> {
        let writing = self.write().await?;
        let (RevokeJoinToken(name), actor) = permit.spend(&writing).await?;
        let token = store::join_token::by_uid(&writing, name.uid())
            .await?
            .ok_or_else(|| Error::absent(&name))?;
        store::join_token::delete(&writing, token.uid).await?;
        writing
            .commit(Change::new(
                &actor.name,
                "RevokeJoinToken",
                EventKind::Deleted,
                &name,
                token.uid,
            ))
            .await?;
        Ok(())
    }
}

async fn view(snapshot: &Snapshot, token: JoinToken) -> Result<JoinTokenView, Error> {
    let (pool, user) = match token.subject {
        Subject::Pool(uid) => (
            store::pool::by_uid(snapshot, uid).await?.map(|pool| pool.name),
            None,
        ),
        Subject::User(uid) => (
            None,
            store::user::by_uid(snapshot, uid).await?.map(|user| user.name),
        ),
    };
    Ok(JoinTokenView { token, pool, user })
}
