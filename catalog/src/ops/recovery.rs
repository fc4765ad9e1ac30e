//! Recovery: a host whose certificate has ended while it was off or offline proves that it still has its key, and gets a
//! new certificate for it. The nonce that it signs is not stored: it carries the moment of its end and a code of
//! authenticity, made with a key that lives as long as this process.
//!
//! Invariants: no key but the host's own gets a certificate; who does not have it learns nothing, not even whether there is
//! such a host, and takes no writer.

use std::sync::Arc;

use mooring_identity::{Issued, StatementKind, authority, possession};
use mooring_proto::agent::v1 as agent_pb;
use ring::hmac;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Catalog;
use crate::domain::Error;
use crate::domain::audit::{Change, EventKind};
use crate::domain::host::Host;
use crate::store;

/// From one answer to the next call: two round trips and a signature.
const NONCE_LIFE: Duration = Duration::minutes(1);
/// Random bytes, so that no two nonces are alike.
const RANDOM_BYTES: usize = 16;
/// Seconds since 1970 of its end, big-endian.
const END_BYTES: usize = 8;

/// Makes nonces and knows its own again.
#[derive(Clone)]
pub struct Nonces(Arc<hmac::Key>);

impl Nonces {
    /// With a key of its own: nonces of before a restart, or of another server, are not good here, and hosts simply begin
    /// again.
    pub fn new(random: [u8; 32]) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &random)))
    }

    /// A nonce for one host, and its end.
    fn make(&self, host: Uuid, random: [u8; RANDOM_BYTES], now: OffsetDateTime) -> (Vec<u8>, OffsetDateTime) {
        let end = (now + NONCE_LIFE).unix_timestamp();
        let mut nonce = random.to_vec();
        nonce.extend_from_slice(&end.to_be_bytes());
        let code = hmac::sign(&self.0, &authenticated(host, &nonce));
        nonce.extend_from_slice(code.as_ref());
        (nonce, now + NONCE_LIFE)
    }

    /// Whether a nonce was made here for this host and is still good.
    fn knows(&self, host: Uuid, nonce: &[u8], now: OffsetDateTime) -> bool {
        let Some((head, code)) = nonce.split_at_checked(RANDOM_BYTES + END_BYTES) else {
            return false;
        };
        let end = head[RANDOM_BYTES..].try_into().map(i64::from_be_bytes);
        hmac::verify(&self.0, &authenticated(host, head), code).is_ok()
            && end.is_ok_and(|end| now.unix_timestamp() <= end)
    }
}

fn authenticated(host: Uuid, head: &[u8]) -> Vec<u8> {
    [host.as_bytes().as_slice(), head].concat()
}

/// A host that recovers.
pub struct Recovering<'a> {
    /// Its uid.
    pub host_uid: Uuid,
    /// What it was given to sign.
    pub nonce: &'a [u8],
    /// A certificate request in PEM by its key.
    pub csr_pem: &'a str,
    /// The key's signature.
    pub signature: &'a [u8],
}

/// What a host that asks for a certificate is given.
#[derive(Debug)]
pub enum Answered {
    /// A certificate.
    Issued(Issued),
    /// It is banned, says the CA.
    Banned(agent_pb::SignedBan),
}

impl Catalog {
    /// What a host has to sign, and until when.
    pub fn begin_recovery(&self, host_uid: Uuid) -> (Vec<u8>, OffsetDateTime) {
        self.nonces.make(host_uid, self.clock.random(), self.clock.now())
    }

    /// Gives a host a new certificate for the key that it proves to have.
    pub async fn recover_host(&self, recovering: Recovering<'_>) -> Result<Answered, Error> {
        let Recovering {
            host_uid,
            nonce,
            csr_pem,
            signature,
        } = recovering;
        if !self.nonces.knows(host_uid, nonce, self.clock.now()) {
            return Err(Error::invalid(
                "nonce",
                "it is not, or no longer, one of this catalog's for this host; begin the recovery again",
            ));
        }
        let key =
            authority::request_key(csr_pem).map_err(|error| Error::invalid("csr_pem", error.to_string()))?;
        let statement = [host_uid.as_bytes().as_slice(), nonce].concat();
        let signed = StatementKind::Recovery.signed_bytes(&statement);
        possession::verify(csr_pem, &signed, signature)
            .map_err(|error| Error::invalid("signature", error.to_string()))?;
        let known = |host: Option<Host>| {
            host.filter(|host| host.key == key)
                .ok_or_else(|| super::enrollment::host_unknown(host_uid))
        };
        // Anybody may ask: not more of them at a time than there are places for hosts.
        let snapshot = self.look().await?;
        let host = known(store::host::by_uid(&snapshot, host_uid).await?)?;
        drop(snapshot);
        if let Some(ban) = self.ban_statement(&host)? {
            return Ok(Answered::Banned(ban));
        }
        let writing = self.write().await?;
        let host = known(store::host::by_uid(&writing, host_uid).await?)?;
        // Somebody may have banned it while this waited for its turn to write.
        if let Some(ban) = self.ban_statement(&host)? {
            return Ok(Answered::Banned(ban));
        }
        let (host, issued) = self.certify(&writing, host, csr_pem).await?;
        let name = &host.name;
        // Unlike a renewal it is rare, and came over a connection that anybody can open.
        let change = Change::new(name, "Recover", EventKind::Updated, name, host_uid)
            .detail("certificate_serial", &issued.serial);
        writing.commit(change).await?;
        tracing::info!(host = %name, "a host has recovered");
        Ok(Answered::Issued(issued))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_for_its_host_for_a_minute_and_where_it_was_made() {
        let nonces = Nonces::new([7; 32]);
        let (host, now) = (Uuid::from_u128(1), OffsetDateTime::UNIX_EPOCH);
        let (nonce, end) = nonces.make(host, [1; RANDOM_BYTES], now);
        assert_eq!(end, now + NONCE_LIFE);
        assert!(nonces.knows(host, &nonce, now) && nonces.knows(host, &nonce, end));
        assert!(!nonces.knows(host, &nonce, end + Duration::SECOND));
        assert!(!nonces.knows(Uuid::from_u128(2), &nonce, now));
        assert!(!Nonces::new([8; 32]).knows(host, &nonce, now));
        let mut longer = nonce.clone();
        longer[RANDOM_BYTES] = 0x7f;
        assert!(!nonces.knows(host, &longer, now), "nobody moves its end");
        for cut in 0..nonce.len() {
            assert!(!nonces.knows(host, &nonce[..cut], now));
        }
    }
}
