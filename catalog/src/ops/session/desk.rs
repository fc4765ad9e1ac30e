//! Questions of many hosts, answered from one view of the database: each view and each statement is a walk through
//! another thread and back, which costs more than what it finds. When ten thousand hosts come back, or are told of one
//! change, they ask a few dozen times instead of fifty thousand.
//!
//! Invariants: a question is answered from a view that begins after it was asked; what cannot be answered to one host
//! keeps no other from its answer.

use std::sync::Arc;

use mooring_identity::Clock;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::queue::{Queue, Want, Work};
use crate::domain::Error;
use crate::store::{Snapshot, Store};

/// What a host's stream wants to know.
pub(super) trait Question: Want + Send + Sync + Sized + 'static {
    /// What it is told.
    type Answer: Send + 'static;

    /// Answers each question, in their order.
    fn answer_all(
        snapshot: &Snapshot,
        questions: &[&Self],
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer, Error>>, Error>> + Send;
}

/// Where one kind of questions is answered.
pub(crate) struct Desk<Q: Question> {
    store: Store,
    clock: Clock,
    tasks: TaskTracker,
    queue: Arc<Queue<Asked<Q>>>,
}

struct Asked<Q: Question> {
    question: Q,
    answer: oneshot::Sender<Result<Q::Answer, Error>>,
}

impl<Q: Question> Want for Asked<Q> {
    fn host_uid(&self) -> Uuid {
        self.question.host_uid()
    }

    fn rows(&self) -> usize {
        self.question.rows()
    }
}

impl<Q: Question> Desk<Q> {
    /// Answers in tasks that `tasks` owns: whoever asked first may be gone before the others have their answers.
    pub(crate) fn new(store: Store, clock: Clock, tasks: TaskTracker) -> Self {
        Self {
            store,
            clock,
            tasks,
            queue: Arc::default(),
        }
    }

    /// Asks, together with others who ask at the same time.
    pub(super) async fn ask(&self, question: Q) -> Result<Q::Answer, Error> {
        let (answer, answered) = oneshot::channel();
        if let Some(work) = self.queue.add(Asked { question, answer }) {
            let (store, clock) = (self.store.clone(), self.clock.clone());
            self.tasks.spawn(serve(store, clock, work));
        }
        answered.await.map_err(Error::internal)?
    }
}

/// Answers until nobody asks.
async fn serve<Q: Question>(store: Store, clock: Clock, mut work: Work<Asked<Q>>) {
    while work.goes_on() {
        let batch = work.next_batch();
        match answer(&store, &clock, &batch).await {
            Ok(answers) => {
                for (asked, answer) in batch.into_iter().zip(answers) {
                    // A host that is gone needs no answer.
                    let _ = asked.answer.send(answer);
                }
            }
            Err(Error::Store(cause)) => {
                let cause = cause.to_string();
                tracing::warn!(
                    hosts = batch.len(),
                    cause,
                    "the database does not answer; these hosts try again"
                );
                for asked in batch {
                    let _ = asked.answer.send(Err(Error::Store(cause.clone().into())));
                }
            }
            // Damage to the rows of one host is that host's trouble.
            Err(error) => {
                tracing::error!(%error, hosts = batch.len(), "hosts cannot be answered together; trying one by one");
                for asked in batch {
                    let alone = [asked];
                    let answered = answer(&store, &clock, &alone).await;
                    let answered = answered.and_then(|mut answers| {
                        let answer = answers.pop();
                        answer.unwrap_or_else(|| Err(Error::internal("a question has no answer")))
                    });
                    let [asked] = alone;
                    let _ = asked.answer.send(answered);
                }
            }
        }
    }
}

async fn answer<Q: Question>(
    store: &Store,
    clock: &Clock,
    batch: &[Asked<Q>],
) -> Result<Vec<Result<Q::Answer, Error>>, Error> {
    let snapshot = store.read(clock.now()).await?;
    let questions: Vec<&Q> = batch.iter().map(|asked| &asked.question).collect();
    Q::answer_all(&snapshot, &questions).await
}

#[cfg(test)]
mod tests;
