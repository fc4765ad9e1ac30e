//! From settings to a mount that answers, and back: what standalone and supervised mounts share, and the
//! life of a standalone one.
//!
//! A mount that cannot work fails here, before anything is mounted, with the cause and what to do about it.

mod target;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};

use self::target::{checked_target, mount_failure};
use crate::budget::MemoryBudget;
use crate::credentials::{Credential, EnvironmentDefaults};
use crate::filesystem::{Filesystem, Parts, Presentation, Settings};
use crate::fuse::session::{MountStyle, Session};
use crate::namespace::names::Prefix;
use crate::options::MountOptions;
use crate::reader::{Reader, ReaderOptions};
use crate::store::address::AddressRules;
use crate::store::http::{HttpOptions, PooledClient};
use crate::store::metered::Metered;
use crate::store::s3::{S3Options, S3Store};
use crate::store::{Deadlines, ListRequest, ObjectStore, StoreError};
use crate::succession::{Inheritance, Recorder};
use crate::writer::staging::lock;

/// Kernel read-ahead of a mount: requests then reach their maximum of 1 MiB.
const READ_AHEAD_KIB: u32 = 1024;

/// How long an ending mount goes on uploading what could not be uploaded before.
const UPLOAD_GRACE: Duration = Duration::from_secs(300);

/// Why a mount cannot be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}\n  {remedy}")]
pub struct MountError {
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
    /// The store did answer, and refused the key or what the key may do.
    pub key_refused: bool,
}

impl MountError {
    /// An error with its remedy.
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> MountError {
        MountError {
            reason: reason.into(),
            remedy: remedy.into(),
            key_refused: false,
        }
    }
}

/// A runtime for a mount's futures.
pub fn runtime() -> Result<Runtime, MountError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("mooring-fs")
        .build()
        .map_err(|error| {
            MountError::new(
                format!("threads cannot be started: {error}"),
                "raise the limit on processes",
            )
        })
}

/// Connects a filesystem to a bucket, after making sure that the bucket can be listed.
pub async fn open_filesystem(
    options: S3Options,
    settings: Settings,
    recorder: Recorder,
) -> Result<Arc<Filesystem>, MountError> {
    let bucket = options.bucket.clone();
    let parts = parts(options, settings.memory_bytes, recorder)?;
    check_access(&*parts.store, &bucket, &settings.prefix).await?;
    prepare_staging(&settings.staging)?;
    Ok(Filesystem::new(settings, parts))
}

/// Goes on with the filesystem of a dead worker. The bucket is asked nothing: the mount is in use, whether the
/// store answers at this moment or not.
pub fn go_on(
    options: S3Options,
    settings: Settings,
    recorder: Recorder,
    inheritance: &Inheritance,
) -> Result<Arc<Filesystem>, MountError> {
    prepare_staging(&settings.staging)?;
    let parts = parts(options, settings.memory_bytes, recorder)?;
    Filesystem::going_on(settings, parts, inheritance).map_err(|error| {
        MountError::new(
            format!("what the dead worker has staged cannot be opened: {error}"),
            "see to the cache folder; its files are still there",
        )
    })
}

/// What a filesystem is built from; to be called within a runtime.
fn parts(options: S3Options, memory_bytes: Option<u64>, recorder: Recorder) -> Result<Parts, MountError> {
    let store = S3Store::new(options).map_err(|error| no_connection(&error))?;
    let store = Metered::new(Arc::new(store));
    let requests = store.requests();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let runtime = Handle::current();
    let reader = Reader::new(
        Arc::clone(&store),
        MemoryBudget::of_this_process(memory_bytes),
        ReaderOptions::default(),
        runtime.clone(),
    );
    Ok(Parts {
        store,
        reader,
        runtime,
        recorder,
        requests,
    })
}

/// Runs a standalone mount until it is unmounted; `ready` is called when it answers.
pub fn run_standalone(options: &MountOptions, ready: impl FnOnce()) -> Result<(), MountError> {
    let target = checked_target(&options.target)?;
    let runtime = runtime()?;
    let filesystem = runtime.block_on(async {
        let (store, settings) = standalone_settings(options).await?;
        check_staging(&settings.staging, &target)?;
        // Nobody succeeds a standalone mount's process: nobody else has its descriptor.
        open_filesystem(store, settings, Recorder::default()).await
    })?;
    let (bucket, prefix) = options.bucket_and_prefix();
    let name = if prefix.is_empty() {
        bucket.to_owned()
    } else {
        format!("{bucket}:{prefix}")
    };
    let style = MountStyle {
        name: &name,
        read_only: options.read_only,
        allow_other: options.allow_other,
    };
    let mut session = Session::mount(Arc::clone(&filesystem), &target, style)
        .map_err(|error| mount_failure(&error, &target, options.allow_other))?;
    let mut unmounter = session.unmounter();
    let (ended_sender, ended) = tokio::sync::oneshot::channel();
    let tell = move |served: std::io::Result<()>| {
        if let Err(error) = served {
            tracing::error!(%error, "the connection to the kernel ended with an error");
        }
        // The receiver may be gone already, after a second signal.
        let _ = ended_sender.send(());
    };
    let serving = session
        .start(tell)
        .map_err(|error| MountError::new(format!("threads cannot be started: {error}"), "raise the limit"))?;
    std::fs::metadata(&target).map_err(|error| {
        MountError::new(
            format!("the mount does not answer: {error}"),
            "see the log for the reason",
        )
    })?;
    set_read_ahead(&target);
    tracing::info!(source = %name, target = %target.display(), "the bucket is mounted");
    ready();
    runtime.block_on(async {
        if first_of(ended).await == Ended::BySignal {
            tracing::info!("a signal asks to end: uploading and unmounting");
            filesystem.upload_everything().await;
            if let Err(error) = unmounter.unmount() {
                tracing::warn!(%error, "files are still open: the mount is detached and ends when they are closed");
                detach(&target);
            }
        }
    });
    if serving.join().is_err() {
        tracing::error!("a FUSE thread panicked");
    }
    let clean = runtime.block_on(filesystem.stop(UPLOAD_GRACE));
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracing::info!("the bucket is unmounted");
    if clean {
        Ok(())
    } else {
        Err(MountError::new(
            "some files could not be uploaded and are lost; closing them had reported an error",
            "see the log for their names and the reason",
        ))
    }
}

/// Sets the kernel's read-ahead for a mount. Needs root; without it reads are served all the same.
fn set_read_ahead(target: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::metadata(target) else {
        return;
    };
    let device = metadata.dev();
    set_read_ahead_of(rustix::fs::major(device), rustix::fs::minor(device));
}

/// Sets the kernel's read-ahead for the device of a mount.
pub fn set_read_ahead_of(major: u32, minor: u32) {
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(path, %error, "the kernel's read-ahead stays as it is");
    }
}

/// Makes the staging folder, for nobody else's eyes.
pub fn prepare_staging(folder: &Path) -> Result<(), MountError> {
    let made = lock::make(folder);
    made.map_err(|error| {
        MountError::new(
            format!("the cache folder {} cannot be made: {error}", folder.display()),
            "give another one with --cache-dir",
        )
    })
}

/// Staging below the mount itself would have the filesystem wait for itself.
fn check_staging(staging: &Path, target: &Path) -> Result<(), MountError> {
    prepare_staging(staging)?;
    let real = staging.canonicalize().unwrap_or_else(|_| staging.to_owned());
    if real.starts_with(target) {
        return Err(MountError::new(
            format!(
                "the cache folder {} is below the folder to mount at",
                real.display()
            ),
            "give one elsewhere with --cache-dir",
        ));
    }
    Ok(())
}

/// Where standalone mounts stage and log unless told otherwise.
pub fn default_cache_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/cache/mooring-fs");
    }
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    base.or_else(home)
        .unwrap_or_else(std::env::temp_dir)
        .join("mooring-fs")
}

/// The store's refusal in words, for whoever mounts.
pub fn explain(error: &StoreError, bucket: &str) -> MountError {
    let reason = format!("bucket {bucket}: {error}");
    let remedy = match error {
        StoreError::NoSuchBucket => "check the bucket's name, the endpoint and the region",
        StoreError::Denied { code } if code == "SignatureDoesNotMatch" => "the secret key is wrong: check it",
        StoreError::Denied { code } if code == "InvalidAccessKeyId" => {
            "the store does not know the access key id: check it and the endpoint"
        }
        StoreError::Denied { .. } => {
            "check the key (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or --profile) and that it may list the bucket"
        }
        StoreError::Unavailable { .. } | StoreError::DeadlineExceeded | StoreError::Interrupted { .. } => {
            "check the endpoint and the network to it; a certificate authority of your own is named with --ca-file"
        }
        StoreError::NotFound | StoreError::PreconditionFailed | StoreError::Unsupported => {
            "check that the endpoint is an S3 service"
        }
        StoreError::OtherScheme { speaks_tls: true, .. } => "give the endpoint as https://",
        StoreError::OtherScheme {
            speaks_tls: false, ..
        } => "if the store has no TLS there, give the endpoint as http://; else check the port",
        StoreError::Refused { .. } => "check the endpoint, the region and --path-style",
    };
    MountError {
        key_refused: matches!(error, StoreError::Denied { .. }),
        ..MountError::new(reason, remedy)
    }
}

async fn check_access(store: &dyn ObjectStore, bucket: &str, prefix: &Prefix) -> Result<(), MountError> {
    store
        .list(ListRequest::any(prefix.as_str()))
        .await
        .map(|_| ())
        .map_err(|error| explain(&error, bucket))
}

/// The usual AWS sources, for a person who says where they differ.
pub(crate) async fn environment_defaults(
    profile: Option<&str>,
    ca_file: Option<PathBuf>,
    rules: &AddressRules,
    deadlines: Deadlines,
) -> Result<EnvironmentDefaults, MountError> {
    let http = PooledClient::new(HttpOptions {
        rules: rules.clone(),
        extra_ca_file: ca_file,
        deadlines,
    })
    .map_err(|error| no_connection(&error))?;
    Ok(Credential::from_environment(profile, http).await)
}

pub(crate) fn no_connection(error: &dyn std::error::Error) -> MountError {
    MountError::new(
        format!(
            "the connection to the store cannot be set up: {}",
            with_causes(error)
        ),
        "check the certificate authorities of this machine and --ca-file",
    )
}

async fn standalone_settings(options: &MountOptions) -> Result<(S3Options, Settings), MountError> {
    let rules = AddressRules::anything();
    let deadlines = Deadlines::default();
    let (bucket, prefix) = options.bucket_and_prefix();
    let (credential, region) = if options.anonymous {
        (Credential::anonymous(), None)
    } else {
        let found = environment_defaults(
            options.profile.as_deref(),
            options.ca_file.clone(),
            &rules,
            deadlines,
        )
        .await?;
        (found.credential, found.region)
    };
    let store = S3Options {
        endpoint: options.endpoint.clone(),
        region: options
            .region
            .clone()
            .or(region)
            .unwrap_or_else(|| "us-east-1".to_owned()),
        bucket: bucket.to_owned(),
        path_style: options.path_style.unwrap_or(options.endpoint.is_some()),
        credential,
        rules,
        extra_ca_file: options.ca_file.clone(),
        deadlines,
        jitter_seed: u64::from(std::process::id()),
    };
    let settings = Settings {
        prefix: Prefix::new(prefix),
        read_only: options.read_only,
        metadata_ttl: options.metadata_ttl,
        presentation: Presentation {
            uid: options.uid.unwrap_or_else(|| rustix::process::getuid().as_raw()),
            gid: options.gid.unwrap_or_else(|| rustix::process::getgid().as_raw()),
            file_mode: options.file_mode,
            dir_mode: options.dir_mode,
        },
        staging: options
            .cache_dir
            .clone()
            .unwrap_or_else(default_cache_dir)
            .join("staging"),
        // All mounts of a person share it.
        lock: None,
        memory_bytes: options.cache_size_mib.map(|mib| u64::from(mib) << 20),
    };
    Ok((store, settings))
}

/// Takes a busy mount out of the tree; it goes on for those who have it open.
fn detach(target: &Path) {
    let detached = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
    if let Err(error) = detached {
        let helper = std::process::Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(target)
            .status();
        if !helper.is_ok_and(|status| status.success()) {
            tracing::warn!(%error, "the mount cannot be detached; unmount it by hand");
        }
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    BySignal,
    ByUnmount,
}

/// Waits for the first signal or the end of the mount. A second signal ends the process, as by default.
async fn first_of(unmounted: tokio::sync::oneshot::Receiver<()>) -> Ended {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers signals end the process at once, and an unmount is the only other end.
        let _ = unmounted.await;
        return Ended::ByUnmount;
    };
    tokio::select! {
        // All arms are cancel-safe: nothing is lost when another one is first.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = unmounted => return Ended::ByUnmount,
    }
    std::thread::spawn(move || {
        let Ok(waiting) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        waiting.block_on(async {
            tokio::select! {
                // The process ends at either.
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        tracing::warn!("a second signal ends the process at once");
        std::process::exit(130);
    });
    Ended::BySignal
}

/// An error and everything below it, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
