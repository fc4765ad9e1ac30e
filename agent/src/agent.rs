//! Puts the agent together: reads what is on disk, binds what must be bound, then runs its loops until it is told to
//! end. Ending leaves every mount and worker as it is.

use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{ClientTls, Clock, Credentials, HpkeKeyPair};
use mooring_proto::agent::v1 as pb;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backends::{self, Detector};
use crate::ban::{self, Ban, BanDesk, Execution};
use crate::config::Config;
use crate::enroll::HPKE_KEY;
use crate::facts;
use crate::host::{Host, StateError, StateLock, credential_paths};
use crate::ledger::{Ledger, LedgerError};
use crate::local::{Local, Sources};
use crate::mounter::keep::Keeper;
use crate::mounter::launch::Launcher;
use crate::mounter::{MountError, Mounter, prepare_mount_root};
use crate::notify::{Notifier, Stored};
use crate::observed::record::Runs;
use crate::offline::Offline;
use crate::reconciler::Reconciler;
use crate::renewal::Renewal;
use crate::session::{Session, SessionState};
use crate::status::HostStatus;

/// All loops end within this time of the order to end, or are left behind.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(8);

/// An agent, ready to run.
pub struct Agent {
    host: Host,
    reconciler: Reconciler,
    session: Session,
    renewal: Renewal,
    local: Local,
    execution: Execution,
    sources: Sources,
    detector: Detector,
    facts: watch::Sender<pb::HostFacts>,
    notifier: Arc<Notifier>,
    _lock: StateLock,
}

/// What connects the agent with whoever manages this machine's services.
#[derive(Debug, Default)]
pub struct Manager {
    /// The line to the service manager.
    pub notifier: Arc<Notifier>,
    /// The descriptors that it has kept.
    pub stored: Vec<Stored>,
    /// Told to look for workers of an older program.
    pub reload: Arc<Notify>,
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It has no identity.
    #[error(
        "this host has not enrolled; ask the operator for a join file, then run: mooring-agent enroll --join-file FILE"
    )]
    NotEnrolled,
    /// It was one.
    #[error(
        "this machine was banned from its fleet ({reason}) and has no keys any more; to make it a host again, ask the operator \
         to delete it (mooring hosts delete) and for a join file, then run: mooring-agent enroll --join-file FILE"
    )]
    Banned {
        /// Why, in the operator's words.
        reason: String,
    },
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A key or certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] mooring_identity::Error),
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The mount root cannot be prepared.
    #[error(transparent)]
    MountRoot(#[from] MountError),
    /// A folder or socket cannot be made.
    #[error("cannot make {path}")]
    Io {
        /// The folder or socket.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl Agent {
    /// Reads, checks and binds. Touches no mount.
    pub async fn build(
        config: &Config,
        lock: StateLock,
        clock: Clock,
        manager: Manager,
    ) -> Result<Agent, StartError> {
        let Manager {
            notifier,
            stored,
            reload,
        } = manager;
        let host = Host::load(&config.state_dir)?.ok_or(StartError::NotEnrolled)?;
        let paths = credential_paths(&config.state_dir);
        let credentials = Credentials::load(&paths)?.ok_or(StartError::NotEnrolled)?;
        let hpke = HpkeKeyPair::load(&config.state_dir.join(HPKE_KEY))?.ok_or(StartError::NotEnrolled)?;
        let tls = ClientTls::new(&credentials)?;
        let bans = BanDesk::new(credentials.ca_pem(), host.uid);
        if let Some(before) = ban::load(&config.state_dir)? {
            // It came before a restart, and was not carried out to the end.
            bans.hear(before);
        }
        let ledger = Arc::new(Ledger::open(&config.state_dir)?);
        let io = |path: &std::path::Path, source| StartError::Io {
            path: path.display().to_string(),
            source,
        };
        let runs = Runs::open(&config.run_dir).map_err(|source| io(&config.run_dir, source))?;
        mooring_identity::files::create_private_directory(&config.cache_dir)?;
        prepare_mount_root(&config.mount_root)?;
        let local = Local::bind(&config.local_socket).map_err(|source| io(&config.local_socket, source))?;
        let mounter = Arc::new(Mounter {
            mount_root: config.mount_root.clone(),
            cache_dir: config.cache_dir.clone(),
            programs: config.programs.clone(),
            launcher: Launcher::of_this_process(),
            keeper: Keeper::new(Arc::clone(&notifier), stored),
            runs,
            host_uid: host.uid,
            hpke,
            clock: clock.clone(),
            over: Default::default(),
        });
        let mut detector = Detector::new(config.programs.clone());
        let (facts, facts_seen) = watch::channel(facts::gather(&mut detector).await);
        let (status, status_seen) = watch::channel(HostStatus::default());
        let (state, state_seen) = watch::channel(SessionState::default());
        let (expires, expires_seen) = watch::channel(credentials.not_after());
        let offline = Offline::open(&config.state_dir, clock.now())?;
        let session = Session {
            host: host.clone(),
            tls: Arc::clone(&tls),
            renewed: expires_seen.clone(),
            ledger: Arc::clone(&ledger),
            status: status_seen.clone(),
            state,
            facts: facts_seen,
            bans: bans.clone(),
            offline: offline.clone(),
            instance: clock.new_uid().to_string(),
            heartbeat_interval: config.heartbeat_interval,
            clock: clock.clone(),
        };
        let renewal = Renewal {
            credentials,
            paths,
            tls,
            endpoint: host.endpoint.clone(),
            host_uid: host.uid,
            bans: bans.clone(),
            clock: clock.clone(),
            expires,
        };
        let execution = Execution {
            state_dir: config.state_dir.clone(),
            ledger: Arc::clone(&ledger),
            status: status_seen.clone(),
            mounter: Arc::clone(&mounter),
            bans,
        };
        let sources = Sources {
            host: host.name.clone(),
            status: status_seen,
            session: state_seen,
            held: ledger.subscribe(),
            expires: expires_seen,
        };
        Ok(Agent {
            reconciler: Reconciler::new(
                mounter,
                ledger,
                offline,
                clock,
                status,
                Arc::clone(&notifier),
                reload,
            ),
            host,
            session,
            renewal,
            local,
            execution,
            sources,
            detector,
            facts,
            notifier,
            _lock: lock,
        })
    }

    /// The host's name, as `hosts/{host}`.
    pub fn host(&self) -> &str {
        &self.host.name
    }

    /// Runs until `shutdown`. Answers the ban that this host has heard of meanwhile.
    pub async fn run(self, shutdown: CancellationToken) -> Option<Ban> {
        let bans = self.execution.bans.clone();
        let tasks = TaskTracker::new();
        tasks.spawn(self.reconciler.run(shutdown.clone()));
        tasks.spawn(self.session.run(shutdown.clone()));
        tasks.spawn(self.renewal.run(shutdown.clone()));
        tasks.spawn(backends::watch(self.detector, self.facts, shutdown.clone()));
        tasks.spawn(self.local.run(self.sources, shutdown.clone()));
        tasks.spawn(self.execution.run(shutdown.clone()));
        tasks.close();
        shutdown.cancelled().await;
        self.notifier.stopping();
        if tokio::time::timeout(SHUTDOWN_PATIENCE, tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(tasks = tasks.len(), "not everything has ended in time");
        }
        bans.heard()
    }
}
