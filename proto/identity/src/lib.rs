//! Who is who in Mooring: the built-in certificate authority, TLS on both ends of a connection, join strings,
//! and the sealed envelopes in which keys travel to hosts.
//!
//! This crate is the only one besides the S3 client that speaks to rustls. It knows nothing of the protos, the
//! catalog or the agent: it takes and gives PEM text, bytes and its own types.
//!
//! Invariants:
//! - TLS 1.3 only, ALPN `h2`, no session resumption: each connection shows its certificate anew.
//! - A private key is written with mode 0600, by rename, after fsync; one that others can read is refused.
//! - An expired client certificate passes the handshake. Whoever answers a request must ask
//!   [`PeerIdentity::is_valid_at`]; so a long-lived connection loses its rights at `not_after` as well.
//! - Values that hold secrets have no `Debug` that shows them, and wipe their memory.

pub mod authority;
pub mod client;
pub mod clock;
pub mod credentials;
pub mod dial;
pub mod envelope;
mod error;
pub mod files;
pub mod join;
pub mod peer;
pub mod pin;
pub mod possession;
pub mod server;
pub mod statement;
pub mod testing;

pub use authority::{Authority, Issued};
pub use client::{ClientTls, PinnedChannel};
pub use clock::Clock;
pub use credentials::{CredentialPaths, Credentials, PrivateKey};
pub use dial::DialError;
pub use envelope::{Binding, HpkeKeyPair, HpkePublicKey, SecretBytes};
pub use error::Error;
pub use join::JoinString;
pub use peer::{Peer, PeerIdentity, PeerLayer, Principal, TrustDomain};
pub use pin::KeyPin;
pub use server::{Incoming, Limits, ServerTls};
pub use statement::StatementKind;
