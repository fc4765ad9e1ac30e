//! The process's life: open everything, listen, serve, end. What runs beside the calls is owned by a [`JoinSet`] and
//! ends with the server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{Authority, Clock, CredentialPaths, Credentials, Incoming, Limits, ServerTls, files};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::config::Config;
use crate::domain::Error;
use crate::ops::{Catalog, Settings, realm};
use crate::store::Store;

/// How long the server's own certificate lives; it is renewed at half of it without dropping the listener.
const SERVER_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// How often all hosts' streams together look for orders by themselves. Wake-ups come with each commit of this server;
/// this is for those of another one.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// How long calls under way may go on after the server was told to stop.
const STOP_GRACE: Duration = Duration::from_secs(4);

/// What can go wrong on the way up or down.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What lies in the state directory, without listening.
pub struct State {
    /// The database.
    pub store: Store,
    /// The CA.
    pub authority: Authority,
    /// Time, ids and randomness.
    pub clock: Clock,
    /// Where all of it is.
    pub directory: PathBuf,
}

impl State {
    /// Opens the state directory, and makes it on the first start.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, Failure> {
        let directory = config.state_dir.clone();
        files::create_private_directory(&directory)?;
        let authority = Authority::load_or_create(&directory, &config.trust_domain, clock.now())?;
        let store = Store::open(&directory.join("catalog.db"))
            .await
            .map_err(Error::into_cause)?;
        Ok(Self {
            store,
            authority,
            clock,
            directory,
        })
    }
}

/// A catalog that listens, and is about to serve.
pub struct Server {
    catalog: Arc<Catalog>,
    incoming: Incoming,
    tls: Arc<ServerTls>,
    names: Vec<String>,
    paths: CredentialPaths,
    address: SocketAddr,
    operator_file: Option<PathBuf>,
}

impl Server {
    /// Opens everything and listens.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, Failure> {
        let State {
            store,
            authority,
            clock,
            directory,
        } = State::open(&config, clock).await?;
        let keyring = realm::open_keyring(&store, &clock, &directory.join("root.key"))
            .await
            .map_err(Error::into_cause)?;
        let await_operator = realm::initialise(&store, &clock)
            .await
            .map_err(Error::into_cause)?;

        let listener = listen(config.listen)
            .map_err(|error| format!("cannot listen on {}: {error}; change `listen`", config.listen))?;
        let address = listener.local_addr()?;
        let endpoint = config
            .endpoint
            .clone()
            .unwrap_or_else(|| format!("https://{address}"));
        let names = server_names(&config, &endpoint);
        let paths = CredentialPaths::in_directory(&directory, "server");
        let credentials = server_credentials(&authority, &paths, &names, &clock)?;
        let tls = ServerTls::new(&credentials)?;
        let limits = Limits::of_open_files(raise_open_files());
        let incoming = Incoming::new(listener, tls.clone(), limits);

        let operator_file = if await_operator {
            let path = realm::operator_file(&directory);
            realm::write_operator_token(&store, &clock, &authority, &endpoint, &path)
                .await
                .map_err(Error::into_cause)?;
            Some(path)
        } else {
            None
        };
        let settings = Settings {
            endpoint,
            certificate_lifetime: config.certificate_lifetime,
            endpoint_rules: config.endpoint_rules,
            host_lost_after: config.host_lost_after,
            look_interval: LOOK_INTERVAL,
        };
        let catalog = Arc::new(Catalog::new(store, keyring, authority, clock, settings));
        Ok(Self {
            catalog,
            incoming,
            tls,
            names,
            paths,
            address,
            operator_file,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The operator's join file, as long as the operator never logged in.
    pub fn operator_file(&self) -> Option<&Path> {
        self.operator_file.as_deref()
    }

    /// Serves until `shutdown` is cancelled, then ends within a few seconds.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let Self {
            catalog,
            incoming,
            tls,
            names,
            paths,
            address: _,
            operator_file: _,
        } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(renew_server_certificate(
            catalog.clone(),
            tls,
            names,
            paths,
            shutdown.clone(),
        ));
        catalog.follow_settings().await.map_err(Error::into_cause)?;
        let upkeep = catalog.clone();
        let upkeep_shutdown = shutdown.clone();
        tasks.spawn(async move { upkeep.upkeep(upkeep_shutdown).await });
        let swept = catalog.swept().await.map_err(Error::into_cause)?;
        let sweep = catalog.clone();
        let sweep_shutdown = shutdown.clone();
        tasks.spawn(async move { sweep.sweep_orders(swept, sweep_shutdown).await });
        // Streams never end by themselves: they are told to, or the server would wait for them.
        let streams = catalog.streams.clone();
        let streams_shutdown = shutdown.clone();
        tasks.spawn(async move {
            streams_shutdown.cancelled().await;
            streams.close().await;
        });
        let serving = api::serve(catalog.clone(), incoming, shutdown.clone().cancelled_owned());
        let stopped_late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(STOP_GRACE).await;
        };
        let served = tokio::select! {
            // Cancel-safe: dropped only after the grace, when the calls that are left are given up on purpose.
            served = serving => served,
            // Cancel-safe: no state.
            () = stopped_late => Ok(()),
        };
        shutdown.cancel();
        while tasks.join_next().await.is_some() {}
        catalog.store.close().await.map_err(Error::into_cause)?;
        served
    }
}

/// Listens, with a queue that is not longer than what is served within a dialler's patience of 5 s on the slowest machine:
/// from a longer one only connections would be taken that nobody waits for any more. The kernel lets others knock again
/// each second.
fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    /// 100 a second, with as much left for the handshake itself.
    const QUEUE: u32 = 256;
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    }?;
    // A catalog that starts again listens at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

/// Raises the limit of open files as far as the system lets us, and answers it. Each host holds a connection, and the
/// usual soft limit of 1024 is for programs that use select(2).
fn raise_open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files is not raised");
    }
    // No limit at all is none that would be met.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    tracing::info!(limit, before = before.current, "limit of open files");
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// The configured names and the endpoint's host.
fn server_names(config: &Config, endpoint: &str) -> Vec<String> {
    let mut names = config.server_names.clone();
    let host = endpoint
        .parse::<http::Uri>()
        .ok()
        .and_then(|uri| uri.host().map(str::to_owned));
    if let Some(host) = host {
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if !names.contains(&bare) {
            names.push(bare);
        }
    }
    names
}

/// The certificate on disk, if it is still good for these names; else a new one.
fn server_credentials(
    authority: &Authority,
    paths: &CredentialPaths,
    names: &[String],
    clock: &Clock,
) -> Result<Credentials, Failure> {
    let now = clock.now();
    let stored = Credentials::load(paths).ok().flatten();
    if let Some(stored) = stored {
        let fresh = stored.renew_at(0.0) > now && stored.ca_pem() == authority.ca_pem();
        if fresh && names.iter().all(|name| stored.is_server_for(name, now)) {
            return Ok(stored);
        }
    }
    let issued = authority.issue_server(names, SERVER_CERTIFICATE_LIFETIME, now)?;
    issued.save(paths)?;
    Ok(issued)
}

/// Renews the server's certificate at its half-life. A failure is told and tried again: the old one is good for weeks.
async fn renew_server_certificate(
    catalog: Arc<Catalog>,
    tls: Arc<ServerTls>,
    names: Vec<String>,
    paths: CredentialPaths,
    shutdown: CancellationToken,
) {
    /// How often is looked, so that a machine that slept is not late.
    const LOOK_INTERVAL: Duration = Duration::from_secs(3600);
    loop {
        tokio::select! {
            // Cancel-safe: no state.
            () = shutdown.cancelled() => return,
            // Cancel-safe: no state.
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let renewed = server_credentials(&catalog.authority, &paths, &names, &catalog.clock)
            .and_then(|credentials| Ok(tls.replace(&credentials)?));
        if let Err(error) = renewed {
            tracing::error!(%error, "the server's certificate is not renewed");
        }
    }
}
