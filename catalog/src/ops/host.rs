//! Hosts as operators see them. How a host becomes one is `ops/enrollment.rs`, what it says is `ops/session.rs`.

use super::{Catalog, field_list};
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
}

impl Catalog {
    /// Reads a host.
    pub async fn get_host(&self, permit: Permit<GetHost>) -> Result<HostView, Error> {
        let snapshot = self.read().await?;
        let (GetHost(name), _) = permit.spend(&snapshot).await?;
        let host = find(&snapshot, &name).await?;
        Ok(self.host_view(&snapshot, host))
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
        let hosts = store::host::list(&snapshot, pool, page).await?;
        Ok(hosts.map(|host| self.host_view(&snapshot, host)))
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
        host.unschedulable = unschedulable.unwrap_or(host.unschedulable);
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
        let view = self.host_view(&writing, host);
        writing.commit(change.detail("fields", fields)).await?;
        Ok(view)
    }

    /// Removes a host from the fleet. It gets no order to unmount: what it has stays until it is unmounted there.
    pub async fn delete_host(&self, permit: Permit<DeleteHost>, etag: &str) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeleteHost(name), actor) = permit.spend(&writing).await?;
        let host = find(&writing, &name).await?;
        host.meta.check_etag(etag, &name)?;
        let uid = host.meta.uid;
        store::host::delete(&writing, uid).await?;
        writing
            .commit(Change::new(
                &actor.name,
                "DeleteHost",
                EventKind::Deleted,
                &name,
                uid,
            ))
            .await?;
        self.streams.end(uid);
        Ok(())
    }

    fn host_view(&self, snapshot: &Snapshot, host: Host) -> HostView {
        HostView {
            state: self.host_state(snapshot, &host),
            host,
        }
    }
}

async fn find(snapshot: &Snapshot, name: &HostName) -> Result<Host, Error> {
    store::host::find(snapshot, name)
        .await?
        .ok_or_else(|| Error::absent(name))
}
