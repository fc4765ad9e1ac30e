//! Hosts as operators see them. Whether they serve is `ops/host/duty.rs`. How a host becomes one is `ops/enrollment.rs`, what it says is `ops/session.rs`.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Catalog, field_list};
use crate::domain::activation::MountState;
use crate::domain::audit::{Change, EventKind};
use crate::domain::host::{Host, HostChange, HostState};
use crate::domain::names::{HostName, PoolName, Scope};
use crate::domain::{Error, Page, Paged};
use crate::policy::{Action, Permit};
use crate::store::{self, Snapshot};

macro_rules! host_action {
    ($(#[$doc:meta])* $action:ident $(($target:ty))?, $rpc:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action $((pub $target))?;

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.HostService/", $rpc);

            fn scopes(&self) -> Vec<Scope> {
                vec![Scope::Realm]
            }
        }
    };
}

pub mod duty;

host_action!(
    /// Read a host.
    GetHost(HostName), "GetHost"
);
host_action!(
    /// List hosts: of a pool, or all.
    ListHosts(Option<PoolName>), "ListHosts"
);
host_action!(
    /// Change a host.
    UpdateHost(HostName), "UpdateHost"
);
host_action!(
    /// Remove a host.
    DeleteHost(HostName), "DeleteHost"
);

/// A host and how it is now.
#[derive(Clone, Debug)]
pub struct HostView {
    /// The host.
    pub host: Host,
    /// How it is.
    pub state: HostState,
    /// How many mounts it shall have or has yet to end.
    pub mounts: i32,
    /// What is to be known of it.
    pub message: String,
}

impl Catalog {
    /// Reads a host.
    pub async fn get_host(&self, permit: Permit<GetHost>) -> Result<HostView, Error> {
        let snapshot = self.read().await?;
        let (GetHost(name), _) = permit.spend(&snapshot).await?;
        let host = find(&snapshot, &name).await?;
        self.host_view(&snapshot, host).await
    }

    /// Lists the hosts of a pool, or all.
    pub async fn list_hosts(&self, permit: Permit<ListHosts>, page: &Page) -> Result<Paged<HostView>, Error> {
        let snapshot = self.read().await?;
        let (ListHosts(pool), _) = permit.spend(&snapshot).await?;
        let pool = match pool {
            Some(name) => {
                let pool = store::pool::find(&snapshot, &name).await?;
                Some(pool.ok_or_else(|| Error::absent(&name))?.meta.uid)
            }
            None => None,
        };
        let Paged { items, next } = store::host::list(&snapshot, pool, page).await?;
        Ok(Paged {
            items: self.host_views(&snapshot, items).await?,
            next,
        })
    }

    /// Changes a host. One that takes mounts again gets what its pool has meanwhile been given.
    pub async fn update_host(
        &self,
        permit: Permit<UpdateHost>,
        change: HostChange,
    ) -> Result<HostView, Error> {
        let writing = self.write().await?;
        let (UpdateHost(name), actor) = permit.spend(&writing).await?;
        let mut host = find(&writing, &name).await?;
        let fields = field_list(change.fields().into_iter());
        let HostChange {
            texts,
            unschedulable,
            etag,
        } = change;
        host.meta.check_etag(&etag, &name)?;
        host.meta.change(texts, writing.now());
        let opened = host.unschedulable && unschedulable == Some(false);
        if opened && host.ban.is_some() {
            let problem = format!(
                "{name} is banned and takes no mounts ever again; delete it and enrol the machine anew"
            );
            return Err(Error::invalid("host.unschedulable", problem));
        }
        host.unschedulable = unschedulable.unwrap_or(host.unschedulable);
        if opened {
            host.drain_time = None;
            // As when it is uncordoned.
            host.clone_time = None;
        }
        store::host::update(&writing, &host).await?;
        if opened {
            self.assign_host(&writing, &host).await?;
        }
        let change = Change::new(
            &actor.name,
            "UpdateHost",
            EventKind::Updated,
            &name,
            host.meta.uid,
        );
        let view = self.host_view(&writing, host).await?;
        writing.commit(change.detail("fields", fields)).await?;
        Ok(view)
    }

    /// Removes a host from the fleet. It gets no order to unmount: what it has stays until it is unmounted there, so a
    /// host with mounts is removed only by force.
    pub async fn delete_host(
        &self,
        permit: Permit<DeleteHost>,
        etag: &str,
        force: bool,
    ) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeleteHost(name), actor) = permit.spend(&writing).await?;
        let host = find(&writing, &name).await?;
        host.meta.check_etag(etag, &name)?;
        let uid = host.meta.uid;
        if !force {
            self.check_empty(&writing, &host).await?;
        }
        store::host::delete(&writing, uid).await?;
        let change = Change::new(&actor.name, "DeleteHost", EventKind::Deleted, &name, uid);
        let change = change.detail("force", force);
        let change = match &host.ban {
            Some(ban) if ban.done.is_some() => change.detail("ban", "carried out"),
            Some(_) => change.detail("ban", "not carried out"),
            None => change,
        };
        writing.commit(change).await?;
        self.streams.end(uid);
        Ok(())
    }

    /// Refuses for a host whose mounts would be nobody's: also those that it was ordered to have and has not told of yet,
    /// and those of one that is only cut off. A ban is told by the host's row alone, so that stays until it was carried out.
    async fn check_empty(&self, snapshot: &Snapshot, host: &Host) -> Result<(), Error> {
        let name = &host.name;
        if host.ban.is_some() {
            if !host.has_a_ban_to_carry_out() {
                return Ok(());
            }
            return Err(Error::Precondition {
                reason: "BanNotCarriedOut",
                subject: name.to_string(),
                problem: format!(
                    "{name} is banned and has not reported yet that its mounts are gone and its keys wiped; once deleted it \
                     would never hear of the ban, and keep them; wait for it, or, if its agent has ended with exit code 77 \
                     (it has carried the ban out and could not report that), or the machine is destroyed or wiped: mooring \
                     hosts delete {} --force",
                    name.id()
                ),
            });
        }
        let count = held(snapshot, host).await?;
        if count == 0 {
            return Ok(());
        }
        let mounts = if count == 1 { "a mount" } else { "mounts" };
        let problem = if self.host_state(snapshot, host, 1).is_waited_for() {
            format!(
                "{name} has {mounts} ({count}), or was ordered to have, which nobody could end any more but by hand on the \
                 machine; end them first: mooring hosts drain {} --wait; or leave them there on purpose: mooring hosts \
                 delete {} --force",
                name.id(),
                name.id()
            )
        } else {
            format!(
                "{name} is lost, with {mounts} ({count}) as far as is known: perhaps it is only cut off, and once deleted it \
                 would keep them; if the machine is gone for good: mooring hosts delete {} --force; if it may have been \
                 stolen: mooring hosts ban {}",
                name.id(),
                name.id()
            )
        };
        Err(Error::Precondition {
            reason: "HostHasMounts",
            subject: name.to_string(),
            problem,
        })
    }

    async fn host_view(&self, snapshot: &Snapshot, host: Host) -> Result<HostView, Error> {
        let mut views = self.host_views(snapshot, vec![host]).await?;
        views
            .pop()
            .ok_or_else(|| Error::internal("a host has lost its view"))
    }

    async fn host_views(&self, snapshot: &Snapshot, hosts: Vec<Host>) -> Result<Vec<HostView>, Error> {
        let uids = hosts.iter().map(|host| host.meta.uid);
        let counts = store::assignment::counts_of_hosts(snapshot, uids).await?;
        let mut views = Vec::with_capacity(hosts.len());
        for host in hosts {
            let mounts = counts.get(&host.meta.uid).copied().unwrap_or(0);
            let state = self.host_state(snapshot, &host, mounts);
            let holding_still = self.streams.holds_still(host.meta.uid);
            views.push(HostView {
                message: message(snapshot, &host, state, holding_still).await?,
                state,
                mounts,
                host,
            });
        }
        Ok(views)
    }
}

/// What is to be known of a host beyond its state.
async fn message(
    snapshot: &Snapshot,
    host: &Host,
    state: HostState,
    holding_still: Option<String>,
) -> Result<String, Error> {
    let mut parts = Vec::new();
    if let Some(ban) = &host.ban {
        parts.push(format!("banned: {}", ban.reason));
        if host.has_a_ban_to_carry_out() {
            parts.push(
                "it has not reported yet that it carried the ban out: perhaps it has not heard of it".into(),
            );
        }
    }
    let is_cordoned = match state {
        HostState::Ready | HostState::NotReady | HostState::Lost => host.unschedulable,
        // They say it themselves.
        HostState::Draining | HostState::Drained | HostState::Banned => false,
    };
    if is_cordoned {
        parts.push(format!(
            "cordoned: it keeps what it has and takes no new mounts; let it take some: mooring hosts uncordon {}",
            host.name.id()
        ));
    }
    if let Some(reason) = holding_still {
        parts.push(format!("holds still: {reason}"));
    }
    if host.ban.is_none() && host.facts.lack_default() {
        parts.push(
            "it has no mooring-fs that runs, so connectors of backend DEFAULT cannot be mounted there".into(),
        );
    }
    if state == HostState::Draining {
        /// Enough to begin with.
        const NAMED_MAX: usize = 3;
        let left = store::assignment::of_host(snapshot, host.meta.uid).await?;
        let mounts = store::mount::of_host(snapshot, host.meta.uid).await?;
        let named = left.iter().take(NAMED_MAX).map(|assignment| {
            let said = mounts.get(&assignment.uid).map(|mount| mount.message());
            match said.filter(|said| !said.is_empty()) {
                Some(said) => format!("{} ({said})", assignment.spec.activation),
                None => assignment.spec.activation.clone(),
            }
        });
        let mut waits = format!("waits for {}", named.collect::<Vec<_>>().join(", "));
        if left.len() > NAMED_MAX {
            waits.push_str(&format!(" and {} more", left.len() - NAMED_MAX));
        }
        parts.push(waits);
    }
    if let Some(time) = host.clone_time
        && host.is_cloned(snapshot.now())
    {
        let time = time.replace_nanosecond(0).unwrap_or(time);
        parts.push(format!(
            "CLONED: two machines use the state folder of this host, and one was refused at {time}; on the copy, stop the \
             agent, remove its state folder and enrol it anew"
        ));
    }
    Ok(parts.join("; "))
}

/// How many mounts a host has by its own words, or has been ordered to have and not reported to be rid of.
async fn held(snapshot: &Snapshot, host: &Host) -> Result<usize, Error> {
    let ordered = store::assignment::of_host(snapshot, host.meta.uid).await?;
    let seen = store::mount::of_host(snapshot, host.meta.uid).await?;
    let there = seen.iter().filter(|(_, mount)| match mount.state {
        MountState::Mounted
        | MountState::Degraded
        | MountState::Mounting
        | MountState::Unmounting
        | MountState::Orphaned => true,
        MountState::Unmounted | MountState::Failed => false,
    });
    let uids = ordered.iter().map(|assignment| assignment.uid);
    let uids: BTreeSet<Uuid> = uids.chain(there.map(|(uid, _)| *uid)).collect();
    Ok(uids.len())
}

async fn find(snapshot: &Snapshot, name: &HostName) -> Result<Host, Error> {
    store::host::find(snapshot, name)
        .await?
        .ok_or_else(|| Error::absent(name))
}
