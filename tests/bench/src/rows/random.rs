//! Pieces of large files in any order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::data::{Data, is_right};
use crate::row::{Better, Quick, Row, Sample};
use crate::rows::sequential::{self, read_all};
use crate::stand::{Stand, drop_caches};

/// How long pieces are read: long enough for thousands of them from a cache.
const TIME: Duration = Duration::from_secs(5);

pub(crate) const WARM: Row = Row {
    number: 11,
    name: "rand4k-warm",
    about: "4 KiB anywhere in 1 GiB that was read before, one reader",
    unit: "IOPS",
    better: Better::More,
    data: Data {
        folder: "medium",
        count: 1,
        size: 1 << 30,
    },
    quick: Quick::Size,
    factors: [5.0, 5.0],
    besides: "",
    local: true,
    ceiling: false,
    measure: |stand| {
        let mount = stand.mount()?;
        read_all(mount.path(), stand.data)?;
        let (pieces, usage) = mount.metered(|| read_pieces(stand, mount.path(), 4 << 10))?;
        Ok(pieces.sample(usage))
    },
};

pub(crate) const COLD: Row = Row {
    number: 12,
    name: "rand128k-cold",
    about: "128 KiB anywhere in 10 GiB, one reader, fresh mount",
    unit: "IOPS",
    ceiling: false,
    data: Data {
        folder: "huge",
        count: 1,
        size: 10 << 30,
    },
    factors: [1.3, 1.3],
    besides: "with p1, at most 1.1 bytes fetched for each byte read",
    local: false,
    measure: |stand| {
        drop_caches()?;
        let mount = stand.mount()?;
        stand.server.forget();
        let (pieces, usage) = mount.metered(|| read_pieces(stand, mount.path(), 128 << 10))?;
        let sample = pieces.sample(usage);
        Ok(match stand.server.bytes_sent() {
            Some(sent) => sample.with("fetched per byte read", sent as f64 / pieces.bytes as f64),
            None => sample,
        })
    },
    ..sequential::COLD
};

struct Pieces {
    bytes: u64,
    took: Duration,
    latencies: Vec<Duration>,
}

impl Pieces {
    fn sample(&self, usage: crate::usage::Usage) -> Sample {
        let per_second = self.latencies.len() as f64 / self.took.as_secs_f64();
        let p99 = self.latencies[self.latencies.len() * 99 / 100];
        Sample::new(per_second, usage).with("p99 ms", p99.as_secs_f64() * 1000.0)
    }
}

/// Reads pieces of the row's first file for a while, the same ones for each peer.
fn read_pieces(stand: &Stand<'_>, folder: &std::path::Path, length: usize) -> anyhow::Result<Pieces> {
    let file = File::open(folder.join(Data::name(0)))?;
    let pieces = stand.data.size / length as u64;
    let mut block = vec![0; length];
    let mut latencies = Vec::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let time = if stand.quick { TIME / 4 } else { TIME };
    let begun = Instant::now();
    while begun.elapsed() < time {
        // xorshift64 (Marsaglia 2003): any order will do that nobody can foresee.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = random % pieces * length as u64;
        let asked = Instant::now();
        file.read_exact_at(&mut block, offset)?;
        latencies.push(asked.elapsed());
        anyhow::ensure!(is_right(&block, offset), "a wrong byte near {offset}");
    }
    let took = begun.elapsed();
    latencies.sort();
    Ok(Pieces {
        bytes: latencies.len() as u64 * length as u64,
        took,
        latencies,
    })
}
