//! A disk with little room, to be filled.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use crate::folder::{path_text, run};
use crate::mounts;

/// A filesystem in memory with so much room. Dropping it takes it away.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it on a folder, which is made if it is not there.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn at(path: PathBuf, kibibytes: u32) -> SmallDisk {
        fs::create_dir_all(&path).expect("the folder can be made");
        let size = format!("size={kibibytes}k,mode=0700");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "mooring-test-disk", path_text(&path)],
        );
        SmallDisk(path)
    }

    /// Uses up the room that is left.
    ///
    /// # Panics
    /// When not even an empty file can be made.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file can be made");
        // Smaller and smaller pieces, so that not a page is left.
        for size in [65_536, 4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    /// Uses up the room but for so much.
    ///
    /// # Panics
    /// When there is less.
    pub fn fill_but(&self, kibibytes: u64) {
        self.fill();
        let file = File::options()
            .write(true)
            .open(self.filler())
            .expect("it was made");
        let bytes = file.metadata().expect("it can be asked").len();
        let rest = bytes
            .checked_sub(kibibytes << 10)
            .expect("there was so much room");
        file.set_len(rest).expect("a file can be cut");
    }

    /// Gives back what [`SmallDisk::fill`] has used.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        mounts::detach_below(&self.0);
    }
}
