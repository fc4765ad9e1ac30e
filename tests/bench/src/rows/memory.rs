//! What many readers cost in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::data::{Data, is_right};
use crate::row::{Better, Quick, Row, Sample};
use crate::stand::drop_caches;

/// What a reader has read when it ends.
const BYTES_EACH: u64 = 4 << 20;
const BLOCK_BYTES: usize = 128 << 10;

pub(crate) const MANY: Row = Row {
    number: 23,
    name: "memory",
    about: "256 readers of 4 MiB each, of 256 files of 1 GiB, all at once",
    unit: "MiB",
    better: Better::Less,
    data: Data {
        folder: "many",
        count: 256,
        size: 1 << 30,
    },
    quick: Quick::Count,
    factors: [1.0, 1.0],
    besides: "at most 1.1 times the budget of 512 MiB",
    local: false,
    ceiling: false,
    measure: |stand| {
        drop_caches()?;
        let mount = stand.mount()?;
        let ((), usage) = mount.metered(|| read_beginnings(mount.path(), stand.data.count))?;
        Ok(Sample::new(usage.peak_rss_bytes as f64 / (1 << 20) as f64, usage))
    },
};

/// Each file has a reader of its own, who reads its first bytes.
fn read_beginnings(folder: &Path, count: u64) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || read_beginning(&folder.join(Data::name(number)))))
            .collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().expect("no reader panics"))
    })
}

fn read_beginning(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    let mut block = vec![0; BLOCK_BYTES];
    for at in (0..BYTES_EACH).step_by(BLOCK_BYTES) {
        file.read_exact_at(&mut block, at)?;
        anyhow::ensure!(is_right(&block, at), "a wrong byte near {at}");
    }
    Ok(())
}
