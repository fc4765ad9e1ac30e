//! A session with the kernel: over a mount that is made here, or over the descriptor of one that somebody
//! else has made.
//!
//! Never with a cloned descriptor, whose requests die with the process, and never with automatic unmounting,
//! which would end a mount that a successor could take over.
//!
//! Taking over: the kernel has shaken hands with the mount's first process and will not again, but fuser begins
//! with that. So fuser gets a socket first, where it finds the kernel's old request, and then, under the same
//! number, the mount's descriptor.

mod relief;
mod takeover;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::{JoinHandle, Thread};

use fuser::{MountOption, SessionACL};

use self::relief::Relief;
use super::Fuse;
use crate::filesystem::Filesystem;
use crate::succession::record::Connection;

/// How a mount made here looks to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct MountStyle<'a> {
    /// What `df` and `mount` call it.
    pub name: &'a str,
    /// Refuse changes in the kernel already.
    pub read_only: bool,
    /// Let other users in.
    pub allow_other: bool,
}

/// A session that has shaken hands with the kernel; requests wait until it is started.
pub struct Session(fuser::Session<Fuse>);

/// Unmounts a mount that was made here.
pub struct Unmounter(fuser::SessionUnmounter);

impl Session {
    /// Mounts at `target`: directly with the right to, else through fusermount3.
    pub fn mount(filesystem: Arc<Filesystem>, target: &Path, style: MountStyle<'_>) -> io::Result<Session> {
        let MountStyle {
            name,
            read_only,
            allow_other,
        } = style;
        let mut config = config();
        config.mount_options = vec![
            // A comma would begin another option.
            MountOption::FSName(format!("mooring-fs#{}", name.replace([',', '\\'], "_"))),
            MountOption::Subtype("mooring".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoAtime,
            if read_only {
                MountOption::RO
            } else {
                MountOption::RW
            },
        ];
        config.acl = if allow_other {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        fuser::Session::new(Fuse::new(filesystem), target, &config).map(Session)
    }

    /// Takes the descriptor of a fresh mount, whom it lets in being its maker's decision.
    pub fn of_descriptor(filesystem: Arc<Filesystem>, descriptor: OwnedFd) -> io::Result<Session> {
        let fuse = Fuse::new(Arc::clone(&filesystem));
        let session = fuser::Session::from_fd(fuse, descriptor, SessionACL::All, config()).map(Session)?;
        session.relieves(&filesystem)?;
        Ok(session)
    }

    /// Goes on with the connection of a dead process, which must have ended: two would take each other's requests.
    pub fn take_over(
        filesystem: Arc<Filesystem>,
        descriptor: OwnedFd,
        agreed: &Connection,
    ) -> io::Result<Session> {
        let (ours, theirs) = takeover::answered_later(agreed)?;
        let fuse = Fuse::new(Arc::clone(&filesystem));
        let session = fuser::Session::from_fd(fuse, theirs, SessionACL::All, config())?;
        takeover::discard_reply(&ours)?;
        crate::sys::replace_descriptor(descriptor, &session)?;
        let session = Session(session);
        session.relieves(&filesystem)?;
        Ok(session)
    }

    /// Sees to it that the table for a successor does not grow beyond what it may be if the kernel can do something
    /// about it.
    fn relieves(&self, filesystem: &Arc<Filesystem>) -> io::Result<()> {
        let relief = Relief::of(filesystem, self.0.as_fd().try_clone_to_owned()?);
        filesystem.recorder().is_relieved_by(move || relief.begin());
        Ok(())
    }

    /// Has the kernel send everything again that it has sent and has no answer to: nobody else knows of it.
    pub fn ask_again(&self) -> io::Result<()> {
        takeover::resend(self.0.as_fd())
    }

    /// Number of the kernel's descriptor in this process.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    /// What unmounts it.
    pub fn unmounter(&mut self) -> Unmounter {
        Unmounter(self.0.unmount_callable())
    }

    /// Serves until the mount is gone from everywhere, and calls `ended` then; or until it cannot be served any more,
    /// with the reason. Some threads may go on serving it even so.
    pub fn start(self, ended: impl FnOnce(io::Result<()>) + Send + 'static) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || ended(at_its_end(self.0.run())))
    }
}

/// Whoever takes a request from the kernel in the moment in which the connection ends is told that it is aborted, and
/// not, as the next one, that there is no such device: either way nobody can serve it any more.
fn at_its_end(served: io::Result<()>) -> io::Result<()> {
    served.or_else(|error| match error.kind() {
        io::ErrorKind::ConnectionAborted => Ok(()),
        _ => Err(error),
    })
}

impl Unmounter {
    /// Unmounts, unless files are open.
    pub fn unmount(&mut self) -> io::Result<()> {
        self.0.unmount()
    }
}

/// Whether a thread reads the kernel's requests: fuser names those.
pub fn is_of_session(thread: &Thread) -> bool {
    thread.name().is_some_and(|name| name.starts_with("fuser-"))
}

fn config() -> fuser::Config {
    let mut config = fuser::Config::default();
    config.n_threads = Some(threads());
    config
}

/// Enough that a few that write to a slow disk leave others free to answer.
fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    (2 * cores).clamp(4, 16)
}
