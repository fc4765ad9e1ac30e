//! The catalog: what there is to mount, who may, and which host shall. A gRPC server over one SQLite file.
//!
//! A request's way: `api` (decode) → `policy` (permit) → `ops` (use case, one transaction) → `domain` (rules) → `store`
//! (rows), and back through `api`. The same noun has the same file name in each layer.

pub mod api;
pub mod config;
pub mod domain;
pub mod keyring;
pub mod lock;
pub mod ops;
pub mod policy;
pub mod server;
pub mod store;

#[cfg(test)]
pub(crate) mod testing;
