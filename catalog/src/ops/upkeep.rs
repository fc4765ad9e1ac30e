//! What the catalog does by itself, by the clock: writes down when hosts were last heard of, and ends withdrawals whose
//! grace is over. All of it is in the database, so it goes on where it was after a restart.

use tokio_util::sync::CancellationToken;

use super::Catalog;
use crate::domain::Error;
use crate::domain::host::heartbeat_interval;
use crate::store;

impl Catalog {
    /// Runs until `shutdown`. What fails is tried again at the next turn.
    pub async fn upkeep(&self, shutdown: CancellationToken) {
        // Half a heartbeat, at most five seconds: a host is never more than that older in the database than in truth, and
        // a drain, whose grace people give in minutes, ends no later than that.
        let interval = heartbeat_interval(self.settings.host_lost_after) / 2;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break, // cancel-safe: no state
                () = tokio::time::sleep(interval) => {} // cancel-safe: no state
            }
            self.turn().await;
        }
        // The last heartbeats, so that a restart does not age every host.
        if let Err(error) = self.write_heard().await {
            tracing::warn!(%error, "cannot write down when hosts were last heard of");
        }
    }

    /// One turn of the upkeep.
    pub async fn turn(&self) {
        if let Err(error) = self.write_heard().await {
            tracing::warn!(%error, "cannot write down when hosts were last heard of; trying again");
        }
        match self.end_drains().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "withdrawals have ended"),
            Err(error) => tracing::warn!(%error, "cannot end withdrawals; trying again"),
        }
    }

    /// Has every host told what its assignments are now, where that differs from what it was told: the operator's rules
    /// about endpoints are in them and may have changed while the catalog was down. To be called at start.
    pub async fn follow_settings(&self) -> Result<(), Error> {
        let writing = self.write().await?;
        let live = store::activation::all_live(&writing).await?;
        if live.is_empty() {
            return Ok(());
        }
        self.assign_all(&writing, &live).await?;
        if writing.has_orders() {
            writing.commit_observed().await?;
        }
        Ok(())
    }

    /// Writes down when hosts were last heard of: one transaction for all of them.
    pub(super) async fn write_heard(&self) -> Result<(), Error> {
        let heard = self.streams.take_heard();
        if heard.is_empty() {
            return Ok(());
        }
        let written = self.write_all_heard(&heard).await;
        if written.is_err() {
            self.streams.put_back(heard);
        }
        written
    }

    async fn write_all_heard(&self, heard: &[(uuid::Uuid, time::OffsetDateTime)]) -> Result<(), Error> {
        let writing = self.write().await?;
        store::host::set_seen(&writing, heard).await?;
        writing.commit_unrecorded().await
    }
}
