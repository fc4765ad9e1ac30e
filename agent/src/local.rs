//! The local socket: tells programs on this host which mounts there are. Every caller is known by the kernel's word
//! (SO_PEERCRED) and is told only of the mounts that he may enter; root is told of all.

mod callers;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mooring_proto::local::v1 as pb;
use mooring_proto::local::v1::local_service_server::{LocalService, LocalServiceServer};
use mooring_proto::v1::MountState;
use time::OffsetDateTime;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::facts::AGENT_VERSION;
use crate::groups;
use crate::ledger::Held;
use crate::session::SessionState;
use crate::status::{HostStatus, MountStatus, timestamp};

use callers::Callers;

/// A call is answered from memory and the user database.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls under way on one connection.
const CALLS_PER_CONNECTION_MAX: usize = 4;

/// Somebody who empties the run folder takes the socket's name away; it is back within this time.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Look-ups of groups under way. They block threads of the pool that also looks at the mounts, and the directory may be slow.
static LOOK_UPS: Semaphore = Semaphore::const_new(4);

/// The socket, bound and ready to answer.
#[derive(Debug)]
pub struct Local {
    listener: UnixListener,
    path: PathBuf,
    /// Somebody has removed it, and it could not be made again.
    is_lost: bool,
}

/// What is told.
#[derive(Clone, Debug)]
pub struct Sources {
    /// This host's name.
    pub host: String,
    /// Its mounts.
    pub status: watch::Receiver<HostStatus>,
    /// Its session.
    pub session: watch::Receiver<SessionState>,
    /// Its ledger.
    pub held: watch::Receiver<std::sync::Arc<Held>>,
    /// When its certificate ends.
    pub expires: watch::Receiver<OffsetDateTime>,
}

impl Local {
    /// Binds the socket, in the place of one that an earlier agent has left. Everybody may connect: what is told
    /// depends on who asks.
    pub fn bind(path: &Path) -> io::Result<Local> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok(Local {
            listener,
            path: path.to_owned(),
            is_lost: false,
        })
    }

    /// The next connection. While nobody comes it is seen to that somebody can. Cancel-safe: a connection that was not
    /// taken waits.
    async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return accepted.map(|(stream, _)| stream), // cancel-safe per tokio's docs
                () = tokio::time::sleep(LOOK_INTERVAL) => self.bind_again_if_gone(), // cancel-safe: no state
            }
        }
    }

    /// Whatever else lies there is left alone: it may be somebody's.
    fn bind_again_if_gone(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return;
        }
        match Local::bind(&self.path) {
            Ok(again) => {
                tracing::warn!(path = %self.path.display(), "somebody has removed the local socket; it is made again");
                *self = again;
            }
            // In the run folder it fails until that is made again for the records of the mounts.
            Err(error) if !self.is_lost => {
                tracing::warn!(path = %self.path.display(), %error,
                    "somebody has removed the local socket, and it cannot be made again yet; is its folder there?");
                self.is_lost = true;
            }
            Err(_) => {}
        }
    }

    /// Answers until `shutdown`.
    pub async fn run(self, sources: Sources, shutdown: CancellationToken) {
        let path = self.path.clone();
        let callers = Box::pin(Callers::default().of(self));
        let served = Server::builder()
            .timeout(CALL_TIMEOUT)
            .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
            .add_service(LocalServiceServer::new(sources))
            .serve_with_incoming_shutdown(callers, shutdown.cancelled());
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::error!(%error, "the local socket fails");
            },
            // A caller that keeps its connection open must not keep the agent.
            () = shutdown.cancelled() => {}
        }
        // The next agent's file is not ours: it can only be made after our lock is gone, and that is later than this.
        let _ = std::fs::remove_file(&path);
    }
}

#[tonic::async_trait]
impl LocalService for Sources {
    async fn get_agent(&self, _: Request<pb::GetAgentRequest>) -> Result<Response<pb::Agent>, Status> {
        let session = self.session.borrow().clone();
        Ok(Response::new(pb::Agent {
            host: self.host.clone(),
            version: AGENT_VERSION.to_owned(),
            connected: session.connected,
            seen_time: session.seen.map(timestamp),
            revision: self.held.borrow().revision,
            holding_still: session.holding_still.unwrap_or_default(),
            certificate_expire_time: Some(timestamp(*self.expires.borrow())),
        }))
    }

    async fn list_mounts(
        &self,
        request: Request<pb::ListMountsRequest>,
    ) -> Result<Response<pb::ListMountsResponse>, Status> {
        let peer = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|connection| connection.peer_cred)
            .ok_or_else(|| Status::unauthenticated("the kernel does not say who is calling"))?;
        let mounts = of_each_path(self.status.borrow().mounts.values().cloned().collect());
        let (uid, gid) = (peer.uid(), peer.gid());
        // The user database may be a directory service far away.
        let turn = LOOK_UPS
            .acquire()
            .await
            .map_err(|_| Status::unavailable("the agent ends"))?;
        let visible = tokio::task::spawn_blocking(move || {
            // Held to the end of the look-up, also when the caller has gone.
            let _turn = turn;
            visible(mounts, |group| groups::is_member(uid, gid, group), uid)
        });
        let visible = visible.await.map_err(|_| Status::unavailable("the agent ends"))?;
        let mut mounts: Vec<pb::LocalMount> = visible.iter().map(MountStatus::to_local).collect();
        mounts.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Response::new(pb::ListMountsResponse { mounts }))
    }
}

/// Without those that are gone from a path at which something is again: they are told on for the catalog's sake.
fn of_each_path(mut mounts: Vec<MountStatus>) -> Vec<MountStatus> {
    let is_gone = |mount: &MountStatus| mount.state == MountState::Unmounted;
    let there: BTreeSet<_> = mounts
        .iter()
        .filter(|mount| !is_gone(mount))
        .map(|mount| mount.path.clone())
        .collect();
    mounts.retain(|mount| !is_gone(mount) || !there.contains(&mount.path));
    mounts
}

/// Root sees all; everyone else the mounts of his groups.
fn visible(mounts: Vec<MountStatus>, is_member: impl Fn(&str) -> bool, uid: u32) -> Vec<MountStatus> {
    mounts
        .into_iter()
        .filter(|mount| uid == 0 || mount.about.unix_group.as_deref().is_some_and(&is_member))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::About;
    use mooring_proto::v1::{Backend, Mode};
    use uuid::Uuid;

    fn mount(group: Option<&str>) -> MountStatus {
        MountStatus {
            about: About {
                uid: Uuid::from_u128(1),
                generation: 1,
                spec_hash: String::new(),
                activation: String::new(),
                connector: String::new(),
                mode: Mode::ReadOnly,
                backend: Backend::Default,
                unix_group: group.map(str::to_owned),
            },
            path: "/m".into(),
            generation: 1,
            state: MountState::Mounted,
            conditions: vec![],
            mount_time: None,
        }
    }

    #[test]
    fn what_is_gone_is_told_unless_something_is_there_again() {
        let gone = |path: &str| MountStatus {
            state: MountState::Unmounted,
            path: path.into(),
            ..mount(None)
        };
        let told = of_each_path(vec![gone("/m"), mount(None), gone("/other")]);
        let told: Vec<_> = told
            .iter()
            .map(|mount| (mount.path.to_str(), mount.state))
            .collect();
        assert_eq!(
            told,
            [
                (Some("/m"), MountState::Mounted),
                (Some("/other"), MountState::Unmounted)
            ]
        );
    }

    #[test]
    fn root_sees_all_mounts_and_others_those_of_their_groups() {
        let mounts = || vec![mount(None), mount(Some("ml")), mount(Some("bio"))];
        assert_eq!(visible(mounts(), |_| false, 0).len(), 3);
        assert_eq!(visible(mounts(), |group| group == "ml", 1000).len(), 1);
        assert_eq!(visible(mounts(), |_| false, 1000).len(), 0);
    }
}
