//! Users: made, changed, disabled and deleted by operators. Somebody always remains who can operate the realm.

use super::{Answer, Catalog, Once, field_list};
use crate::domain::access::Role;
use crate::domain::audit::{Change, EventKind};
use crate::domain::names::{Scope, UserName};
use crate::domain::user::{NewUser, User, UserChange, UserState};
use crate::domain::{Error, Id, Meta, Page, Paged};
use crate::policy::{Action, Permit};
use crate::store::{self, Snapshot};

macro_rules! user_action {
    ($(#[$doc:meta])* $action:ident$(($target:ty))?) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action$((pub $target))?;

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.UserService/", stringify!($action));

            fn scopes(&self) -> Vec<Scope> {
                vec![Scope::Realm]
            }
        }
    };
}

user_action!(
    /// Create a user.
    CreateUser
);
user_action!(
    /// Read a user.
    GetUser(UserName)
);
user_action!(
    /// List the users.
    ListUsers
);
user_action!(
    /// Change a user.
    UpdateUser(UserName)
);
user_action!(
    /// Delete a user.
    DeleteUser(UserName)
);
user_action!(
    /// Refuse every call of a user.
    DisableUser(UserName)
);
user_action!(
    /// Let a user call again.
    EnableUser(UserName)
);

impl Catalog {
    /// Creates a user, who can then log in with a join token.
    pub async fn create_user(
        &self,
        permit: Permit<CreateUser>,
        id: Option<Id>,
        new: NewUser,
        once: Once<User>,
    ) -> Result<Answer<User>, Error> {
        let writing = self.write().await?;
        let (CreateUser, actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let uid = self.clock.new_uid();
        let name = UserName::new(id.unwrap_or_else(|| Id::made_of(uid, 'u')));
        if store::realm::is_retired(&writing, &name).await? {
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "was deleted, and its name is not given out again; choose another id",
            });
        }
        if store::user::find(&writing, &name).await?.is_some() {
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "exists already; choose another id",
            });
        }
        let NewUser { texts } = new;
        let meta = Meta::new(uid, texts, actor.name.to_string(), writing.now());
        let user = User {
            name,
            meta,
            state: UserState::Enabled,
            login_time: None,
        };
        store::user::insert(&writing, &user).await?;
        once.keep(&writing, &actor, &user).await?;
        writing
            .commit(Change::new(
                &actor.name,
                "CreateUser",
                EventKind::Created,
                &user.name,
                uid,
            ))
            .await?;
        Ok(Answer::New(user))
    }

    /// Reads a user.
    pub async fn get_user(&self, permit: Permit<GetUser>) -> Result<User, Error> {
        let snapshot = self.read().await?;
        let (GetUser(name), _) = permit.spend(&snapshot).await?;
        find(&snapshot, &name).await
    }

    /// Lists the users.
    pub async fn list_users(&self, permit: Permit<ListUsers>, page: &Page) -> Result<Paged<User>, Error> {
        let snapshot = self.read().await?;
        let (ListUsers, _) = permit.spend(&snapshot).await?;
        store::user::list(&snapshot, page).await
    }

    /// Changes a user's texts.
    pub async fn update_user(&self, permit: Permit<UpdateUser>, change: UserChange) -> Result<User, Error> {
        let writing = self.write().await?;
        let (UpdateUser(name), actor) = permit.spend(&writing).await?;
        let mut user = find(&writing, &name).await?;
        let UserChange { texts, etag } = change;
        user.meta.check_etag(&etag, &name)?;
        let fields = field_list(texts.fields());
        user.meta.change(texts, writing.now());
        store::user::update(&writing, &user).await?;
        let change = Change::new(
            &actor.name,
            "UpdateUser",
            EventKind::Updated,
            &name,
            user.meta.uid,
        );
        writing.commit(change.detail("fields", fields)).await?;
        Ok(user)
    }

    /// Deletes a user, whose certificates stop working at once.
    pub async fn delete_user(&self, permit: Permit<DeleteUser>, etag: &str) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeleteUser(name), actor) = permit.spend(&writing).await?;
        let user = find(&writing, &name).await?;
        user.meta.check_etag(etag, &name)?;
        check_not_last_operator(&writing, &user).await?;
        store::user::delete(&writing, &user).await?;
        writing
            .commit(Change::new(
                &actor.name,
                "DeleteUser",
                EventKind::Deleted,
                &name,
                user.meta.uid,
            ))
            .await?;
        Ok(())
    }

    /// Refuses every call of a user from now on. Its unused join tokens become useless.
    pub async fn disable_user(&self, permit: Permit<DisableUser>) -> Result<User, Error> {
        let writing = self.write().await?;
        let (DisableUser(name), actor) = permit.spend(&writing).await?;
        let mut user = find(&writing, &name).await?;
        if user.state == UserState::Disabled {
            return Ok(user);
        }
        check_not_last_operator(&writing, &user).await?;
        store::join_token::delete_of_user(&writing, user.meta.uid).await?;
        user.state = UserState::Disabled;
        user.meta.touch(writing.now());
        store::user::update(&writing, &user).await?;
        writing
            .commit(Change::new(
                &actor.name,
                "DisableUser",
                EventKind::Updated,
                &name,
                user.meta.uid,
            ))
            .await?;
        Ok(user)
    }

    /// Lets a disabled user call again.
    pub async fn enable_user(&self, permit: Permit<EnableUser>) -> Result<User, Error> {
        let writing = self.write().await?;
        let (EnableUser(name), actor) = permit.spend(&writing).await?;
        let mut user = find(&writing, &name).await?;
        if user.state == UserState::Enabled {
            return Ok(user);
        }
        user.state = UserState::Enabled;
        user.meta.touch(writing.now());
        store::user::update(&writing, &user).await?;
        writing
            .commit(Change::new(
                &actor.name,
                "EnableUser",
                EventKind::Updated,
                &name,
                user.meta.uid,
            ))
            .await?;
        Ok(user)
    }
}

async fn find(snapshot: &Snapshot, name: &UserName) -> Result<User, Error> {
    store::user::find(snapshot, name)
        .await?
        .ok_or_else(|| Error::absent(name))
}

/// Without an operator nobody could make one again, but by hand on the catalog's machine.
async fn check_not_last_operator(snapshot: &Snapshot, user: &User) -> Result<(), Error> {
    let realm = store::realm::get(snapshot).await?;
    let operators = store::access::enabled_users_with(snapshot, realm.uid, Role::Operator).await?;
    if operators.contains(&user.name) && operators.len() == 1 {
        return Err(last_operator(&user.name));
    }
    Ok(())
}

/// Why the last operator stays.
pub(super) fn last_operator(name: &UserName) -> Error {
    Error::Precondition {
        reason: "LastOperator",
        subject: name.to_string(),
        problem: format!(
            "{name} is the last operator; make another one first: mooring access update realm --add user:NAME=operator"
        ),
    }
}
