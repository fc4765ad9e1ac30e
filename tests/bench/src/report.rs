//! Results for people.

use comfy_table::{ContentArrangement, Table, presets};

use crate::peer::Kind;
use crate::results::{Figures, Measured};
use crate::row::Row;

/// What the rows are.
pub(crate) fn listing(rows: &[&Row]) -> String {
    let mut table = plain();
    table.set_header(["#", "NAME", "WHAT", "UNIT", "TARGET P1", "TARGET P2", "BESIDES"]);
    for row in rows {
        table.add_row([
            row.number.to_string(),
            row.name.to_owned(),
            row.about.to_owned(),
            row.unit.to_owned(),
            format!("{}×", row.factors[0]),
            format!("{}×", row.factors[1]),
            row.besides.to_owned(),
        ]);
    }
    format!("{table}\n")
}

/// What was measured: medians, how far rounds lie apart, and how many times better than the best rival ours is.
pub(crate) fn table(all: &[Measured]) -> String {
    let mut table = plain();
    let kinds = Kind::ALL.map(Kind::name);
    table.set_header(["#", "ROW", "PROFILE", "UNIT"].into_iter().chain(kinds).chain([
        "BARE CLIENT",
        "RATIO",
        "TARGET",
        "",
    ]));
    for measured in all {
        let mut cells = vec![
            measured.number.to_string(),
            measured.name.clone(),
            measured.profile.name().to_owned(),
            measured.unit.clone(),
        ];
        cells.extend(Kind::ALL.map(|kind| measured.peers.get(&kind).map_or_else(String::new, shown)));
        cells.push(measured.ceiling.map_or_else(String::new, figure));
        let ratio = measured.ratio();
        cells.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}×")));
        cells.push(format!("{}×", measured.factor));
        let reached = ratio.map(|ratio| ratio >= measured.factor);
        cells.push(
            reached
                .map_or("", |reached| if reached { "reached" } else { "SHORT" })
                .to_owned(),
        );
        table.add_row(cells);
    }
    format!("{table}\n{}", versions(all))
}

/// What it took: CPU seconds and peak memory of the process that serves the mount, medians.
pub(crate) fn resources(all: &[Measured]) -> String {
    let mut table = plain();
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Local);
    let names = kinds.clone().map(Kind::name);
    table.set_header(["#", "CPU-S, MIB", "PROFILE"].into_iter().chain(names));
    for measured in all {
        let mut cells = vec![
            measured.number.to_string(),
            measured.name.clone(),
            measured.profile.name().to_owned(),
        ];
        cells.extend(kinds.clone().map(|kind| {
            measured.peers.get(&kind).map_or_else(String::new, |figures| {
                let cpu = figures.median_of(|sample| sample.usage.cpu_seconds);
                let rss = figures.median_of(|sample| sample.usage.peak_rss_bytes as f64);
                cpu.zip(rss).map_or_else(String::new, |(cpu, rss)| {
                    format!("{cpu:.2}, {:.0}", rss / f64::from(1 << 20))
                })
            })
        }));
        table.add_row(cells);
    }
    format!("{table}\n")
}

/// The median and how far the rounds lie from it, or why there is none.
fn shown(figures: &Figures) -> String {
    match (figures.median(), figures.spread(), &figures.failure) {
        (Some(median), Some(spread), None) => format!("{} ±{:.0} %", figure(median), spread * 100.0),
        (Some(median), _, Some(_)) => format!("{} (then failed)", figure(median)),
        (None, _, Some(_)) => "fails".to_owned(),
        (Some(median), None, None) => figure(median),
        (None, _, None) => String::new(),
    }
}

/// Three digits that count.
fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn versions(all: &[Measured]) -> String {
    let mut versions: Vec<String> = all
        .iter()
        .flat_map(|measured| &measured.peers)
        .filter(|(_, figures)| !figures.version.is_empty())
        .map(|(kind, figures)| format!("{} {}", kind.name(), figures.version))
        .collect();
    versions.sort();
    versions.dedup();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}; kernel {}\n", versions.join(", "), kernel.trim())
}

fn plain() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}
