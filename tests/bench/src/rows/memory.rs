//! What many readers cost in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

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
        let before = mount.usage();
        let folder = mount.path();
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..stand.data.count)
                .map(|number| {
                    scope.spawn(move || {
                        let file = File::open(folder.join(Data::name(number)))?;
                        let mut block = vec![0; BLOCK_BYTES];
                        for at in (0..BYTES_EACH).step_by(BLOCK_BYTES) {
                            file.read_exact_at(&mut block, at)?;
                            anyhow::ensure!(is_right(&block, at), "a wrong byte near {at}");
                        }
                        Ok(())
                    })
                })
                .collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().expect("no reader panics"))
        })?;
        let usage = mount.usage().since(before);
        Ok(Sample::new(usage.peak_rss_bytes as f64 / (1 << 20) as f64, usage))
    },
};
