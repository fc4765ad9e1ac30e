//! A supervised mount: the agent connects to our socket, sends what to serve, asks how it does, and may
//! die and come back meanwhile.
//!
//! The worker ends when its mount is unmounted, or when no agent has started it in time. It never mounts
//! and never unmounts.

mod inherit;

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mooring_control::{
    Connection, EndpointRules, FromWorker, HiddenKeys, Listener, MountActivity, PROTOCOL_VERSION, ToWorker,
    TransportError, WorkerConfig, WorkerStatus,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use self::inherit::{fresh_recorder, inherit, left_behind};
use crate::credentials::{AccessKey, Credential, LiveCredential};
use crate::filesystem::{Filesystem, Presentation, Settings};
use crate::fuse::session::Session;
use crate::mount::{MountError, open_filesystem, prepare_staging, runtime, set_read_ahead_of};
use crate::namespace::names::Prefix;
use crate::store::Deadlines;
use crate::store::address::{AddressRules, Network};
use crate::store::s3::S3Options;
use crate::writer::staging::Staging;

/// A worker that nobody starts within this time has lost its agent: it ends, and the agent makes another.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// Conversations at the same time: the agent's, one more while it restarts, and a person's for status.
const CONVERSATIONS_MAX: usize = 8;

/// An answer is taken from the socket's buffer at once by an agent that lives.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// How long an ending worker goes on uploading.
const UPLOAD_GRACE: Duration = Duration::from_secs(300);

/// Of what the store says, and of keys, a message carries only so much: both may be of any length, and a
/// message that does not fit into a packet (64 KiB, with up to six bytes for a character) would end the
/// conversation, so that a hostile bucket could silence a healthy worker.
const TEXT_BYTES_MAX: usize = 2048;
const EXAMPLE_BYTES_MAX: usize = 256;

/// What ends a worker.
enum Event {
    Started,
    StartFailed,
    Unmounted,
}

/// How a mount's service ends.
enum Ended {
    Unmounted,
    BySignal,
}

struct Worker {
    runtime: Handle,
    phase: Mutex<Phase>,
    events: mpsc::UnboundedSender<Event>,
    conversations: AtomicUsize,
}

enum Phase {
    /// Nobody has sent a Start.
    Waiting,
    /// One is being followed, or has failed and ends the process.
    Starting,
    /// The mount is served.
    Serving(Arc<Served>),
}

struct Served {
    assignment_uid: String,
    filesystem: Arc<Filesystem>,
    credential: Arc<LiveCredential>,
    fuse_descriptor: i32,
}

impl Served {
    /// Whether another process can succeed this one.
    fn resend(&self) -> bool {
        self.filesystem.recorder().is_on()
    }
}

/// Where a mount comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was made just now.
    Fresh,
    /// Another process has served it, and is dead.
    Inherited,
}

/// Serves one mount; returns when it is unmounted.
pub fn serve(path: &Path) -> Result<(), MountError> {
    let listener = Listener::bind(path).map_err(|error| {
        MountError::new(
            format!("the socket {} cannot be made: {error}", path.display()),
            "its folder must exist and be writable, and the path shorter than 108 bytes",
        )
    })?;
    if path.is_absolute() {
        // Wherever the agent is: a working directory on the mount would have this process wait for itself. There
        // is always a root.
        let _ = std::env::set_current_dir("/");
    }
    let runtime = runtime()?;
    // At most three events ever come, one of each.
    let (events, mut happened) = mpsc::unbounded_channel();
    let worker = Arc::new(Worker {
        runtime: runtime.handle().clone(),
        phase: Mutex::new(Phase::Waiting),
        events,
        conversations: AtomicUsize::new(0),
    });
    let accepting = Arc::clone(&worker);
    let socket = listener.file();
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || accepting.accept(&listener))
        .map_err(|error| MountError::new(format!("threads cannot be started: {error}"), "raise the limit"))?;
    let outcome = runtime.block_on(wait(&mut happened));
    let served = worker.served();
    let clean = match &served {
        Some(served) => runtime.block_on(served.filesystem.stop(UPLOAD_GRACE)),
        None => true,
    };
    if let (Some(served), Ok(Ended::Unmounted)) = (&served, &outcome) {
        // After a signal the mount is still there, and another worker may go on with it.
        served.filesystem.leave_nothing();
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    // The thread that owns the listener never ends by itself.
    socket.remove();
    outcome?;
    if clean {
        Ok(())
    } else {
        Err(MountError::new(
            "some files could not be uploaded and are lost",
            "see the log for their names",
        ))
    }
}

async fn wait(happened: &mut mpsc::UnboundedReceiver<Event>) -> Result<Ended, MountError> {
    use tokio::signal::unix::{SignalKind, signal};
    match tokio::time::timeout(START_DEADLINE, happened.recv()).await {
        Ok(Some(Event::Started)) => {}
        Ok(Some(Event::Unmounted)) => return Ok(Ended::Unmounted),
        Ok(Some(Event::StartFailed) | None) => {
            return Err(MountError::new(
                "the mount could not be started",
                "the agent has been told the reason",
            ));
        }
        Err(_) => {
            return Err(MountError::new(
                "no agent has started this worker",
                "nothing: the agent makes another",
            ));
        }
    }
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        happened.recv().await;
        return Ok(Ended::Unmounted);
    };
    tokio::select! {
        // Both arms are cancel-safe: the process ends after either.
        _ = happened.recv() => Ok(Ended::Unmounted),
        _ = terminate.recv() => {
            tracing::warn!("a signal ends the worker while its mount is in use");
            Ok(Ended::BySignal)
        }
    }
}

impl Worker {
    fn accept(self: Arc<Worker>, listener: &Listener) {
        loop {
            let connection = match listener.accept() {
                Ok(connection) => connection,
                Err(error @ TransportError::ForeignPeer { .. }) => {
                    tracing::warn!(%error, "a connection is refused");
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "the control socket fails");
                    // Nothing to wait for but better times; the mount goes on.
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                }
            };
            if self.conversations.fetch_add(1, Ordering::Relaxed) >= CONVERSATIONS_MAX {
                self.conversations.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let worker = Arc::clone(&self);
            let spawned = std::thread::Builder::new()
                .name("conversation".to_owned())
                .spawn(move || {
                    match worker.converse(&connection) {
                        Ok(()) | Err(TransportError::Closed) => {}
                        Err(error) => tracing::warn!(%error, "a conversation with the agent ends"),
                    }
                    worker.conversations.fetch_sub(1, Ordering::Relaxed);
                });
            if spawned.is_err() {
                self.conversations.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn converse(&self, connection: &Connection) -> Result<(), TransportError> {
        connection.set_send_deadline(SEND_DEADLINE)?;
        loop {
            let (message, descriptor) = connection.receive::<ToWorker>()?;
            let served = self.served();
            let answer = match message {
                ToWorker::Hello { version } if version == PROTOCOL_VERSION => self.hello(),
                ToWorker::Hello { version } => FromWorker::Failed {
                    reason: format!("the agent speaks version {version}, this worker {PROTOCOL_VERSION}"),
                    remedy: "start the worker of the agent's own version".to_owned(),
                    key_refused: false,
                },
                ToWorker::Start { config: _ } | ToWorker::Succeed { config: _ } if !self.begin_start() => {
                    failed(MountError::new(
                        "this worker serves a mount already, or is about to",
                        "start another worker",
                    ))
                }
                ToWorker::Start { config } => match self.start(config, descriptor, Origin::Fresh) {
                    Ok(started) => started,
                    Err(error) => return self.tell_failure(connection, error),
                },
                ToWorker::Succeed { config } => match self.start(config, descriptor, Origin::Inherited) {
                    Ok(started) => started,
                    Err(error) => return self.tell_failure(connection, error),
                },
                ToWorker::Prepare { config } => match prepare(config) {
                    Ok(()) => FromWorker::Prepared,
                    Err(error) => failed(error),
                },
                ToWorker::SetCredential { credential } => match served {
                    Some(served) => {
                        served.credential.replace(access_key(&credential));
                        tracing::info!(access_key_id = credential.access_key_id, "a new key is in use");
                        FromWorker::Status(self.status())
                    }
                    None => failed(MountError::new("no mount is served yet", "send Start first")),
                },
                ToWorker::Status => FromWorker::Status(self.status()),
                ToWorker::Stop { grace } => {
                    if let Some(served) = served {
                        let upload = served.filesystem.upload_everything();
                        // Whether all is uploaded is in the status that follows.
                        let _ = self
                            .runtime
                            .block_on(async { tokio::time::timeout(grace, upload).await });
                    }
                    FromWorker::Status(self.status())
                }
            };
            connection.send(&answer, None)?;
        }
    }

    /// Ends the process, once the agent knows why.
    fn tell_failure(&self, connection: &Connection, error: MountError) -> Result<(), TransportError> {
        let told = connection.send(&failed(error), None);
        // The receiver is gone when the process is ending anyway.
        let _ = self.events.send(Event::StartFailed);
        told
    }

    fn hello(&self) -> FromWorker {
        let served = self.served();
        FromWorker::Hello {
            version: PROTOCOL_VERSION,
            pid: std::process::id(),
            started: served.is_some(),
            assignment_uid: served.as_ref().map(|served| served.assignment_uid.clone()),
            fuse_descriptor: served.as_ref().map(|served| served.fuse_descriptor),
            resend: served.as_ref().is_some_and(|served| served.resend()),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn served(&self) -> Option<Arc<Served>> {
        match &*self.phase.lock() {
            Phase::Serving(served) => Some(Arc::clone(served)),
            Phase::Waiting | Phase::Starting => None,
        }
    }

    /// True for the one who may start.
    fn begin_start(&self) -> bool {
        let mut phase = self.phase.lock();
        match *phase {
            Phase::Waiting => {
                *phase = Phase::Starting;
                true
            }
            Phase::Starting | Phase::Serving(_) => false,
        }
    }

    fn start(
        &self,
        config: WorkerConfig,
        descriptor: Option<OwnedFd>,
        origin: Origin,
    ) -> Result<FromWorker, MountError> {
        let descriptor = descriptor
            .ok_or_else(|| MountError::new("no FUSE descriptor came with the message", "send it along"))?;
        let asked = Instant::now();
        let assignment_uid = config.assignment_uid.clone();
        let succession = config.succession.clone();
        let credential = LiveCredential::new(access_key(&config.credential));
        let (store, settings) = supervised_settings(config, &credential)?;
        let minor = fuse_connection(&descriptor);
        let _inside = self.runtime.enter();
        let (filesystem, session) = match origin {
            Origin::Fresh => {
                let recorder = fresh_recorder(succession.as_deref());
                prepare_staging(&settings.staging)?;
                Staging::without_successor(settings.staging.clone()).purge(&HashMap::new());
                let filesystem = self
                    .runtime
                    .block_on(open_filesystem(store, settings, recorder))?;
                let session =
                    Session::of_descriptor(Arc::clone(&filesystem), descriptor).map_err(|error| {
                        MountError::new(
                            format!("the FUSE descriptor does not work: {error}"),
                            "it must be of a fresh mount that nobody serves",
                        )
                    })?;
                (filesystem, session)
            }
            Origin::Inherited => inherit(succession.as_deref(), store, settings, descriptor)?,
        };
        let fuse_descriptor = session.descriptor();
        let events = self.events.clone();
        let tell = move || {
            // The receiver is gone when the process is ending anyway.
            let _ = events.send(Event::Unmounted);
        };
        session.start(tell).map_err(|error| {
            MountError::new(format!("threads cannot be started: {error}"), "raise the limit")
        })?;
        if let Some(minor) = minor {
            set_read_ahead_of(0, minor);
        }
        let served = Served {
            assignment_uid,
            filesystem,
            credential,
            fuse_descriptor,
        };
        let resend = served.resend();
        tracing::info!(
            assignment = served.assignment_uid,
            inherited = origin == Origin::Inherited,
            resend,
            took = ?asked.elapsed(),
            "the mount is served"
        );
        *self.phase.lock() = Phase::Serving(Arc::new(served));
        let _ = self.events.send(Event::Started);
        Ok(FromWorker::Started {
            resend,
            fuse_descriptor: Some(fuse_descriptor),
        })
    }

    fn status(&self) -> WorkerStatus {
        let Some(served) = self.served() else {
            return WorkerStatus::default();
        };
        let (open, dirty, uploading, conflict_copies) = served.filesystem.activity();
        let (count, examples) = served.filesystem.hidden_keys();
        let health = served.filesystem.health();
        WorkerStatus {
            started: true,
            activity: MountActivity {
                open_files: open as u64,
                dirty_files: dirty as u64,
                uploading_files: uploading as u64,
                conflict_copies,
            },
            hidden_keys: HiddenKeys {
                count,
                examples: examples.iter().map(|key| cut(key, EXAMPLE_BYTES_MAX)).collect(),
            },
            store_error: health.store_error.map(|text| cut(&text, TEXT_BYTES_MAX)),
            key_refused: health.key_refused,
            writable: health.writable,
        }
    }
}

/// Whether a mount could be gone on with, from all that can be told while its worker lives.
fn prepare(config: WorkerConfig) -> Result<(), MountError> {
    let succession = config.succession.clone();
    let credential = LiveCredential::new(access_key(&config.credential));
    supervised_settings(config, &credential)?;
    left_behind(succession.as_deref()).map(|_| ())
}

fn supervised_settings(
    config: WorkerConfig,
    credential: &Arc<LiveCredential>,
) -> Result<(S3Options, Settings), MountError> {
    let WorkerConfig {
        assignment_uid: _,
        endpoint,
        region,
        bucket,
        prefix,
        path_style,
        read_only,
        uid,
        gid,
        file_mode,
        dir_mode,
        metadata_ttl,
        cache_dir,
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
        staging: cache_dir.join("staging"),
    };
    Ok((store, settings))
}

fn access_key(credential: &mooring_control::Credential) -> AccessKey {
    AccessKey {
        id: credential.access_key_id.clone(),
        secret: Zeroizing::new(credential.secret_access_key.expose().to_owned()),
        session_token: None,
    }
}

/// Number of the kernel's FUSE connection, which is also the minor number of the mount's device. Newer
/// kernels tell it; with older ones the read-ahead is the agent's business.
fn fuse_connection(descriptor: &OwnedFd) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("fuse_connection:"))?;
    line.trim().parse().ok()
}

fn failed(error: MountError) -> FromWorker {
    let MountError {
        reason,
        remedy,
        key_refused,
    } = error;
    FromWorker::Failed {
        reason: cut(&reason, TEXT_BYTES_MAX),
        remedy,
        key_refused,
    }
}

/// The beginning of a text that somebody else has written.
fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests;
