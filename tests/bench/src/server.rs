//! The S3 servers that are measured against.

use std::net::Ipv4Addr;
use std::path::Path;

use mooring_tests::{Store, versitygw};
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::profile::Profile;

/// The bucket of all rows.
const BUCKET: &str = "bench";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ground {
    /// `mooring-test-s3`, in memory: it needs the least CPU itself, and knows both profiles.
    Own,
    /// versitygw over a folder: a check that nothing is tuned to our own.
    Versitygw,
}

impl Ground {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Ground::Own => "own",
            Ground::Versitygw => "versitygw",
        }
    }

    /// Whether it can be as slow as a profile says.
    pub(crate) fn knows(self, profile: Profile) -> bool {
        match self {
            Ground::Own => true,
            Ground::Versitygw => profile == Profile::P1,
        }
    }
}

/// A server that runs, and what was put into it.
pub(crate) struct Server {
    ground: Ground,
    /// Its endpoint, bucket and keys.
    pub(crate) store: Store,
    filled: Vec<Data>,
}

impl Server {
    /// Starts one with an empty bucket; what it keeps on disk lies below `folder`.
    pub(crate) fn start(ground: Ground, folder: &Path) -> Server {
        let store = match ground {
            Ground::Own => Store::start(folder, Ipv4Addr::LOCALHOST, BUCKET),
            Ground::Versitygw => versitygw::start(folder, BUCKET),
        };
        Server {
            ground,
            store,
            filled: Vec::new(),
        }
    }

    /// Makes it as slow as the profile says.
    pub(crate) fn shape(&self, profile: Profile) {
        if self.ground == Ground::Own {
            self.store.shape(&profile.settings());
        }
    }

    /// Puts files into the bucket that are not there yet. `local` is a folder for what must be uploaded.
    pub(crate) fn fill(&mut self, data: Data, local: &Path) -> anyhow::Result<()> {
        if self.filled.contains(&data) {
            return Ok(());
        }
        match self.ground {
            Ground::Own => self
                .store
                .fill(&format!("{}/", data.folder), data.count, data.size),
            Ground::Versitygw => {
                data.put_locally(local)?;
                for number in 0..data.count {
                    let name = format!("{}/{}", data.folder, Data::name(number));
                    self.store.put_file(&name, &local.join(&name));
                }
            }
        }
        self.filled.push(data);
        Ok(())
    }

    /// Bytes that it has sent as objects since it was asked to forget; nothing is known of servers that are not ours.
    pub(crate) fn bytes_sent(&self) -> Option<u64> {
        (self.ground == Ground::Own).then(|| self.store.bytes_sent("GetObject"))
    }

    /// Counts from zero again.
    pub(crate) fn forget(&self) {
        if self.ground == Ground::Own {
            self.store.forget_requests();
        }
    }
}
