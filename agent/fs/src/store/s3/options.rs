//! What a caller says about a bucket; no part of the SDK shows in it.

use std::path::PathBuf;

use crate::credentials::Credential;
use crate::store::Deadlines;
use crate::store::address::AddressRules;

/// How to reach one bucket.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// `https://host[:port]`; none means AWS itself, by region.
    pub endpoint: Option<String>,
    /// For signatures, and for the endpoint of AWS.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`: right for everything but AWS.
    pub path_style: bool,
    /// Who signs.
    pub credential: Credential,
    /// Where connections may go.
    pub rules: AddressRules,
    /// A PEM file with authorities to trust besides the machine's own.
    pub extra_ca_file: Option<PathBuf>,
    /// Time limits.
    pub deadlines: Deadlines,
    /// Spreads the retries of many workers; any number.
    pub jitter_seed: u64,
}
