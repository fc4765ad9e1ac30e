//! `mooring-test-s3`: an S3 server for the demo, the tests and the benches. It speaks S3 through s3s and keeps
//! objects in memory or in files; it can be slow and wrong on purpose.
//!
//! A request's way: `server` (accept, TLS) → `shaping` (bandwidth) → `edge` (count, latency, faults) → s3s (parse,
//! signature through `auth`) → `backend` (decode, encode) → `store`, `multipart` (rules, locks) → `index` (order),
//! `storage` (bytes). It never keeps versions, tags, ACLs or policies, and speaks path style only.

mod auth;
mod backend;
pub mod client;
mod clock;
mod conditions;
mod control;
mod digest;
mod edge;
mod error;
mod faults;
mod index;
mod multipart;
mod object;
mod operation;
mod requests;
mod server;
mod shaping;
mod storage;
mod store;
mod tls;

pub use auth::{Keys, Rights};
pub use digest::Etags;
pub use faults::{Action, Fault, FaultId, FaultStatus, Faults, When};
pub use operation::Operation;
pub use requests::{Count, Request, Requests};
pub use server::{AccessError, Options, Server, StartError, StorageOptions, TlsOptions};
pub use shaping::{Latency, Settings};
