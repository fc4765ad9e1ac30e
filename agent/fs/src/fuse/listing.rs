//! Replies that list a folder: they are filled until they are full, and the kernel comes back for the rest.
//!
//! Positions: 0 is `.`, 1 is `..`, and the folder's entries follow.

use std::sync::Arc;
use std::time::Duration;

use fuser::{FileType, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use tracing::debug_span;

use super::convert::{absent, attr};
use super::{Fuse, GENERATION, QUESTION_DEADLINE};
use crate::errno::errno;
use crate::filesystem::Found;
use crate::handle::HandleId;
use crate::namespace::inode::Ino;
use crate::namespace::runs::Entry;

/// Inode number in a listing without attributes for entries that have none yet; what libfuse uses, too.
const UNKNOWN_INO: u64 = 0xffff_ffff;

impl Fuse {
    /// Names, numbers and kinds only.
    pub(super) fn list_names(&self, folder: Ino, handle: HandleId, offset: u64, mut reply: ReplyDirectory) {
        let parent = self.filesystem.parent(folder);
        for (position, known, name) in [(0, folder, "."), (1, parent, "..")] {
            if offset <= position && reply.add(INodeNo(known.0), position + 1, FileType::Directory, name) {
                return reply.ok();
            }
        }
        let filesystem = Arc::clone(&self.filesystem);
        let names = Arc::clone(&self.filesystem);
        self.answer(
            debug_span!("readdir", ino = folder.0, offset),
            Some(QUESTION_DEADLINE),
            async move { filesystem.list(handle, offset.saturating_sub(2)).await },
            move |result| match result {
                Ok(batch) => {
                    let mut given = Vec::new();
                    for (name, entry, after) in batch.entries {
                        let number = names
                            .known_ino(folder, &name)
                            .map_or(UNKNOWN_INO, |known| known.0);
                        let kind = match entry {
                            Entry::Folder => FileType::Directory,
                            Entry::File(_) | Entry::Local => FileType::RegularFile,
                        };
                        if reply.add(INodeNo(number), after + 2, kind, name.as_str()) {
                            break;
                        }
                        given.push((name, after));
                    }
                    names.note_listed(handle, given);
                    names.write_down();
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    /// Names with attributes; the kernel holds each inode that it is told of.
    pub(super) fn list_with_attributes(
        &self,
        folder: Ino,
        handle: HandleId,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let parent = self.filesystem.parent(folder);
        for (position, known, name) in [(0, folder, "."), (1, parent, "..")] {
            // The kernel takes neither the number nor the attributes of these two as a lookup.
            let seen = fuser::FileAttr {
                ino: INodeNo(known.0),
                kind: FileType::Directory,
                ..absent()
            };
            let full = offset <= position
                && reply.add(
                    INodeNo(known.0),
                    position + 1,
                    name,
                    &Duration::ZERO,
                    &seen,
                    GENERATION,
                );
            if full {
                return reply.ok();
            }
        }
        let filesystem = Arc::clone(&self.filesystem);
        let found = Arc::clone(&self.filesystem);
        self.answer(
            debug_span!("readdirplus", ino = folder.0, offset),
            Some(QUESTION_DEADLINE),
            async move { filesystem.list(handle, offset.saturating_sub(2)).await },
            move |result| match result {
                Ok(batch) => {
                    let times = (batch.asked, batch.verified);
                    let mut given = Vec::new();
                    for (name, entry, after) in batch.entries {
                        let Some(Found { attributes, ttl }) =
                            found.lookup_listed(folder, (&name, &entry), times)
                        else {
                            continue;
                        };
                        let seen = attr(&attributes);
                        if reply.add(seen.ino, after + 2, name.as_str(), &ttl, &seen, GENERATION) {
                            // It did not fit, so the kernel did not get it.
                            found.forget(attributes.ino, 1);
                            break;
                        }
                        given.push((name, after));
                    }
                    found.note_listed(handle, given);
                    found.write_down();
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            },
        );
    }
}
