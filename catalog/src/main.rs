//! The program `mooring-catalog`: arguments, logging, signals, exit codes. What it does is in the library.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use mooring_catalog::config::{self, Config, LogFormat};
use mooring_catalog::lock::StateLock;
use mooring_catalog::ops::realm;
use mooring_catalog::server::{Server, State};
use mooring_identity::Clock;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// EX_USAGE of sysexits.h: the configuration or the arguments are wrong.
const EXIT_USAGE: u8 = 64;

/// Mooring's catalog: owns connectors, roles and publications, and tells hosts what to mount.
#[derive(Parser)]
#[command(version, about, after_help = CONFIGURATION)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the API. The first start makes the database, the keys and the operator's join file.
    #[command(after_help = CONFIGURATION)]
    Serve(Common),
    /// Raises the epoch after the database was restored from a backup, so that hosts which have seen later changes obey
    /// again. Run it while the catalog is stopped.
    RaiseEpoch(Common),
    /// Writes a fresh join file for users/operator and makes it an enabled operator again: the way back in for whoever
    /// is root on this machine.
    OperatorToken(Common),
}

#[derive(clap::Args)]
struct Common {
    /// The configuration file. Without this, /etc/mooring/catalog.toml, or every key's default if that does not exist.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

const CONFIGURATION: &str = "\
Configuration (TOML; every key is optional, unknown keys are errors):
  listen = \"127.0.0.1:7443\"             address and port; port 0 asks the system for one
  endpoint = \"https://127.0.0.1:7443\"   what join strings carry; needed if listen has no address
  state_dir = \"/var/lib/mooring-catalog\"
                                        database, CA, root key: private, and backed up whole
  trust_domain = \"mooring\"              goes into every certificate; never changes
  server_names = [\"localhost\"]          further DNS names and addresses for the server's certificate
  certificate_lifetime = \"24h\"          of people and hosts
  host_lost_after = \"60s\"               when a silent host counts as lost
  log_format = \"text\"                   or \"json\"; logs go to standard error
  [connector_endpoints]
  allow_http = false                    whether connectors may name plain http endpoints
  allowed_networks = []                 loopback, link-local or metadata networks that they may name
Environment: MOORING_LOG filters the log (default: info).";

fn main() -> ExitCode {
    // Nothing else installs a provider: there is one TLS stack.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Arguments { command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let (Command::Serve(common) | Command::RaiseEpoch(common) | Command::OperatorToken(common)) = &command;
    let loaded = match &common.config {
        Some(path) => Config::load(path),
        None => Config::load_if_any(Path::new(config::DEFAULT_PATH)),
    };
    let config = match loaded {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("mooring-catalog: the configuration is not valid:\n{mistakes}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    start_logging(config.log_format);
    match run(command, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mooring-catalog: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_logging(format: LogFormat) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(config::log_filter())
        // What it would say of a write that fails goes to the same place, and panics there: a full disk shall end nobody.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

#[tokio::main]
async fn run(command: Command, config: Config) -> anyhow::Result<()> {
    match command {
        Command::Serve(_) => serve(config).await,
        Command::RaiseEpoch(_) => {
            let _lock = StateLock::acquire(&config.state_dir)?;
            let State { store, clock, .. } = State::open(&config, Clock::system())
                .await
                .map_err(anyhow::Error::from_boxed)?;
            let epoch = realm::raise_epoch(&store, &clock)
                .await
                .map_err(|error| anyhow::Error::from_boxed(error.into_cause()))
                .context("the epoch is not raised")?;
            println!("epoch {epoch}: start the catalog, and hosts obey it again");
            Ok(())
        }
        Command::OperatorToken(_) => operator_token(config).await,
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let _lock = StateLock::acquire(&config.state_dir)?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::start(config, Clock::system())
        .await
        .map_err(anyhow::Error::from_boxed)?;
    announce(&server).context("standard output is closed")?;
    // Three chances within the manager's patience.
    let mut beat = sd_notify::watchdog_enabled().map(|patience| tokio::time::interval(patience / 3));
    tell_manager(NotifyState::Ready);
    let mut running = Box::pin(server.run(shutdown.clone()));
    loop {
        tokio::select! {
            // Cancel-safe: it is polled on in the next round, or below.
            ended = &mut running => return ended.map_err(anyhow::Error::from_boxed),
            // Cancel-safe per tokio's docs.
            _ = terminate.recv() => break,
            // Cancel-safe per tokio's docs.
            _ = interrupt.recv() => break,
            // Cancel-safe per tokio's docs.
            () = next_beat(&mut beat) => tell_manager(NotifyState::Watchdog),
        }
    }
    tracing::info!("stopping");
    tell_manager(NotifyState::Stopping);
    shutdown.cancel();
    running.await.map_err(anyhow::Error::from_boxed)
}

/// The next time that the manager wants to hear from us; never, if it does not.
async fn next_beat(beat: &mut Option<tokio::time::Interval>) {
    match beat {
        Some(beat) => drop(beat.tick().await),
        None => std::future::pending().await,
    }
}

/// Tells the service manager that has started this program, if one has. Nothing depends on its hearing it.
fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager does not hear");
    }
}

/// What programs that start this one read, and what tells the operator how to begin. Never the token: standard output may
/// be a journal.
fn announce(server: &Server) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "mooring-catalog listens on https://{}", server.address())?;
    if let Some(path) = server.operator_file() {
        writeln!(
            out,
            "log in as the operator: mooring login --join-file {}",
            path.display()
        )?;
    }
    out.flush()
}

async fn operator_token(config: Config) -> anyhow::Result<()> {
    let endpoint = config
        .endpoint
        .clone()
        .unwrap_or_else(|| format!("https://{}", config.listen));
    if config.endpoint.is_none() && config.listen.port() == 0 {
        anyhow::bail!("with port 0 the address is known to the running catalog only; set `endpoint`");
    }
    let State {
        store,
        authority,
        clock,
        directory,
    } = State::open(&config, Clock::system())
        .await
        .map_err(anyhow::Error::from_boxed)?;
    realm::restore_operator(&store, &clock)
        .await
        .map_err(|error| anyhow::Error::from_boxed(error.into_cause()))
        .context("users/operator is not restored")?;
    let path = realm::operator_file(&directory);
    realm::write_operator_token(&store, &clock, &authority, &endpoint, &path)
        .await
        .map_err(|error| anyhow::Error::from_boxed(error.into_cause()))
        .context("no join file is written")?;
    println!(
        "log in as the operator: mooring login --join-file {}",
        path.display()
    );
    Ok(())
}
