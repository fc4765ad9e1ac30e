//! Communities: made by operators, changed and deleted by their editors.

use super::{Answer, Catalog, Once, field_list};
use crate::domain::access::Role;
use crate::domain::audit::{Change, EventKind};
use crate::domain::community::{Community, CommunityChange, NewCommunity};
use crate::domain::names::{CommunityName, Scope};
use crate::domain::{Error, Id, Meta, Page, Paged};
use crate::policy::rules::Permission;
use crate::policy::{self, Action, Permit};
use crate::store;

/// Create a community.
#[derive(Debug)]
pub struct CreateCommunity;

impl Action for CreateCommunity {
    const RPC: &'static str = "mooring.v1.CommunityService/CreateCommunity";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Realm]
    }
}

/// Read a community.
#[derive(Debug)]
pub struct GetCommunity(pub CommunityName);

impl Action for GetCommunity {
    const RPC: &'static str = "mooring.v1.CommunityService/GetCommunity";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Community(self.0.clone())]
    }
}

/// List communities.
#[derive(Debug)]
pub struct ListCommunities;

impl Action for ListCommunities {
    const RPC: &'static str = "mooring.v1.CommunityService/ListCommunities";

    fn scopes(&self) -> Vec<Scope> {
        Vec::new()
    }
}

/// Change a community.
#[derive(Debug)]
pub struct UpdateCommunity(pub CommunityName);

impl Action for UpdateCommunity {
    const RPC: &'static str = "mooring.v1.CommunityService/UpdateCommunity";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Community(self.0.clone())]
    }
}

/// Delete a community.
#[derive(Debug)]
pub struct DeleteCommunity(pub CommunityName);

impl Action for DeleteCommunity {
    const RPC: &'static str = "mooring.v1.CommunityService/DeleteCommunity";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Community(self.0.clone())]
    }
}

impl Catalog {
    /// Creates a community; the caller becomes its Admin.
    pub async fn create_community(
        &self,
        permit: Permit<CreateCommunity>,
        id: Option<Id>,
        new: NewCommunity,
        once: Once<Community>,
    ) -> Result<Answer<Community>, Error> {
        let writing = self.write().await?;
        let (CreateCommunity, actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let uid = self.clock.new_uid();
        let name = CommunityName::new(id.unwrap_or_else(|| Id::made_of(uid, 'c')));
        if store::realm::is_retired(&writing, &name).await? {
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "was deleted, and its name is not given out again; choose another id",
            });
        }
        if store::community::find(&writing, &name).await?.is_some() {
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "exists already; choose another id",
            });
        }
        let NewCommunity { texts } = new;
        let community = Community {
            name,
            meta: Meta::new(uid, texts, actor.name.to_string(), writing.now()),
        };
        store::community::insert(&writing, &community).await?;
        store::access::insert(&writing, uid, actor.uid, Role::Admin).await?;
        once.keep(&writing, &actor, &community).await?;
        let change = Change::new(
            &actor.name,
            "CreateCommunity",
            EventKind::Created,
            &community.name,
            uid,
        );
        writing.commit(change.in_community(uid)).await?;
        Ok(Answer::New(community))
    }

    /// Reads a community.
    pub async fn get_community(&self, permit: Permit<GetCommunity>) -> Result<Community, Error> {
        let snapshot = self.read().await?;
        let (GetCommunity(name), _) = permit.spend(&snapshot).await?;
        store::community::find(&snapshot, &name)
            .await?
            .ok_or_else(|| Error::absent(&name))
    }

    /// Lists the communities the caller may see.
    pub async fn list_communities(
        &self,
        permit: Permit<ListCommunities>,
        page: &Page,
    ) -> Result<Paged<Community>, Error> {
        let snapshot = self.read().await?;
        let (ListCommunities, actor) = permit.spend(&snapshot).await?;
        let all = policy::holds(&snapshot, actor.uid, Permission::CommunitiesGet, &Scope::Realm).await?;
        store::community::list(&snapshot, actor.uid, all, page).await
    }

    /// Changes a community's texts.
    pub async fn update_community(
        &self,
        permit: Permit<UpdateCommunity>,
        change: CommunityChange,
    ) -> Result<Community, Error> {
        let writing = self.write().await?;
        let (UpdateCommunity(name), actor) = permit.spend(&writing).await?;
        let mut community = store::community::find(&writing, &name)
            .await?
            .ok_or_else(|| Error::absent(&name))?;
        let CommunityChange { texts, etag } = change;
        community.meta.check_etag(&etag, &name)?;
        let fields = field_list(texts.fields());
        community.meta.change(texts, writing.now());
        store::community::update(&writing, &community).await?;
        let uid = community.meta.uid;
        let change = Change::new(&actor.name, "UpdateCommunity", EventKind::Updated, &name, uid);
        writing
            .commit(change.in_community(uid).detail("fields", fields))
            .await?;
        Ok(community)
    }

    /// Deletes a community without projects. Its name is not given out again.
    pub async fn delete_community(&self, permit: Permit<DeleteCommunity>, etag: &str) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeleteCommunity(name), actor) = permit.spend(&writing).await?;
        let community = store::community::find(&writing, &name)
            .await?
            .ok_or_else(|| Error::absent(&name))?;
        community.meta.check_etag(etag, &name)?;
        let users = store::usage::of_community(&writing, &community).await?;
        if !users.is_empty() {
            return Err(Error::in_use(&name, &users, "delete or withdraw them first"));
        }
        store::community::delete(&writing, &community).await?;
        let uid = community.meta.uid;
        let change = Change::new(&actor.name, "DeleteCommunity", EventKind::Deleted, &name, uid);
        writing.commit(change.in_community(uid)).await?;
        Ok(())
    }
}
