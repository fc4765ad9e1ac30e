//! `mooring-bench`: measures folders over S3 side by side. Rows × peers × profiles in one run on one machine, the peers
//! mounted in turn and afresh, so that what counts is a ratio; absolute figures are printed and never judged.
//!
//! What a row does and what it must reach stands with the row, in `rows`. Nothing here knows how a peer works inside.

mod ceiling;
mod data;
mod peer;
mod plot;
mod profile;
mod report;
mod results;
mod row;
mod rows;
mod run;
mod server;
mod stand;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

use crate::peer::Kind;
use crate::profile::Profile;
use crate::results::Results;
use crate::row::Row;
use crate::server::Ground;

/// Measures folders over S3 side by side: rows × peers × profiles in one run.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        tests/run bench --list\n  \
        tests/run bench ls-cold --quick\n  \
        tests/run bench 8 10 --peers mooring,geesefs --profiles p1\n  \
        tests/run bench --minutes 100          all rows; run it again to go on"
)]
struct Arguments {
    /// Which rows, by number or name. All of them without any.
    rows: Vec<String>,
    /// Which peers, each ended after five minutes; those that are not installed are named and left out.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    peers: Vec<Kind>,
    /// Which profiles: p1 is the bare loopback, p2 has the delays and limits of S3.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Profile::ALL)]
    profiles: Vec<Profile>,
    /// Which S3 server. Those that are not ours know no profile but p1.
    #[arg(long, value_enum, default_value_t = Ground::Own)]
    server: Ground,
    /// Rounds of each row; each round measures every peer once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One round at an eighth of the sizes: for the daily loop, never to be judged.
    #[arg(long)]
    quick: bool,
    /// Where results are kept. What is there is not measured again.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Measure again what the folder of results has already.
    #[arg(long)]
    again: bool,
    /// Begin no further row after so many minutes.
    #[arg(long, default_value_t = 100)]
    minutes: u64,
    /// Say which rows there are, and measure nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let rows = chosen(&arguments.rows)?;
    if arguments.list {
        print!("{}", report::listing(&rows));
        return Ok(());
    }
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "mounting and dropping caches need root: sudo"
    );
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let results = Results::of(&arguments.out, arguments.server, arguments.quick);
    let order = run::Order {
        rows,
        peers: arguments.peers,
        profiles: arguments.profiles,
        server: arguments.server,
        rounds: if arguments.quick { 1 } else { arguments.rounds },
        quick: arguments.quick,
        again: arguments.again,
        time: Duration::from_secs(arguments.minutes * 60),
    };
    run::run(&order, &results)?;
    let all = results.all()?;
    print!("{}\n{}", report::table(&all), report::resources(&all));
    results.summarize(&all)?;
    Ok(())
}

/// The rows of these numbers and names, in the order of the numbers.
fn chosen(wanted: &[String]) -> anyhow::Result<Vec<&'static Row>> {
    for name in wanted {
        anyhow::ensure!(
            rows::ALL.iter().any(|row| row.is_called(name)),
            "there is no row {name}; see: tests/run bench --list"
        );
    }
    Ok(rows::ALL
        .iter()
        .filter(|row| wanted.is_empty() || wanted.iter().any(|name| row.is_called(name)))
        .collect())
}
