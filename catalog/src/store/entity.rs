//! Rows as the database has them: columns and nothing else. What they mean is in `domain`, how they came to be in
//! `store/migrations`. Times are microseconds since 1970 UTC; lists and maps are JSON text.

#![allow(
    missing_docs,
    reason = "columns carry the names of the domain's fields, and derives write items of their own"
)]
#![allow(unreachable_pub, reason = "the derives of sea-orm make everything pub")]

pub mod activation;
pub mod assignment;
pub mod audit;
pub mod binding;
pub mod community;
pub mod connector;
pub mod event;
pub mod host;
pub mod import;
pub mod join_token;
pub mod join_use;
pub mod key_epoch;
pub mod mount;
pub mod mount_name;
pub mod pool;
pub mod project;
pub mod publication;
pub mod realm;
pub mod request;
pub mod retired_name;
pub mod secret;
pub mod secret_version;
pub mod user;
