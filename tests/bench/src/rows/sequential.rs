//! Large files from the first byte to the last.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::data::{Data, is_right};
use crate::peer::Mounted;
use crate::row::{Better, Quick, Row, Sample};
use crate::stand::{Stand, drop_caches};

/// What a reader asks for at a time.
const BLOCK_BYTES: usize = 256 << 10;

pub(crate) const COLD: Row = Row {
    number: 8,
    name: "seq-cold",
    about: "read 4 GiB in blocks of 256 KiB, one reader, fresh mount",
    unit: "MB/s",
    better: Better::More,
    data: Data {
        folder: "large",
        count: 1,
        size: 4 << 30,
    },
    quick: Quick::Size,
    factors: [1.2, 1.2],
    besides: "with p1, 80 % of what a bare client reads",
    local: false,
    ceiling: true,
    measure: cold,
};

pub(crate) const COLD_FOUR: Row = Row {
    number: 9,
    name: "seq-cold-4",
    about: "four readers of 1 GiB each, fresh mount",
    data: Data {
        folder: "four",
        count: 4,
        size: 1 << 30,
    },
    besides: "",
    ..COLD
};

pub(crate) const WARM: Row = Row {
    number: 10,
    name: "seq-warm",
    about: "open and read the 4 GiB again",
    factors: [2.5, 2.5],
    besides: "90 % of a local directory",
    local: true,
    ceiling: false,
    measure: |stand| {
        let mount = stand.mount()?;
        read_all(mount.path(), stand.data)?;
        timed(&mount, stand.data)
    },
    ..COLD
};

fn cold(stand: &Stand<'_>) -> anyhow::Result<Sample> {
    drop_caches()?;
    let mount = stand.mount()?;
    timed(&mount, stand.data)
}

/// Reads everything, and tells how fast.
fn timed(mount: &Mounted, data: Data) -> anyhow::Result<Sample> {
    let (took, usage) = mount.metered(|| {
        let begun = Instant::now();
        read_all(mount.path(), data)?;
        Ok(begun.elapsed())
    })?;
    let bytes = (data.count * data.size) as f64;
    Ok(Sample::new(bytes / 1e6 / took.as_secs_f64(), usage)
        .with("CPU-s per GB", usage.cpu_seconds / (bytes / 1e9)))
}

/// Reads each file in a thread of its own.
pub(crate) fn read_all(folder: &Path, data: Data) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..data.count)
            .map(|number| scope.spawn(move || read_one(&folder.join(Data::name(number)), data.size)))
            .collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().expect("no reader panics"))
    })
}

fn read_one(path: &Path, size: u64) -> anyhow::Result<()> {
    let file = File::open(path)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut block, offset)?;
        if read == 0 {
            break;
        }
        anyhow::ensure!(is_right(&block[..read], offset), "a wrong byte near {offset}");
        offset += read as u64;
    }
    anyhow::ensure!(offset == size, "{offset} bytes instead of {size}");
    Ok(())
}
