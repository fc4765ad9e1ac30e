//! What the agent and a mount's worker say to each other: the messages, and their transport, a
//! `SOCK_SEQPACKET` Unix socket with one JSON message per packet.
//!
//! The worker listens, the agent connects, and may connect again after its own restart. Both say
//! `Hello` first; after that the agent asks and the worker answers each question with exactly one
//! message. The FUSE descriptor rides on the packet of [`ToWorker::Start`] or
//! [`ToWorker::Succeed`].
//!
//! The worker serves its connections at the same time, each in its own thread: a long answer to `Stop`
//! must not hold up `Status`.
//!
//! This crate knows neither FUSE nor S3, does no async and keeps no state.

pub mod address;
mod messages;
mod secret;
mod transport;

pub use messages::{
    Credential, EndpointRules, FromWorker, HiddenKeys, MountActivity, PROTOCOL_VERSION, ToWorker,
    WorkerConfig, WorkerStatus,
};
pub use secret::Secret;
pub use transport::{Connection, Listener, PACKET_BYTES_MAX, SocketFile, TransportError};

#[cfg(test)]
mod tests;
