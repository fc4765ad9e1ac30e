//! Join tokens: one-time rights to become a host or to log in. The token itself is never stored, only its SHA-256.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Labels;

/// Longest life of a join token.
pub const TTL_MAX: Duration = Duration::hours(24);
/// How long the same token with the same key gets the same answer, so that a lost reply strands nobody.
pub const REPLAY_WINDOW: Duration = Duration::minutes(10);

/// Who joins with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Hosts, which become members of this pool.
    Pool(Uuid),
    /// This person.
    User(Uuid),
}

/// Which sort of subject a call accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// Hosts.
    Pool,
    /// People.
    User,
}

/// A right to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Its uid, which its name shows.
    pub uid: Uuid,
    /// Who joins with it.
    pub subject: Subject,
    /// How many more may join.
    pub uses_left: i32,
    /// When it ends.
    pub expire_time: OffsetDateTime,
    /// Who made it.
    pub creator: String,
    /// When it was made.
    pub create_time: OffsetDateTime,
    /// Labels of the hosts that join with it.
    pub host_labels: Labels,
}

/// SHA-256 of a token: what is stored and looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    /// The digest of a token. Tokens are 256 random bits, so a fast hash is enough.
    pub fn of(token: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}
