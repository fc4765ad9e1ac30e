//! Single names: one that is there, and many that are not.

use std::time::Instant;

use anyhow::Context as _;

use crate::data::Data;
use crate::row::{Better, Quick, Row, Sample};
use crate::rows::listing;
use crate::stand::drop_caches;

pub(crate) const ONE: Row = Row {
    number: 6,
    name: "stat-one",
    about: "stat of one name in a folder of a million, fresh mount",
    unit: "ms",
    factors: [1.0, 1.0],
    besides: "at most 1.2 times one LIST request; 50 times better than rclone",
    measure: |stand| {
        drop_caches()?;
        let mount = stand.mount()?;
        let path = mount.path().join(Data::name(stand.data.count / 2));
        let ((found, took), usage) = mount.metered(|| {
            let begun = Instant::now();
            let found = std::fs::metadata(path).context("the name is not there")?;
            Ok((found, begun.elapsed()))
        })?;
        anyhow::ensure!(found.len() == stand.data.size, "its size is {}", found.len());
        Ok(Sample::new(took.as_secs_f64() * 1000.0, usage))
    },
    ..listing::MILLION
};

/// Names that are looked for.
const MISSING_NAMES: u64 = 10_000;

pub(crate) const MISSING: Row = Row {
    number: 7,
    name: "negative",
    about: "stat of 10,000 names that are not in a folder which has just been listed",
    unit: "1/s",
    better: Better::More,
    data: listing::COLD.data,
    quick: Quick::Count,
    factors: [1.5, 1.5],
    besides: "",
    measure: |stand| {
        let mount = stand.mount()?;
        for entry in std::fs::read_dir(mount.path())? {
            entry?;
        }
        let count = stand.scaled(MISSING_NAMES);
        let (took, usage) = mount.metered(|| {
            let begun = Instant::now();
            for number in 0..count {
                let path = mount.path().join(format!("missing-{number}"));
                anyhow::ensure!(!path.exists(), "a name is there that nobody has made");
            }
            Ok(begun.elapsed())
        })?;
        Ok(Sample::new(count as f64 / took.as_secs_f64(), usage))
    },
    ..listing::COLD
};
