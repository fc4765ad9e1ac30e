//! What a worker leaves to its successor: a table on tmpfs of everything that the kernel may refer to, written
//! before each reply.
//!
//! A worker may be killed at any instant. Whoever holds a duplicate of its FUSE descriptor starts another, which
//! reads the table, takes the connection over and has the kernel send again what was on its way. So whatever the
//! kernel was told must be in the table: inode numbers, handles, staged bytes, how far a folder was read. What
//! was decided but not told may be there or not, for the kernel asks again.
//!
//! The table is a log of records. They say what is, not what happened, so that reading one twice does no harm;
//! the bytes of staging files and of objects are not in it. It is on tmpfs, since it need not outlive the
//! machine, which the mount does not either, and a FUSE thread must never wait for a disk. A successor appends to
//! the log that it finds, and writes it anew when the mount is served: so nobody waits for that, and it needs no
//! room for two.
//!
//! Requests that change names are the ones that cannot simply be done again: a `mkdir` that had succeeded would
//! find that the name exists. [`Attempt`] is how they are recognised.

pub mod attempt;
pub mod log;
pub mod record;
pub mod recorder;
pub mod table;

pub use self::attempt::{Attempt, Intent, Outcome};
pub use self::recorder::Recorder;
pub use self::table::Inheritance;

#[cfg(test)]
mod tests;
