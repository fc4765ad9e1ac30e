//! What a row is: a workload on one kind of data, one figure, and how much better than the best rival it must be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::profile::Profile;
use crate::stand::Stand;
use crate::usage::Usage;

/// One row.
pub(crate) struct Row {
    /// Its number in the list of rows.
    pub(crate) number: u8,
    /// Its name.
    pub(crate) name: &'static str,
    /// What is done.
    pub(crate) about: &'static str,
    /// Unit of the figure.
    pub(crate) unit: &'static str,
    /// Which figures are good ones.
    pub(crate) better: Better,
    /// What lies in the bucket.
    pub(crate) data: Data,
    /// What quick runs have an eighth of.
    pub(crate) quick: Quick,
    /// How many times better than the best rival, with each profile.
    pub(crate) factors: [f64; 2],
    /// Further conditions, in words.
    pub(crate) besides: &'static str,
    /// Whether a local directory is measured, too.
    pub(crate) local: bool,
    /// Whether a bare client is measured, too, as the limit of what can be read.
    pub(crate) ceiling: bool,
    /// Takes one sample.
    pub(crate) measure: fn(&Stand<'_>) -> anyhow::Result<Sample>,
}

/// Which figures are good ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// High ones.
    More,
    /// Low ones.
    Less,
}

/// What is less in a quick run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    /// The number of files.
    Count,
    /// The size of each.
    Size,
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// In the row's unit.
    pub(crate) value: f64,
    /// What the mount's process has used meanwhile.
    pub(crate) usage: Usage,
    /// Further figures by name.
    #[serde(default)]
    pub(crate) besides: BTreeMap<String, f64>,
}

impl Row {
    /// Whether a person means this row.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        name == self.name || name == self.number.to_string()
    }

    /// The data of a full or a quick run.
    pub(crate) fn data(&self, quick: bool) -> Data {
        match (quick, self.quick) {
            (false, _) => self.data,
            (true, Quick::Count) => Data {
                count: (self.data.count / 8).max(1),
                ..self.data
            },
            (true, Quick::Size) => Data {
                size: (self.data.size / 8).max(1),
                ..self.data
            },
        }
    }

    /// How many times better than the best rival it must be.
    pub(crate) fn factor(&self, profile: Profile) -> f64 {
        self.factors[match profile {
            Profile::P1 => 0,
            Profile::P2 => 1,
        }]
    }
}

impl Better {
    /// How many times better `ours` is than `theirs`.
    pub(crate) fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Better::More => ours / theirs,
            Better::Less => theirs / ours,
        }
    }
}

impl Sample {
    /// A figure, and what it took.
    pub(crate) fn new(value: f64, usage: Usage) -> Sample {
        Sample {
            value,
            usage,
            besides: BTreeMap::new(),
        }
    }

    /// With one more figure.
    pub(crate) fn with(mut self, name: &str, value: f64) -> Sample {
        self.besides.insert(name.to_owned(), value);
        self
    }
}
