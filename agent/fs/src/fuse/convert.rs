//! Between the kernel's types and ours, in both directions.

use std::time::SystemTime;

use fuser::{
    FileType, FopenFlags, INodeNo, OpenAccMode, OpenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr,
};
use rustix::fs::OFlags;

use super::{GENERATION, WRITE_BYTES_MAX};
use crate::errno::errno;
use crate::error::FsError;
use crate::filesystem::{Attributes, Found, Opened};
use crate::handle::Access;

pub(super) fn attr(attributes: &Attributes) -> fuser::FileAttr {
    let Attributes {
        ino,
        folder,
        size,
        mtime,
        mode,
        uid,
        gid,
    } = *attributes;
    fuser::FileAttr {
        ino: INodeNo(ino.0),
        size,
        blocks: size.div_ceil(512),
        atime: mtime,
        mtime,
        ctime: mtime,
        crtime: mtime,
        kind: if folder {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: mode,
        // One, for folders too, tells programs that the number of subfolders cannot be read from it.
        nlink: 1,
        uid,
        gid,
        rdev: 0,
        blksize: WRITE_BYTES_MAX,
        flags: 0,
    }
}

pub(super) fn absent() -> fuser::FileAttr {
    fuser::FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

pub(super) fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned())
}

pub(super) fn access(flags: OpenFlags) -> Access {
    let (read, write) = match flags.acc_mode() {
        OpenAccMode::O_RDONLY => (true, false),
        OpenAccMode::O_WRONLY => (false, true),
        OpenAccMode::O_RDWR => (true, true),
    };
    Access {
        read,
        write,
        append: open_flags(flags.0).contains(OFlags::APPEND),
    }
}

pub(super) fn fopen_flags(opened: Opened) -> FopenFlags {
    if opened.keep_cache {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::empty()
    }
}

pub(super) fn reply_attr(reply: ReplyAttr, result: Result<Found, FsError>) {
    match result {
        Ok(found) => reply.attr(&found.ttl, &attr(&found.attributes)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_entry(reply: ReplyEntry, result: Result<Found, FsError>) {
    match result {
        Ok(found) => reply.entry(&found.ttl, &attr(&found.attributes), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), FsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, FsError>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= size as usize => reply.data(&value),
        Ok(_) => reply.error(errno(&FsError::BufferTooSmall)),
        Err(error) => reply.error(errno(&error)),
    }
}
