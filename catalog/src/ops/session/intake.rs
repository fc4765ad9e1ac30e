//! What hosts say and the catalog must write down: one transaction for all that waits, however many hosts it is from.
//! A fleet that mounts something reports it within the same seconds, and with a synced transaction for each report,
//! people's changes would wait behind thousands of them.
//!
//! Invariants: what is refused of one host does not touch what others say; one host's words are written in their order;
//! an answer comes after the commit.

use std::sync::Arc;

use mooring_identity::Clock;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::news_in;
use crate::domain::Error;
use crate::domain::host::HostFacts;
use crate::domain::mount::{ObservedMount, ReportedAt};
use crate::ops::enrollment::host_of;
use crate::policy::Identity;
use crate::store::{self, Store, Writing};

/// The most that is written at once: of half a millisecond each, so that a change of a person waits no longer than that
/// for its turn.
const BATCH_MAX: usize = 256;

/// What a host says.
pub(super) enum Words {
    /// What its machine is.
    Facts(HostFacts),
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
    // Not held across an await.
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    words: Vec<Entry>,
    /// Whether a task writes. It looks for more before it ends.
    writing: bool,
}

struct Entry {
    identity: Identity,
    words: Words,
    answer: oneshot::Sender<Result<(), Error>>,
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
    pub(super) async fn take(&self, identity: &Identity, words: Words) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        let entry = Entry {
            identity: identity.clone(),
            words,
            answer,
        };
        if self.add(entry) {
            self.tasks.spawn(self.clone().write());
        }
        answered.await.map_err(Error::internal)?
    }

    /// Whether somebody has to begin to write.
    fn add(&self, entry: Entry) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.words.push(entry);
        !std::mem::replace(&mut waiting.writing, true)
    }

    /// Writes until nothing waits.
    async fn write(self) {
        while self.goes_on() {
            // First in the writers' queue: what is said while this one waits goes along.
            let writing = self.store.write(self.clock.now()).await;
            let batch = self.next_batch();
            self.write_all(writing, batch).await;
        }
    }

    fn goes_on(&self) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.writing = !waiting.words.is_empty();
        waiting.writing
    }

    fn next_batch(&self) -> Vec<Entry> {
        let mut waiting = self.waiting.lock();
        let count = waiting.words.len().min(BATCH_MAX);
        waiting.words.drain(..count).collect()
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
                    let outcome = outcome.and_then(|mut outcomes| outcomes.pop().unwrap_or(Ok(())));
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
) -> Result<Vec<Result<(), Error>>, Error> {
    let writing = writing?;
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut is_change_of_state = false;
    for Entry { identity, words, .. } in batch {
        let host = match host_of(&writing, identity).await {
            Ok(host) => host,
            Err(error @ (Error::Store(_) | Error::Internal(_))) => return Err(error),
            Err(refused) => {
                outcomes.push(Err(refused));
                continue;
            }
        };
        is_change_of_state |= put(&writing, host, words).await?;
        outcomes.push(Ok(()));
    }
    if is_change_of_state {
        writing.commit_observed().await?;
    } else {
        writing.commit_unrecorded().await?;
    }
    Ok(outcomes)
}

/// Writes what is new in a host's words. Answers whether that is a change of state.
async fn put(writing: &Writing, mut host: crate::domain::host::Host, words: &Words) -> Result<bool, Error> {
    let uid = host.meta.uid;
    match words {
        Words::Facts(facts) => {
            let is_news = host.facts != *facts;
            if is_news {
                host.facts = facts.clone();
                store::host::update(writing, &host).await?;
            }
            Ok(is_news)
        }
        Words::Orphans(orphans) => {
            for orphan in orphans {
                store::mount::put(writing, uid, orphan).await?;
            }
            Ok(!orphans.is_empty())
        }
        Words::Report(mounts, at) => {
            let digest = news_in(writing, &host, mounts.clone(), *at).await?;
            for mount in digest.changed.iter().chain(&digest.touched) {
                store::mount::put(writing, uid, mount).await?;
            }
            store::mount::delete(writing, uid, &digest.dropped).await?;
            store::assignment::forget(writing, uid, &digest.carried_out).await?;
            Ok(digest.is_change_of_state())
        }
    }
}

#[cfg(test)]
mod tests;
