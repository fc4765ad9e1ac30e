//! Whether a host serves: cordon, uncordon, drain, ban. What follows for its mounts is ordered in the same transaction;
//! how far the host is shows in its state.

use std::time::Duration;

use mooring_identity::StatementKind;
use mooring_proto::agent::v1 as agent_pb;
use prost::Message;

use super::{Catalog, HostView, find};
use crate::domain::Error;
use crate::domain::assignment::RemovalOrder;
use crate::domain::audit::{Change, EventKind};
use crate::domain::host::{Ban, Host};
use crate::domain::names::{HostName, Scope};
use crate::policy::{Action, Actor, Permit};
use crate::store::{self, Writing};

host_action!(
    /// Give a host no new mounts.
    CordonHost(HostName), "CordonHost"
);
host_action!(
    /// Have a host take mounts again.
    UncordonHost(HostName), "UncordonHost"
);
host_action!(
    /// Empty a host.
    DrainHost(HostName), "DrainHost"
);
host_action!(
    /// Ban a host.
    BanHost(HostName), "BanHost"
);

impl Catalog {
    /// Lets a host keep what it has, and gives it nothing more.
    pub async fn cordon_host(&self, permit: Permit<CordonHost>) -> Result<HostView, Error> {
        let writing = self.write().await?;
        let (CordonHost(name), actor) = permit.spend(&writing).await?;
        let mut host = member(&writing, &name).await?;
        host.unschedulable = true;
        let change = change_of(&host, &actor, "CordonHost");
        self.changed(writing, host, change).await
    }

    /// Has a host take mounts again: what its pool has been given, also what a drain has taken from it. Unmounts that a
    /// drain has ordered and the host has not carried out are called off in the same transaction.
    pub async fn uncordon_host(&self, permit: Permit<UncordonHost>) -> Result<HostView, Error> {
        let writing = self.write().await?;
        let (UncordonHost(name), actor) = permit.spend(&writing).await?;
        let mut host = member(&writing, &name).await?;
        host.unschedulable = false;
        host.drain_time = None;
        // Somebody has looked at it; a copy that is still about is noted again.
        host.clone_time = None;
        let drained = store::assignment::drained_of_host(&writing, host.meta.uid).await?;
        self.assign_host(&writing, &host).await?;
        let left = store::assignment::drained_of_host(&writing, host.meta.uid).await?;
        let change = change_of(&host, &actor, "UncordonHost").detail("unmounts_called_off", drained - left);
        self.changed(writing, host, change).await
    }

    /// Empties a host: each of its mounts ends when no file is open in it, or when the grace is over.
    pub async fn drain_host(&self, permit: Permit<DrainHost>, grace: Duration) -> Result<HostView, Error> {
        let writing = self.write().await?;
        let (DrainHost(name), actor) = permit.spend(&writing).await?;
        let mut host = member(&writing, &name).await?;
        host.unschedulable = true;
        host.drain_time.get_or_insert(writing.now());
        let removal = RemovalOrder {
            reason: RemovalOrder::DRAINED,
            grace,
        };
        let revision = writing.next_revision().await?;
        store::assignment::remove_of_host(&writing, host.meta.uid, &removal, revision, false).await?;
        let change = change_of(&host, &actor, "DrainHost").detail("grace_seconds", grace.as_secs());
        self.changed(writing, host, change).await
    }

    /// Bans a host. It is told by a statement of the CA; its orders end here and now.
    pub async fn ban_host(&self, permit: Permit<BanHost>, reason: String) -> Result<HostView, Error> {
        let writing = self.write().await?;
        let (BanHost(name), actor) = permit.spend(&writing).await?;
        let mut host = find(&writing, &name).await?;
        if host.ban.is_some() {
            return self.host_view(&writing, host).await;
        }
        host.unschedulable = true;
        let change = change_of(&host, &actor, "BanHost").detail("reason", &reason);
        host.ban = Some(Ban {
            time: writing.now(),
            reason,
            done: None,
        });
        let removal = RemovalOrder {
            reason: RemovalOrder::BANNED,
            grace: Duration::ZERO,
        };
        let revision = writing.next_revision().await?;
        store::assignment::remove_of_host(&writing, host.meta.uid, &removal, revision, true).await?;
        self.changed(writing, host, change).await
    }

    /// The statement that a banned host is told; `None` for a member of the fleet.
    pub(in crate::ops) fn ban_statement(&self, host: &Host) -> Result<Option<agent_pb::SignedBan>, Error> {
        let Some(Ban {
            time,
            reason,
            done: _,
        }) = &host.ban
        else {
            return Ok(None);
        };
        let ban = agent_pb::Ban {
            host_uid: host.meta.uid.to_string(),
            ban_time: Some(prost_types::Timestamp {
                seconds: time.unix_timestamp(),
                nanos: time.nanosecond().cast_signed(),
            }),
            reason: reason.clone(),
        };
        let statement = ban.encode_to_vec();
        let signature = self
            .authority
            .sign_statement(StatementKind::Ban, &statement)
            .map_err(Error::internal)?;
        Ok(Some(agent_pb::SignedBan { statement, signature }))
    }

    async fn changed(&self, writing: Writing, mut host: Host, change: Change) -> Result<HostView, Error> {
        host.meta.touch(writing.now());
        store::host::update(&writing, &host).await?;
        let view = self.host_view(&writing, host).await?;
        writing.commit(change).await?;
        Ok(view)
    }
}

fn change_of(host: &Host, actor: &Actor, method: &'static str) -> Change {
    Change::new(&actor.name, method, EventKind::Updated, &host.name, host.meta.uid)
}

/// A host that is not banned.
async fn member(writing: &Writing, name: &HostName) -> Result<Host, Error> {
    let host = find(writing, name).await?;
    match &host.ban {
        None => Ok(host),
        Some(_) => Err(Error::Precondition {
            reason: "HostBanned",
            subject: name.to_string(),
            problem: format!(
                "{name} is banned, and there is no way back; delete it (mooring hosts delete {}) and enrol the machine anew",
                name.id()
            ),
        }),
    }
}
