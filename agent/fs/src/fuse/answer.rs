//! How an operation is run and answered: what memory knows at once, the rest on the runtime; and what a successor
//! must know is written down before each reply.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fuser::{InitFlags, KernelConfig, Request};
use tracing::{Instrument, Span};

use super::{CAPABILITIES, Fuse};
use crate::error::FsError;
use crate::filesystem::Filesystem;
use crate::namespace::inode::Ino;
use crate::succession::Attempt;
use crate::succession::record::{Connection, Record};

/// What the kernel says of its own read-ahead: 128 KiB, always. What we make of it goes by `read_ahead_kb`.
const READAHEAD_BYTES: u32 = 128 << 10;

impl Fuse {
    /// Runs an operation: here, if memory has the answer, else on the runtime.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        span: Span,
        deadline: Option<Duration>,
        operation: impl Future<Output = Result<T, FsError>> + Send + 'static,
        reply: impl FnOnce(Result<T, FsError>) + Send + 'static,
    ) {
        let filesystem = Arc::clone(&self.filesystem);
        let reply = move |result| {
            filesystem.write_down();
            reply(result);
        };
        let mut operation = Box::pin(operation.instrument(span));
        let inside_runtime = self.filesystem.runtime().enter();
        if let Poll::Ready(result) = operation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            drop(inside_runtime);
            reply(result);
            return;
        }
        let filesystem = Arc::clone(&self.filesystem);
        let rest = async move {
            let result = match deadline {
                Some(deadline) => tokio::time::timeout(deadline, operation)
                    .await
                    .unwrap_or(Err(FsError::TimedOut)),
                None => operation.await,
            };
            filesystem.note_answer(result.as_ref().map(|_| ()));
            reply(result);
        };
        self.filesystem.tasks().spawn_on(rest, self.filesystem.runtime());
    }

    /// The same for a request that cannot simply be done twice.
    pub(super) fn answer_once<T, F>(
        &self,
        span: Span,
        deadline: Option<Duration>,
        request: &Request,
        operation: impl FnOnce(Arc<Filesystem>, Arc<Attempt>) -> F,
        reply: impl FnOnce(Result<T, FsError>) + Send + 'static,
    ) where
        T: Send + 'static,
        F: Future<Output = Result<T, FsError>> + Send + 'static,
    {
        let attempt = Arc::new(self.attempt(request));
        let operation = operation(Arc::clone(&self.filesystem), Arc::clone(&attempt));
        self.answer(span, deadline, operation, move |result| {
            reply(result);
            attempt.answered();
        });
    }

    /// What a successor must offer the kernel's protocol, and whether there can be one.
    pub(super) fn note_connection(&self, config: &KernelConfig) {
        let recorder = self.filesystem.recorder();
        let offered = config.capabilities();
        if !offered.contains(InitFlags::FUSE_HAS_RESEND) {
            if recorder.is_on() {
                tracing::warn!(
                    "this kernel cannot send requests again: if this process dies, the mount ends"
                );
            }
            recorder.give_up();
            return;
        }
        let agreed = CAPABILITIES
            .into_iter()
            .fold(InitFlags::empty(), |all, one| all | one)
            & offered;
        recorder.note(&Record::Connection(Connection {
            minor: config.kernel_abi().1,
            readahead_bytes_max: READAHEAD_BYTES,
            capabilities: agreed.bits(),
        }));
        self.filesystem.write_down();
    }

    pub(super) fn attempt(&self, request: &Request) -> Attempt {
        Attempt::at(self.filesystem.recorder(), request.unique().0)
    }

    /// After the last close: what could not be uploaded by then goes on in the background.
    pub(super) fn settle(&self, ino: Ino) {
        let filesystem = Arc::clone(&self.filesystem);
        self.filesystem.tasks().spawn_on(
            async move { filesystem.settle(ino).await },
            self.filesystem.runtime(),
        );
    }
}
