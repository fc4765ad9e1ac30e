//! The messages of the kernel's protocol that a takeover needs, in bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::succession::record::Connection;

/// The kernel's first request.
const INIT: u32 = 26;
const INIT_BYTES: usize = 104;
const MAJOR_VERSION: u32 = 7;

/// Says that the capabilities have an upper half.
const INIT_EXTENDED: u64 = 1 << 30;

/// The message that has everything sent again.
const NOTIFY_RESEND: i32 = 7;

/// A pair of ends, the kernel's first request waiting in one of them. The socket keeps the bounds of messages,
/// as the device does.
pub(super) fn answered_later(agreed: &Connection) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::io::write(&ours, &init_request(agreed))?;
    Ok((ours, theirs))
}

/// Takes the answer to that request: the kernel had one long ago.
pub(super) fn discard_reply(ours: &OwnedFd) -> io::Result<()> {
    let mut reply = [0; 256];
    rustix::io::read(ours, &mut reply)?;
    Ok(())
}

/// Writes the message that has everything sent again.
pub(super) fn resend(device: impl AsFd) -> io::Result<()> {
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    rustix::io::write(device, &message)?;
    Ok(())
}

/// The request in the kernel's layout, numbers in the machine's byte order.
fn init_request(agreed: &Connection) -> [u8; INIT_BYTES] {
    let Connection {
        minor,
        readahead_bytes_max,
        capabilities,
    } = *agreed;
    let capabilities = capabilities | INIT_EXTENDED;
    let mut request = [0; INIT_BYTES];
    let mut put = |at: usize, value: u32| request[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(0, INIT_BYTES as u32);
    put(4, INIT);
    // Any number but 0 will do for a request that nobody waits for.
    put(8, 2);
    // The header has 40 bytes.
    put(40, MAJOR_VERSION);
    put(44, minor);
    put(48, readahead_bytes_max);
    put(52, capabilities as u32);
    put(56, (capabilities >> 32) as u32);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_first_request_says_what_was_agreed() {
        let request = init_request(&Connection {
            minor: 45,
            readahead_bytes_max: 131_072,
            capabilities: 1 << 39 | 1,
        });
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4)), (104, 26));
        assert_eq!((word(40), word(44), word(48)), (7, 45, 131_072));
        assert_eq!((word(52), word(56)), (1 << 30 | 1, 1 << 7));
    }
}
