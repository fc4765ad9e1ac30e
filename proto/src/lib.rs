//! The contract: messages, clients and servers generated from the `.proto` files beside this crate, and their
//! descriptors with comments. No behaviour lives here.

#![allow(
    missing_docs,
    clippy::all,
    reason = "generated code; its comments are those of the protos"
)]

/// What people and programs call.
pub mod v1 {
    tonic::include_proto!("mooring.v1");
}

/// What agents call.
pub mod agent {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("mooring.agent.v1");
    }
}

/// What programs on a host call on its Unix socket.
pub mod local {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("mooring.local.v1");
    }
}

/// The encoded `FileDescriptorSet` of all packages, comments and options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
