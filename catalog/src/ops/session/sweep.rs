//! Finds what no wake-up came for: commits of another server on the same database. One look for all streams of this
//! server, by what the commits have left in the rows; with a look for each stream, ten thousand idle hosts read the
//! database seven hundred times a second to find nothing.
//!
//! Invariants: what changes a host's orders carries a revision; a sweep looks at everything since the view of the last
//! one that succeeded; a stream that is woken for nothing looks, and finds nothing.

use tokio_util::sync::CancellationToken;

use crate::domain::Error;
use crate::ops::Catalog;
use crate::store;

impl Catalog {
    /// Sweeps until `shutdown`. One that fails is made again at the next turn, and misses nothing by it.
    pub async fn sweep_orders(&self, shutdown: CancellationToken) {
        // Streams that begin from now on have looked at a later state than this.
        let mut swept = *self.store.revisions().borrow();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return, // cancel-safe: no state
                () = tokio::time::sleep(self.settings.look_interval) => {} // cancel-safe: no state
            }
            match self.sweep(swept).await {
                Ok(revision) => swept = revision,
                Err(error) => tracing::warn!(%error, "cannot look for orders of other servers; trying again"),
            }
        }
    }

    /// Wakes the streams that have missed something since a revision. Answers the one that it has seen.
    async fn sweep(&self, since: i64) -> Result<i64, Error> {
        let snapshot = self.read().await?;
        let revision = store::realm::get(&snapshot).await?.revision;
        if revision == since {
            return Ok(revision);
        }
        let changed = store::assignment::hosts_changed_since(&snapshot, since).await?;
        let hosts = store::host::all(&snapshot).await?;
        drop(snapshot);
        let missed = self.store.orders_missed(changed);
        if missed > 0 {
            tracing::info!(missed, revision, "hosts have orders of another server");
        }
        // A host that is gone or banned is told so by its look, and its stream knows whether it was told before.
        self.store
            .look_again(|host| hosts.get(&host).is_none_or(|banned| *banned));
        Ok(revision)
    }
}
