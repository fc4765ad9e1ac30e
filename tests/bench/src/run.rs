//! The order of things: for each row and profile, rounds in which every peer is measured once, each time another one
//! first. A peer that fails, or that is far behind after its first round, is not repeated in that row.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::ceiling;
use crate::peer::{Kind, Peer};
use crate::profile::Profile;
use crate::results::{Figures, Measured, Results};
use crate::row::{Better, Row, Sample};
use crate::server::{Ground, Server};
use crate::stand::Stand;

/// A peer that is so many times behind the best one is not measured again in that row.
const HOPELESS: f64 = 5.0;

/// What is to be measured.
pub(crate) struct Order {
    /// Which rows.
    pub(crate) rows: Vec<&'static Row>,
    /// Which peers, if they are installed.
    pub(crate) peers: Vec<Kind>,
    /// With which profiles.
    pub(crate) profiles: Vec<Profile>,
    /// Against which server.
    pub(crate) server: Ground,
    /// How often.
    pub(crate) rounds: usize,
    /// At an eighth of the sizes.
    pub(crate) quick: bool,
    /// Also what was measured before.
    pub(crate) again: bool,
    /// No row is begun after it.
    pub(crate) time: Duration,
}

/// Measures what is not there yet.
pub(crate) fn run(order: &Order, results: &Results) -> anyhow::Result<()> {
    let begun = Instant::now();
    let peers = installed(&order.peers);
    let folder = tempfile::Builder::new()
        .prefix("mooring-bench-")
        .tempdir()
        .context("there is no folder for mounts and caches")?;
    for row in &order.rows {
        let profiles: Vec<Profile> = order
            .profiles
            .iter()
            .copied()
            .filter(|profile| order.server.knows(*profile))
            .filter(|profile| order.again || !results.has(row, *profile))
            .collect();
        if profiles.is_empty() {
            continue;
        }
        if begun.elapsed() > order.time {
            println!("the time is over; run it again to go on with {}", row.name);
            return Ok(());
        }
        // A server of its own for each row: what it keeps in memory is the row's alone.
        let ground = folder.path().join(format!("server-{}", row.number));
        std::fs::create_dir(&ground)?;
        let mut server = Server::start(order.server, &ground);
        for profile in profiles {
            let measured = measure(row, profile, order, &peers, &mut server, folder.path())?;
            results.keep(&measured)?;
        }
    }
    Ok(())
}

fn installed(kinds: &[Kind]) -> Vec<Peer> {
    let mut peers = Vec::new();
    for kind in kinds {
        match Peer::find(*kind) {
            Ok(peer) => peers.push(peer),
            Err(missing) => println!("MISSING: {}: {missing:#}", kind.name()),
        }
    }
    peers
}

fn measure(
    row: &Row,
    profile: Profile,
    order: &Order,
    peers: &[Peer],
    server: &mut Server,
    folder: &std::path::Path,
) -> anyhow::Result<Measured> {
    println!("{} {} {}: {}", row.number, row.name, profile.name(), row.about);
    let data = row.data(order.quick);
    let local = folder.join("local");
    server.shape(Profile::P1);
    server.fill(data, &local)?;
    server.shape(profile);
    let ceiling = match row.ceiling {
        true => Some(ceiling::megabytes_per_second(&server.store, data)?),
        false => None,
    };
    let taking_part: Vec<&Peer> = peers
        .iter()
        .filter(|peer| row.local || peer.kind != Kind::Local)
        .collect();
    let mut figures: BTreeMap<Kind, Figures> = BTreeMap::new();
    for round in 0..order.rounds {
        let best = best_of(row.better, &figures);
        for turn in 0..taking_part.len() {
            let peer = taking_part[(turn + round) % taking_part.len()];
            let so_far = figures.entry(peer.kind).or_default();
            so_far.version.clone_from(&peer.version);
            if so_far.failure.is_some() || is_hopeless(row.better, so_far, best, peer.kind) {
                continue;
            }
            let scratch = tempfile::Builder::new()
                .prefix(peer.kind.name())
                .tempdir_in(folder)?;
            let own = match peer.kind {
                Kind::Local => {
                    data.put_locally(&local)?;
                    local.clone()
                }
                _ => scratch.path().to_owned(),
            };
            let stand = Stand {
                server,
                peer,
                data,
                folder: own,
                quick: order.quick,
            };
            match (row.measure)(&stand) {
                Ok(sample) => {
                    say(row, peer, round, &sample);
                    so_far.samples.push(sample);
                }
                Err(error) => {
                    println!("  {:8} FAILS: {error:#}", peer.kind.name());
                    so_far.failure = Some(format!("{error:#}"));
                }
            }
        }
    }
    Ok(Measured {
        number: row.number,
        name: row.name.to_owned(),
        unit: row.unit.to_owned(),
        better: row.better,
        profile,
        factor: row.factor(profile),
        ceiling,
        peers: figures,
    })
}

fn best_of(better: Better, figures: &BTreeMap<Kind, Figures>) -> Option<f64> {
    figures
        .iter()
        .filter(|(kind, _)| **kind != Kind::Local)
        .filter_map(|(_, figures)| figures.median())
        .max_by(|a, b| better.ratio(*a, *b).total_cmp(&1.0))
}

fn is_hopeless(better: Better, figures: &Figures, best: Option<f64>, kind: Kind) -> bool {
    let rival = kind.is_rival();
    match (figures.median(), best) {
        (Some(own), Some(best)) => rival && better.ratio(best, own) > HOPELESS,
        _ => false,
    }
}

fn say(row: &Row, peer: &Peer, round: usize, sample: &Sample) {
    let besides: String = sample
        .besides
        .iter()
        .map(|(name, value)| format!(", {name} {value:.2}"))
        .collect();
    println!(
        "  {:8} round {}: {:.2} {}, {:.2} CPU-s, {} MiB{besides}",
        peer.kind.name(),
        round + 1,
        sample.value,
        row.unit,
        sample.usage.cpu_seconds,
        sample.usage.peak_rss_bytes >> 20,
    );
}
