//! What is known of several hosts at once: one statement for each kind of rows, however many hosts it is.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::domain::Error;
use crate::domain::activation::Activation;
use crate::domain::assignment::Assignment;
use crate::domain::host::Host;
use crate::domain::mount::{Digest, ObservedMount, Ordered, ReportedAt, digest_report};
use crate::domain::names::ActivationName;
use crate::ops::enrollment::host_behind;
use crate::policy::Identity;
use crate::store::{self, Snapshot};

/// Hosts by uid.
pub(super) struct Hosts(BTreeMap<Uuid, Host>);

impl Hosts {
    pub(super) async fn of(
        snapshot: &Snapshot,
        identities: impl Iterator<Item = &Identity>,
    ) -> Result<Self, Error> {
        let uids: Vec<Uuid> = identities.map(|identity| identity.uid).collect();
        Ok(Self(store::host::by_uids(snapshot, &uids).await?))
    }

    /// The host behind a certificate, or why it is none.
    pub(super) fn behind(&self, identity: &Identity, snapshot: &Snapshot) -> Result<&Host, Error> {
        host_behind(identity, self.0.get(&identity.uid), snapshot.now())
    }
}

/// What hosts have reported and what is ordered of them.
#[derive(Default)]
pub(super) struct Mounts {
    reported: BTreeMap<Uuid, BTreeMap<Uuid, ObservedMount>>,
    ordered: BTreeMap<Uuid, Vec<Assignment>>,
}

impl Mounts {
    pub(super) async fn of(snapshot: &Snapshot, hosts: &[Uuid]) -> Result<Self, Error> {
        if hosts.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self {
            reported: store::mount::of_hosts(snapshot, hosts).await?,
            ordered: store::assignment::of_hosts_since(snapshot, hosts, 0).await?,
        })
    }

    /// What is ordered of a host.
    pub(super) fn ordered(&self, host: Uuid) -> &[Assignment] {
        self.ordered.get(&host).map_or(&[], Vec::as_slice)
    }

    /// What of a report is news.
    pub(super) fn news(&self, host: Uuid, mut reported: Vec<ObservedMount>, at: ReportedAt) -> Digest {
        let nothing = BTreeMap::new();
        let stored = self.reported.get(&host).unwrap_or(&nothing);
        let assignments = self.ordered(host);
        let names: BTreeMap<Uuid, &str> = assignments
            .iter()
            .map(|assignment| (assignment.uid, assignment.spec.activation.as_str()))
            .collect();
        for mount in &mut reported {
            // What a host calls an activation counts for orphans only, and only if it is a name at all.
            match names.get(&mount.assignment_uid) {
                Some(name) => mount.activation = (*name).to_owned(),
                None if mount.activation.parse::<ActivationName>().is_ok() => {}
                None => mount.activation.clear(),
            }
        }
        let ordered = assignments
            .iter()
            .map(|assignment| {
                let order = match assignment.removal {
                    Some(_) => Ordered::Removed {
                        revision: assignment.revision,
                    },
                    None => Ordered::Mounted,
                };
                (assignment.uid, order)
            })
            .collect();
        digest_report(stored, &ordered, reported, at)
    }
}

/// What pools have been given, to see whether a host lacks some of it.
pub(super) struct Given(BTreeMap<Uuid, Vec<Activation>>);

impl Given {
    pub(super) async fn to_pools_of(
        snapshot: &Snapshot,
        hosts: impl Iterator<Item = &Host>,
    ) -> Result<Self, Error> {
        let pools: BTreeSet<Uuid> = hosts.map(|host| host.pool_uid).collect();
        let mut given = BTreeMap::new();
        for pool in pools {
            given.insert(pool, store::activation::live_of_pool(snapshot, pool).await?);
        }
        Ok(Self(given))
    }

    /// Whether a host that takes mounts has neither an order nor a removal for something that its pool was given: it had
    /// still to unmount it when its drain was called off.
    pub(super) fn is_lacked_by<'a>(
        &self,
        host: &Host,
        ordered: impl IntoIterator<Item = &'a Assignment>,
    ) -> bool {
        let ordered = ordered.into_iter();
        let has: BTreeSet<Uuid> = ordered.map(|assignment| assignment.activation_uid).collect();
        let given = self.0.get(&host.pool_uid).map_or(&[][..], Vec::as_slice);
        !host.unschedulable
            && host.ban.is_none()
            && given.iter().any(|activation| !has.contains(&activation.meta.uid))
    }
}
