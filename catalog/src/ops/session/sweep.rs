//! Finds what no wake-up came for: commits of another server on the same database. One look for all streams of this
//! server, by what the commits have left in the rows; with a look for each stream, ten thousand idle hosts read the
//! database seven hundred times a second to find nothing.
//!
//! Invariants: what changes a host's orders carries a revision, but for the bound of its pool, which is compared; a sweep
//! looks at everything since the view of the last one that succeeded; a stream that is woken for nothing looks, and finds
//! nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::domain::Error;
use crate::ops::Catalog;
use crate::store;

/// What the last sweep has seen.
pub struct Swept {
    revision: i64,
    /// How long the hosts of pools may start mounts without the catalog.
    offline_maxima: BTreeMap<Uuid, Duration>,
}

impl Catalog {
    /// Where sweeps begin: streams that begin after this have looked at a later state.
    pub async fn swept(&self) -> Result<Swept, Error> {
        let snapshot = self.read().await?;
        Ok(Swept {
            revision: store::realm::get(&snapshot).await?.revision,
            offline_maxima: store::pool::offline_maxima(&snapshot).await?,
        })
    }

    /// Sweeps until `shutdown`. One that fails is made again at the next turn, and misses nothing by it.
    pub async fn sweep_orders(&self, mut swept: Swept, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return, // cancel-safe: no state
                () = tokio::time::sleep(self.settings.look_interval) => {} // cancel-safe: no state
            }
            if let Err(error) = self.sweep(&mut swept).await {
                tracing::warn!(%error, "cannot look for orders of other servers; trying again");
            }
        }
    }

    /// Wakes the streams that have missed something since the last sweep.
    async fn sweep(&self, swept: &mut Swept) -> Result<(), Error> {
        let snapshot = self.read().await?;
        let revision = store::realm::get(&snapshot).await?.revision;
        if revision == swept.revision {
            return Ok(());
        }
        let changed = store::assignment::hosts_changed_since(&snapshot, swept.revision).await?;
        let hosts = store::host::all(&snapshot).await?;
        let offline_maxima = store::pool::offline_maxima(&snapshot).await?;
        drop(snapshot);
        let missed = self.store.orders_missed(changed);
        if missed > 0 {
            tracing::info!(missed, revision, "hosts have orders of another server");
        }
        // A host that is gone or banned is told so by its look, and its stream knows whether it was told before.
        let before = std::mem::replace(&mut swept.offline_maxima, offline_maxima);
        let now = &swept.offline_maxima;
        self.store.look_again(|host| {
            hosts
                .get(&host)
                .is_none_or(|host| host.is_banned || before.get(&host.pool_uid) != now.get(&host.pool_uid))
        });
        swept.revision = revision;
        Ok(())
    }
}
