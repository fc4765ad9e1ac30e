//! The stories: what Mooring promises, played with real programs. One binary, one file for each subject.

#![allow(clippy::unwrap_used, reason = "a story fails where it stands")]

mod access;
mod attributes;
mod backends;
mod bytes;
mod cli;
mod edits;
mod faults;
mod fleet;
mod hosts;
mod identity;
mod keys;
mod lifecycle;
mod machines;
mod orders;
mod partitions;
mod rotation;
mod secrets;
mod standalone;
mod store;
mod succession;
mod supervision;
mod survival;
mod unsaved;
mod walk;
