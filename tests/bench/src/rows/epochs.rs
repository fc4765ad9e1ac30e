//! Many small files in an order that nobody can foresee, as a training job reads them.

use std::path::Path;
use std::time::Instant;

use crate::data::{Data, is_right};
use crate::peer::Mounted;
use crate::row::{Better, Quick, Row, Sample};
use crate::stand::drop_caches;

/// Readers at the same time.
const READERS: u64 = 8;

pub(crate) const FIRST: Row = Row {
    number: 13,
    name: "epoch1",
    about: "10,000 files of 100 KB, 8 readers, shuffled, fresh mount",
    unit: "files/s",
    better: Better::More,
    data: Data {
        folder: "samples",
        count: 10_000,
        size: 100_000,
    },
    quick: Quick::Count,
    factors: [1.2, 1.5],
    besides: "",
    local: false,
    ceiling: false,
    measure: |stand| {
        drop_caches()?;
        let mount = stand.mount()?;
        timed(&mount, stand.data)
    },
};

pub(crate) const SECOND: Row = Row {
    number: 14,
    name: "epoch2",
    about: "the same again",
    factors: [4.0, 4.0],
    local: true,
    measure: |stand| {
        let mount = stand.mount()?;
        epoch(mount.path(), stand.data)?;
        timed(&mount, stand.data)
    },
    ..FIRST
};

fn timed(mount: &Mounted, data: Data) -> anyhow::Result<Sample> {
    let (took, usage) = mount.metered(|| {
        let begun = Instant::now();
        epoch(mount.path(), data)?;
        Ok(begun.elapsed())
    })?;
    Ok(Sample::new(data.count as f64 / took.as_secs_f64(), usage))
}

/// Each reader takes its share of a walk over all files that meets each once.
fn epoch(folder: &Path, data: Data) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn(move || {
                    let own = (0..data.count).filter(|turn| turn % READERS == reader);
                    own.map(|turn| turn * stride(data.count) % data.count)
                        .try_for_each(|number| read(&folder.join(Data::name(number)), data.size))
                })
            })
            .collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().expect("no reader panics"))
    })
}

/// A step with no common divisor with `count`, near the golden section: neighbours are far apart.
fn stride(count: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let near = (count as f64 * 0.618) as u64;
    (near.max(1)..).find(|step| gcd(*step, count) == 1).unwrap_or(1)
}

fn read(path: &Path, size: u64) -> anyhow::Result<()> {
    let bytes = std::fs::read(path)?;
    anyhow::ensure!(
        bytes.len() as u64 == size && is_right(&bytes, 0),
        "{} has wrong bytes",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_each_file_once() {
        for count in [1, 2, 7, 1250, 10_000] {
            let mut met: Vec<u64> = (0..count).map(|turn| turn * stride(count) % count).collect();
            met.sort_unstable();
            assert_eq!(met, (0..count).collect::<Vec<_>>());
        }
    }
}
