//! A supervised mount: the agent connects to our socket, sends what to serve, asks how it does, and may
//! die and come back meanwhile.
//!
//! The worker ends when its mount is unmounted, or when no agent has started it in time. It never mounts
//! and never unmounts.

mod config;
mod inherit;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mooring_control::{
    Connection, FromWorker, HiddenKeys, Listener, MountActivity, PROTOCOL_VERSION, ToWorker, TransportError,
    WorkerConfig, WorkerStatus,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use self::config::{access_key, supervised_settings};
use self::inherit::{fresh_recorder, inherit, left_behind};
use crate::credentials::LiveCredential;
use crate::filesystem::Filesystem;
use crate::fuse::session::{Session, is_of_session};
use crate::mount::{MountError, open_filesystem, runtime, set_read_ahead_of};
use crate::succession::record::Record;
use crate::unsaved::Place;
use crate::writer::staging::lock::FolderLock;

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
    Broken { error: io::Error },
}

/// How a mount's service ends.
enum Ended {
    Unmounted,
    /// The mount is there, and another process may go on with it.
    BySignal,
    /// So it is then, but this one cannot serve it any more.
    Broken {
        error: io::Error,
    },
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
    place: Place,
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
    end_at_panic();
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
    if let Some(served) = &served {
        match &outcome {
            Ok(Ended::Broken { error }) => {
                tracing::error!(%error, "the connection to the kernel fails");
                abandon(1)
            }
            Ok(Ended::BySignal) => {
                // The machine may end with the process, or the process before it has uploaded anything.
                served.filesystem.note_unsaved(&served.place);
                let upload = async {
                    match served.resend() {
                        true => served.filesystem.upload_closed().await,
                        false => served.filesystem.upload_everything().await,
                    }
                };
                let clean = runtime.block_on(async { tokio::time::timeout(UPLOAD_GRACE, upload).await });
                served.filesystem.note_unsaved(&served.place);
                socket.remove();
                abandon(i32::from(clean != Ok(true)))
            }
            Ok(Ended::Unmounted) => served.filesystem.note_unsaved(&served.place),
            Err(_) => {}
        }
    }
    let clean = match &served {
        Some(served) => runtime.block_on(served.filesystem.stop(UPLOAD_GRACE)),
        None => true,
    };
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let (Some(served), Ok(Ended::Unmounted)) = (&served, &outcome) {
        served.filesystem.leave_nothing(&served.place);
    }
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

/// A thread that serves the kernel and panics is missed for good, and nobody knows in what state it leaves what it was
/// changing: better that another process goes on from what is written down.
fn end_at_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if is_of_session(&std::thread::current()) {
            abandon(101);
        }
    }));
}

/// Ends the process as a kill would, which another one can go on from at any moment. Ending in order would answer
/// whatever is on its way with an error, and the kernel would not send it again.
fn abandon(code: i32) -> ! {
    std::process::exit(code)
}

async fn wait(happened: &mut mpsc::UnboundedReceiver<Event>) -> Result<Ended, MountError> {
    use tokio::signal::unix::{SignalKind, signal};
    match tokio::time::timeout(START_DEADLINE, happened.recv()).await {
        Ok(Some(Event::Started)) => {}
        Ok(Some(Event::Unmounted)) => return Ok(Ended::Unmounted),
        Ok(Some(Event::Broken { error })) => return Ok(Ended::Broken { error }),
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
    let ended = |event| match event {
        Some(Event::Broken { error }) => Ended::Broken { error },
        Some(Event::Started | Event::StartFailed | Event::Unmounted) | None => Ended::Unmounted,
    };
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return Ok(ended(happened.recv().await));
    };
    tokio::select! {
        // Both arms are cancel-safe: the process ends after either.
        event = happened.recv() => Ok(ended(event)),
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
                        served.filesystem.try_key();
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
                        if !served.resend() {
                            // If it is killed now, nothing else tells what its staging files were to become.
                            served.filesystem.note_unsaved(&served.place);
                        }
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
        let cache_size_mib = config.cache_size_mib;
        let assignment_uid = config.assignment_uid.clone();
        let succession = config.succession.clone();
        let credential = LiveCredential::new(access_key(&config.credential));
        let (store, mut settings) = supervised_settings(config, &credential)?;
        if succession.is_some() {
            // Before there is a table: without it, whoever tidies up takes that for a dead worker's.
            settings.lock = Some(Arc::new(lock(&settings.staging)?));
        }
        let place = Place::of(&store);
        let whereabouts = Record::Place(place.record(settings.prefix.as_str()));
        let minor = fuse_connection(&descriptor);
        let _inside = self.runtime.enter();
        let (filesystem, session) = match origin {
            Origin::Fresh => {
                let recorder = fresh_recorder(succession.as_deref());
                recorder.note(&whereabouts);
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
            Origin::Inherited => {
                let (filesystem, session) = inherit(succession.as_deref(), store, settings, descriptor)?;
                filesystem.recorder().note(&whereabouts);
                (filesystem, session)
            }
        };
        let fuse_descriptor = session.descriptor();
        let events = self.events.clone();
        let tell = move |served: io::Result<()>| {
            let event = match served {
                Ok(()) => Event::Unmounted,
                Err(error) => Event::Broken { error },
            };
            // The receiver is gone when the process is ending anyway.
            let _ = events.send(event);
        };
        if let Err(error) = session.start(tell) {
            // While the filesystem is there: somebody else may still try, and must find everything as it was.
            filesystem.recorder().leave();
            return Err(MountError::new(
                format!("threads cannot be started: {error}"),
                "raise the limit",
            ));
        }
        if let Some(minor) = minor {
            set_read_ahead_of(0, minor);
        }
        let served = Served {
            assignment_uid,
            filesystem,
            credential,
            place,
            fuse_descriptor,
        };
        let resend = served.resend();
        tracing::info!(
            assignment = served.assignment_uid,
            inherited = origin == Origin::Inherited,
            resend,
            cache_size_mib,
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

/// The staging folder, for this process alone.
fn lock(folder: &Path) -> Result<FolderLock, MountError> {
    FolderLock::take(folder).map_err(|error| {
        MountError::new(
            format!("the cache folder {} cannot be made: {error}", folder.display()),
            "see to the disk and the folders above it",
        )
    })
}

/// Whether a mount could be gone on with, from all that can be told while its worker lives.
fn prepare(config: WorkerConfig) -> Result<(), MountError> {
    let succession = config.succession.clone();
    let credential = LiveCredential::new(access_key(&config.credential));
    supervised_settings(config, &credential)?;
    left_behind(succession.as_deref())?.check_room()
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
