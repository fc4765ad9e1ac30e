//! One step as a task: all that it needs, taken from the round that planned it, and what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mooring_control::WorkerStatus;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::blocking::blocking;
use crate::desired::{About, DesiredSet, Order, Removal, Spec};
use crate::ledger::{Ledger, LedgerError};
use crate::mounter::{Cause, MountError, Mounter, Stopped};
use crate::observed::ObservedSet;
use crate::observed::record::Record;
use crate::plan::{self, Action, Step};
use crate::status::{BY_HAND, TAKEN_OVER};

/// A restart waits this long for open files and uploads before it detaches the old mount; the old worker goes on with
/// both after that.
const RESTART_GRACE: Duration = Duration::from_secs(10);

/// A step with all that it needs.
pub(super) struct Work {
    step: Step,
    order: Option<Order>,
    record: Option<Record>,
    /// The record of the orphan that it takes over or evicts.
    orphan: Option<Record>,
    removal: Removal,
    /// The folder that it works on.
    pub(super) path: PathBuf,
}

/// A task that has ended.
pub(super) struct Done {
    pub(super) uid: Uuid,
    pub(super) outcome: Result<Outcome, MountError>,
}

/// What came of a step.
pub(super) enum Outcome {
    /// Mounted, or given a key: what the worker said at once.
    Serves(WorkerStatus),
    /// Mounted as before, with another worker.
    Succeeded {
        /// Why.
        cause: Cause,
        /// What the new worker said.
        status: WorkerStatus,
    },
    /// Mounted as before, and made that of a newer order.
    Relabelled,
    /// The mount of an orphan was taken over.
    Adopted {
        /// Whose mount it was.
        orphan: Uuid,
        /// What the worker said.
        status: WorkerStatus,
    },
    /// An orphan was unmounted to make room; the start comes next.
    Evicted {
        /// Whose mount it was.
        orphan: Uuid,
    },
    /// Unmounted by a removal, for the reason that it gave, and out of the ledger.
    Removed(String),
    /// Nothing to report.
    Nothing,
}

impl Work {
    /// Takes from a round what `step` needs.
    pub(super) fn of(step: Step, desired: &DesiredSet, observed: &ObservedSet, mounter: &Mounter) -> Work {
        let uid = step.uid;
        let order = desired.orders.get(&uid).cloned();
        let recorded = plan::place_of(uid, desired, observed, &mounter.mount_root);
        let ordered = order
            .as_ref()
            .and_then(|order| order.spec.as_ref().ok())
            .map(|spec| spec.place.path(&mounter.mount_root));
        let path = match step.action {
            Action::Start
            | Action::Restart
            | Action::Relabel
            | Action::Adopt { orphan: _ }
            | Action::Evict { orphan: _ } => ordered.or(recorded),
            Action::Stop
            | Action::Finish
            | Action::Supersede
            | Action::Sweep
            | Action::Clear
            | Action::SetCredential
            | Action::Succeed
            | Action::Upgrade => recorded,
        };
        Work {
            step,
            order,
            record: observed.record(uid).cloned(),
            orphan: match step.action {
                Action::Adopt { orphan } | Action::Evict { orphan } => observed.record(orphan).cloned(),
                Action::Stop
                | Action::Finish
                | Action::Supersede
                | Action::Sweep
                | Action::Clear
                | Action::Restart
                | Action::Relabel
                | Action::SetCredential
                | Action::Succeed
                | Action::Upgrade
                | Action::Start => None,
            },
            removal: desired.removals.get(&uid).cloned().unwrap_or(Removal {
                reason: BY_HAND.to_owned(),
                grace: Duration::ZERO,
            }),
            path: path.unwrap_or_default(),
        }
    }

    /// Does it, when it has its turn if it must wait for one.
    pub(super) async fn run(
        self,
        mounter: Arc<Mounter>,
        ledger: Arc<Ledger>,
        turn: Option<Arc<Semaphore>>,
        cancel: CancellationToken,
    ) -> Done {
        let Step { uid, action } = self.step;
        let _permit = match &turn {
            None => None,
            Some(turn) => tokio::select! {
                permit = turn.acquire() => permit.ok(), // cancel-safe per tokio's docs, and nobody waits in it afterwards
                () = cancel.cancelled() => {
                    let outcome = Ok(Outcome::Nothing);
                    return Done { uid, outcome };
                }
            },
        };
        let outcome = match action {
            Action::Stop => self.stop(mounter, ledger, cancel).await,
            Action::Finish => strike(ledger, uid, self.removal.reason).await,
            Action::Sweep => {
                blocking(move || {
                    mounter.forget(uid);
                    Ok(Outcome::Nothing)
                })
                .await
            }
            Action::Clear => {
                blocking(move || {
                    let cleared = self
                        .record
                        .as_ref()
                        .map_or(Ok(()), |record| mounter.clear_dead(record));
                    cleared.map(|()| Outcome::Nothing)
                })
                .await
            }
            Action::Supersede => strike(ledger, uid, TAKEN_OVER.to_owned()).await,
            Action::Restart => self.restart(mounter, cancel).await,
            Action::Relabel => {
                blocking(move || {
                    let record = self.record.as_ref();
                    with_spec(self.order.as_ref(), |about, spec| match record {
                        None => Ok(Outcome::Nothing),
                        Some(record) => mounter.relabel(about, spec, record).map(|()| Outcome::Relabelled),
                    })
                })
                .await
            }
            Action::Adopt { orphan } => self.adopt(orphan, mounter, ledger, cancel).await,
            Action::Evict { orphan } => self.evict(orphan, mounter, ledger, cancel).await,
            Action::SetCredential => {
                blocking(move || {
                    let record = self.record.as_ref();
                    with_spec(self.order.as_ref(), |about, spec| {
                        record.map_or(Ok(Outcome::Nothing), |record| {
                            mounter
                                .set_credential(about, record, spec, &cancel)
                                .map(Outcome::Serves)
                        })
                    })
                })
                .await
            }
            Action::Succeed => self.succeed(mounter, Cause::Death, cancel).await,
            Action::Upgrade => self.succeed(mounter, Cause::Upgrade, cancel).await,
            Action::Start => {
                blocking(move || {
                    with_spec(self.order.as_ref(), |about, spec| {
                        mounter
                            .start(about, spec, self.record.as_ref(), &cancel)
                            .map(Outcome::Serves)
                    })
                })
                .await
            }
        };
        let outcome = match outcome {
            // Whoever has called it off knows.
            Err(MountError::CalledOff) => Ok(Outcome::Nothing),
            outcome => outcome,
        };
        Done { uid, outcome }
    }

    async fn succeed(
        self,
        mounter: Arc<Mounter>,
        cause: Cause,
        cancel: CancellationToken,
    ) -> Result<Outcome, MountError> {
        blocking(move || {
            let record = self.record.as_ref();
            with_spec(self.order.as_ref(), |_, spec| {
                record.map_or(Ok(Outcome::Nothing), |record| {
                    let status = mounter.succeed(spec, record, cause, &cancel)?;
                    Ok(Outcome::Succeeded { cause, status })
                })
            })
        })
        .await
    }

    async fn stop(
        self,
        mounter: Arc<Mounter>,
        ledger: Arc<Ledger>,
        cancel: CancellationToken,
    ) -> Result<Outcome, MountError> {
        let (uid, Removal { reason, grace }) = (self.step.uid, self.removal);
        match mounter
            .stop(uid, &self.path, self.record, grace, false, cancel)
            .await?
        {
            Stopped::Done => strike(ledger, uid, reason).await,
            Stopped::Interrupted => Ok(Outcome::Nothing),
        }
    }

    async fn adopt(
        self,
        orphan: Uuid,
        mounter: Arc<Mounter>,
        ledger: Arc<Ledger>,
        cancel: CancellationToken,
    ) -> Result<Outcome, MountError> {
        let (adopting, order) = (Arc::clone(&mounter), self.order.clone());
        let adopted = blocking(
            move || match order.as_ref().map(|order| (&order.about, &order.spec)) {
                Some((about, Ok(spec))) => adopting.adopt(about, spec, orphan),
                Some((_, Err(_))) | None => Ok(None),
            },
        );
        match adopted.await? {
            Some(status) => {
                strike(ledger, orphan, TAKEN_OVER.to_owned()).await?;
                Ok(Outcome::Adopted { orphan, status })
            }
            // It does not answer, and its place is needed.
            None => self.evict(orphan, mounter, ledger, cancel).await,
        }
    }

    async fn evict(
        self,
        orphan: Uuid,
        mounter: Arc<Mounter>,
        ledger: Arc<Ledger>,
        cancel: CancellationToken,
    ) -> Result<Outcome, MountError> {
        preflight(&mounter, self.order.as_ref(), &self.path).await?;
        let stopped = mounter.stop(orphan, &self.path, self.orphan, RESTART_GRACE, true, cancel);
        match stopped.await? {
            Stopped::Interrupted => Ok(Outcome::Nothing),
            Stopped::Done => {
                strike(ledger, orphan, TAKEN_OVER.to_owned()).await?;
                Ok(Outcome::Evicted { orphan })
            }
        }
    }

    async fn restart(self, mounter: Arc<Mounter>, cancel: CancellationToken) -> Result<Outcome, MountError> {
        let Some(record) = self.record else {
            return Ok(Outcome::Nothing);
        };
        let (uid, old_path) = (record.assignment_uid, record.path.clone());
        preflight(&mounter, self.order.as_ref(), &old_path).await?;
        let keep_place = old_path == self.path;
        let stopping = Arc::clone(&mounter);
        let stopped = stopping.stop(
            uid,
            &old_path,
            Some(record),
            RESTART_GRACE,
            keep_place,
            cancel.clone(),
        );
        if stopped.await? == Stopped::Interrupted {
            return Ok(Outcome::Nothing);
        }
        let order = self.order;
        blocking(move || {
            with_spec(order.as_ref(), |about, spec| {
                mounter.start(about, spec, None, &cancel).map(Outcome::Serves)
            })
        })
        .await
    }
}

/// Nothing live is stopped for an order whose start is known to fail.
async fn preflight(
    mounter: &Arc<Mounter>,
    order: Option<&Order>,
    now_at: &std::path::Path,
) -> Result<(), MountError> {
    let (mounter, order, now_at) = (Arc::clone(mounter), order.cloned(), now_at.to_owned());
    blocking(
        move || match order.as_ref().map(|order| (&order.about, &order.spec)) {
            Some((about, Ok(spec))) => mounter.preflight(about, spec, &now_at),
            Some((_, Err(_))) | None => Ok(()),
        },
    )
    .await
}

/// The plan gives such steps only for orders that can be carried out.
fn with_spec(
    order: Option<&Order>,
    act: impl FnOnce(&About, &Spec) -> Result<Outcome, MountError>,
) -> Result<Outcome, MountError> {
    match order.map(|order| (&order.about, order.spec.as_ref())) {
        Some((about, Ok(spec))) => act(about, spec),
        Some((_, Err(_))) | None => Ok(Outcome::Nothing),
    }
}

/// A removal that was carried out leaves the ledger.
async fn strike(ledger: Arc<Ledger>, uid: Uuid, reason: String) -> Result<Outcome, MountError> {
    let struck =
        blocking(move || ledger.change(|held| Ok::<_, LedgerError>(held.after_removal(&uid.to_string()))));
    match struck.await {
        Ok(()) => Ok(Outcome::Removed(reason)),
        Err(error) => Err(MountError::Host {
            reason: "LedgerUnwritable",
            message: format!("unmounted, but the ledger cannot be written: {error}; free some space"),
        }),
    }
}
