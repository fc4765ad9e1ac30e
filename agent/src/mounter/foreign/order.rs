//! What a foreign program is told: an order's values, each one proved before it goes into an argument.

use std::path::Path;

use uuid::Uuid;

use super::super::MountError;
use crate::desired::About;
use crate::observed::record::Serving;

/// What a program is told, proved.
#[derive(Debug)]
pub(super) struct Order<'a> {
    /// `https://host[:port]`, nothing else.
    pub(super) endpoint: &'a str,
    pub(super) region: &'a str,
    pub(super) bucket: &'a str,
    /// Without the slash at its end; empty for the whole bucket.
    pub(super) prefix: &'a str,
    pub(super) path_style: bool,
    /// Memory for what is read, in MiB.
    pub(super) cache_size_mib: Option<u32>,
    pub(super) read_only: bool,
    /// Whether a group may enter.
    pub(super) grouped: bool,
    pub(super) gid: u32,
    /// Where it mounts.
    pub(super) path: &'a Path,
    /// A private folder on disk.
    pub(super) cache_dir: &'a Path,
    /// The key lies in the folder of this name.
    pub(super) mount: Uuid,
}

impl<'a> Order<'a> {
    /// Proves what goes into arguments. The catalog has refused all of this already; a program that takes one text for
    /// another could do anything with a host, so nobody is believed here.
    pub(super) fn of(
        serving: &'a Serving,
        about: &About,
        gid: u32,
        path: &'a Path,
        cache_dir: &'a Path,
        mount: Uuid,
    ) -> Result<Order<'a>, MountError> {
        let word = |text: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=63).contains(&text.len())
                && text.bytes().all(inner)
                && !text.starts_with('-')
                && !text.ends_with('-')
        };
        let refuse = |what: &str| {
            Err(MountError::host(
                "InvalidOrder",
                format!("the connector's {what} cannot be given to a program: correct it in the catalog"),
            ))
        };
        let region = match serving.region.as_str() {
            "" => "us-east-1",
            region => region,
        };
        if !word(&serving.bucket) {
            return refuse("bucket");
        }
        if !word(region) {
            return refuse("region");
        }
        let prefix = serving.prefix.strip_suffix('/').unwrap_or(&serving.prefix);
        let bad_part = |part: &str| matches!(part, "" | "." | "..");
        if serving.prefix.chars().any(char::is_control)
            || (!serving.prefix.is_empty() && prefix.split('/').any(bad_part))
        {
            return refuse("prefix");
        }
        Ok(Order {
            endpoint: &serving.endpoint,
            region,
            bucket: &serving.bucket,
            prefix,
            path_style: serving.path_style,
            cache_size_mib: Some(serving.cache_size_mib).filter(|mib| *mib > 0),
            read_only: serving.read_only,
            grouped: about.unix_group.is_some(),
            gid,
            path,
            cache_dir,
            mount,
        })
    }
}

/// A path as a part of an option or of a command. It is made of what the operator has configured and of uids.
pub(super) fn plain(path: &Path) -> Result<&str, MountError> {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    path.to_str()
        .filter(|text| text.bytes().all(harmless))
        .ok_or_else(|| {
            MountError::host(
                "FolderUnusable",
                format!(
                    "{} has characters that mean something in options of other programs; name run_dir and cache_dir in the \
                     agent's configuration with letters, digits and . _ - + alone",
                    path.display()
                ),
            )
        })
}
