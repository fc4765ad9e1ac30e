//! How a machine becomes a host and stays one: a join token once, then renewals with its own key. No user is involved, so
//! there is no permit: what stands in its place is the token, or the host's certificate.

use mooring_identity::{HpkePublicKey, Issued, KeyPin, Principal, authority, possession};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Catalog;
use super::recovery::Answered;
use crate::domain::audit::{Change, EventKind};
use crate::domain::host::{Host, HostFacts, host_id, host_id_of};
use crate::domain::join_token::{JoinToken, Subject, SubjectKind, TokenDigest};
use crate::domain::names::HostName;
use crate::domain::{Error, Meta, Texts, Violations};
use crate::policy::Identity;
use crate::store::{self, Snapshot, Writing};

/// How many ids with a number are tried for one machine name. Beyond that the machines are a fleet of clones that all
/// call themselves `localhost`, and the ten-thousandth must not ask ten thousand times while everybody waits.
const NUMBERED_IDS_MAX: u32 = 3;

/// A machine that wants to join.
pub struct Newcomer<'a> {
    /// The token from the join string.
    pub token: &'a str,
    /// A certificate request in PEM; only its key counts.
    pub csr_pem: &'a str,
    /// What credentials are to be sealed for.
    pub hpke_public_key: &'a [u8],
    /// Signature of the request's key over it.
    pub hpke_key_signature: &'a [u8],
    /// What the machine calls itself.
    pub host_name: &'a str,
    /// What the machine is.
    pub facts: HostFacts,
}

/// What makes a machine a host.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The host.
    pub host: Host,
    /// The realm that it obeys from now on.
    pub realm_uid: Uuid,
    /// Its certificate.
    pub issued: Issued,
    /// The CA's certificate in PEM.
    pub ca_pem: String,
}

impl Catalog {
    /// Makes a host of a machine. The same token with the same keys within 10 minutes answers the same host.
    pub async fn enroll_host(&self, newcomer: Newcomer<'_>) -> Result<Enrolled, Error> {
        let (key, hpke) = checked_keys(&newcomer)?;
        let digest = TokenDigest::of(newcomer.token);
        let both = TokenDigest::of(&format!("{key}/{}", hex::encode(hpke.as_bytes()))).0;
        let refused = Error::Unauthenticated {
            reason: "the join token is not valid here: it is used up, has ended, was revoked, or belongs to another \
                     catalog; ask an operator for a new one",
        };
        // Anybody can send tokens: only one that is known takes a place in the writers' queue.
        let snapshot = self.read().await?;
        let known = store::join_token::lets_in(&snapshot, digest, SubjectKind::Pool).await?
            || store::join_token::used_by(&snapshot, digest, both)
                .await?
                .is_some();
        let is_of_a_person =
            !known && store::join_token::lets_in(&snapshot, digest, SubjectKind::User).await?;
        drop(snapshot);
        if is_of_a_person {
            return Err(Error::Unauthenticated {
                reason: "this join token is for a person: mooring login --join-file FILE; for a host, an operator makes one \
                         with: mooring join-tokens create --pool POOL",
            });
        }
        if !known {
            return Err(refused);
        }
        let writing = self.write().await?;
        let realm_uid = store::realm::get(&writing).await?.uid;
        let ca_pem = self.authority.ca_pem().to_owned();
        if let Some(uid) = store::join_token::used_by(&writing, digest, both).await?
            && let Some(host) = store::host::by_uid(&writing, uid).await?
            && host.ban.is_none()
        {
            let (host, issued) = self.certify(&writing, host, newcomer.csr_pem).await?;
            writing.commit_unrecorded().await?;
            return Ok(Enrolled {
                host,
                realm_uid,
                issued,
                ca_pem,
            });
        }
        if let Some(banned) = store::host::banned_with(&writing, key, &hpke).await? {
            return Err(Error::Precondition {
                reason: "HostBanned",
                subject: banned.to_string(),
                problem: format!(
                    "this machine has the keys of {banned}, which is banned; start its agent once, so that it carries the ban \
                     out and wipes them, and enrol it then; it gets keys of its own"
                ),
            });
        }
        let Some(token) = store::join_token::consume(&writing, digest, SubjectKind::Pool).await? else {
            return Err(refused);
        };
        let Subject::Pool(pool_uid) = token.subject else {
            return Err(refused);
        };
        let Some(pool) = store::pool::by_uid(&writing, pool_uid).await? else {
            return Err(refused);
        };
        let JoinToken {
            uid: token_uid,
            host_labels,
            creator,
            ..
        } = token;
        let uid = self.clock.new_uid();
        let name = free_name(&writing, newcomer.host_name, uid).await?;
        let texts = Texts {
            labels: host_labels,
            ..Texts::default()
        };
        let host = Host {
            meta: Meta::new(uid, texts, creator, writing.now()),
            pool: pool.name,
            pool_uid,
            unschedulable: false,
            seen_time: Some(writing.now()),
            facts: newcomer.facts,
            certificate_expire_time: writing.now(),
            hpke_public_key: hpke.as_bytes().to_vec(),
            key,
            name,
            drain_time: None,
            ban: None,
            clone_time: None,
        };
        store::host::insert(&writing, &host).await?;
        store::join_token::insert_use(&writing, token_uid, both, uid).await?;
        let (host, issued) = self.certify(&writing, host, newcomer.csr_pem).await?;
        self.assign_host(&writing, &host).await?;
        let change = Change::new(&host.name, "Enroll", EventKind::Created, &host.name, uid)
            .detail("pool", &host.pool)
            .detail("certificate_serial", &issued.serial);
        writing.commit(change).await?;
        Ok(Enrolled {
            host,
            realm_uid,
            issued,
            ca_pem,
        })
    }

    /// Gives a host a new certificate for the key that it has.
    pub async fn renew_host_certificate(
        &self,
        identity: &Identity,
        csr_pem: &str,
    ) -> Result<Answered, Error> {
        let key =
            authority::request_key(csr_pem).map_err(|error| Error::invalid("csr_pem", error.to_string()))?;
        if key != identity.key {
            return Err(Error::invalid(
                "csr_pem",
                "its key is another than the host's; enrol the host again to change keys",
            ));
        }
        // Whether there still is this host, with this key and without a ban, is judged where it is noted: a host that is none
        // costs a signature in vain, and a renewal, with all of a fleet at once, no look of its own.
        let issued = self.host_certificate(identity.uid, csr_pem, self.clock.now())?;
        // Twice a day for every host: noted together with what others say, but no mutation that anybody made.
        let host = self.note_certificate(identity, issued.not_after).await?;
        Ok(match self.ban_statement(&host)? {
            Some(ban) => Answered::Banned(ban),
            None => Answered::Issued(issued),
        })
    }

    pub(super) async fn certify(
        &self,
        writing: &Writing,
        mut host: Host,
        csr_pem: &str,
    ) -> Result<(Host, Issued), Error> {
        let issued = self.host_certificate(host.meta.uid, csr_pem, writing.now())?;
        host.certificate_expire_time = issued.not_after;
        store::host::update(writing, &host).await?;
        Ok((host, issued))
    }

    fn host_certificate(&self, host_uid: Uuid, csr_pem: &str, now: OffsetDateTime) -> Result<Issued, Error> {
        let life = self.settings.certificate_lifetime;
        self.authority
            .issue(csr_pem, Principal::Host(host_uid), life, now)
            .map_err(Error::internal)
    }
}

/// The host behind a certificate. A database that does not know it may be an old or an empty one, so the answer must
/// not look like an order: the agent keeps its mounts.
pub(super) async fn host_of(snapshot: &Snapshot, identity: &Identity) -> Result<Host, Error> {
    let host = store::host::by_uid(snapshot, identity.uid).await?;
    host_behind(identity, host.as_ref(), snapshot.now()).cloned()
}

/// The same, with the row of that uid at hand.
pub(super) fn host_behind<'a>(
    identity: &Identity,
    host: Option<&'a Host>,
    now: OffsetDateTime,
) -> Result<&'a Host, Error> {
    identity.valid_host(now)?;
    let host = host.ok_or_else(|| host_unknown(identity.uid))?;
    if host.key != identity.key {
        return Err(Error::Unauthenticated {
            reason: "the certificate's key is not this host's; enrol the host again",
        });
    }
    Ok(host)
}

/// For a host that is in no row.
pub(super) fn host_unknown(uid: Uuid) -> Error {
    Error::Precondition {
        reason: "HostUnknown",
        subject: format!("hosts with uid {uid}"),
        problem: "this catalog's database does not know this host with this key: the host was deleted, or an older or empty database \
                  answers; the host keeps its mounts. Restore the right database, or stop its agent and enrol the host \
                  again: mooring-agent enroll --join-file FILE"
            .into(),
    }
}

/// Both keys, after each was proved to belong to the newcomer. All that is wrong is told at once.
fn checked_keys(newcomer: &Newcomer<'_>) -> Result<(KeyPin, HpkePublicKey), Error> {
    let mut violations = Violations::default();
    let key = authority::request_key(newcomer.csr_pem).map_err(|error| error.to_string());
    let key = violations.take("csr_pem", key);
    let hpke = HpkePublicKey::from_bytes(newcomer.hpke_public_key).map_err(|error| error.to_string());
    let hpke = violations.take("hpke_public_key", hpke);
    if key.is_some() && hpke.is_some() {
        let signed = possession::verify(
            newcomer.csr_pem,
            newcomer.hpke_public_key,
            newcomer.hpke_key_signature,
        );
        violations.take("hpke_key_signature", signed.map_err(|error| error.to_string()));
    }
    violations.finish()?;
    key.zip(hpke)
        .ok_or_else(|| Error::internal("a key was neither taken nor refused"))
}

/// The first name made of what the machine calls itself that no host has; after a few with a number, one with a part
/// of the host's uid.
async fn free_name(snapshot: &Snapshot, host_name: &str, uid: Uuid) -> Result<HostName, Error> {
    let numbered = (0..NUMBERED_IDS_MAX).map(|attempt| host_id(host_name, attempt));
    for id in numbered.chain([host_id_of(host_name, uid)]) {
        let name = HostName::new(id);
        if store::host::find(snapshot, &name).await?.is_none() {
            return Ok(name);
        }
    }
    Err(Error::invalid(
        "host_name",
        "too many hosts have this name; give the machine one of its own",
    ))
}
