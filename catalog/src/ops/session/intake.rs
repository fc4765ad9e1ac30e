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

use super::known::{Given, Hosts, Mounts};
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

/// What became of it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// The host, as it was before.
    pub(super) host: Host,
    /// The host has carried out a removal, and now lacks something that its pool was given.
    pub(super) is_owed: bool,
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
    answer: oneshot::Sender<Result<Outcome, Error>>,
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

    /// Writes down what a host says, together with what others say at the same time.
    pub(super) async fn take(&self, identity: &Identity, words: Words) -> Result<Outcome, Error> {
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

/// What the words of one host come to.
#[derive(Default)]
struct Effect {
    is_change_of_state: bool,
    /// Removals that it has carried out.
    carried_out: Vec<Uuid>,
}

/// One transaction. A host that is refused has written nothing.
async fn try_to_write(
    writing: Result<Writing, Error>,
    batch: &[Entry],
) -> Result<Vec<Result<Outcome, Error>>, Error> {
    let writing = writing?;
    let hosts = Hosts::of(&writing, batch.iter().map(|entry| &entry.identity)).await?;
    let reporting = batch
        .iter()
        .filter(|entry| matches!(entry.words, Words::Report(..)));
    let reporting: Vec<Uuid> = reporting.map(|entry| entry.identity.uid).collect();
    let mounts = Mounts::of(&writing, &reporting).await?;
    let mut rows = BTreeMap::new();
    let mut effects = Vec::with_capacity(batch.len());
    for Entry { identity, words, .. } in batch {
        effects.push(match hosts.behind(identity, &writing) {
            Ok(host) => Ok((host, put(&writing, host, words, &mounts, &mut rows).await?)),
            Err(refused) => Err(refused),
        });
    }
    store::mount::put_all(&writing, &rows).await?;
    let freed = effects.iter().filter_map(|effect| effect.as_ref().ok());
    let freed = freed.filter(|(_, effect)| !effect.carried_out.is_empty());
    let given = Given::to_pools_of(&writing, freed.map(|(host, _)| *host)).await?;
    let mut is_change_of_state = false;
    let mut outcomes = Vec::with_capacity(batch.len());
    for effect in effects {
        outcomes.push(effect.map(|(host, effect)| {
            is_change_of_state |= effect.is_change_of_state;
            let left = mounts.ordered(host.meta.uid).iter();
            let left = left.filter(|assignment| !effect.carried_out.contains(&assignment.uid));
            Outcome {
                host: host.clone(),
                is_owed: !effect.carried_out.is_empty() && given.is_lacked_by(host, left),
            }
        }));
    }
    if is_change_of_state {
        writing.commit_observed().await?;
    } else {
        writing.commit_unrecorded().await?;
    }
    Ok(outcomes)
}

/// Writes what is new in a host's words; mounts are added to `rows`, by host and assignment.
async fn put(
    writing: &Writing,
    host: &Host,
    words: &Words,
    mounts: &Mounts,
    rows: &mut BTreeMap<(Uuid, Uuid), ObservedMount>,
) -> Result<Effect, Error> {
    let uid = host.meta.uid;
    let mut add = |mount: ObservedMount| drop(rows.insert((uid, mount.assignment_uid), mount));
    match words {
        Words::Facts(facts) => {
            let is_change_of_state = host.facts != *facts;
            if is_change_of_state {
                let mut host = host.clone();
                host.facts = facts.clone();
                store::host::update(writing, &host).await?;
            }
            Ok(Effect {
                is_change_of_state,
                ..Effect::default()
            })
        }
        Words::Certified(not_after) => {
            if host.ban.is_none() {
                let mut host = host.clone();
                host.certificate_expire_time = *not_after;
                store::host::update(writing, &host).await?;
            }
            Ok(Effect::default())
        }
        Words::Orphans(orphans) => {
            orphans.iter().cloned().for_each(&mut add);
            Ok(Effect {
                is_change_of_state: !orphans.is_empty(),
                ..Effect::default()
            })
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
            changed.into_iter().chain(touched).for_each(&mut add);
            store::mount::delete(writing, uid, &dropped).await?;
            store::assignment::forget(writing, uid, &carried_out).await?;
            let is_ban_done = at.ban_carried_out && host.has_a_ban_to_carry_out();
            if is_ban_done {
                let mut host = host.clone();
                if let Some(ban) = &mut host.ban {
                    ban.done = Some(writing.now());
                }
                store::host::update(writing, &host).await?;
                tracing::warn!(host = %host.name, "a banned host has carried its ban out");
            }
            Ok(Effect {
                is_change_of_state: is_change_of_state || is_ban_done,
                carried_out,
            })
        }
    }
}

#[cfg(test)]
mod tests;
