//! Folders that are listed: fresh, again, after a restart, and very large ones.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::data::Data;
use crate::peer::Mounted;
use crate::row::{Better, Quick, Row, Sample};
use crate::stand::{Stand, drop_caches};

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
    measure: |stand| cold(stand, Long::No),
};

pub(crate) const LONG_COLD: Row = Row {
    number: 2,
    name: "lsl-cold",
    about: "ls -l of the same",
    factors: [1.5, 5.0],
    besides: "",
    measure: |stand| cold(stand, Long::Yes),
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
        list(mount.path(), stand.data.count, Long::No)?;
        let (listed, usage) = mount.metered(|| list(mount.path(), stand.data.count, Long::No))?;
        Ok(Sample::new(listed.whole.as_secs_f64() * 1000.0, usage))
    },
    ..COLD
};

/// Between a listing and the kill: a program may write down beside its answers what it has learned.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) const RESTART: Row = Row {
    number: 4,
    name: "ls-restart",
    about: "ls -f of the same after the program was killed, a second after an ls, and has mounted again",
    factors: [5.0, 20.0],
    besides: "",
    measure: |stand| {
        let mount = stand.mount()?;
        list(mount.path(), stand.data.count, Long::No)?;
        std::thread::sleep(SETTLE);
        mount.kill();
        timed(&stand.mount()?, stand.data, Long::No)
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

/// Whether each entry is looked at, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Long {
    No,
    Yes,
}

fn cold(stand: &Stand<'_>, long: Long) -> anyhow::Result<Sample> {
    drop_caches()?;
    timed(&stand.mount()?, stand.data, long)
}

/// Lists everything, and tells how long that takes.
fn timed(mount: &Mounted, data: Data, long: Long) -> anyhow::Result<Sample> {
    let (listed, usage) = mount.metered(|| list(mount.path(), data.count, long))?;
    let sample = Sample::new(listed.whole.as_secs_f64(), usage);
    Ok(sample.with("first entry ms", listed.first.as_secs_f64() * 1000.0))
}

/// Lists a folder as `ls -f` does, or as `ls -l` does; all names must be there, none twice.
fn list(path: &Path, count: u64, long: Long) -> anyhow::Result<Listed> {
    let begun = Instant::now();
    let mut first = None;
    let mut names = Vec::with_capacity(count as usize);
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        first.get_or_insert_with(|| begun.elapsed());
        if long == Long::Yes {
            entry.metadata()?;
        }
        names.push(entry.file_name());
    }
    let whole = begun.elapsed();
    // Whoever lists does not compare.
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        anyhow::bail!("{} came twice", twice[0].display());
    }
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
