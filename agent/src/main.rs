//! Program `mooring-agent`: its command line, its log, its signals and its exit codes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use mooring_agent::agent::{Agent, Manager, StartError};
use mooring_agent::backends::Detector;
use mooring_agent::ban::{self, Ban, BanDesk};
use mooring_agent::config::{Config, ConfigError, DEFAULT_PATH, LogFormat, Machine};
use mooring_agent::enroll::Standing;
use mooring_agent::host::{Host, StateLock, credential_paths};
use mooring_agent::ledger::Ledger;
use mooring_agent::notify::{self, Notifier, Stored};
use mooring_agent::{enroll, facts, table};
use mooring_identity::Clock;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// EX_USAGE of sysexits.h: the configuration is wrong, and trying again will not help.
const EXIT_BAD_CONFIG: u8 = 64;

/// EX_NOPERM of sysexits.h: this machine was banned, and only a person can change that.
const EXIT_BANNED: u8 = 77;

/// Threads that are still in a mount that does not answer are left behind.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(1);

/// Mounts on this host what the catalog orders.
///
/// A host joins once, with a join file from its operator:
///
///     mooring-agent enroll --join-file /etc/mooring/host.join
///
/// Then the agent runs as root, usually as a service:
///
///     mooring-agent run
///
/// It keeps a stream to the catalog, mounts each bucket at <mount_root>/<project>/<mount name>,
/// and reports how the mounts do. Each mount is served by a mooring-fs process of its own, which
/// outlives the agent: stopping, restarting or upgrading the agent interrupts no file access.
/// Only the catalog's order unmounts.
#[derive(Parser)]
#[command(name = "mooring-agent", version, verbatim_doc_comment)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent. Enrols first if the host has not enrolled and the configuration names a join_file.
    ///
    /// The configuration is TOML; every key has a default:
    ///
    ///   state_dir          "/var/lib/mooring-agent"  keys, certificate and ledger
    ///   run_dir            "/run/mooring"            sockets, records, logs of the mounts; tmpfs
    ///   mount_root         "/mnt/mooring"            <mount_root>/<project>/<mount name>
    ///   cache_dir          "/var/cache/mooring"      staged writes and cache
    ///   join_file          none                      join string for the first start
    ///   host_name          the machine's             its name at enrolment
    ///   mooring_fs         beside this program       the program that serves a mount
    ///   geesefs            "/usr/bin/geesefs"        serves mounts of backend GEESEFS, if it is there
    ///   s3fs               "/usr/bin/s3fs"           serves mounts of backend S3FS, if it is there
    ///   local_socket       "<run_dir>/agent.sock"    where programs ask for this host's mounts
    ///   heartbeat_interval "10s"                     the longest time between two reports
    ///   log_format         "text"                    or "json"
    ///
    /// MOORING_LOG sets how much is logged (error, warn, info, debug). Logs go to the standard error.
    /// SIGTERM ends the agent and leaves all mounts. SIGHUP replaces workers that run another mooring-fs
    /// than the installed one, one after the other and without interruption; so does a start of the agent.
    #[command(verbatim_doc_comment)]
    Run {
        /// The configuration [default: /etc/mooring/agent.toml, if it is there]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make this machine a host of the fleet, by a join file from the operator.
    ///
    /// Keys are made here and never leave this machine. If the reply is lost, run it again: within 10 minutes the
    /// same token gives the same host.
    ///
    /// A host that its catalog does not accept any more (deleted, or its key is lost) enrols anew: stop the agent, run this
    /// with a new join file, start the agent. What is mounted stays mounted. A host that is accepted is left as it is, and
    /// the exit code is not 0. One that was off until its certificate had ended needs none of this: it recovers by itself.
    Enroll {
        /// The configuration [default: /etc/mooring/agent.toml, if it is there]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// File with the join string, or - for the standard input
        #[arg(long, value_name = "FILE")]
        join_file: PathBuf,
    },
    /// Print this host's mounts that you may enter, as the running agent sees them.
    Status {
        /// The configuration [default: /etc/mooring/agent.toml, if it is there]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_BAD_CONFIG)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    // Duplicates, so that they stay when the inherited ones are closed.
    let inherited = inherited_descriptors();
    let stored = notify::stored_descriptors();
    close_all(inherited);
    // What is meant for others gets its mode explicitly.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    raise_descriptor_limit();
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("nothing has installed a provider before the first line of main");
    let (Command::Run { config } | Command::Enroll { config, .. } | Command::Status { config }) =
        &arguments.command;
    let config = match load_config(config.as_deref(), &arguments.command) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("mooring-agent: {error}");
            return ExitCode::from(EXIT_BAD_CONFIG);
        }
    };
    start_log(config.log_format);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mooring-agent: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match arguments.command {
            Command::Run { .. } => run(&config, stored).await,
            Command::Enroll { join_file, .. } => enroll_once(&config, &join_file).await,
            Command::Status { .. } => {
                print!("{}", table::status(&config.local_socket).await?);
                Ok(())
            }
        }
    });
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mooring-agent: {error:#}");
            match error.downcast_ref() {
                Some(StartError::Banned { reason: _ }) => ExitCode::from(EXIT_BANNED),
                Some(_) | None => ExitCode::FAILURE,
            }
        }
    }
}

/// A machine that was banned becomes a host again only when a person enrols it, not by a join file that it still has.
fn refuse_banned(config: &Config) -> anyhow::Result<()> {
    match Ban::load(&config.state_dir)? {
        Some(Ban { reason, since: _ }) => Err(StartError::Banned { reason }.into()),
        None => Ok(()),
    }
}

/// Whoever may use the socket may ask for the status, whether he may read the configuration or not.
fn load_config(path: Option<&Path>, command: &Command) -> Result<Config, ConfigError> {
    let hidden = || {
        matches!(
            std::fs::File::open(DEFAULT_PATH),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied
        )
    };
    if matches!(command, Command::Status { .. }) && path.is_none() && hidden() {
        return Config::parse("", &Machine::of_this_process());
    }
    Config::load(path)
}

async fn run(config: &Config, stored: Vec<Stored>) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("mooring-agent mounts file systems and must run as root");
    }
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let manager = Manager {
        notifier: Arc::new(Notifier::of_this_process()),
        stored,
        reload: Arc::default(),
    };
    let reload = Arc::clone(&manager.reload);
    let lock = StateLock::take(&config.state_dir)?;
    let clock = Clock::system();
    let work = async {
        if ban::go_on_wiping(&config.state_dir)? {
            tracing::info!("the keys of a banned host are gone, also those that a start before has left");
        }
        if !is_enrolled(config)? {
            refuse_banned(config)?;
            let join_file = config.join_file.as_deref().filter(|_| !has_lost_its_key(config));
            let join_file = join_file.ok_or(StartError::NotEnrolled)?;
            tokio::select! {
                enrolled = enroll_with(config, join_file, &clock) => drop(enrolled?), // dropped, its keys stay for the next try
                () = shutdown.cancelled() => return Ok(()), // cancel-safe: no state
            }
        }
        let agent = Agent::build(config, lock, clock, manager).await?;
        println!("mooring-agent runs as {}", agent.host());
        match agent.run(shutdown.clone()).await {
            // Not carried out to the end, or nobody knows: the next start goes on with it.
            Some(_) if is_enrolled(config)? => Ok(()),
            Some(Ban { reason, since: _ }) => Err(StartError::Banned { reason }.into()),
            None => Ok(()),
        }
    };
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {} // cancel-safe per tokio's docs
            _ = interrupt.recv() => {} // cancel-safe per tokio's docs
        }
        tracing::info!("the agent ends; mounts stay");
        shutdown.cancel();
        std::future::pending::<()>().await;
    };
    let reloads = async {
        while hangup.recv().await.is_some() {
            reload.notify_one();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = work => done, // ends soon after `stop` has cancelled the token
        () = stop => Ok(()),
        () = reloads => Ok(()),
    }
}

async fn enroll_once(config: &Config, join_file: &std::path::Path) -> anyhow::Result<()> {
    let _lock = StateLock::take(&config.state_dir)?;
    ban::go_on_wiping(&config.state_dir)?;
    let before = Host::load(&config.state_dir)?;
    if let (Some(host), Some(credentials)) = (
        &before,
        mooring_identity::Credentials::load(&credential_paths(&config.state_dir))?,
    ) {
        leave(config, host, &credentials).await?;
    }
    let host = enroll_with(config, join_file, &Clock::system()).await?;
    Ban::forget(&config.state_dir);
    if let Some(aside) = Ledger::set_aside_unless_of(&config.state_dir, &host.realm_uid)? {
        println!(
            "the orders of the catalog before it are kept in {}; their mounts stay",
            aside.display()
        );
    }
    match before {
        Some(before) => println!(
            "this machine is {} now, and was {} before; what was mounted stays mounted. Start mooring-agent again",
            host.name, before.name
        ),
        None => println!("this machine is {} now", host.name),
    }
    Ok(())
}

/// A host gives up its identity only when the catalog that gave it does not accept it any more: otherwise the join file
/// would be used up by mistake, and the fleet would have a host that never answers.
async fn leave(
    config: &Config,
    host: &Host,
    credentials: &mooring_identity::Credentials,
) -> anyhow::Result<()> {
    let name = &host.name;
    if let Some(Ban { reason, since: _ }) = Ban::load(&config.state_dir)? {
        return Err(not_carried_out(name, &reason));
    }
    match enroll::standing(host, credentials).await? {
        Standing::Accepted => anyhow::bail!(
            "this machine is {name} already, and its catalog accepts it; nothing was changed, and the join file is still \
             good. To enrol it anew, delete the host first: mooring hosts delete {} --force (what is mounted stays mounted)",
            name.trim_start_matches("hosts/")
        ),
        Standing::Refused(reason) => {
            println!(
                "this machine was {name}, which its catalog does not accept any more ({reason}); it enrols anew"
            );
            Ok(())
        }
        Standing::Banned(signed) => match BanDesk::new(credentials.ca_pem(), host.uid).read(&signed) {
            Ok(Ban { reason, since: _ }) => {
                ban::write_down(&config.state_dir, &signed)?;
                Err(not_carried_out(name, &reason))
            }
            Err(error) => anyhow::bail!(
                "somebody at {} says that this machine, which is {name}, is banned, and cannot prove it: {error}; nothing was \
                 changed",
                host.endpoint
            ),
        },
        Standing::Unknown(reason) => anyhow::bail!(
            "this machine is {name}, and its catalog at {} cannot be asked whether it still is: {reason}. Try again when \
             it answers; if it is gone for good, move {} away first",
            host.endpoint,
            config.state_dir.join("host.toml").display()
        ),
    }
}

/// With its keys it would go on having what the ban takes away, and the mounts would be nobody's.
fn not_carried_out(name: &str, reason: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "this machine is {name}, which is banned ({reason}), and still has its keys; nothing was changed, and the join file is \
         still good. Start mooring-agent once: it unmounts everything, wipes the keys and ends; then enrol the machine anew"
    )
}

async fn enroll_with(config: &Config, join_file: &std::path::Path, clock: &Clock) -> anyhow::Result<Host> {
    let join = enroll::read_join(join_file).context(
        "no usable join string; an operator makes one: mooring join-tokens create --pool POOL --join-string-file FILE",
    )?;
    let facts = facts::gather(&mut Detector::new(config.programs.clone())).await;
    Ok(enroll::enroll(&config.state_dir, &join, &config.host_name, &facts, clock).await?)
}

/// Whether it was a host, and nothing is left to prove it with. The key of a machine that waits for the reply to its
/// enrolment is there.
fn has_lost_its_key(config: &Config) -> bool {
    let key = credential_paths(&config.state_dir).key;
    matches!(Host::load(&config.state_dir), Ok(Some(_))) && !key.exists()
}

fn is_enrolled(config: &Config) -> anyhow::Result<bool> {
    let credentials = mooring_identity::Credentials::load(&credential_paths(&config.state_dir))?;
    Ok(credentials.is_some() && Host::load(&config.state_dir)?.is_some())
}

/// The numbers of what is open beside the standard streams.
fn inherited_descriptors() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return Vec::new();
    };
    let mut numbers: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    // The descriptor of the listing itself was among them. It is closed by now, and its number will be another's.
    numbers.retain(|number| std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok());
    numbers
}

/// Descriptors that came from whoever started the agent would live on in every worker, which outlive the agent: a pipe
/// would never end, a file of a mount would never close.
fn close_all(inherited: Vec<i32>) {
    for descriptor in inherited {
        // There is nothing to be done about one that cannot be closed.
        let _ = nix::unistd::close(descriptor);
    }
}

/// Services begin with 1024 descriptors for the sake of `select`, which nobody here uses; each mount needs a few.
fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        eprintln!("mooring-agent: the limit on open files cannot be raised: {error}");
    }
}

fn start_log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MOORING_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // What it would say of a write that fails goes to the same place, and panics there: a full disk shall end nobody.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
