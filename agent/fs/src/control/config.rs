//! What the agent sends, as the filesystem and its store want it.

use std::path::Path;
use std::sync::Arc;

use mooring_control::{EndpointRules, WorkerConfig};
use zeroize::Zeroizing;

use crate::credentials::{AccessKey, Credential, LiveCredential};
use crate::filesystem::{Presentation, Settings};
use crate::mount::MountError;
use crate::namespace::names::Prefix;
use crate::store::Deadlines;
use crate::store::address::{AddressRules, Network};
use crate::store::s3::S3Options;

/// What to serve, and from where.
pub(super) fn supervised_settings(
    config: WorkerConfig,
    credential: &Arc<LiveCredential>,
) -> Result<(S3Options, Settings), MountError> {
    // The staging folders of all mounts that there were with this cache folder: one that was detached while it was in use
    // goes on with its own, whatever is mounted in its place.
    let all = config.cache_dir.join("staging");
    let staging = match config.succession.as_deref().and_then(Path::file_name) {
        Some(name) => all.join(name),
        None => all,
    };
    let WorkerConfig {
        assignment_uid: _,
        endpoint,
        region,
        bucket,
        prefix,
        path_style,
        cache_size_mib,
        read_only,
        uid,
        gid,
        file_mode,
        dir_mode,
        metadata_ttl,
        cache_dir: _,
        succession: _,
        endpoint_rules: EndpointRules {
            allow_http,
            allowed_networks,
        },
        credential: _,
    } = config;
    let networks = allowed_networks
        .iter()
        .map(|text| text.parse::<Network>())
        .collect::<Result<_, _>>();
    let networks = networks.map_err(|error| {
        MountError::new(
            format!("allowed_networks: {error}"),
            "give networks as 10.0.0.0/8",
        )
    })?;
    let store = S3Options {
        endpoint: Some(endpoint),
        region,
        bucket,
        path_style,
        credential: Credential::live(Arc::clone(credential)),
        rules: AddressRules::guarded(allow_http, networks),
        extra_ca_file: None,
        deadlines: Deadlines::default(),
        jitter_seed: u64::from(std::process::id()),
    };
    let settings = Settings {
        prefix: Prefix::new(&prefix),
        read_only,
        metadata_ttl,
        presentation: Presentation {
            uid,
            gid,
            // Set-id bits never apply, whoever asks for them.
            file_mode: (file_mode & 0o777) as u16,
            dir_mode: (dir_mode & 0o777) as u16,
        },
        staging,
        lock: None,
        memory_bytes: Some(u64::from(cache_size_mib) << 20).filter(|bytes| *bytes > 0),
    };
    Ok((store, settings))
}

/// The key.
pub(super) fn access_key(credential: &mooring_control::Credential) -> AccessKey {
    AccessKey {
        id: credential.access_key_id.clone(),
        secret: Zeroizing::new(credential.secret_access_key.expose().to_owned()),
        session_token: None,
    }
}
