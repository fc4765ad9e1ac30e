//! Use cases. Each is one transaction: spend the permit in it, judge the rules, write, and commit with one revision
//! and one audit row. Whoever watches is woken by the commit. Nothing here knows gRPC or SQL.

use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{Authority, Clock};

use crate::domain::Error;
use crate::domain::endpoint::EndpointRules;
use crate::keyring::Keyring;
use crate::policy::{self, Action, Actor, Caller, Permit};
use crate::store::{Snapshot, Store, Writing, request};

pub mod access;
pub mod activation;
mod assignment;
pub mod audit;
pub mod auth;
pub mod community;
pub mod connector;
pub mod enrollment;
pub mod host;
pub mod import;
pub mod join_token;
pub mod mount;
pub mod pool;
pub mod project;
pub mod publication;
pub mod realm;
pub mod recovery;
pub mod secret;
pub mod session;
mod upkeep;
pub mod user;

/// All that use cases work with.
pub struct Catalog {
    /// The rows.
    pub store: Store,
    /// Seals and opens secrets.
    pub keyring: Keyring,
    /// Issues certificates.
    pub authority: Authority,
    /// Time, ids and randomness.
    pub clock: Clock,
    /// What the operator configured.
    pub settings: Settings,
    /// The hosts' open streams.
    pub streams: Arc<session::streams::Streams>,
    /// What hosts say, on its way to the rows.
    intake: session::intake::Intake,
    /// What hosts ask, on its way to an answer.
    desks: session::Desks,
    /// What hosts sign to recover.
    nonces: recovery::Nonces,
}

/// What the operator configured, as far as use cases care.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What join strings carry.
    pub endpoint: String,
    /// How long certificates live.
    pub certificate_lifetime: Duration,
    /// Which endpoints connectors may name, and which addresses workers may connect to.
    pub endpoint_rules: Arc<EndpointRules>,
    /// When a host that is not heard of counts as lost.
    pub host_lost_after: Duration,
    /// How often all hosts' streams together look for orders by themselves.
    pub look_interval: Duration,
}

impl Catalog {
    /// Puts together what use cases work with.
    pub fn new(
        store: Store,
        keyring: Keyring,
        authority: Authority,
        clock: Clock,
        settings: Settings,
    ) -> Self {
        let streams: Arc<session::streams::Streams> = Arc::default();
        let intake = session::intake::Intake::new(store.clone(), clock.clone(), streams.tasks.clone());
        Self {
            desks: session::Desks::new(&store, &clock, &streams.tasks),
            nonces: recovery::Nonces::new(clock.random()),
            store,
            keyring,
            authority,
            clock,
            settings,
            streams,
            intake,
        }
    }

    /// Judges whether the caller may do this, before any field of the request is looked at.
    pub async fn permit<A: Action>(&self, caller: &Caller, action: A) -> Result<Permit<A>, Error> {
        policy::permit(&self.read().await?, caller, action).await
    }

    /// A consistent view, at this moment.
    pub async fn read(&self) -> Result<Snapshot, Error> {
        self.store.read(self.clock.now()).await
    }

    /// A transaction that may write, at this moment.
    pub async fn write(&self) -> Result<Writing, Error> {
        self.store.write(self.clock.now()).await
    }
}

/// What a call with a request id is answered: what it did now, or what it was answered the first time.
#[derive(Debug)]
pub enum Answer<T> {
    /// Done now.
    New(T),
    /// Done before; the encoded answer of then.
    Stored(Vec<u8>),
}

/// Makes a call happen once, by its request id. Without an id it does nothing.
pub struct Once<T> {
    key: Option<OnceKey>,
    encode: fn(&T) -> Vec<u8>,
}

struct OnceKey {
    request_id: uuid::Uuid,
    method: &'static str,
    fingerprint: [u8; 32],
}

impl<T> Once<T> {
    /// For a call that carries no request id.
    pub fn without_id() -> Self {
        Self {
            key: None,
            encode: |_| Vec::new(),
        }
    }

    /// For a call with this id. The fingerprint tells a repetition from another call with the same id.
    pub fn new(
        request_id: uuid::Uuid,
        method: &'static str,
        fingerprint: [u8; 32],
        encode: fn(&T) -> Vec<u8>,
    ) -> Self {
        Self {
            key: Some(OnceKey {
                request_id,
                method,
                fingerprint,
            }),
            encode,
        }
    }

    /// The answer of the first time, if there was one. Another call with the same id is refused.
    pub async fn answered(&self, snapshot: &Snapshot, actor: &Actor) -> Result<Option<Answer<T>>, Error> {
        let Some(OnceKey {
            request_id,
            method,
            fingerprint,
        }) = &self.key
        else {
            return Ok(None);
        };
        let Some(before) = request::find(snapshot, actor.uid, *request_id).await? else {
            return Ok(None);
        };
        if before.method != *method || before.fingerprint != fingerprint {
            return Err(Error::invalid(
                "request_id",
                "it was used for another call within the last 24 hours; use a new UUID for each call",
            ));
        }
        Ok(Some(Answer::Stored(before.answer)))
    }

    /// Keeps the answer, in the transaction of the call.
    pub async fn keep(&self, writing: &Writing, actor: &Actor, answer: &T) -> Result<(), Error> {
        let Some(OnceKey {
            request_id,
            method,
            fingerprint,
        }) = &self.key
        else {
            return Ok(());
        };
        let answered = request::Answered {
            method: (*method).to_owned(),
            fingerprint: fingerprint.to_vec(),
            answer: (self.encode)(answer),
        };
        request::insert(writing, actor.uid, *request_id, answered).await
    }
}

/// Names of fields, for the audit.
pub(crate) fn field_list<'a>(fields: impl Iterator<Item = &'a str>) -> String {
    fields.collect::<Vec<_>>().join(",")
}
