//! Folders that are listed: fresh, again, after a restart, and very large ones.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::data::Data;
use crate::row::{Better, Quick, Row, Sample};
use crate::stand::drop_caches;

const FLAT: Data = Data {
    folder: "flat",
    count: 100_000,
    size: 64,
};

pub(crate) const COLD: Row = Row {
    number: 1,
    name: "ls-cold",
    about: "ls -f of 100,000 files in one folder, fresh mount",
    unit: "s",
    better: Better::Less,
    data: FLAT,
    quick: Quick::Count,
    factors: [1.5, 6.0],
    besides: "first entry within 150 ms with p2",
    local: false,
    ceiling: false,
    measure: |stand| {
        drop_caches()?;
        let mount = stand.mount()?;
        let before = mount.usage();
        let listed = list(mount.path(), stand.data.count, false)?;
        Ok(listed.sample(mount.usage().since(before)))
    },
};

pub(crate) const LONG_COLD: Row = Row {
    number: 2,
    name: "lsl-cold",
    about: "ls -l of the same",
    factors: [1.5, 5.0],
    besides: "",
    measure: |stand| {
        drop_caches()?;
        let mount = stand.mount()?;
        let before = mount.usage();
        let listed = list(mount.path(), stand.data.count, true)?;
        Ok(listed.sample(mount.usage().since(before)))
    },
    ..COLD
};

pub(crate) const WARM: Row = Row {
    number: 3,
    name: "ls-warm",
    about: "ls -f of the same again, while names may be believed",
    unit: "ms",
    factors: [5.0, 5.0],
    besides: "within 30 ms",
    measure: |stand| {
        let mount = stand.mount()?;
        list(mount.path(), stand.data.count, false)?;
        let before = mount.usage();
        let listed = list(mount.path(), stand.data.count, false)?;
        let usage = mount.usage().since(before);
        Ok(Sample::new(listed.whole.as_secs_f64() * 1000.0, usage))
    },
    ..COLD
};

pub(crate) const RESTART: Row = Row {
    number: 4,
    name: "ls-restart",
    about: "ls -f of the same after the program was killed and has mounted again",
    factors: [5.0, 20.0],
    besides: "",
    measure: |stand| {
        let mount = stand.mount()?;
        list(mount.path(), stand.data.count, false)?;
        mount.kill();
        let mount = stand.mount()?;
        let before = mount.usage();
        let listed = list(mount.path(), stand.data.count, false)?;
        Ok(listed.sample(mount.usage().since(before)))
    },
    ..COLD
};

pub(crate) const MILLION: Row = Row {
    number: 5,
    name: "ls-1M",
    about: "ls -f of a million files in one folder, fresh mount",
    data: Data {
        folder: "million",
        count: 1_000_000,
        size: 64,
    },
    factors: [1.0, 6.0],
    besides: "with p1, a fifth of the best rival's memory",
    ..COLD
};

/// How a listing went.
struct Listed {
    whole: Duration,
    first: Duration,
}

impl Listed {
    fn sample(&self, usage: crate::usage::Usage) -> Sample {
        Sample::new(self.whole.as_secs_f64(), usage).with("first entry ms", self.first.as_secs_f64() * 1000.0)
    }
}

/// Lists a folder as `ls -f` does, or as `ls -l` does; all names must be there, none twice.
fn list(path: &Path, count: u64, long: bool) -> anyhow::Result<Listed> {
    let begun = Instant::now();
    let mut first = None;
    let mut names = std::collections::HashSet::with_capacity(count as usize);
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        first.get_or_insert_with(|| begun.elapsed());
        if long {
            entry.metadata()?;
        }
        let name = entry.file_name();
        anyhow::ensure!(!names.contains(&name), "{} came twice", name.display());
        names.insert(name);
    }
    let whole = begun.elapsed();
    anyhow::ensure!(
        names.len() as u64 == count,
        "{} names instead of {count}",
        names.len()
    );
    Ok(Listed {
        whole,
        first: first.unwrap_or_default(),
    })
}
