//! `mooring-fleet`: plays a fleet of hosts in one process against a catalog in another, over real TLS, and prints what
//! the catalog needed for it. It mounts nothing: each host enrols, holds its session, keeps what it is told in memory
//! instead of in a file, and reports mounts that it only pretends.
//!
//! Figures depend on the machine, and this program takes more of it than the catalog does: compare runs, and believe an
//! absolute figure as an upper bound.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

mod agent;
mod board;
mod catalog;
mod director;
mod figures;
mod mounts;
mod operator;
mod silence;

/// Plays a fleet against a catalog and prints what it took.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How many hosts.
    #[arg(long, default_value_t = 300)]
    hosts: usize,
    /// The catalog's program.
    #[arg(long)]
    catalog: PathBuf,
    /// An empty folder for the catalog's state and log.
    #[arg(long)]
    folder: PathBuf,
    /// How long the idle fleet is watched, in seconds.
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
    /// How often one host gets something and loses it again.
    #[arg(long, default_value_t = 50)]
    changes: usize,
    /// How many hosts turn bad: half of them read nothing, half talk without end.
    #[arg(long, default_value_t = 20)]
    bad_hosts: usize,
    /// How long bad hosts are borne while one host's changes are measured, in seconds at least.
    #[arg(long, default_value_t = 3)]
    bad_seconds: u64,
    /// How long the catalog stays away between its death and its start, in seconds.
    #[arg(long, default_value_t = 1)]
    outage_seconds: u64,
    /// The life of certificates in the last part, in seconds: each host renews its own at about half of it, twice. With 0
    /// the part is left out.
    #[arg(long, default_value_t = 12)]
    certificate_seconds: u64,
    /// Where the figures go as JSON, beside the table on standard output.
    #[arg(long)]
    figures: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    raise_open_files(arguments.hosts)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let plan = director::Plan {
        hosts: arguments.hosts,
        catalog: arguments.catalog,
        folder: arguments.folder,
        idle: Duration::from_secs(arguments.idle_seconds),
        changes: arguments.changes,
        bad_hosts: arguments.bad_hosts,
        bad: Duration::from_secs(arguments.bad_seconds),
        outage: Duration::from_secs(arguments.outage_seconds),
        certificate_life: Duration::from_secs(arguments.certificate_seconds),
    };
    let figures = runtime.block_on(director::run(plan))?;
    print!("{figures}");
    if let Some(path) = arguments.figures {
        std::fs::write(&path, figures.to_json().to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Each host is a connection, and for a moment two. The catalog raises its own limit, up to the hard one that it
/// inherits from us.
fn raise_open_files(hosts: usize) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    setrlimit(Resource::Nofile, raised).context("the limit of open files cannot be raised")?;
    let needed = 2 * hosts as u64 + 256;
    if before.maximum.is_some_and(|maximum| maximum < hosts as u64 + 512) {
        anyhow::bail!(
            "{hosts} hosts need up to {needed} open files; raise the hard limit: ulimit -Hn {needed}"
        );
    }
    Ok(())
}
