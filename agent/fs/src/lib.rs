//! The filesystem over S3: everything of `mooring-fs` but its command line.
//!
//! The data's way: `fuse` → `filesystem` → `namespace`, `reader`, `writer` → `cache`, `budget` → `store`.
//! This crate knows no catalog, no gRPC and no permission: it serves one bucket at one mount point.

pub mod credentials;
pub mod store;
