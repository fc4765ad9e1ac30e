//! What hosts are told and what they say. The stream itself is `api/session.rs`; here is each of its steps as a use case.
//! The host's certificate stands in the place of a permit, and is judged at every step: it may have ended, or the host
//! may have been deleted, since the stream began.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::time::Duration;

use mooring_identity::Clock;
use time::OffsetDateTime;
use tokio::sync::SemaphorePermit;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Catalog;
use super::enrollment::host_of;
use crate::domain::Error;
use crate::domain::activation::MountState;
use crate::domain::audit::{Change, EventKind};
use crate::domain::host::{Host, HostFacts, heartbeat_interval};
use crate::domain::mount::{ObservedMount, ReportedAt};
use crate::policy::Identity;
use crate::store::realm::Realm;
use crate::store::{self, Snapshot, Store};

mod desk;
pub(super) mod intake;
mod known;
mod news;
mod orders;
mod queue;
pub mod streams;
mod sweep;

use desk::Desk;
use intake::Words;
pub use orders::{Orders, SealedAssignment, SealedKey};
pub use sweep::Swept;

/// How a host is welcomed.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The installation, its epoch and newest revision.
    pub realm: Realm,
    /// How often the host reports when nothing changes.
    pub heartbeat_interval: Duration,
}

/// Where the streams of many hosts ask together.
pub(super) struct Desks {
    orders: Desk<orders::Changed>,
    news: Desk<news::Reported>,
}

impl Desks {
    pub(super) fn new(store: &Store, clock: &Clock, tasks: &TaskTracker) -> Self {
        Self {
            orders: Desk::new(store.clone(), clock.clone(), tasks.clone()),
            news: Desk::new(store.clone(), clock.clone(), tasks.clone()),
        }
    }
}

impl Catalog {
    /// Welcomes a host, with everything that it shall have, and notes what its machine is and what it holds.
    pub async fn greet(
        &self,
        identity: &Identity,
        facts: HostFacts,
        held: &[(Uuid, i64)],
    ) -> Result<(Greeting, Orders), Error> {
        let mut brief = self.brief(identity, 0, held.len()).await?;
        let realm = brief.realm;
        if brief.host.facts != facts {
            // Somebody may have banned it meanwhile: then nothing is sealed for it any more.
            brief.host = self.intake.take(identity, Words::Facts(facts)).await?;
        }
        let listed: BTreeSet<Uuid> = brief.changed.iter().map(|assignment| assignment.uid).collect();
        let strange: Vec<(Uuid, i64)> = held
            .iter()
            .filter(|(uid, _)| !listed.contains(uid))
            .copied()
            .collect();
        self.note_held(identity, &strange).await?;
        self.streams.heard(identity.uid, self.clock.now());
        let greeting = Greeting {
            realm,
            heartbeat_interval: heartbeat_interval(self.settings.host_lost_after),
        };
        Ok((greeting, self.orders_of(brief, 0).await?))
    }

    /// Notes that a copy of a host was refused, if it is one for certain, and answers what it is told.
    pub async fn refuse_copy(&self, identity: &Identity, refusal: streams::Refusal) -> Error {
        let streams::Refusal { kind, is_certain } = refusal;
        if is_certain && let Err(error) = self.note_copy(identity, kind).await {
            return error;
        }
        let there = match is_certain {
            true => "another machine is connected with the state folder of this host",
            false => {
                "another machine is, or was a moment ago, connected with the state folder of this host; if it is gone, this \
                 one gets in within a minute. If not"
            }
        };
        Error::Precondition {
            reason: "HostCloned",
            subject: format!("hosts with uid {}", identity.uid),
            problem: format!(
                "{there}: one of the two is a copy. On the copy, stop the agent, remove its state_dir, and enrol it as a host of \
                 its own: mooring-agent enroll --join-file FILE"
            ),
        }
    }

    async fn note_copy(&self, identity: &Identity, kind: streams::Copy) -> Result<(), Error> {
        /// A copy tries again every few seconds; once a minute is news enough.
        const REST: time::Duration = time::Duration::minutes(1);
        let host = host_of(&*self.look().await?, identity).await?;
        let now = self.clock.now();
        if host.clone_time.is_some_and(|noted| now - noted < REST) {
            return Ok(());
        }
        let writing = self.write().await?;
        let mut host = host_of(&writing, identity).await?;
        let is_known = host.is_cloned(writing.now());
        host.clone_time = Some(writing.now());
        store::host::update(&writing, &host).await?;
        if is_known {
            writing.commit_observed().await?;
        } else {
            tracing::error!(host = %host.name, ?kind, "two machines use the state folder of one host, and one is refused");
            let name = &host.name;
            let change = Change::new(name, "RefuseCopy", EventKind::Updated, name, host.meta.uid);
            writing.commit(change).await?;
        }
        Ok(())
    }

    /// Notes what a host holds beyond what is listed, before its first report tells more of it.
    pub async fn note_held(&self, identity: &Identity, held: &[(Uuid, i64)]) -> Result<(), Error> {
        if held.is_empty() {
            return Ok(());
        }
        let look = self.look().await?;
        let host = host_of(&look, identity).await?;
        let listed = store::assignment::by_uids(&look, held.iter().map(|(uid, _)| *uid)).await?;
        let known = store::mount::of_host(&look, host.meta.uid).await?;
        drop(look);
        let orphans: Vec<ObservedMount> = held
            .iter()
            .filter(|(uid, _)| !listed.contains_key(uid) && !known.contains_key(uid))
            .map(|(uid, generation)| ObservedMount {
                assignment_uid: *uid,
                activation: String::new(),
                generation: *generation,
                state: MountState::Orphaned,
                path: String::new(),
                conditions: Vec::new(),
                mount_time: None,
            })
            .collect();
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::warn!(host = %host.name, count = orphans.len(), "a host holds what this catalog does not list");
        self.intake.take(identity, Words::Orphans(orphans)).await?;
        Ok(())
    }

    /// Takes a host's report of which it is likely that all is known: a look decides, without the writers' queue.
    pub async fn observe_if_news(
        &self,
        identity: &Identity,
        reported: Vec<ObservedMount>,
        at: ReportedAt,
    ) -> Result<(), Error> {
        let asked = news::Reported {
            identity: identity.clone(),
            mounts: reported.clone(),
            at,
        };
        if self.desks.news.ask(asked).await? {
            return self.observe(identity, reported, at).await;
        }
        self.streams.heard(identity.uid, self.clock.now());
        Ok(())
    }

    /// Takes a host's report: writes what is new in it, and nothing if nothing is.
    pub async fn observe(
        &self,
        identity: &Identity,
        reported: Vec<ObservedMount>,
        at: ReportedAt,
    ) -> Result<(), Error> {
        self.streams.heard(identity.uid, self.clock.now());
        self.intake.take(identity, Words::Report(reported, at)).await?;
        Ok(())
    }

    /// Notes until when a host's certificate lasts, unless the host is banned. Answers the host.
    pub(super) async fn note_certificate(
        &self,
        identity: &Identity,
        not_after: OffsetDateTime,
    ) -> Result<Host, Error> {
        self.intake.take(identity, Words::Certified(not_after)).await
    }

    /// A consistent view for one host. Only so many at a time: when all hosts look at once, people still find connections
    /// to the database that are free.
    pub(super) async fn look(&self) -> Result<Look<'_>, Error> {
        let place = self.streams.looks.acquire().await.map_err(Error::internal)?;
        Ok(Look {
            snapshot: self.read().await?,
            _place: place,
        })
    }
}

/// A view, and its place among those of all hosts. The view ends first.
pub(super) struct Look<'a> {
    snapshot: Snapshot,
    _place: SemaphorePermit<'a>,
}

impl Deref for Look<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}
