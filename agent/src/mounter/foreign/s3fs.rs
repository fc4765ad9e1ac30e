//! The command line and the key of s3fs, and what it says when it cannot mount.
//!
//! It reads its key once: another key needs a new mount.

use std::ffi::OsString;

use mooring_control::Credential;
use zeroize::Zeroizing;

use super::super::MountError;
use super::keys::{KeyFiles, Keys};
use super::order::{Order, plain};
use super::{Failed, METADATA_TTL_SECONDS};

/// `ID:SECRET`, one line.
const KEY: &str = "passwd";

/// Its defaults are 300 s, 120 s and 5 times: half an hour until a program hears that the store is away.
const CONNECT_SECONDS: u32 = 10;
const SILENCE_SECONDS: u32 = 60;
const RETRIES: u32 = 3;

/// All that s3fs is told. Options are split at commas, so each value is proved to have none.
pub(super) fn arguments(order: &Order<'_>, keys: &Keys) -> Result<Vec<OsString>, MountError> {
    // It has one mask for files and folders.
    let mask = match (order.grouped, order.read_only) {
        (true, false) => "0007",
        (true, true) => "0027",
        (false, _) => "0077",
    };
    let key = keys.path(order.mount, KEY);
    let mut options = vec![
        format!("url={}", order.endpoint),
        format!("endpoint={}", order.region),
        format!("passwd_file={}", plain(&key)?),
        // Open files lie here, which are no longer there under any name.
        format!("tmpdir={}", plain(order.cache_dir)?),
        "uid=0".to_owned(),
        format!("gid={}", order.gid),
        format!("umask={mask}"),
        format!("mp_umask={mask}"),
        format!("stat_cache_expire={METADATA_TTL_SECONDS}"),
        format!("connect_timeout={CONNECT_SECONDS}"),
        format!("readwrite_timeout={SILENCE_SECONDS}"),
        format!("retries={RETRIES}"),
    ];
    let fixed = [
        // By default it would fall back to a signature that is no longer safe.
        "sigv4",
        // Without it, folders that another program has made may be shown as files.
        "complement_stat",
        "dbglevel=err",
        "fsname=mooring",
        // With a name of the file system, it must be told its type, too.
        "subtype=s3fs",
        "allow_other",
        "default_permissions",
        "nosuid",
        "nodev",
        "noatime",
    ];
    options.extend(fixed.map(str::to_owned));
    options.push(if order.read_only { "ro" } else { "rw" }.to_owned());
    if order.path_style {
        options.push("use_path_request_style".to_owned());
    }
    if let Some(split) = options.iter().find(|option| option.contains([',', '\\'])) {
        return Err(MountError::host(
            "InvalidOrder",
            format!("{split} would be more than one option of s3fs; correct the connector"),
        ));
    }
    let source = match order.prefix {
        "" => order.bucket.to_owned(),
        prefix => format!("{}:/{prefix}", order.bucket),
    };
    Ok(vec![
        "-f".into(),
        "-o".into(),
        options.join(",").into(),
        "--".into(),
        source.into(),
        order.path.into(),
    ])
}

/// The file that s3fs reads when it starts.
pub(super) fn key_files(credential: &Credential) -> Result<KeyFiles, MountError> {
    let id = credential.access_key_id.as_str();
    let secret = credential.secret_access_key.expose();
    let good =
        |text: &str| !text.is_empty() && text.chars().all(|char| char.is_ascii_graphic() && char != ':');
    if !good(id) || !good(secret) {
        return Err(MountError::Credential {
            reason: "KeyUnusable",
            message: "s3fs cannot be given a key with colons, spaces or letters beyond ASCII; make another key, or set the \
                      connector's backend to DEFAULT"
                .to_owned(),
        });
    }
    Ok(vec![(
        KEY,
        Zeroizing::new(format!("{id}:{secret}\n").into_bytes()),
    )])
}

/// What s3fs says of the store before it gives up. Text is all that it tells; its exit status is 0.
pub(super) fn failure(output: &str) -> Option<Failed> {
    let line = output
        .lines()
        .rev()
        .find(|line| line.contains("s3fs_check_service"))?;
    Some(if line.contains("invalid credentials") {
        Failed::KeyRefused
    } else if line.contains("bucket or key not found") {
        Failed::BucketMissing
    } else {
        // «unable to connect», and whatever other versions may say.
        Failed::StoreAway
    })
}
