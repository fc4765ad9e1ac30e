//! How slow the S3 server is.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What stands between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// Nothing: shows CPU per byte and per operation.
    P1,
    /// Delays and limits like those of S3: shows concurrency.
    P2,
}

impl Profile {
    /// Both, in the order of the report.
    pub(crate) const ALL: [Profile; 2] = [Profile::P1, Profile::P2];

    /// What our own server is told.
    pub(crate) fn settings(self) -> Value {
        match self {
            Profile::P1 => json!({ "page_entries_max": 1000 }),
            Profile::P2 => json!({
                "latency": {
                    "get_millis": 25, "head_millis": 25, "put_millis": 40, "list_millis": 70, "delete_millis": 20
                },
                "connection_bytes_per_second": 90_000_000,
                "page_entries_max": 1000,
            }),
        }
    }

    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::P1 => "p1",
            Profile::P2 => "p2",
        }
    }
}
