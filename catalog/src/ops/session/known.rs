//! What is known of several hosts at once: one statement for each kind of rows, however many hosts it is.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::domain::Error;
use crate::domain::host::Host;
use crate::domain::mount::{Digest, ObservedMount, Ordered, ReportedAt, digest_report};
use crate::domain::names::ActivationName;
use crate::ops::enrollment::host_behind;
use crate::policy::Identity;
use crate::store::assignment::Listed;
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
    ordered: BTreeMap<Uuid, Vec<Listed>>,
}

impl Mounts {
    pub(super) async fn of(snapshot: &Snapshot, hosts: &[Uuid]) -> Result<Self, Error> {
        if hosts.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self {
            reported: store::mount::of_hosts(snapshot, hosts).await?,
            ordered: store::assignment::listed_of_hosts(snapshot, hosts).await?,
        })
    }

    /// What of a report is news.
    pub(super) fn news(&self, host: Uuid, mut reported: Vec<ObservedMount>, at: ReportedAt) -> Digest {
        let nothing = BTreeMap::new();
        let stored = self.reported.get(&host).unwrap_or(&nothing);
        let listed = self.ordered.get(&host).map_or(&[][..], Vec::as_slice);
        let names: BTreeMap<Uuid, &str> = listed
            .iter()
            .map(|listed| (listed.uid, listed.activation.as_str()))
            .collect();
        for mount in &mut reported {
            // What a host calls an activation counts for orphans only, and only if it is a name at all.
            match names.get(&mount.assignment_uid) {
                Some(name) => mount.activation = (*name).to_owned(),
                None if mount.activation.parse::<ActivationName>().is_ok() => {}
                None => mount.activation.clear(),
            }
        }
        let order = |listed: &Listed| match listed.is_removal {
            true => Ordered::Removed {
                revision: listed.revision,
            },
            false => Ordered::Mounted,
        };
        let ordered = listed.iter().map(|listed| (listed.uid, order(listed))).collect();
        digest_report(stored, &ordered, reported, at)
    }
}
