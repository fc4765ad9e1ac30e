//! The stream to the catalog: says what this host holds, takes what it shall have into the ledger, acknowledges, and
//! reports what is observed. It comes back by itself, sooner at first and at random, and never gives up.
//!
//! Invariants: an acknowledgement is sent only for what is on disk; a catalog that was never ours, or has gone back in
//! time, is listened to no further than its Welcome, and this host holds still.

pub mod beginnings;
#[cfg(test)]
pub(crate) mod fake;
mod stream;

pub use stream::life;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mooring_identity::{ClientTls, Clock};
use mooring_proto::agent::v1 as pb;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff;
use crate::ban::BanDesk;
use crate::blocking::blocking;
use crate::host::Host;
use crate::ledger::{Ledger, LedgerError};
use crate::offline::Offline;
use crate::status::HostStatus;

/// A session that has lasted this long was a good one: the next attempt begins with the shortest delay.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// How often a host that could not write its ledger looks whether it can.
const LEDGER_LOOK: Duration = Duration::from_secs(2);

/// What others may know of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionState {
    /// Whether the stream is open and the catalog has welcomed this host.
    pub connected: bool,
    /// When the catalog was last heard of.
    pub seen: Option<OffsetDateTime>,
    /// Why this host holds still, if it does.
    pub holding_still: Option<String>,
}

/// The loop that keeps the stream open.
pub struct Session {
    /// Who this host is.
    pub host: Host,
    /// What it shows and believes.
    pub tls: Arc<ClientTls>,
    /// Told when the certificate was renewed: the stream is opened anew, since the catalog ends it with the old one, and
    /// not before there is a connection for the new one.
    pub renewed: watch::Receiver<OffsetDateTime>,
    /// What it holds.
    pub ledger: Arc<Ledger>,
    /// What it observes.
    pub status: watch::Receiver<HostStatus>,
    /// What others may know.
    pub state: watch::Sender<SessionState>,
    /// What the machine is.
    pub facts: watch::Receiver<pb::HostFacts>,
    /// Where a ban is told.
    pub bans: BanDesk,
    /// How long this host was without its catalog.
    pub offline: Offline,
    /// Tells this start of the agent from others.
    pub instance: String,
    /// The longest time between two reports.
    pub heartbeat_interval: Duration,
    /// The clock.
    pub clock: Clock,
}

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The agent ends.
    #[error("the agent ends")]
    Shutdown,
    /// A new certificate is there.
    #[error("the certificate was renewed")]
    Renewed,
    /// Hello would say something else now.
    #[error("other backends are installed now")]
    Changed,
    /// A newer stream, a restart of the catalog, the end of the certificate.
    #[error("the catalog has ended the stream")]
    ByCatalog,
    /// A delta does not follow on what is held.
    #[error(transparent)]
    Gap(#[from] crate::ledger::Gap),
    /// The old state is kept, and nothing acknowledged.
    #[error("the ledger cannot be written; the old state is kept; free some space")]
    Ledger(#[from] crate::ledger::LedgerError),
    /// No connection.
    #[error("no connection to the catalog")]
    Dial(#[from] mooring_identity::DialError),
    /// The catalog says no, or the connection broke.
    #[error("{}", describe(.0))]
    Status(Box<tonic::Status>),
    /// No answer in time.
    #[error("the catalog does not {0} in time")]
    TimedOut(&'static str),
    /// Not what the protocol says.
    #[error("the catalog speaks out of turn ({0}); are agent and catalog of fitting versions?")]
    OutOfTurn(&'static str),
}

impl Session {
    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut failures = 0;
        let mut dialled = None;
        loop {
            let begun = Instant::now();
            let ended = self.attend(&mut dialled, &shutdown).await;
            self.state.send_modify(|state| state.connected = false);
            let (offline, bound) = (self.offline.clone(), self.ledger.held().offline_bound());
            let now = self.clock.now();
            blocking(move || offline.ended(bound, now)).await;
            match &ended {
                Ended::Shutdown => return,
                Ended::Renewed | Ended::Changed => {
                    failures = 0;
                    continue;
                }
                // The next Hello asks for a snapshot; there is nothing to wait for.
                Ended::Gap(gap) => tracing::info!(%gap, "asking for a snapshot"),
                Ended::ByCatalog
                | Ended::Ledger(_)
                | Ended::Dial(_)
                | Ended::Status(_)
                | Ended::TimedOut(_)
                | Ended::OutOfTurn(_) => {}
            }
            failures = if begun.elapsed() > GOOD_AFTER {
                1
            } else {
                failures + 1
            };
            let delay = backoff::CATALOG.delay(failures, self.clock.jitter());
            let error = crate::enroll::causes(&ended);
            // The first few are a restart of the catalog; from then on a person should know.
            if failures == 4 {
                tracing::warn!(
                    error,
                    endpoint = self.host.endpoint,
                    "no session with the catalog; mounts stay as they are"
                );
            } else {
                tracing::info!(error, retry_in = ?delay, "the session has ended");
            }
            tokio::select! {
                () = shutdown.cancelled() => return, // cancel-safe: no state
                () = tokio::time::sleep(delay) => {} // cancel-safe: no state
                () = self.ledger_is_writable(), if matches!(ended, Ended::Ledger(_)) => {} // cancel-safe: writes what is there
            }
        }
    }

    /// Waits until what is held can be written down again, which costs nobody but this host. A dial would cost the catalog
    /// everything that this host is to mount, and thousands of hosts may have the same trouble at the same time.
    async fn ledger_is_writable(&self) {
        loop {
            tokio::time::sleep(LEDGER_LOOK).await;
            let ledger = Arc::clone(&self.ledger);
            let written = blocking(move || ledger.change(|held| Ok::<_, LedgerError>(held.clone()))).await;
            if written.is_ok() {
                return;
            }
        }
    }
}

/// A status in words; below a broken connection lies the dialler's own, better text.
fn describe(status: &tonic::Status) -> String {
    match mooring_identity::DialError::find(status) {
        Some(error) => crate::enroll::causes(error),
        None => format!("the catalog answers {:?}: {}", status.code(), status.message()),
    }
}

#[cfg(test)]
mod tests;
