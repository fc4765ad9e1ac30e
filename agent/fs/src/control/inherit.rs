//! What a worker leaves to another one, and what it finds: where the table is, and the way from it to a mount.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::filesystem::{Filesystem, Settings};
use crate::fuse::session::Session;
use crate::mount::{MountError, go_on};
use crate::store::s3::S3Options;
use crate::succession::log::Log;
use crate::succession::record::Connection;
use crate::succession::{Inheritance, Recorder};

/// A table, with what must be in it.
pub(super) struct LeftBehind<'a> {
    folder: &'a Path,
    inheritance: Inheritance,
    agreed: Connection,
}

/// Who notes what a successor must know. Without a place for that, nobody succeeds this worker.
pub(super) fn fresh_recorder(succession: Option<&Path>) -> Recorder {
    let Some(folder) = succession else {
        return Recorder::default();
    };
    Recorder::begin(folder).unwrap_or_else(|error| {
        tracing::warn!(
            folder = %folder.display(), %error,
            "what a successor must know cannot be written; if this process dies, the mount ends"
        );
        Recorder::default()
    })
}

/// What a worker has left behind, or would leave if it ended now. Changes nothing, so that it can be asked
/// while that worker lives.
pub(super) fn left_behind(succession: Option<&Path>) -> Result<LeftBehind<'_>, MountError> {
    let folder = succession
        .ok_or_else(|| MountError::new("the configuration names no folder for succession", "mount anew"))?;
    let inheritance = Log::read(folder).map_err(unreadable)?;
    let agreed = inheritance.connection.ok_or_else(|| {
        MountError::new(
            "the worker before has not shaken hands with the kernel",
            "mount anew",
        )
    })?;
    Ok(LeftBehind {
        folder,
        inheritance,
        agreed,
    })
}

impl LeftBehind<'_> {
    /// Whether somebody could go on with it now, without being the next to be given up.
    pub(super) fn check_room(&self) -> Result<(), MountError> {
        Log::check_room(self.folder).map_err(|error| {
            MountError::new(
                format!(
                    "nothing can be written beside what the worker leaves in {}: {error}",
                    self.folder.display()
                ),
                "make room there",
            )
        })
    }
}

fn unreadable(error: io::Error) -> MountError {
    MountError::new(
        format!("what the worker before has left cannot be read: {error}"),
        "mount anew",
    )
}

/// Goes on with a mount whose worker is dead.
pub(super) fn inherit(
    succession: Option<&Path>,
    store: S3Options,
    settings: Settings,
    descriptor: OwnedFd,
) -> Result<(Arc<Filesystem>, Session), MountError> {
    let LeftBehind {
        folder,
        inheritance,
        agreed,
    } = left_behind(succession)?;
    let recorder = Recorder::go_on(folder, &inheritance).map_err(unreadable)?;
    let filesystem = go_on(store, settings, recorder.clone(), &inheritance)?;
    let session = Session::take_over(Arc::clone(&filesystem), descriptor, &agreed)
        .and_then(|session| session.ask_again().map(|()| session));
    match session {
        Ok(session) => {
            filesystem.take_up(&inheritance);
            // Of a million names it takes a while, for which nobody should wait.
            let runtime = filesystem.runtime();
            filesystem
                .tasks()
                .spawn_blocking_on(move || drop(inheritance), runtime);
            Ok((filesystem, session))
        }
        Err(error) => {
            // While the filesystem is there: somebody else may still try, and must find everything as it was.
            recorder.leave();
            Err(MountError::new(
                format!("the connection of the dead worker cannot be taken over: {error}"),
                "mount anew",
            ))
        }
    }
}
