//! The circuit breaker of an endpoint: while nothing at all answers there, operations fail at once.
//!
//! A program that waits for a FUSE request cannot even be killed once the request was read (fuser answers INTERRUPT with
//! ENOSYS), so nobody may wait out a deadline after somebody else has done so for nothing. The evidence is never
//! the failure of one request, which may be a matter of its key: the breaker opens when a question of its own to the endpoint, on a
//! fresh connection, brings no byte back, and no other connection has either. A refusal or an error is an answer. It closes
//! with the first byte. While it is open it asks on by itself, and at once when an operation comes, which waits a moment for
//! the outcome: an endpoint that is back is used within that moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::StoreError;

/// So long the question may go unanswered. With [`Timing::suspicion`] before it, 10 s until operations fail: a cold bucket
/// answers a question that needs none of its data long before.
pub(super) const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// How patient a breaker is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// So long an operation waits in silence before the endpoint is asked whether it lives.
    suspicion: Duration,
    /// The pause between questions while nobody wants anything, which doubles up to the other one.
    pause_min: Duration,
    pause_max: Duration,
    /// Between two questions however many operations come.
    spacing: Duration,
    /// What an operation waits for a question that is asked because of it.
    grace: Duration,
}

impl Default for Timing {
    /// 5 s: a connection that is not there by then is given up, too, and lost packets are repeated several times within
    /// it. Pauses up to 5 s: a mount that is not used heals all the same, for those who ask how it is, at the cost of one
    /// small request. 100 ms: an endpoint that refuses connections is not stormed. 500 ms: far below the second within
    /// which programs shall have an answer, and beyond the round trips of a new TLS connection to another continent.
    fn default() -> Timing {
        Timing {
            suspicion: Duration::from_secs(5),
            pause_min: Duration::from_millis(250),
            pause_max: Duration::from_secs(5),
            spacing: Duration::from_millis(100),
            grace: Duration::from_millis(500),
        }
    }
}

/// When something last came from the endpoint, over all its connections; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    /// Has been heard just now.
    pub(super) fn new() -> Pulse {
        Pulse(Arc::new(Mutex::new(Instant::now())))
    }

    /// Something has come.
    pub(super) fn heard(&self) {
        *self.0.lock() = Instant::now();
    }

    /// When that was last.
    pub(super) fn last(&self) -> Instant {
        *self.0.lock()
    }
}

/// Asks the endpoint anything, on a fresh connection, within [`PROBE_DEADLINE`]; true if it lives.
pub(super) type Probe = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// The breaker of one store.
pub(super) struct Breaker {
    shared: Arc<Shared>,
    /// The task that asks; ends with the store.
    prober: Mutex<JoinSet<()>>,
}

struct Shared {
    timing: Timing,
    pulse: Pulse,
    probe: Probe,
    probing: AtomicBool,
    /// Questions that brought nothing since the breaker opened; 0 while it is closed.
    failures: watch::Sender<u64>,
    wanted: Notify,
}

impl Breaker {
    /// Closed, for an endpoint whose connections keep `pulse`.
    pub(super) fn new(timing: Timing, pulse: Pulse, probe: Probe) -> Breaker {
        Breaker {
            shared: Arc::new(Shared {
                timing,
                pulse,
                probe,
                probing: AtomicBool::new(false),
                failures: watch::Sender::new(0),
                wanted: Notify::new(),
            }),
            prober: Mutex::new(JoinSet::new()),
        }
    }

    /// May an operation begin? Answers at once while closed.
    pub(super) async fn admit(&self) -> Result<(), StoreError> {
        let mut failures = self.shared.failures.subscribe();
        let before = *failures.borrow_and_update();
        if before == 0 {
            return Ok(());
        }
        self.shared.wanted.notify_one();
        let decided = failures.wait_for(|now| *now != before);
        let decided = tokio::time::timeout(self.shared.timing.grace, decided).await;
        match decided {
            Ok(Ok(now)) if *now == 0 => Ok(()),
            // Another question without an answer, or none within the moment.
            Ok(Ok(_) | Err(_)) | Err(_) => Err(self.away()),
        }
    }

    /// Runs an operation until it ends, its deadline passes or the breaker opens; looks after the endpoint if it is
    /// silent meanwhile.
    pub(super) async fn watch<T>(
        &self,
        deadline: Option<Duration>,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.admit().await?;
        let began = Instant::now();
        let mut operation = std::pin::pin!(operation);
        let mut failures = self.shared.failures.subscribe();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_sub(began.elapsed()));
            if left == Some(Duration::ZERO) {
                self.suspect_after(began);
                return Err(StoreError::DeadlineExceeded);
            }
            let silent_at = began.max(self.shared.pulse.last()) + self.shared.timing.suspicion;
            let look = silent_at
                .saturating_duration_since(Instant::now())
                // A question that is under way is not asked twice.
                .max(self.shared.timing.spacing);
            tokio::select! {
                // All arms are cancel-safe: the operation is pinned outside and goes on, the others hold no state.
                result = &mut operation => {
                    if let Err(StoreError::Unavailable { .. }) = result {
                        self.suspect_after(began);
                    }
                    return result;
                }
                opened = failures.wait_for(|now| *now > 0) => {
                    if opened.is_ok() {
                        drop(opened);
                        return Err(self.away());
                    }
                }
                () = tokio::time::sleep(left.map_or(look, |left| left.min(look))) => {
                    if silent_at <= Instant::now() {
                        self.suspect();
                    }
                }
            }
        }
    }

    /// Suspects an endpoint from which nothing has come since an operation began.
    fn suspect_after(&self, began: Instant) {
        if self.shared.pulse.last() < began {
            self.suspect();
        }
    }

    fn suspect(&self) {
        if !self.shared.probing.swap(true, Ordering::AcqRel) {
            let mut prober = self.prober.lock();
            // Takes those off the set that have ended.
            while prober.try_join_next().is_some() {}
            prober.spawn(Arc::clone(&self.shared).ask_until_answered());
        }
    }

    fn away(&self) -> StoreError {
        StoreError::Unavailable {
            reason: "the endpoint does not answer, and is asked again all the time".to_owned(),
        }
    }
}

impl Shared {
    async fn ask_until_answered(self: Arc<Shared>) {
        let opened = Instant::now();
        let mut pause = self.timing.pause_min;
        loop {
            let began = Instant::now();
            if (self.probe)().await || self.pulse.last() >= began {
                break;
            }
            if *self.failures.borrow() == 0 {
                tracing::warn!(
                    "the endpoint does not answer: operations fail at once until it does; check the endpoint and the network to it"
                );
            }
            self.failures.send_modify(|failures| *failures += 1);
            tokio::time::sleep(self.timing.spacing).await;
            tokio::select! {
                // Both arms are cancel-safe: they hold no state but a permit, which the other arm's turn serves as well.
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(self.timing.pause_max),
            }
        }
        // In this order: who finds it closed may suspect anew.
        self.probing.store(false, Ordering::Release);
        if self.failures.send_replace(0) > 0 {
            tracing::info!(away = ?opened.elapsed(), "the endpoint answers again");
        }
    }
}

impl std::fmt::Debug for Breaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Breaker")
            .field("failures", &*self.shared.failures.borrow())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
