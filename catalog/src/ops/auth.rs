//! Who the caller is, and how a person gets a certificate: by a join token, or by renewing the one at hand.

use mooring_identity::{Issued, Principal, authority};
use time::{Duration, OffsetDateTime};

use super::Catalog;
use crate::domain::Error;
use crate::domain::audit::{Change, EventKind};
use crate::domain::join_token::{Subject, SubjectKind, TokenDigest};
use crate::domain::names::Scope;
use crate::domain::user::{User, UserState};
use crate::policy::{self, Action, Caller, Permit};
use crate::store::{self, Writing};

/// How long after its end a person's certificate still renews: a long holiday.
const RENEWAL_AFTER_END: Duration = Duration::days(30);

/// Ask who one is.
#[derive(Debug)]
pub struct WhoAmI;

impl Action for WhoAmI {
    const RPC: &'static str = "mooring.v1.AuthService/WhoAmI";

    fn scopes(&self) -> Vec<Scope> {
        Vec::new()
    }
}

/// Ask what this catalog is.
#[derive(Debug)]
pub struct GetServerInfo;

impl Action for GetServerInfo {
    const RPC: &'static str = "mooring.v1.AuthService/GetServerInfo";

    fn scopes(&self) -> Vec<Scope> {
        Vec::new()
    }
}

/// Who the caller is.
#[derive(Clone, Debug)]
pub struct Whoami {
    /// The user.
    pub user: User,
    /// When the certificate ends.
    pub certificate_expire_time: OffsetDateTime,
    /// Roles given to the user directly, such as `DEVELOPER on projects/ml`.
    pub roles: Vec<String>,
}

/// What a catalog is.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// The realm.
    pub realm: store::realm::Realm,
    /// The trust domain of its certificates.
    pub trust_domain: String,
    /// Its clock.
    pub server_time: OffsetDateTime,
}

/// A person's new certificate.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The person.
    pub user: User,
    /// The certificate.
    pub issued: Issued,
    /// The CA's certificate in PEM.
    pub ca_pem: String,
}

impl Catalog {
    /// Who the caller is and which roles the caller has.
    pub async fn whoami(&self, permit: Permit<WhoAmI>) -> Result<Whoami, Error> {
        let snapshot = self.read().await?;
        let (WhoAmI, actor) = permit.spend(&snapshot).await?;
        let user = store::user::by_uid(&snapshot, actor.uid)
            .await?
            .ok_or_else(|| Error::absent(&actor.name))?;
        let mut roles = Vec::new();
        for (scope, role) in store::access::scopes_of(&snapshot, actor.uid).await? {
            roles.push(format!("{role} on {scope}"));
        }
        Ok(Whoami {
            user,
            certificate_expire_time: actor.identity.not_after,
            roles,
        })
    }

    /// What this catalog is.
    pub async fn server_info(&self, permit: Permit<GetServerInfo>) -> Result<ServerInfo, Error> {
        let snapshot = self.read().await?;
        let (GetServerInfo, _) = permit.spend(&snapshot).await?;
        Ok(ServerInfo {
            realm: store::realm::get(&snapshot).await?,
            trust_domain: self.authority.trust_domain().to_string(),
            server_time: snapshot.now(),
        })
    }

    /// Enrols a person with a join token. The same token with the same key within 10 minutes answers again, so a lost
    /// reply strands nobody.
    pub async fn login(&self, token: &str, csr_pem: &str) -> Result<Credential, Error> {
        let key = request_key(csr_pem)?;
        let digest = TokenDigest::of(token);
        let refused = Error::Unauthenticated {
            reason: "the token is not valid here: it was used, has ended, was revoked, or belongs to another catalog; ask an \
                     operator for a new one",
        };
        // Anybody can send tokens: only one that is known takes a place in the writers' queue.
        let snapshot = self.read().await?;
        let known = store::join_token::lets_in(&snapshot, digest, SubjectKind::User).await?
            || store::join_token::used_by(&snapshot, digest, key)
                .await?
                .is_some();
        let is_of_a_host = !known && store::join_token::lets_in(&snapshot, digest, SubjectKind::Pool).await?;
        drop(snapshot);
        if is_of_a_host {
            return Err(Error::Unauthenticated {
                reason: "this join token is for hosts: mooring-agent enroll --join-file FILE; for a person, an operator makes \
                         one with: mooring join-tokens create --user USER",
            });
        }
        if !known {
            return Err(refused);
        }
        let writing = self.write().await?;
        let uid = match store::join_token::used_by(&writing, digest, key).await? {
            Some(uid) => uid,
            None => {
                let token = store::join_token::consume(&writing, digest, SubjectKind::User).await?;
                let Some((token, Subject::User(uid))) = token.map(|token| (token.uid, token.subject)) else {
                    return Err(refused);
                };
                store::join_token::insert_use(&writing, token, key, uid).await?;
                uid
            }
        };
        let mut user = self.enabled(&writing, uid).await?;
        user.login_time = Some(writing.now());
        store::user::update(&writing, &user).await?;
        self.issue(writing, user, csr_pem, "Login").await
    }

    /// Renews the caller's certificate: also one that has ended, for 30 days, unless the user is disabled.
    pub async fn renew_certificate(&self, caller: &Caller, csr_pem: &str) -> Result<Credential, Error> {
        let Caller::User(identity) = caller else {
            return Err(Error::Unauthenticated {
                reason: "renewal needs the certificate that is renewed; run `mooring login`",
            });
        };
        if self.clock.now() > identity.not_after + RENEWAL_AFTER_END {
            return Err(Error::Unauthenticated {
                reason: "the certificate ended more than 30 days ago; ask an operator for a join token and run `mooring login`",
            });
        }
        request_key(csr_pem)?;
        // Old certificates are many: those of who is nobody any more do not wait for the writers.
        policy::user_in_state(&self.read().await?, identity).await?;
        let writing = self.write().await?;
        let actor = policy::user_in_state(&writing, identity).await?;
        let user = self.enabled(&writing, actor.uid).await?;
        self.issue(writing, user, csr_pem, "RenewCertificate").await
    }

    async fn enabled(&self, writing: &Writing, uid: uuid::Uuid) -> Result<User, Error> {
        let user = store::user::by_uid(writing, uid).await?;
        user.filter(|user| user.state == UserState::Enabled)
            .ok_or(Error::Unauthenticated {
                reason: "the user is disabled or was deleted; ask an operator",
            })
    }

    async fn issue(
        &self,
        writing: Writing,
        user: User,
        csr_pem: &str,
        method: &'static str,
    ) -> Result<Credential, Error> {
        let life = self.settings.certificate_lifetime;
        let uid = user.meta.uid;
        let issued = self
            .authority
            .issue(csr_pem, Principal::User(uid), life, writing.now())
            .map_err(Error::internal)?;
        let change = Change::new(&user.name, method, EventKind::Updated, &user.name, uid)
            .detail("certificate_serial", &issued.serial)
            .detail("certificate_expire_time", issued.not_after);
        writing.commit(change).await?;
        Ok(Credential {
            user,
            issued,
            ca_pem: self.authority.ca_pem().to_owned(),
        })
    }
}

/// What a repeated enrolment is recognised by; and the proof that the request can be signed.
fn request_key(csr_pem: &str) -> Result<[u8; 32], Error> {
    let pin = authority::request_key(csr_pem).map_err(|error| {
        Error::invalid(
            "csr_pem",
            format!("{error}; make the request anew with `mooring login`"),
        )
    })?;
    Ok(TokenDigest::of(&pin.to_string()).0)
}
