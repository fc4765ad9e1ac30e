//! Where one sample is taken: one peer, one server, fresh folders.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::data::Data;
use crate::peer::{Mounted, Peer};
use crate::server::Server;

/// Everything that a row needs for one sample.
pub(crate) struct Stand<'a> {
    /// The server, as slow as its profile says.
    pub(crate) server: &'a Server,
    /// Who is measured.
    pub(crate) peer: &'a Peer,
    /// What lies in the bucket, and below the row's folder.
    pub(crate) data: Data,
    /// A folder of this sample's own, which its caches lie in; with a local directory, the files themselves.
    pub(crate) folder: PathBuf,
    /// Fewer repetitions.
    pub(crate) quick: bool,
}

impl Stand<'_> {
    /// Mounts the row's folder: without caches the first time, with what it has left the next times.
    pub(crate) fn mount(&self) -> anyhow::Result<Mounted> {
        self.peer
            .mount(&self.server.store, self.data.folder, &self.folder)
            .with_context(|| format!("{} does not mount", self.peer.kind.name()))
    }

    /// An eighth of a number in quick runs.
    pub(crate) fn scaled(&self, full: u64) -> u64 {
        if self.quick { (full / 8).max(1) } else { full }
    }
}

/// Has the kernel forget what it keeps of files and names.
pub(crate) fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .context("caches cannot be dropped; is this root, and no container?")
}
