//! Join tokens: one-time rights to become a host or to log in. The token itself is never stored, only its SHA-256.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Labels;

/// Longest life of a join token.
pub const TTL_MAX: Duration = Duration::hours(24);
/// How long the same token with the same key gets the same answer, so that a lost reply strands nobody.
pub const REPLAY_WINDOW: Duration = Duration::minutes(10);

/// Life of a token whose maker says nothing.
pub const TTL_DEFAULT: Duration = Duration::hours(1);
/// Most hosts that one token lets in.
pub const USES_MAX: i32 = 10_000;

/// The life that was asked for, or why it cannot be.
pub fn checked_ttl(asked: Option<Duration>) -> Result<Duration, String> {
    match asked {
        None => Ok(TTL_DEFAULT),
        Some(ttl) if ttl <= Duration::ZERO => Err("it is no time at all; give a longer one".into()),
        Some(ttl) if ttl > TTL_MAX => {
            Err("it is more than 24 hours; make a new token when you need one".into())
        }
        Some(ttl) => Ok(ttl),
    }
}

/// The number of uses that was asked for, or why it cannot be. A person's token works once.
pub fn checked_uses(asked: i32, for_person: bool) -> Result<i32, String> {
    match asked {
        0 | 1 => Ok(1),
        2.. if for_person => Err("it is more than 1; make a token of its own for each person".into()),
        2..=USES_MAX => Ok(asked),
        _ => Err(format!(
            "it is none of 1 to {USES_MAX}; make several tokens for more hosts"
        )),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_at_most_a_day_and_an_hour_by_default() {
        assert_eq!(checked_ttl(None), Ok(TTL_DEFAULT));
        assert_eq!(checked_ttl(Some(TTL_MAX)), Ok(TTL_MAX));
        assert!(checked_ttl(Some(TTL_MAX + Duration::SECOND)).is_err());
        assert!(checked_ttl(Some(Duration::ZERO)).is_err());
    }

    #[test]
    fn a_persons_token_works_once_and_a_hosts_at_most_ten_thousand_times() {
        assert_eq!(checked_uses(0, false), Ok(1));
        assert_eq!(checked_uses(USES_MAX, false), Ok(USES_MAX));
        assert!(checked_uses(USES_MAX + 1, false).is_err());
        assert!(checked_uses(-1, false).is_err());
        assert_eq!(checked_uses(1, true), Ok(1));
        assert!(checked_uses(2, true).is_err());
    }
}
