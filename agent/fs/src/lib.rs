//! The filesystem over S3: everything of `mooring-fs` but its command line.
//!
//! The data's way: `fuse` → `filesystem` → `namespace`, `reader`, `writer` → `cache`, `budget` → `store`.
//! This crate knows no catalog, no gRPC and no permission: it serves one bucket at one mount point.

pub mod budget;
pub mod clock;
pub mod control;
pub mod credentials;
pub mod descriptors;
pub mod errno;
pub mod error;
pub mod filesystem;
pub mod fuse;
pub mod handle;
pub mod mount;
pub mod namespace;
pub mod offload;
pub mod options;
pub mod reader;
pub mod recover;
pub mod status;
pub mod store;
pub mod succession;
pub mod sys;
pub mod tidy;
pub mod unsaved;
pub mod writer;
