//! What hosts say and the catalog must write down: one transaction for all that waits, however many hosts it is from.
//! A fleet that mounts something reports it within the same seconds, and with a synced transaction for each report,
//! people's changes would wait behind thousands of them.
//!
//! Invariants: what is refused of one host does not touch what others say; one host's words are written in their order;
//! an answer comes after the commit. What is read for a batch costs a few statements, however many hosts it is from.

use std::collections::BTreeMap;
use std::sync::Arc;

use mooring_identity::Clock;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::known::{Hosts, Mounts};
use super::queue::{Queue, Want, Work};
use crate::domain::Error;
use crate::domain::host::{Host, HostFacts};
use crate::domain::mount::{Digest, ObservedMount, ReportedAt};
use crate::policy::Identity;
use crate::store::{self, Store, Writing};

/// What a host says.
pub(super) enum Words {
    /// What its machine is.
    Facts(HostFacts),
    /// It has shown the key for a certificate that lasts until then; not noted of a banned host.
    Certified(OffsetDateTime),
    /// What it holds and nobody lists.
    Orphans(Vec<ObservedMount>),
    /// What it observes.
    Report(Vec<ObservedMount>, ReportedAt),
}

/// What waits to be written.
#[derive(Clone)]
pub(crate) struct Intake {
    store: Store,
    clock: Clock,
    tasks: TaskTracker,
    waiting: Arc<Queue<Entry>>,
}

struct Entry {
    identity: Identity,
    words: Words,
    answer: oneshot::Sender<Result<Host, Error>>,
}

impl Want for Entry {
    fn host_uid(&self) -> Uuid {
        self.identity.uid
    }

    fn rows(&self) -> usize {
        match &self.words {
            Words::Facts(_) | Words::Certified(_) => 1,
            Words::Orphans(mounts) | Words::Report(mounts, _) => 1 + mounts.len(),
        }
    }
}

impl Intake {
    /// Writes in tasks that `tasks` owns: a stream that ends does not take along what others say.
    pub(crate) fn new(store: Store, clock: Clock, tasks: TaskTracker) -> Self {
        Self {
            store,
            clock,
            tasks,
            waiting: Arc::default(),
        }
    }

    /// Writes down what a host says, together with what others say at the same time. Answers the host, as it was before.
    pub(super) async fn take(&self, identity: &Identity, words: Words) -> Result<Host, Error> {
        let (answer, answered) = oneshot::channel();
        let entry = Entry {
            identity: identity.clone(),
            words,
            answer,
        };
        if let Some(work) = self.waiting.add(entry) {
            self.tasks.spawn(self.clone().write(work));
        }
        answered.await.map_err(Error::internal)?
    }

    /// Writes until nothing waits.
    async fn write(self, mut work: Work<Entry>) {
        while work.goes_on() {
            // First in the writers' queue: what is said while this one waits goes along.
            let writing = self.store.write(self.clock.now()).await;
            let batch = work.next_batch();
            self.write_all(writing, batch).await;
        }
    }

    async fn write_all(&self, writing: Result<Writing, Error>, batch: Vec<Entry>) {
        match try_to_write(writing, &batch).await {
            Ok(outcomes) => {
                for (entry, outcome) in batch.into_iter().zip(outcomes) {
                    // A host that is gone needs no answer.
                    let _ = entry.answer.send(outcome);
                }
            }
            Err(Error::Store(cause)) => {
                let cause = cause.to_string();
                tracing::warn!(
                    hosts = batch.len(),
                    cause,
                    "what these hosts say is not written; they say it again"
                );
                for entry in batch {
                    let _ = entry.answer.send(Err(Error::Store(cause.clone().into())));
                }
            }
            // Something in it cannot be written at all: that is one host's trouble and must not be everybody's.
            Err(error) if batch.len() > 1 => {
                tracing::error!(%error, "what hosts say cannot be written together; trying one by one");
                for entry in batch {
                    let alone = [entry];
                    let writing = self.store.write(self.clock.now()).await;
                    let outcome = try_to_write(writing, &alone).await;
                    let outcome = outcome.and_then(|mut outcomes| {
                        let outcome = outcomes.pop();
                        outcome.unwrap_or_else(|| Err(Error::internal("what a host says has no outcome")))
                    });
                    let [entry] = alone;
                    let _ = entry.answer.send(outcome);
                }
            }
            Err(error) => {
                for entry in batch {
                    let _ = entry.answer.send(Err(Error::internal(error.to_string())));
                }
            }
        }
    }
}

/// One transaction. A host that is refused has written nothing.
async fn try_to_write(
    writing: Result<Writing, Error>,
    batch: &[Entry],
) -> Result<Vec<Result<Host, Error>>, Error> {
    let writing = writing?;
    let hosts = Hosts::of(&writing, batch.iter().map(|entry| &entry.identity)).await?;
    let reporting = batch
        .iter()
        .filter(|entry| matches!(entry.words, Words::Report(..)));
    let reporting: Vec<Uuid> = reporting.map(|entry| entry.identity.uid).collect();
    let mounts = Mounts::of(&writing, &reporting).await?;
    let mut notes = Notes::default();
    let mut is_change_of_state = false;
    let mut outcomes = Vec::with_capacity(batch.len());
    for Entry { identity, words, .. } in batch {
        outcomes.push(hosts.behind(identity, &writing).map(|host| {
            is_change_of_state |= notes.take(host, words, &mounts, writing.now());
            host.clone()
        }));
    }
    notes.write(&writing).await?;
    if is_change_of_state {
        writing.commit_observed().await?;
    } else {
        writing.commit_unrecorded().await?;
    }
    Ok(outcomes)
}

/// What is to be written of many hosts, so that each kind of it costs a statement.
#[derive(Default)]
struct Notes {
    hosts: Vec<Host>,
    certified: Vec<(Uuid, OffsetDateTime)>,
    /// By host and assignment.
    mounts: BTreeMap<(Uuid, Uuid), ObservedMount>,
    dropped: Vec<(Uuid, Uuid)>,
    carried_out: Vec<Uuid>,
}

impl Notes {
    /// Takes what is new in a host's words. Answers whether a state has changed.
    fn take(&mut self, host: &Host, words: &Words, mounts: &Mounts, now: OffsetDateTime) -> bool {
        let uid = host.meta.uid;
        match words {
            Words::Facts(facts) => {
                let is_news = host.facts != *facts;
                if is_news {
                    let mut host = host.clone();
                    host.facts = facts.clone();
                    self.hosts.push(host);
                }
                is_news
            }
            Words::Certified(not_after) => {
                if host.ban.is_none() {
                    self.certified.push((uid, *not_after));
                }
                false
            }
            Words::Orphans(orphans) => {
                self.put(uid, orphans.iter().cloned());
                !orphans.is_empty()
            }
            Words::Report(reported, at) => {
                let digest = mounts.news(uid, reported.clone(), *at);
                let is_change_of_state = digest.is_change_of_state();
                let Digest {
                    changed,
                    touched,
                    dropped,
                    carried_out,
                } = digest;
                self.put(uid, changed.into_iter().chain(touched));
                self.dropped
                    .extend(dropped.into_iter().map(|assignment| (uid, assignment)));
                self.carried_out.extend(carried_out);
                let is_ban_done = at.ban_carried_out && host.has_a_ban_to_carry_out();
                if is_ban_done {
                    tracing::warn!(host = %host.name, "a banned host has carried its ban out");
                    let mut host = host.clone();
                    host.ban.iter_mut().for_each(|ban| ban.done = Some(now));
                    self.hosts.push(host);
                }
                is_change_of_state || is_ban_done
            }
        }
    }

    fn put(&mut self, host_uid: Uuid, mounts: impl IntoIterator<Item = ObservedMount>) {
        let rows = mounts
            .into_iter()
            .map(|mount| ((host_uid, mount.assignment_uid), mount));
        self.mounts.extend(rows);
    }

    async fn write(self, writing: &Writing) -> Result<(), Error> {
        let Self {
            hosts,
            certified,
            mounts,
            dropped,
            carried_out,
        } = self;
        for host in &hosts {
            store::host::update(writing, host).await?;
        }
        store::host::set_certified(writing, &certified).await?;
        store::mount::put_all(writing, &mounts).await?;
        store::mount::delete(writing, &dropped).await?;
        store::assignment::forget(writing, &carried_out).await
    }
}

#[cfg(test)]
mod tests;
