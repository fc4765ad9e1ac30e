//! The kernel's side: per operation one span, one call, one reply. Nothing is decided here.
//!
//! Each operation is a future that is polled once in the FUSE thread, where everything that memory can
//! answer is answered; what is still pending then runs on the runtime with the operation's deadline. The
//! kernel's INTERRUPT is not served by fuser, so the deadline is what keeps an operation from hanging:
//! questions and reads have one over all, changes and uploads end by those of their requests, which follow
//! progress, since cutting them short would leave half of them done.
//!
//! Before every reply, what a successor must know of it is written down; and requests that cannot simply be done
//! twice are told apart by their numbers, which is all that this layer does about succession.

mod answer;
mod convert;
mod listing;
pub mod session;

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use tracing::debug_span;

use self::convert::{
    absent, access, attr, fopen_flags, open_flags, reply_attr, reply_empty, reply_entry, reply_xattr,
};
use crate::clock;
use crate::errno::errno;
use crate::error::FsError;
use crate::filesystem::{AttributeChange, Existing, Filesystem, Found, Lookup};
use crate::handle::HandleId;
use crate::namespace::inode::Ino;
use crate::namespace::names::{FileName, NAME_BYTES_MAX};

/// Lookups, attributes, listings, opens: beyond the store's own deadline of 30 s for such requests with
/// its retries, and below the minute after which a program is thought to hang.
const QUESTION_DEADLINE: Duration = Duration::from_secs(45);

/// Reads: the reader's own deadline of 60 s, and room for its answer.
const READ_DEADLINE: Duration = Duration::from_secs(65);

/// Requests are at most this large whatever is negotiated (256 pages); larger ones gain nothing.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Read-ahead and other background requests of the kernel in flight; its default of 12 starves parallel readers.
const BACKGROUND_MAX: u16 = 64;

/// What the kernel is asked for, as far as it offers it.
const CAPABILITIES: [InitFlags; 9] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    // There are no setuid bits to clear here, and without this every write asks for security.capability.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    InitFlags::FUSE_HAS_RESEND,
    InitFlags::FUSE_ASYNC_DIO,
];

/// Sizes that statfs tells: S3 has none, and programs that check for room must find some.
const STATFS_BLOCK_BYTES: u32 = 4096;
const STATFS_BLOCKS: u64 = 1 << 38; // 1 PiB
const STATFS_FILES: u64 = 1 << 32;

const GENERATION: Generation = Generation(0);

/// What is worth reading of fuser's own log. It warns of every operation that we leave to the kernel on purpose, and
/// calls it an error when the kernel does not want an answer any more, as at an unmount or after a kill.
pub const LOG_FILTER: &str = "fuser=error,fuser::reply=off";

/// Serves a filesystem to the kernel.
pub struct Fuse {
    filesystem: Arc<Filesystem>,
}

impl Fuse {
    /// Serves `filesystem`.
    pub fn new(filesystem: Arc<Filesystem>) -> Fuse {
        Fuse { filesystem }
    }
}

impl fuser::Filesystem for Fuse {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            // Older kernels lack some; everything works without them, only slower.
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "the kernel does not offer a capability");
            }
        }
        // Both take the nearest possible value themselves when told an impossible one.
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        self.note_connection(config);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = match FileName::parse(name) {
            Ok(name) => name,
            // No key is like that, so nothing has the name.
            Err(FsError::NameNotUtf8) => return reply.error(Errno::ENOENT),
            Err(error) => return reply.error(errno(&error)),
        };
        let span = debug_span!("lookup", parent = parent.0, name = ?name);
        let filesystem = Arc::clone(&self.filesystem);
        self.answer(
            span,
            Some(QUESTION_DEADLINE),
            async move { filesystem.lookup_or_absent(Ino(parent.0), &name).await },
            move |result| match result {
                Ok(Lookup::Found(Found { attributes, ttl })) => {
                    reply.entry(&ttl, &attr(&attributes), GENERATION);
                }
                // Inode 0 tells the kernel that the name is absent, and for how long that holds.
                Ok(Lookup::Absent { ttl }) => reply.entry(&ttl, &absent(), GENERATION),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.filesystem.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let filesystem = Arc::clone(&self.filesystem);
        self.answer(
            debug_span!("getattr", ino = ino.0),
            Some(QUESTION_DEADLINE),
            async move { filesystem.get_attributes(Ino(ino.0)).await },
            move |result| reply_attr(reply, result),
        );
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mtime = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => clock::wall(),
        });
        let filesystem = Arc::clone(&self.filesystem);
        let handle = fh.map(|fh| HandleId(fh.0));
        self.answer(
            debug_span!("setattr", ino = ino.0, size),
            None,
            async move {
                filesystem
                    .set_attributes(Ino(ino.0), handle, AttributeChange { size, mtime })
                    .await
            },
            move |result| match handle {
                Some(_) => reply_attr(reply, result),
                None => reply_attr(reply, result.map_err(FsError::by_path)),
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        if kind != rustix::fs::FileType::RegularFile {
            return reply.error(Errno::EPERM);
        }
        let name = match FileName::parse(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        self.answer_once(
            debug_span!("mknod", parent = parent.0, name = ?name),
            None,
            request,
            move |filesystem, attempt| async move { filesystem.make_file(Ino(parent.0), &name, &attempt).await },
            move |result| reply_entry(reply, result.map_err(FsError::by_path)),
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let name = match FileName::parse(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        self.answer_once(
            debug_span!("mkdir", parent = parent.0, name = ?name),
            None,
            request,
            move |filesystem, attempt| async move { filesystem.make_folder(Ino(parent.0), &name, &attempt).await },
            move |result| reply_entry(reply, result.map_err(FsError::by_path)),
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = match FileName::parse(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        self.answer_once(
            debug_span!("unlink", parent = parent.0, name = ?name),
            None,
            request,
            move |filesystem, attempt| async move { filesystem.remove_file(Ino(parent.0), &name, &attempt).await },
            move |result| reply_empty(reply, result.map_err(FsError::by_path)),
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = match FileName::parse(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        self.answer_once(
            debug_span!("rmdir", parent = parent.0, name = ?name),
            None,
            request,
            move |filesystem, attempt| async move {
                filesystem.remove_folder(Ino(parent.0), &name, &attempt).await
            },
            move |result| reply_empty(reply, result.map_err(FsError::by_path)),
        );
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let (from, to) = match (FileName::parse(name), FileName::parse(newname)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => return reply.error(errno(&error)),
        };
        let keep_target = flags.contains(RenameFlags::RENAME_NOREPLACE);
        self.answer_once(
            debug_span!("rename", parent = parent.0, from = ?from, newparent = newparent.0, to = ?to),
            None,
            request,
            move |filesystem, attempt| async move {
                let (from, to) = ((Ino(parent.0), &from), (Ino(newparent.0), &to));
                filesystem.rename(from, to, keep_target, &attempt).await
            },
            move |result| reply_empty(reply, result.map_err(FsError::by_path)),
        );
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncate = open_flags(flags.0).contains(OFlags::TRUNC);
        self.answer_once(
            debug_span!("open", ino = ino.0),
            Some(QUESTION_DEADLINE),
            request,
            move |filesystem, attempt| async move {
                filesystem
                    .open(Ino(ino.0), access(flags), truncate, &attempt)
                    .await
            },
            move |result| match result {
                Ok(opened) => reply.opened(FileHandle(opened.handle.0), fopen_flags(opened)),
                Err(error) => reply.error(errno(&error.by_path())),
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = match FileName::parse(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(&error)),
        };
        let wanted = open_flags(flags);
        let existing = match (wanted.contains(OFlags::EXCL), wanted.contains(OFlags::TRUNC)) {
            (true, _) => Existing::Refuse,
            (false, true) => Existing::Truncate,
            (false, false) => Existing::Open,
        };
        self.answer_once(
            debug_span!("create", parent = parent.0, name = ?name),
            Some(QUESTION_DEADLINE),
            request,
            move |filesystem, attempt| async move {
                let access = access(OpenFlags(flags));
                filesystem
                    .create_or_open(Ino(parent.0), &name, access, existing, &attempt)
                    .await
            },
            move |result| match result {
                Ok((found, opened)) => reply.created(
                    &found.ttl,
                    &attr(&found.attributes),
                    GENERATION,
                    FileHandle(opened.handle.0),
                    fopen_flags(opened),
                ),
                Err(error) => reply.error(errno(&error.by_path())),
            },
        );
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let filesystem = Arc::clone(&self.filesystem);
        self.answer(
            debug_span!("read", ino = ino.0, offset, size),
            Some(READ_DEADLINE),
            async move { filesystem.read(HandleId(fh.0), offset, size).await },
            move |result| match result {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno(&error)),
            },
        );
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _span = debug_span!("write", ino = ino.0, offset, size = data.len()).entered();
        let attempt = self.attempt(request);
        let written = self.filesystem.write(HandleId(fh.0), offset, data, &attempt);
        self.filesystem.write_down();
        match written {
            // The kernel sends at most WRITE_BYTES_MAX, so it fits.
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error)),
        }
        attempt.answered();
    }

    fn flush(&self, _request: &Request, ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let filesystem = Arc::clone(&self.filesystem);
        self.answer(
            debug_span!("flush", ino = ino.0),
            None,
            async move { filesystem.flush(HandleId(fh.0)).await },
            move |result| reply_empty(reply, result),
        );
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _span = debug_span!("release", ino = ino.0).entered();
        if let Some(dirty) = self.filesystem.release(HandleId(fh.0)) {
            self.settle(dirty);
        }
        self.filesystem.write_down();
        reply.ok();
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let filesystem = Arc::clone(&self.filesystem);
        self.answer(
            debug_span!("fsync", ino = ino.0),
            None,
            async move { filesystem.sync(HandleId(fh.0)).await },
            move |result| reply_empty(reply, result),
        );
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _span = debug_span!("opendir", ino = ino.0).entered();
        let attempt = self.attempt(request);
        let opened = self.filesystem.open_folder(Ino(ino.0), &attempt);
        self.filesystem.write_down();
        match opened {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list_names(Ino(ino.0), HandleId(fh.0), offset, reply);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_with_attributes(Ino(ino.0), HandleId(fh.0), offset, reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _span = debug_span!("releasedir", ino = ino.0).entered();
        self.filesystem.release_folder(HandleId(fh.0));
        self.filesystem.write_down();
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Names are in S3 when the operation that made them returns.
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(
            STATFS_BLOCKS,
            STATFS_BLOCKS,
            STATFS_BLOCKS,
            STATFS_FILES,
            STATFS_FILES,
            STATFS_BLOCK_BYTES,
            NAME_BYTES_MAX as u32,
            STATFS_BLOCK_BYTES,
        );
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _span = debug_span!("getxattr", ino = ino.0, name = ?name).entered();
        let value = name
            .to_str()
            .ok_or(FsError::NoAttribute)
            .and_then(|name| self.filesystem.extended_attribute(Ino(ino.0), name));
        reply_xattr(reply, size, value);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _span = debug_span!("listxattr", ino = ino.0).entered();
        reply_xattr(reply, size, self.filesystem.extended_attribute_names(Ino(ino.0)));
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _span = debug_span!("fallocate", ino = ino.0, offset, length, mode).entered();
        let result = match (mode, offset.checked_add(length)) {
            (0, Some(end)) => self.filesystem.allocate(HandleId(fh.0), end),
            (0, None) => Err(FsError::TooLarge),
            _ => Err(FsError::Unsupported),
        };
        self.filesystem.write_down();
        reply_empty(reply, result);
    }
}
