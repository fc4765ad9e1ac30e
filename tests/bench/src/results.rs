//! What was measured: a file for each row and profile, so that a run that ends early loses nothing and the next one goes
//! on, and all of them together as one file and one picture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::peer::Kind;
use crate::plot;
use crate::profile::Profile;
use crate::row::{Better, Row, Sample};
use crate::server::Ground;

/// Where results are kept.
pub(crate) struct Results {
    folder: PathBuf,
}

/// One row with one profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Number of the row.
    pub(crate) number: u8,
    /// Name of the row.
    pub(crate) name: String,
    /// Unit of its figures.
    pub(crate) unit: String,
    /// Which of them are good ones.
    pub(crate) better: Better,
    /// How slow the server was.
    pub(crate) profile: Profile,
    /// How many times better than the best rival ours must be.
    pub(crate) factor: f64,
    /// What a bare client reads, in the row's unit.
    pub(crate) ceiling: Option<f64>,
    /// What each peer did.
    pub(crate) peers: BTreeMap<Kind, Figures>,
}

/// What one peer did in one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// The version that was measured.
    pub(crate) version: String,
    /// One for each round.
    pub(crate) samples: Vec<Sample>,
    /// Why there is none, or no more.
    pub(crate) failure: Option<String>,
}

impl Results {
    /// In this folder: those of each server, full and quick ones, for themselves.
    pub(crate) fn of(folder: &Path, server: Ground, quick: bool) -> Results {
        let kind = if quick { "quick" } else { "full" };
        Results {
            folder: folder.join(format!("{}-{kind}", server.name())),
        }
    }

    /// Whether a row was measured already.
    pub(crate) fn has(&self, row: &Row, profile: Profile) -> bool {
        self.path(row.number, row.name, profile).exists()
    }

    /// Keeps a row.
    pub(crate) fn keep(&self, measured: &Measured) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let path = self.path(measured.number, &measured.name, measured.profile);
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_vec_pretty(measured)?)?;
        std::fs::rename(&partial, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// All rows that were measured, in order.
    pub(crate) fn all(&self) -> anyhow::Result<Vec<Measured>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten() {
            let path = entry?.path();
            let is_row = path.extension().is_some_and(|extension| extension == "json")
                && path.file_name().is_some_and(|name| name != SUMMARY);
            if is_row {
                let measured: Measured = serde_json::from_slice(&std::fs::read(&path)?)
                    .with_context(|| format!("{} is no result of this program", path.display()))?;
                all.push(measured);
            }
        }
        all.sort_by_key(|measured| (measured.number, measured.profile));
        Ok(all)
    }

    /// Writes all rows as one file and one picture.
    pub(crate) fn summarize(&self, all: &[Measured]) -> anyhow::Result<()> {
        if all.is_empty() {
            return Ok(());
        }
        std::fs::write(self.folder.join(SUMMARY), serde_json::to_vec_pretty(all)?)?;
        std::fs::write(self.folder.join("ratios.svg"), plot::ratios(all))?;
        println!("results: {}", self.folder.display());
        Ok(())
    }

    fn path(&self, number: u8, name: &str, profile: Profile) -> PathBuf {
        self.folder
            .join(format!("{number:02}-{name}-{}.json", profile.name()))
    }
}

/// The file with all rows.
const SUMMARY: &str = "all.json";

impl Measured {
    /// The best rival and its figure.
    pub(crate) fn best_rival(&self) -> Option<(Kind, f64)> {
        let rivals = self.peers.iter().filter(|(kind, _)| kind.is_rival());
        rivals
            .filter_map(|(kind, figures)| Some((*kind, figures.median()?)))
            .max_by(|(_, a), (_, b)| self.better.ratio(*a, *b).total_cmp(&1.0))
    }

    /// How many times better ours is than the best rival.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let ours = self.peers.get(&Kind::Mooring)?.median()?;
        Some(self.better.ratio(ours, self.best_rival()?.1))
    }
}

impl Figures {
    /// The middle one.
    pub(crate) fn median(&self) -> Option<f64> {
        self.median_of(|sample| sample.value)
    }

    /// The widest distance of a round from the median, as a share of it.
    pub(crate) fn spread(&self) -> Option<f64> {
        let median = self.median()?;
        let distance = |sample: &Sample| ((sample.value - median) / median).abs();
        self.samples.iter().map(distance).max_by(f64::total_cmp)
    }

    /// The middle one of another figure.
    pub(crate) fn median_of(&self, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(figure).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some((upper + lower) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    fn measured(better: Better, values: &[(Kind, &[f64])]) -> Measured {
        let figures = |values: &[f64]| Figures {
            samples: values
                .iter()
                .map(|value| Sample::new(*value, Usage::default()))
                .collect(),
            ..Figures::default()
        };
        Measured {
            number: 1,
            name: "row".to_owned(),
            unit: "s".to_owned(),
            better,
            profile: Profile::P1,
            factor: 2.0,
            ceiling: None,
            peers: values
                .iter()
                .map(|(kind, values)| (*kind, figures(values)))
                .collect(),
        }
    }

    #[test]
    fn the_ratio_is_that_to_the_best_rival_by_medians() {
        let values: &[(Kind, &[f64])] = &[
            (Kind::Mooring, &[1.0, 9.0, 2.0]),
            (Kind::Geesefs, &[4.0, 5.0]),
            (Kind::S3fs, &[10.0]),
            (Kind::Local, &[0.1]),
        ];
        let less = measured(Better::Less, values);
        assert_eq!(less.best_rival(), Some((Kind::Geesefs, 4.5)));
        assert_eq!(less.ratio(), Some(2.25));
        let more = measured(Better::More, values);
        assert_eq!(more.best_rival(), Some((Kind::S3fs, 10.0)));
        assert_eq!(more.ratio(), Some(0.2));
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let results = Results::of(folder.path(), Ground::Own, true);
        let measured = measured(Better::Less, &[(Kind::Mooring, &[1.0])]);
        results.keep(&measured).expect("it can be kept");
        let all = results.all().expect("it can be read");
        assert_eq!(all, [measured]);
        results.summarize(&all).expect("it can be written");
        assert_eq!(results.all().expect("the summary is no row").len(), 1);
    }
}
