//! Has the kernel let go of files and folders that nobody uses, so that there is less for a successor to know.
//!
//! The kernel keeps what it has looked up until it is short of memory itself, which on a large machine may be never.
//! It is told numbers only, and keeps what is in use. Not by names: it would wait for their folders, where requests
//! may be waiting for this process, and a process that the kernel has wait cannot even be killed and succeeded.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use crate::filesystem::Filesystem;

/// The message that names inodes to be let go of; from Linux 6.18 on.
const NOTIFY_PRUNE: i32 = 9;

/// Lengths of the header that all messages have, and of this message's own.
const HEADER_BYTES: usize = 16;
const OWN_BYTES: usize = 16;

/// Inodes per message, so that it has 32 KiB.
const INODES_MAX: usize = 4096;

/// Relieves a filesystem of inodes when its table becomes too long.
pub(super) struct Relief {
    filesystem: Weak<Filesystem>,
    device: OwnedFd,
    at_work: AtomicBool,
}

impl Relief {
    /// Of a filesystem, over a descriptor of its connection.
    pub(super) fn of(filesystem: &Arc<Filesystem>, device: OwnedFd) -> Arc<Relief> {
        Arc::new(Relief {
            filesystem: Arc::downgrade(filesystem),
            device,
            at_work: AtomicBool::new(false),
        })
    }

    /// Begins, unless somebody is at it. Nothing is waited for.
    pub(super) fn begin(self: &Arc<Self>) {
        let Some(filesystem) = self.filesystem.upgrade() else {
            return;
        };
        if self.at_work.swap(true, Ordering::AcqRel) {
            return;
        }
        let relief = Arc::clone(self);
        let runtime = filesystem.runtime().clone();
        let tasks = filesystem.tasks().clone();
        tasks.spawn_blocking_on(
            move || {
                let unused = filesystem.unused_inodes();
                let told = relief.prune(&unused);
                relief.at_work.store(false, Ordering::Release);
                match told {
                    Ok(()) => tracing::info!(
                        inodes = unused.len(),
                        "the kernel is asked to let go of what nobody uses"
                    ),
                    Err(error) => tracing::info!(
                        %error,
                        "this kernel cannot be asked to let go of what nobody uses (Linux 6.18 can)"
                    ),
                }
            },
            &runtime,
        );
    }

    fn prune(&self, inodes: &[u64]) -> io::Result<()> {
        for some in inodes.chunks(INODES_MAX) {
            rustix::io::write(&self.device, &message(some))?;
        }
        Ok(())
    }
}

/// The message in the kernel's layout, numbers in the machine's byte order.
fn message(inodes: &[u64]) -> Vec<u8> {
    let bytes = HEADER_BYTES + OWN_BYTES + size_of_val(inodes);
    let mut message = Vec::with_capacity(bytes);
    message.extend_from_slice(&(bytes as u32).to_ne_bytes());
    message.extend_from_slice(&NOTIFY_PRUNE.to_ne_bytes());
    // It answers no request.
    message.extend_from_slice(&0_u64.to_ne_bytes());
    message.extend_from_slice(&(inodes.len() as u32).to_ne_bytes());
    message.resize(HEADER_BYTES + OWN_BYTES, 0);
    for inode in inodes {
        message.extend_from_slice(&inode.to_ne_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_how_long_it_is_and_how_many_inodes_it_names() {
        let message = message(&[7, 1 << 40]);
        let word = |at: usize| u32::from_ne_bytes(message[at..at + 4].try_into().unwrap());
        assert_eq!((message.len(), word(0), word(4), word(16)), (48, 48, 9, 2));
        assert_eq!(message[32..40], 7_u64.to_ne_bytes());
        assert_eq!(message[40..], (1_u64 << 40).to_ne_bytes());
    }
}
