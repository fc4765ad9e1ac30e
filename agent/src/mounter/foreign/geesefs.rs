//! The command line and the key of GeeseFS.
//!
//! It takes its key from a credential process, which it asks again whenever the key's time is over: so another key needs
//! no new mount. The process is `sed` over a file of ours, which gives the key [`KEY_SECONDS`] to live.

use std::ffi::OsString;

use mooring_control::Credential;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::super::MountError;
use super::METADATA_TTL_SECONDS;
use super::keys::{KeyFiles, Keys};
use super::order::{Order, plain};

/// The configuration that GeeseFS reads once.
const CONFIG: &str = "aws.conf";
/// The key, which it is given by the process.
const KEY: &str = "key.json";

/// A new key is in use after this time. Each time costs three small processes on a mount that is used.
const KEY_SECONDS: u32 = 4;

/// Bytes in its own cache, in MiB; its default is 1000, and a host has many mounts.
const MEMORY_MIB: u32 = 512;

/// A read that fails is tried again after 1, 2 and 4 s; its default is ten times, which is four minutes.
const READ_ATTEMPTS: u32 = 4;

/// All that GeeseFS is told.
pub(super) fn arguments(order: &Order<'_>, keys: &Keys) -> Result<Vec<OsString>, MountError> {
    let (file_mode, dir_mode) = match (order.grouped, order.read_only) {
        (true, false) => ("0660", "0770"),
        (true, true) => ("0640", "0750"),
        (false, _) => ("0600", "0700"),
    };
    let access = if order.read_only { "ro" } else { "rw" };
    let mut arguments: Vec<OsString> = vec!["-f".into()];
    let mut give = |name: &str, value: String| {
        arguments.push(name.into());
        arguments.push(value.into());
    };
    give("--endpoint", order.endpoint.to_owned());
    give("--region", order.region.to_owned());
    give(
        "--shared-config",
        plain(&keys.path(order.mount, CONFIG))?.to_owned(),
    );
    give("--uid", "0".to_owned());
    give("--gid", order.gid.to_string());
    // What it shows is one thing, what it runs as another.
    give("--setuid", "0".to_owned());
    give("--setgid", "0".to_owned());
    give("--file-mode", file_mode.to_owned());
    give("--dir-mode", dir_mode.to_owned());
    give("--stat-cache-ttl", format!("{METADATA_TTL_SECONDS}s"));
    give(
        "--memory-limit",
        order.cache_size_mib.unwrap_or(MEMORY_MIB).to_string(),
    );
    give("--read-retry-attempts", READ_ATTEMPTS.to_string());
    give("--print-stats", "0".to_owned());
    give(
        "-o",
        format!("fsname=mooring,allow_other,default_permissions,nosuid,nodev,noatime,{access}"),
    );
    // What is only in its memory dies with it, so uploads begin when a file is closed; the close itself does not wait.
    arguments.push("--fsync-on-close".into());
    // It would try other ways to sign, and other regions, than the connector says.
    arguments.push("--no-detect".into());
    // Unfinished uploads of others are not ours to end.
    arguments.push("--no-expire-multipart".into());
    if !order.path_style {
        arguments.push("--subdomain".into());
    }
    arguments.push("--".into());
    arguments.push(match order.prefix {
        "" => order.bucket.into(),
        prefix => format!("{}:{prefix}", order.bucket).into(),
    });
    arguments.push(order.path.into());
    Ok(arguments)
}

/// The key, where the credential process finds it, and how to ask.
pub(super) fn key_files(keys: &Keys, mount: Uuid, credential: &Credential) -> Result<KeyFiles, MountError> {
    let key = keys.path(mount, KEY);
    let config = format!(
        "[default]\ncredential_process = sed \"s/@EXPIRES@/$(date -u -d '+{KEY_SECONDS} seconds' +%Y-%m-%dT%H:%M:%SZ)/\" {}\n",
        plain(&key)?
    );
    Ok(vec![
        (KEY, key_file(credential)),
        (CONFIG, Zeroizing::new(config.into_bytes())),
    ])
}

fn key_file(credential: &Credential) -> Zeroizing<Vec<u8>> {
    let text = |text: &str| Zeroizing::new(serde_json::to_string(text).expect("a text can be written"));
    let id = text(&credential.access_key_id);
    let secret = text(credential.secret_access_key.expose());
    Zeroizing::new(
        format!(
            "{{\"Version\":1,\"AccessKeyId\":{},\"SecretAccessKey\":{},\"Expiration\":\"@EXPIRES@\"}}\n",
            *id, *secret
        )
        .into_bytes(),
    )
}
