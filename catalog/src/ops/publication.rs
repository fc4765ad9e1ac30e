//! Publications: offered by editors of a project who are developers of the community, and taken back by either side.

use super::{Answer, Catalog, Once, field_list};
use crate::domain::activation::{Activation, GRACE_DEFAULT};
use crate::domain::assignment::RemovalOrder;
use crate::domain::audit::{Change, EventKind};
use crate::domain::import::checked_mode;
use crate::domain::names::{CommunityName, ConnectorName, ProjectName, PublicationName, Scope};
use crate::domain::publication::{
    NewPublication, Publication, PublicationChange, PublicationState, Withdrawal, WithdrawalStep,
    blocked_message,
};
use crate::domain::{Error, Id, Meta, Mode, Page, Paged};
use crate::policy::rules::Permission;
use crate::policy::{self, Action, Actor, Caller, Permit};
use crate::store::{self, Snapshot, Writing};

/// Offer a connector in a community: two permissions, one on each.
#[derive(Debug)]
pub struct PublishConnector {
    /// The connector.
    pub connector: ConnectorName,
    /// The community.
    pub community: CommunityName,
}

impl Action for PublishConnector {
    const RPC: &'static str = "mooring.v1.PublicationService/PublishConnector";

    fn scopes(&self) -> Vec<Scope> {
        vec![
            Scope::Project(self.connector.project().clone()),
            Scope::Community(self.community.clone()),
        ]
    }
}

/// Change an offer. The owner project comes from a lookup that the caller was permitted.
#[derive(Debug)]
pub struct UpdatePublication {
    name: PublicationName,
    owner: ProjectName,
}

impl Action for UpdatePublication {
    const RPC: &'static str = "mooring.v1.PublicationService/UpdatePublication";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Project(self.owner.clone())]
    }

    fn resource(&self) -> String {
        self.name.to_string()
    }
}

/// Take an offer back. What a denial names is the community, so it tells nothing of the owner.
#[derive(Debug)]
pub struct WithdrawPublication {
    name: PublicationName,
    owner: Option<ProjectName>,
}

impl Action for WithdrawPublication {
    const RPC: &'static str = "mooring.v1.PublicationService/WithdrawPublication";

    fn scopes(&self) -> Vec<Scope> {
        let community = Scope::Community(self.name.community().clone());
        std::iter::once(community)
            .chain(self.owner.clone().map(Scope::Project))
            .collect()
    }

    fn resource(&self) -> String {
        self.name.to_string()
    }
}

/// Read an offer.
#[derive(Debug)]
pub struct GetPublication(pub PublicationName);

impl Action for GetPublication {
    const RPC: &'static str = "mooring.v1.PublicationService/GetPublication";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Community(self.0.community().clone())]
    }
}

/// List what is offered in a community.
#[derive(Debug)]
pub struct ListPublications(pub CommunityName);

impl Action for ListPublications {
    const RPC: &'static str = "mooring.v1.PublicationService/ListPublications";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Community(self.0.clone())]
    }
}

impl Catalog {
    /// Offers a connector in a community. An offer that is over, or is being taken back, is taken up again by its own
    /// connector, and its imports with it.
    pub async fn publish_connector(
        &self,
        permit: Permit<PublishConnector>,
        id: Option<Id>,
        new: NewPublication,
        once: Once<Publication>,
    ) -> Result<Answer<Publication>, Error> {
        let writing = self.write().await?;
        let (PublishConnector { connector, community }, actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let project = store::project::get(&writing, connector.project()).await?;
        let connector = store::connector::find(&writing, &project, &connector)
            .await?
            .ok_or_else(|| Error::absent(&connector))?;
        let offered_in = store::community::find(&writing, &community).await?;
        let community_uid = offered_in.ok_or_else(|| Error::absent(&community))?.meta.uid;
        let NewPublication { texts, max_mode } = new;
        check_ceiling(max_mode, connector.spec.mode)?;
        let name = PublicationName::new(community, id.unwrap_or_else(|| connector.name.id().clone()));
        let before = store::publication::find(&writing, &name).await?;
        let (publication, kind) = match before {
            Some(mut before) if before.connector_uid == connector.meta.uid && !before.state.is_open() => {
                before.meta.texts = texts;
                before.meta.touch(writing.now());
                before.max_mode = before.ceiling_of_new_offer(max_mode, connector.spec.mode);
                before.state = PublicationState::Published;
                store::publication::update(&writing, &before).await?;
                // What a drain had left active follows the new ceiling.
                let live = store::activation::live_of_publication(&writing, before.meta.uid).await?;
                self.assign_all(&writing, &live).await?;
                (before, EventKind::Updated)
            }
            Some(before) if before.state != PublicationState::Withdrawn => {
                return Err(Error::NameTaken {
                    resource: name.to_string(),
                    problem: "exists already; choose another id, or withdraw it first",
                });
            }
            before => {
                if let Some(before) = before {
                    self.forget_withdrawn(&writing, &before).await?;
                }
                let meta = Meta::new(self.clock.new_uid(), texts, actor.name.to_string(), writing.now());
                let publication = Publication {
                    name,
                    meta,
                    community_uid,
                    connector: connector.name,
                    connector_uid: connector.meta.uid,
                    max_mode,
                    state: PublicationState::Published,
                };
                store::publication::insert(&writing, &publication).await?;
                (publication, EventKind::Created)
            }
        };
        once.keep(&writing, &actor, &publication).await?;
        let change = Change::new(
            &actor.name,
            "PublishConnector",
            kind,
            &publication.name,
            publication.meta.uid,
        )
        .in_community(community_uid)
        .detail("connector", &publication.connector)
        .detail("max_mode", publication.max_mode.map_or("", Mode::as_str));
        writing.commit(change).await?;
        Ok(Answer::New(publication))
    }

    /// The action of an update, after the caller was permitted to see the publication: so its owner is no secret.
    pub async fn update_publication_action(
        &self,
        caller: &Caller,
        name: PublicationName,
    ) -> Result<UpdatePublication, Error> {
        let permit = self.permit(caller, GetPublication(name.clone())).await?;
        let owner = self.get_publication(permit).await?.connector.project().clone();
        Ok(UpdatePublication { name, owner })
    }

    /// Changes an offer's texts or ceiling. Mounts of active imports follow a new ceiling: they are restarted.
    pub async fn update_publication(
        &self,
        permit: Permit<UpdatePublication>,
        change: PublicationChange,
    ) -> Result<Publication, Error> {
        let writing = self.write().await?;
        let (
            UpdatePublication {
                name,
                owner: judged_for,
            },
            actor,
        ) = permit.spend(&writing).await?;
        let mut publication = find(&writing, &name).await?;
        let owner = publication.connector.project().clone();
        if owner != judged_for {
            // Withdrawn and published anew by another project since the action was made.
            policy::judge_again(&writing, &actor, &GetPublication(name.clone())).await?;
            let name = name.clone();
            policy::judge_again(&writing, &actor, &UpdatePublication { name, owner }).await?;
        }
        let fields = field_list(change.fields().into_iter());
        let PublicationChange {
            texts,
            max_mode,
            etag,
        } = change;
        publication.meta.check_etag(&etag, &name)?;
        publication.meta.change(texts, writing.now());
        let ceiling = max_mode.filter(|max_mode| *max_mode != publication.max_mode);
        if let Some(max_mode) = ceiling {
            if let Some(connector) = store::connector::by_uid(&writing, publication.connector_uid).await? {
                check_ceiling(max_mode, connector.spec.mode)?;
            }
            publication.max_mode = max_mode;
        }
        store::publication::update(&writing, &publication).await?;
        if ceiling.is_some() {
            let live = store::activation::live_of_publication(&writing, publication.meta.uid).await?;
            self.assign_all(&writing, &live).await?;
        }
        let change = Change::new(
            &actor.name,
            "UpdatePublication",
            EventKind::Updated,
            &name,
            publication.meta.uid,
        )
        .in_community(publication.community_uid)
        .detail("fields", fields);
        writing.commit(change).await?;
        Ok(publication)
    }

    /// The action of a withdrawal. The owner is looked up before anything is permitted, and goes into the judgement only.
    pub async fn withdraw_publication_action(
        &self,
        name: PublicationName,
    ) -> Result<WithdrawPublication, Error> {
        let publication = store::publication::find(&self.read().await?, &name).await?;
        let owner = publication.map(|publication| publication.connector.project().clone());
        Ok(WithdrawPublication { name, owner })
    }

    /// Takes an offer back.
    pub async fn withdraw_publication(
        &self,
        permit: Permit<WithdrawPublication>,
        how: Withdrawal,
    ) -> Result<Publication, Error> {
        let writing = self.write().await?;
        let (
            WithdrawPublication {
                name,
                owner: judged_for,
            },
            actor,
        ) = permit.spend(&writing).await?;
        let mut publication = find(&writing, &name).await?;
        let owner = Some(publication.connector.project().clone());
        if owner != judged_for {
            // Withdrawn and published anew by another project since the action was made.
            let name = name.clone();
            policy::judge_again(&writing, &actor, &WithdrawPublication { name, owner }).await?;
        }
        let live = store::activation::live_of_publication(&writing, publication.meta.uid).await?;
        let mut change = Change::new(
            &actor.name,
            "WithdrawPublication",
            EventKind::Updated,
            &name,
            publication.meta.uid,
        )
        .in_community(publication.community_uid);
        match publication.state.withdraw(how, live.len(), writing.now()) {
            WithdrawalStep::Nothing => return Ok(publication),
            WithdrawalStep::Refuse => return Err(blocked(&writing, &actor, &name, &live).await?),
            WithdrawalStep::Drain { until } => {
                publication.state = PublicationState::Withdrawing { until };
                publication.meta.touch(writing.now());
                store::publication::update(&writing, &publication).await?;
                change = change.detail("until", until);
            }
            WithdrawalStep::End => {
                // FORCE detaches at once; the others end what nobody uses any more.
                let removal = RemovalOrder {
                    reason: RemovalOrder::WITHDRAWN,
                    grace: std::time::Duration::ZERO,
                };
                change = self
                    .end_publication(&writing, &mut publication, live, &removal, change)
                    .await?;
            }
        }
        writing.commit(change).await?;
        Ok(publication)
    }

    /// Reads an offer.
    pub async fn get_publication(&self, permit: Permit<GetPublication>) -> Result<Publication, Error> {
        let snapshot = self.read().await?;
        let (GetPublication(name), _) = permit.spend(&snapshot).await?;
        find(&snapshot, &name).await
    }

    /// Lists what is offered in a community.
    pub async fn list_publications(
        &self,
        permit: Permit<ListPublications>,
        page: &Page,
    ) -> Result<Paged<Publication>, Error> {
        let snapshot = self.read().await?;
        let (ListPublications(name), _) = permit.spend(&snapshot).await?;
        let community = store::community::find(&snapshot, &name)
            .await?
            .ok_or_else(|| Error::absent(&name))?;
        store::publication::list(&snapshot, community.meta.uid, page).await
    }

    /// Ends the drains whose time has come, or which nothing uses any more. Answers how many. Each is a mutation of its
    /// own, made by the catalog itself.
    pub async fn end_drains(&self) -> Result<usize, Error> {
        let now = self.clock.now();
        let due = {
            let snapshot = self.read().await?;
            let mut due = Vec::new();
            for publication in store::publication::withdrawing(&snapshot).await? {
                let live = store::activation::live_of_publication(&snapshot, publication.meta.uid).await?;
                if publication.state.drain_is_over(live.len(), now) {
                    due.push(publication.meta.uid);
                }
            }
            due
        };
        let mut ended = 0;
        for uid in due {
            let writing = self.write().await?;
            let Some(mut publication) = store::publication::by_uid(&writing, uid).await? else {
                continue;
            };
            let live = store::activation::live_of_publication(&writing, uid).await?;
            if !publication.state.drain_is_over(live.len(), writing.now()) {
                continue;
            }
            let change = Change::new(
                "catalog",
                "WithdrawPublication",
                EventKind::Updated,
                &publication.name,
                uid,
            )
            .in_community(publication.community_uid);
            let removal = RemovalOrder {
                reason: RemovalOrder::WITHDRAWN,
                grace: GRACE_DEFAULT,
            };
            let change = self
                .end_publication(&writing, &mut publication, live, &removal, change)
                .await?;
            writing.commit(change).await?;
            ended += 1;
        }
        Ok(ended)
    }

    async fn end_publication(
        &self,
        writing: &Writing,
        publication: &mut Publication,
        live: Vec<Activation>,
        removal: &RemovalOrder,
        mut change: Change,
    ) -> Result<Change, Error> {
        for mut activation in live {
            self.end_activation(writing, &mut activation, removal).await?;
            change = change.also(EventKind::Updated, &activation.name, activation.meta.uid);
        }
        publication.state = PublicationState::Withdrawn;
        publication.meta.touch(writing.now());
        store::publication::update(writing, publication).await?;
        Ok(change)
    }

    /// Makes the name of an offer that is over free for another connector's, unless imports still speak of it.
    async fn forget_withdrawn(&self, writing: &Writing, publication: &Publication) -> Result<(), Error> {
        if store::import::of_publication(writing, publication.meta.uid)
            .await?
            .is_empty()
        {
            return store::publication::delete(writing, publication.meta.uid).await;
        }
        Err(Error::NameTaken {
            resource: publication.name.to_string(),
            problem: "was another connector's, and imports still use the name; choose another id",
        })
    }
}

async fn find(snapshot: &Snapshot, name: &PublicationName) -> Result<Publication, Error> {
    store::publication::find(snapshot, name)
        .await?
        .ok_or_else(|| Error::absent(name))
}

fn check_ceiling(max_mode: Option<Mode>, connector: Mode) -> Result<(), Error> {
    checked_mode(max_mode, connector, "the connector's mode")
        .map_err(|problem| Error::invalid("publication.max_mode", problem))
}

/// Names the active imports that the caller may see, and counts the others.
async fn blocked(
    snapshot: &Snapshot,
    actor: &Actor,
    name: &PublicationName,
    live: &[Activation],
) -> Result<Error, Error> {
    let mut seen = std::collections::BTreeSet::new();
    let mut hidden = std::collections::BTreeSet::new();
    for activation in live {
        let scope = Scope::Project(activation.name.project().clone());
        if policy::holds(snapshot, actor.uid, Permission::ImportsGet, &scope).await? {
            seen.insert(activation.target.to_string());
        } else {
            hidden.insert(activation.target.to_string());
        }
    }
    let seen: Vec<String> = seen.into_iter().collect();
    Ok(Error::Precondition {
        reason: "ImportsActive",
        subject: name.to_string(),
        problem: blocked_message(&seen, hidden.len()),
    })
}
