//! The agent's end of a worker's control socket. Blocking, with a deadline on everything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use mooring_control::{
    Connection, Credential, FromWorker, PROTOCOL_VERSION, ToWorker, TransportError, WorkerConfig,
    WorkerStatus,
};
use uuid::Uuid;

/// A worker answers from memory, so a second is already long; this leaves room for a machine under load.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A start makes the worker's folders and asks the store for the first time.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A conversation with a worker.
#[derive(Debug)]
pub struct Worker {
    connection: Connection,
    hello: Hello,
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its process.
    pub pid: u32,
    /// The assignment that it serves; `None` before it was started.
    pub serves: Option<Uuid>,
    /// Whether another worker can succeed it. Known once it serves.
    pub resend: bool,
    /// Number of the FUSE descriptor in its process. Known once it serves.
    pub fuse_descriptor: Option<i32>,
}

impl Hello {
    /// How it has begun to serve, if it has.
    pub fn begun(&self) -> Begun {
        Begun {
            resend: self.resend,
            fuse_descriptor: self.fuse_descriptor,
        }
    }
}

/// How a worker has begun to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Another worker can succeed it.
    pub resend: bool,
    /// Number of the FUSE descriptor in its process.
    pub fuse_descriptor: Option<i32>,
}

impl Begun {
    /// The number of the descriptor, if a duplicate of it is of use.
    pub fn kept_number(self) -> Option<i32> {
        self.fuse_descriptor.filter(|_| self.resend)
    }
}

/// Why a worker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It cannot be spoken with.
    #[error("its worker does not answer: {0}")]
    Silent(#[from] TransportError),
    /// It says why.
    #[error("{reason}; {remedy}")]
    Refused {
        /// What went wrong.
        reason: String,
        /// What a person can do about it.
        remedy: String,
        /// The store did answer, and refused the key or what the key may do.
        key_refused: bool,
    },
    /// It answers something else than was asked.
    #[error(
        "its worker speaks another protocol (version {version}, not {PROTOCOL_VERSION}); install agent and mooring-fs of one release"
    )]
    Version {
        /// Its version.
        version: u32,
    },
    /// It answers out of turn.
    #[error("its worker answers out of turn; install agent and mooring-fs of one release")]
    OutOfTurn,
}

impl Worker {
    /// Connects, and both sides introduce themselves.
    pub fn connect(socket: &Path) -> Result<Worker, WorkerError> {
        let connection = Connection::connect(socket, ANSWER_TIMEOUT)?;
        let hello = ToWorker::Hello {
            version: PROTOCOL_VERSION,
        };
        connection.send(&hello, None)?;
        let hello = match connection.receive::<FromWorker>()?.0 {
            FromWorker::Hello {
                version: PROTOCOL_VERSION,
                pid,
                started,
                assignment_uid,
                fuse_descriptor,
                resend,
                // Its program's file tells more: two builds of one version differ, too.
                program_version: _,
            } => Hello {
                pid,
                serves: assignment_uid
                    .filter(|_| started)
                    .and_then(|uid| Uuid::try_parse(&uid).ok()),
                resend,
                fuse_descriptor,
            },
            FromWorker::Hello { version, .. } => return Err(WorkerError::Version { version }),
            other => return Err(not_done(other)),
        };
        Ok(Worker { connection, hello })
    }

    /// What it has said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Hands a fresh mount over.
    pub fn start(&self, config: WorkerConfig, descriptor: BorrowedFd<'_>) -> Result<Begun, WorkerError> {
        self.begin(&ToWorker::Start { config }, descriptor)
    }

    /// Asks whether it could go on with a mount that another worker serves.
    pub fn prepare(&self, config: WorkerConfig) -> Result<(), WorkerError> {
        match self.order(&ToWorker::Prepare { config }, None)? {
            FromWorker::Prepared => Ok(()),
            other => Err(not_done(other)),
        }
    }

    /// Hands the mount of a dead worker over.
    pub fn succeed(&self, config: WorkerConfig, descriptor: BorrowedFd<'_>) -> Result<Begun, WorkerError> {
        self.begin(&ToWorker::Succeed { config }, descriptor)
    }

    fn begin(&self, order: &ToWorker, descriptor: BorrowedFd<'_>) -> Result<Begun, WorkerError> {
        match self.order(order, Some(descriptor))? {
            FromWorker::Started {
                resend,
                fuse_descriptor,
            } => Ok(Begun {
                resend,
                fuse_descriptor,
            }),
            other => Err(not_done(other)),
        }
    }

    /// Orders something that may take as long as a start.
    fn order(&self, order: &ToWorker, descriptor: Option<BorrowedFd<'_>>) -> Result<FromWorker, WorkerError> {
        self.connection.set_deadline(Some(START_TIMEOUT))?;
        self.connection.send(order, descriptor)?;
        let answer = self.connection.receive::<FromWorker>()?.0;
        self.connection.set_deadline(Some(ANSWER_TIMEOUT))?;
        Ok(answer)
    }

    /// Asks how the mount does.
    pub fn status(&self) -> Result<WorkerStatus, WorkerError> {
        self.ask(&ToWorker::Status)
    }

    /// Gives it another key.
    pub fn set_credential(&self, credential: Credential) -> Result<WorkerStatus, WorkerError> {
        self.ask(&ToWorker::SetCredential { credential })
    }

    /// Has it upload what waits, for at most `grace`. The answer is for [`Worker::stopped`], so that nobody's thread
    /// waits for it.
    pub fn begin_stop(&self, grace: Duration) -> Result<(), WorkerError> {
        Ok(self.connection.send(&ToWorker::Stop { grace }, None)?)
    }

    /// A descriptor that becomes readable when the next answer has come.
    pub fn answer_signal(&self) -> std::io::Result<OwnedFd> {
        self.connection.as_fd().try_clone_to_owned()
    }

    /// Takes the answer to [`Worker::begin_stop`].
    pub fn stopped(&self) -> Result<WorkerStatus, WorkerError> {
        self.answer()
    }

    fn ask(&self, question: &ToWorker) -> Result<WorkerStatus, WorkerError> {
        self.connection.send(question, None)?;
        self.answer()
    }

    fn answer(&self) -> Result<WorkerStatus, WorkerError> {
        match self.connection.receive::<FromWorker>()?.0 {
            FromWorker::Status(status) => Ok(status),
            other => Err(not_done(other)),
        }
    }
}

/// Why an answer is not the one that was asked for.
fn not_done(answer: FromWorker) -> WorkerError {
    match answer {
        FromWorker::Failed {
            reason,
            remedy,
            key_refused,
        } => WorkerError::Refused {
            reason,
            remedy,
            key_refused,
        },
        FromWorker::Hello { .. }
        | FromWorker::Started { .. }
        | FromWorker::Prepared
        | FromWorker::Status(_) => WorkerError::OutOfTurn,
    }
}
