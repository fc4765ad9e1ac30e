//! Packets over a `SOCK_SEQPACKET` Unix socket, blocking and with deadlines.
//!
//! A packet is one JSON message, at most [`PACKET_BYTES_MAX`], and carries at most one descriptor.
//! Buffers that held a message are wiped, since a message may hold a key.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

/// A message is a few hundred bytes; a status with examples of 1024-byte keys stays well below this,
/// and the default socket buffer (208 KiB) takes several.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Connections that may wait to be accepted: an agent has one, and one more while it restarts.
const BACKLOG: i32 = 4;

/// Why a message did not come through.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The other side closed the connection, or is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// Nothing came, or nothing could be sent, within the deadline.
    #[error("the other side did not answer in time")]
    TimedOut,
    /// The packet is no message of this protocol.
    #[error("the packet is no valid message")]
    Malformed(#[source] serde_json::Error),
    /// The packet is larger than the protocol allows.
    #[error("the packet exceeds {PACKET_BYTES_MAX} bytes")]
    TooLarge,
    /// The peer is neither root nor the user of this process.
    #[error("the peer runs as user {uid}, who may not use this socket")]
    ForeignPeer {
        /// User of the peer.
        uid: u32,
    },
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] io::Error),
}

/// One conversation.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

/// Where a worker waits for its agent. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    file: SocketFile,
}

/// The file of a listener's socket.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Connection {
    /// Connects to a worker's socket; every later send and receive has `deadline`.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Connection, TransportError> {
        let socket = seqpacket()?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let connection = Connection { socket };
        connection.set_deadline(Some(deadline))?;
        rustix::net::connect(&connection.socket, &address).map_err(failed)?;
        Ok(connection)
    }

    /// Bounds every later send and receive; `None` waits for ever.
    pub fn set_deadline(&self, deadline: Option<Duration>) -> Result<(), TransportError> {
        set_socket_timeout(&self.socket, Timeout::Recv, deadline).map_err(failed)?;
        set_socket_timeout(&self.socket, Timeout::Send, deadline).map_err(failed)
    }

    /// Bounds every later send, and lets receiving wait for ever: for a worker, which waits for questions.
    pub fn set_send_deadline(&self, deadline: Duration) -> Result<(), TransportError> {
        set_socket_timeout(&self.socket, Timeout::Send, Some(deadline)).map_err(failed)
    }

    /// Sends one message, and with it a duplicate of `descriptor`.
    pub fn send<M: Serialize>(
        &self,
        message: &M,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), TransportError> {
        // Large enough from the start: a buffer that grows leaves copies of a key behind.
        let mut packet = Zeroizing::new(Vec::with_capacity(PACKET_BYTES_MAX));
        serde_json::to_writer(&mut *packet, message).map_err(TransportError::Malformed)?;
        if packet.len() > PACKET_BYTES_MAX {
            return Err(TransportError::TooLarge);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        loop {
            match rustix::net::sendmsg(
                &self.socket,
                &[IoSlice::new(&packet)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Waits for one message, and takes the descriptor that came with it.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<(M, Option<OwnedFd>), TransportError> {
        let mut packet = Zeroizing::new(vec![0_u8; PACKET_BYTES_MAX]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut packet)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => break received,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        };
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                for one in descriptors {
                    descriptor = Some(one);
                }
            }
        }
        if received.bytes == 0 {
            return Err(TransportError::Closed);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(TransportError::TooLarge);
        }
        let parsed = serde_json::from_slice(&packet[..received.bytes]);
        packet.zeroize();
        Ok((parsed.map_err(TransportError::Malformed)?, descriptor))
    }
}

impl Listener {
    /// Binds the socket (0600), replacing what a dead process left there. The folder must be private
    /// to its owner: between `bind` and `chmod` the socket has the process's umask.
    pub fn bind(path: &Path) -> Result<Listener, TransportError> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path).map_err(TransportError::Io)?;
        }
        let socket = seqpacket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).map_err(failed)?).map_err(failed)?;
        let inode = std::fs::symlink_metadata(path).map_err(TransportError::Io)?.ino();
        let file = SocketFile {
            path: path.to_owned(),
            inode,
        };
        let listener = Listener { socket, file };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(TransportError::Io)?;
        rustix::net::listen(&listener.socket, BACKLOG).map_err(failed)?;
        Ok(listener)
    }

    /// The socket's file, for a process that ends without dropping its listener.
    pub fn file(&self) -> SocketFile {
        self.file.clone()
    }

    /// Waits for the next connection. Only root and the user of this process may connect.
    pub fn accept(&self) -> Result<Connection, TransportError> {
        let socket = loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => break socket,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(errno) => return Err(failed(errno)),
            }
        };
        let peer = socket_peercred(&socket).map_err(failed)?.uid;
        if !peer.is_root() && peer != rustix::process::geteuid() {
            return Err(TransportError::ForeignPeer { uid: peer.as_raw() });
        }
        Ok(Connection { socket })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.file.remove();
    }
}

impl SocketFile {
    /// Removes the file, unless a successor has put its own in its place: a worker whose mount was detached lives on
    /// while files are open, and its successor listens at the same path meanwhile.
    pub fn remove(&self) {
        use std::os::unix::fs::MetadataExt;
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // It may be gone this very moment; then it is as it should be.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn seqpacket() -> Result<OwnedFd, TransportError> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed)
}

fn failed(errno: rustix::io::Errno) -> TransportError {
    match errno {
        rustix::io::Errno::AGAIN | rustix::io::Errno::TIMEDOUT => TransportError::TimedOut,
        rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => TransportError::Closed,
        other => TransportError::Io(other.into()),
    }
}
