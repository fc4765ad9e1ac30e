//! What the agent says to the service manager that has started it (sd_notify(3)): that it is ready, how it does, that
//! its loop turns, and which descriptors to keep for the agent after it. Without a service manager nothing is said.
//!
//! What the agent's unit needs for this:
//!
//! - `Type=notify`, `NotifyAccess=main`: it says READY=1 once it has looked at every mount that it found.
//! - `WatchdogSec=`, 30 s or more: WATCHDOG=1 comes from the reconciler's loop at the end of a round, never from a timer
//!   of its own, so that an agent whose loop has died is restarted. A round comes every 2 s at the latest.
//! - `FileDescriptorStoreMax=`, at least the number of mounts: the FUSE descriptor of each is kept as
//!   `mount-<assignment uid>`. When agent and workers are killed together, the next agent goes on with the same mounts.
//!   A descriptor of a mount that has ended is dropped by the manager itself (poll tells EPOLLERR) or by FDSTOREREMOVE.
//! - `Restart=always`, since the store is emptied when the unit is stopped, and kept while it restarts.
//! - `KillMode=process`: ending the agent must not end what it has started, in case the manager could not be asked for
//!   units of their own. No `Delegate=` is needed.
//! - `ExecReload=/bin/kill -HUP $MAINPID` (or `Type=notify-reload`, systemd 253): replaces workers of an older program.
//! - No `Private…=`, no `Protect…=` that makes a mount namespace; a `CapabilityBoundingSet=` must leave CAP_SYS_ADMIN,
//!   CAP_SYS_PTRACE (pidfd_getfd), CAP_KILL, CAP_LINUX_IMMUTABLE, CAP_CHOWN, CAP_FOWNER, CAP_DAC_OVERRIDE,
//!   CAP_SYS_RESOURCE and what the programs that it starts need.

use std::ffi::OsString;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// The manager reads its socket all the time. What it does not take within this time is not said: nothing of it is
/// worth a mount.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The first descriptor that a service manager passes, sd_listen_fds(3).
const LISTEN_FDS_START: i32 = 3;

/// More than any store holds; a number beyond it is a mistake, not an order to look at so many.
const LISTEN_FDS_MAX: i32 = 100_000;

/// The line to the service manager.
#[derive(Debug, Default)]
pub struct Notifier {
    line: Option<(OwnedFd, SocketAddrUnix)>,
    watched: bool,
}

/// A descriptor that the service manager has kept.
#[derive(Debug)]
pub struct Stored {
    /// The name that it was given.
    pub name: String,
    /// A duplicate of it.
    pub descriptor: OwnedFd,
}

impl Notifier {
    /// The manager's socket as the environment names it.
    pub fn of_this_process() -> Notifier {
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
            return Notifier::default();
        };
        let own = |pid: String| pid == std::process::id().to_string();
        let watched =
            std::env::var_os("WATCHDOG_USEC").is_some() && std::env::var("WATCHDOG_PID").map_or(true, own);
        match line_to(&address) {
            Ok(line) => Notifier {
                line: Some(line),
                watched,
            },
            Err(errno) => {
                tracing::warn!(%errno, "the service manager's socket cannot be used; it will not hear of this agent");
                Notifier::default()
            }
        }
    }

    /// Every mount was looked at; what waits for this service may begin.
    pub fn ready(&self) {
        self.say("READY=1", None);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.say(&format!("STATUS={}", text.replace('\n', " ")), None);
    }

    /// The loop turns.
    pub fn alive(&self) {
        if self.watched {
            self.say("WATCHDOG=1", None);
        }
    }

    /// A reload begins; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec.saturating_mul(1_000_000) + now.tv_nsec / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"), None);
    }

    /// The agent ends.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=ends; all mounts stay", None);
    }

    /// Has the manager keep a duplicate of `descriptor` for the agent after this one.
    pub fn store(&self, name: &str, descriptor: BorrowedFd<'_>) {
        self.say(&format!("FDSTORE=1\nFDNAME={name}"), Some(descriptor));
    }

    /// Has the manager close what it keeps under this name.
    pub fn unstore(&self, name: &str) {
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
    }

    fn say(&self, message: &str, descriptor: Option<BorrowedFd<'_>>) {
        let Some((socket, address)) = &self.line else {
            return;
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let packet = [IoSlice::new(message.as_bytes())];
        let sent = rustix::net::sendmsg_addr(socket, address, &packet, &mut control, SendFlags::NOSIGNAL);
        if let Err(errno) = sent {
            tracing::debug!(%errno, "the service manager does not hear");
        }
    }
}

fn line_to(address: &OsString) -> rustix::io::Result<(OwnedFd, SocketAddrUnix)> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path @ [b'/', ..] => SocketAddrUnix::new(path)?,
        // vsock and others are for virtual machines.
        _ => return Err(rustix::io::Errno::AFNOSUPPORT),
    };
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
    Ok((socket, address))
}

/// The descriptors that the service manager has kept for this process. They are duplicates, which close on exec; the
/// originals stay open for whoever closes inherited descriptors. Duplicating one's own by `pidfd_getfd` is the way to
/// own a number without `unsafe`.
pub fn stored_descriptors() -> Vec<Stored> {
    let variable = |name: &str| std::env::var(name).ok();
    stored(
        variable("LISTEN_PID").as_deref(),
        variable("LISTEN_FDS").as_deref(),
        variable("LISTEN_FDNAMES").as_deref(),
    )
}

fn stored(pid: Option<&str>, count: Option<&str>, names: Option<&str>) -> Vec<Stored> {
    let own = rustix::process::getpid();
    let meant = pid.and_then(|pid| pid.parse().ok()) == Some(own.as_raw_nonzero().get());
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    if !meant || !(1..=LISTEN_FDS_MAX).contains(&count) {
        return Vec::new();
    }
    let Ok(myself) = rustix::process::pidfd_open(own, PidfdFlags::empty()) else {
        return Vec::new();
    };
    let names = names.unwrap_or_default().split(':').chain(std::iter::repeat(""));
    (LISTEN_FDS_START..LISTEN_FDS_START.saturating_add(count))
        .zip(names)
        .filter_map(|(number, name)| {
            let descriptor =
                rustix::process::pidfd_getfd(myself.as_fd(), number, PidfdGetfdFlags::empty()).ok()?;
            Some(Stored {
                name: name.to_owned(),
                descriptor,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn notifier(path: &std::path::Path) -> Notifier {
        Notifier {
            line: Some(line_to(&path.as_os_str().to_owned()).unwrap()),
            watched: true,
        }
    }

    #[test]
    fn what_is_said_arrives_as_one_packet_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = notifier(&path);
        notifier.ready();
        notifier.status("two\nlines");
        notifier.alive();
        notifier.unstore("mount-1");
        let mut buffer = [0; 200];
        let mut heard = || {
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert_eq!(heard(), "READY=1");
        assert_eq!(heard(), "STATUS=two lines");
        assert_eq!(heard(), "WATCHDOG=1");
        assert_eq!(heard(), "FDSTOREREMOVE=1\nFDNAME=mount-1");
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_nothing_fails() {
        Notifier::default().ready();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let gone = UnixDatagram::bind(&path).unwrap();
        let notifier = notifier(&path);
        drop(gone);
        notifier.ready();
    }

    #[test]
    fn a_socket_in_the_abstract_namespace_is_understood_and_others_are_refused() {
        assert!(line_to(&"@mooring/notify".into()).is_ok());
        assert!(line_to(&"vsock:2:1".into()).is_err());
    }

    #[test]
    fn descriptors_for_another_process_are_left_alone() {
        let own = std::process::id().to_string();
        assert!(stored(Some("1"), Some("1"), None).is_empty());
        assert!(stored(None, Some("1"), None).is_empty());
        assert!(stored(Some(&own), Some("-1"), None).is_empty());
        assert!(stored(Some(&own), None, Some("mount-1")).is_empty());
    }
}
