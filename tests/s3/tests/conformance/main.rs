//! The server as an S3 client sees it, driven with the AWS SDK over TCP: each story in memory and in files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod buckets;
mod checksums;
mod conditions;
mod control;
mod faults;
mod listing;
mod multipart;
mod objects;
mod shaping;
mod tls;
mod world;
