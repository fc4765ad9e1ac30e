//! The gate in front of every handler: an rpc without a rule is refused, and so is a caller without the kind of
//! certificate that the rule asks for, or with one that has ended. Calls that need no certificate are rate-limited.
//! Roles are judged behind it, by the permit.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use mooring_identity::Peer;
use time::{Duration, OffsetDateTime};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::{Layer, Service};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::domain::Error;
use crate::ops::Catalog;
use crate::policy::rules::{self, Access};
use crate::policy::{self, Caller};

/// Calls without a certificate from one address: a rack behind one NAT that enrols. 256-bit tokens are not guessed at
/// this rate.
const PER_ADDRESS: Rate = Rate {
    burst: 100.0,
    per_second: 20.0,
};
/// Enrolments and logins from all addresses together. Each costs a signature, two checks of one and a synced write, some
/// milliseconds of a core: a flood of newcomers leaves the rest to the fleet. Health checks are not counted.
const FROM_ALL: Rate = Rate {
    burst: 400.0,
    per_second: 100.0,
};
/// Addresses remembered at a time: 64 bytes each. When they are full, the limit holds for all of the newcomers together.
const ADDRESSES_MAX: usize = 10_000;

/// How many calls may be under way at a time, over all connections; of a stream only its beginning counts.
#[derive(Clone, Copy)]
struct Limits {
    /// With a certificate.
    calls: usize,
    /// Of one host: its session, a renewal, and one of either whose end was not noticed yet.
    calls_of_host: usize,
    /// Of one user: programs that work for many.
    calls_of_user: usize,
    /// Enrolments and logins. They have places of their own: with headers and no body, anybody can hold one.
    newcomers: usize,
    /// How long a call without a certificate may take, its body included.
    newcomer_duration: std::time::Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // SQLite answers some thousand a second, so more would only wait until their callers have given up.
            calls: 1024,
            calls_of_host: 4,
            calls_of_user: 128,
            // Of some milliseconds each: more than FROM_ALL lets in, if all of them say what they have to say.
            newcomers: 64,
            // A message of a few KiB, and the writers' queue behind it.
            newcomer_duration: std::time::Duration::from_secs(5),
        }
    }
}

/// Puts the gate in front of a service.
#[derive(Clone)]
pub(super) struct GateLayer {
    catalog: Arc<Catalog>,
    limiter: Arc<Limiter>,
    calls: Arc<Semaphore>,
    callers: Arc<Callers>,
    newcomers: Arc<Semaphore>,
    newcomer_duration: std::time::Duration,
}

impl GateLayer {
    pub(super) fn new(catalog: Arc<Catalog>) -> Self {
        Self::within(catalog, Limits::default())
    }

    fn within(catalog: Arc<Catalog>, limits: Limits) -> Self {
        let Limits {
            calls,
            calls_of_host,
            calls_of_user,
            newcomers,
            newcomer_duration,
        } = limits;
        Self {
            catalog,
            limiter: Arc::default(),
            calls: Arc::new(Semaphore::new(calls)),
            callers: Arc::new(Callers {
                of_host_max: calls_of_host,
                of_user_max: calls_of_user,
                under_way: Mutex::default(),
            }),
            newcomers: Arc::new(Semaphore::new(newcomers)),
            newcomer_duration,
        }
    }

    /// The places of calls with a certificate, all of which are free at first.
    pub(super) fn calls(&self) -> Arc<Semaphore> {
        Arc::clone(&self.calls)
    }

    /// A place for a call that was admitted; `None` for a health check without a certificate, which costs nothing but
    /// its place on the connection.
    fn place(&self, rpc: &str, caller: &Caller) -> Result<Option<Place<'_>>, Status> {
        let (places, of_caller, reason) = match caller {
            Caller::Anybody if !rpc.starts_with("mooring.") => return Ok(None),
            Caller::Anybody => (
                &self.newcomers,
                None,
                "the catalog has too many enrolments and logins under way; try again in a second",
            ),
            Caller::User(_) | Caller::Host(_) => (
                &self.calls,
                Some(self.callers.place(caller).ok_or(Error::Exhausted {
                    reason: "too many calls of yours are under way; wait for their answers",
                })?),
                "the catalog has too many calls under way; try again in a second",
            ),
        };
        match places.try_acquire() {
            Ok(place) => Ok(Some(Place {
                _of_all: place,
                _of_caller: of_caller,
            })),
            Err(_) => Err(Error::Exhausted { reason }.into()),
        }
    }
}

/// A call's place, until it is dropped.
struct Place<'a> {
    _of_all: SemaphorePermit<'a>,
    _of_caller: Option<CallerPlace>,
}

/// How many calls each caller with a certificate has under way: one that goes astray, or a host that was taken over,
/// leaves the places to the others.
struct Callers {
    of_host_max: usize,
    of_user_max: usize,
    under_way: Mutex<HashMap<Uuid, usize>>,
}

/// One of them.
struct CallerPlace {
    callers: Arc<Callers>,
    uid: Uuid,
}

impl Callers {
    /// A place, if this caller may have one more.
    fn place(self: &Arc<Self>, caller: &Caller) -> Option<CallerPlace> {
        let (uid, max) = match caller {
            Caller::Anybody => return None,
            Caller::User(identity) => (identity.uid, self.of_user_max),
            Caller::Host(identity) => (identity.uid, self.of_host_max),
        };
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let count = under_way.entry(uid).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(CallerPlace {
            callers: Arc::clone(self),
            uid,
        })
    }
}

impl Drop for CallerPlace {
    fn drop(&mut self) {
        let under_way = &self.callers.under_way;
        let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.uid);
            }
        }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    layer: GateLayer,
}

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone that is ready is the one that was polled.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        Box::pin(async move {
            let rpc = request.uri().path().trim_start_matches('/').to_owned();
            let caller = Caller::of(&Peer::of(request.extensions()));
            let address = request
                .extensions()
                .get::<TlsConnectInfo<TcpConnectInfo>>()
                .and_then(|info| info.get_ref().remote_addr())
                .map(|address| address.ip());
            if let Err(status) = admit(&layer.catalog, &layer.limiter, &rpc, &caller, address).await {
                return Ok(status.into_http());
            }
            let _place = match layer.place(&rpc, &caller) {
                Ok(place) => place,
                Err(status) => return Ok(status.into_http()),
            };
            // What handlers and the store log carries who called and what.
            let span = tracing::info_span!("call", %rpc, %caller);
            let known = !matches!(caller, Caller::Anybody);
            request.extensions_mut().insert(Arc::new(caller));
            let answer = inner.call(request).instrument(span);
            if known {
                return answer.await;
            }
            match tokio::time::timeout(layer.newcomer_duration, answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    let reason = "the call took too long: without a certificate it has 5 seconds; try again";
                    Ok(Status::from(Error::Exhausted { reason }).into_http())
                }
            }
        })
    }
}

async fn admit(
    catalog: &Catalog,
    limiter: &Limiter,
    rpc: &str,
    caller: &Caller,
    address: Option<IpAddr>,
) -> Result<(), Status> {
    let Some(rule) = rules::rule_of(rpc) else {
        return Err(super::status::unknown_call());
    };
    let now = catalog.clock.now();
    match rule.access {
        Access::Anybody => {
            if limiter.admits(address, rpc.starts_with("mooring."), now) {
                return Ok(());
            }
            Err(Error::Exhausted {
                reason: "too many calls without a certificate from this address; wait a second",
            }
            .into())
        }
        Access::Host => Ok(caller.host(now).map(drop)?),
        Access::ExpiredUser => match caller {
            Caller::User(_) => Ok(()),
            Caller::Anybody | Caller::Host(_) => Ok(caller.user(now).map(drop)?),
        },
        Access::User | Access::With(_) | Access::WithAll(_) | Access::WithAny(_) => {
            caller.user(now)?;
            if !rpc.starts_with("mooring.") {
                // Our own handlers look the user up with their permit; reflection has no handler of ours.
                policy::enabled_user(&catalog.read().await?, caller).await?;
            }
            Ok(())
        }
    }
}

/// Token buckets: one for each address, and one for all.
#[derive(Default)]
struct Limiter {
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    by_address: HashMap<Option<IpAddr>, Bucket>,
    all: Option<Bucket>,
}

/// How much a bucket holds, and how fast it fills.
#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

#[derive(Clone, Copy)]
struct Bucket {
    calls_left: f64,
    as_of: OffsetDateTime,
}

impl Bucket {
    fn full(rate: Rate, now: OffsetDateTime) -> Self {
        Self {
            calls_left: rate.burst,
            as_of: now,
        }
    }

    fn at(self, rate: Rate, now: OffsetDateTime) -> Self {
        let passed = (now - self.as_of).max(Duration::ZERO).as_seconds_f64();
        let calls_left = (self.calls_left + passed * rate.per_second).min(rate.burst);
        Self {
            calls_left,
            as_of: now,
        }
    }
}

impl Limiter {
    /// Takes one call, if there is one left. `counted` calls are also taken from what all addresses share.
    fn admits(&self, address: Option<IpAddr>, counted: bool, now: OffsetDateTime) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { by_address, all } = &mut *buckets;
        let mut address = address;
        if by_address.len() >= ADDRESSES_MAX && !by_address.contains_key(&address) {
            by_address.retain(|_, bucket| bucket.at(PER_ADDRESS, now).calls_left < PER_ADDRESS.burst);
            if by_address.len() >= ADDRESSES_MAX {
                address = None;
            }
        }
        let own = by_address
            .entry(address)
            .or_insert(Bucket::full(PER_ADDRESS, now));
        *own = own.at(PER_ADDRESS, now);
        let all = all.get_or_insert(Bucket::full(FROM_ALL, now));
        *all = all.at(FROM_ALL, now);
        // Both or neither: an address that is refused takes nothing from the others.
        if own.calls_left < 1.0 || (counted && all.calls_left < 1.0) {
            return false;
        }
        own.calls_left -= 1.0;
        if counted {
            all.calls_left -= 1.0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::policy::Identity;
    use crate::testing::{World, caller};
    use mooring_identity::{PeerIdentity, Principal};

    /// A call of this rpc, as it comes from the connection.
    fn call(rpc: &str, peer: Peer) -> http::Request<Body> {
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = format!("/{rpc}").parse().unwrap();
        request.extensions_mut().insert(peer);
        request
    }

    fn grpc_code(answer: &http::Response<Body>) -> Code {
        answer
            .headers()
            .get("grpc-status")
            .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
    }

    #[tokio::test]
    async fn newcomers_who_say_nothing_keep_nobody_with_a_certificate_out_and_lose_their_places() {
        const LOGIN: &str = "mooring.v1.AuthService/Login";
        const WHO_AM_I: &str = "mooring.v1.AuthService/WhoAmI";
        let world = World::new().await;
        let limits = Limits {
            calls: 1,
            newcomers: 2,
            newcomer_duration: std::time::Duration::from_millis(200),
            ..Limits::default()
        };
        // A login waits for a body that never comes, as handlers do.
        let inner = tower::service_fn(|request: http::Request<Body>| async move {
            if request.uri().path().ends_with("Login") {
                std::future::pending::<()>().await;
            }
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
        });
        let gate = GateLayer::within(world.catalog.clone(), limits).layer(inner);
        let mut silent = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let mut gate = gate.clone();
            silent.spawn(async move { gate.call(call(LOGIN, Peer::Anonymous)).await.unwrap() });
        }
        let refused = silent.join_next().await.unwrap().unwrap();
        assert_eq!(grpc_code(&refused), Code::ResourceExhausted);
        assert_eq!(silent.len(), 2, "two hold the places");

        let now = world.clock.now();
        let identity = PeerIdentity {
            principal: Principal::User(world.clock.new_uid()),
            trust_domain: "test".parse().unwrap(),
            serial: "01".into(),
            not_before: now,
            not_after: now + Duration::days(1),
            key_sha256: mooring_identity::KeyPin::of_public_key(b""),
        };
        let known = Peer::Identified(Arc::new(identity));
        let mut gate = gate.clone();
        let answer = gate.call(call(WHO_AM_I, known)).await.unwrap();
        assert_eq!(grpc_code(&answer), Code::Ok);
        let health = call("grpc.health.v1.Health/Check", Peer::Anonymous);
        assert_eq!(grpc_code(&gate.call(health).await.unwrap()), Code::Ok);

        for ended in silent.join_all().await {
            assert_eq!(grpc_code(&ended), Code::ResourceExhausted, "its time is over");
        }
        assert_eq!(gate.layer.newcomers.available_permits(), 2);
    }

    #[tokio::test]
    async fn one_host_takes_few_places_whatever_it_says_and_gets_them_back() {
        const CONNECT: &str = "mooring.agent.v1.SessionService/Connect";
        let world = World::new().await;
        let Caller::User(identity) = world.user("anna").await else {
            panic!("a user")
        };
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let host = |uid| {
            Caller::Host(Identity {
                uid,
                ..identity.clone()
            })
        };
        let layer = GateLayer::new(world.catalog.clone());
        let mut places = Vec::new();
        let refused = loop {
            match layer.place(CONNECT, &host(one)) {
                Ok(place) => places.push(place),
                Err(status) => break status,
            }
        };
        assert_eq!((refused.code(), places.len()), (Code::ResourceExhausted, 4));
        let other = layer.place(CONNECT, &host(two));
        assert!(other.is_ok(), "nobody else pays for it");
        let person = Caller::User(identity.clone());
        let of_person: Vec<_> = (0..200)
            .map_while(|_| layer.place("mooring.v1.AuthService/WhoAmI", &person).ok())
            .collect();
        assert_eq!(of_person.len(), 128);
        drop(places);
        assert!(layer.place(CONNECT, &host(one)).is_ok());
        drop((other, of_person));
        assert!(
            layer.callers.under_way.lock().unwrap().is_empty(),
            "nothing is kept"
        );
        assert_eq!(layer.calls.available_permits(), Limits::default().calls);
    }

    async fn code(world: &World, rpc: &str, caller: &Caller) -> Code {
        admit(&world.catalog, &Limiter::default(), rpc, caller, None)
            .await
            .err()
            .map_or(Code::Ok, |status| status.code())
    }

    #[tokio::test]
    async fn the_gate_asks_for_the_certificate_of_the_rule_and_refuses_what_has_none() {
        const REFLECTION: &str = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let world = World::new().await;
        let user = world.user("anna").await;
        let Caller::User(identity) = user.clone() else {
            panic!("a user")
        };
        let host = Caller::Host(identity.clone());
        for (rpc, who, expected) in [
            ("grpc.health.v1.Health/Check", &Caller::Anybody, Code::Ok),
            ("mooring.v1.AuthService/Login", &Caller::Anybody, Code::Ok),
            (
                "grpc.health.v1.Health/Watch",
                &Caller::Anybody,
                Code::Unauthenticated,
            ),
            (
                "mooring.v1.AuthService/WhoAmI",
                &Caller::Anybody,
                Code::Unauthenticated,
            ),
            ("mooring.v1.AuthService/WhoAmI", &host, Code::Unauthenticated),
            ("mooring.v1.AuthService/WhoAmI", &user, Code::Ok),
            (
                "mooring.agent.v1.SessionService/Connect",
                &user,
                Code::Unauthenticated,
            ),
            ("mooring.agent.v1.SessionService/Connect", &host, Code::Ok),
            (REFLECTION, &Caller::Anybody, Code::Unauthenticated),
            (REFLECTION, &host, Code::Unauthenticated),
            (REFLECTION, &user, Code::Ok),
            ("mooring.v1.AuthService/NoSuchCall", &user, Code::Unimplemented),
            ("", &user, Code::Unimplemented),
        ] {
            assert_eq!(code(&world, rpc, who).await, expected, "{rpc} by {who}");
        }
        // Somebody who is nobody in the database has a certificate, and that is not enough to look around.
        let nobody = caller(world.clock.new_uid(), world.clock.now());
        assert_eq!(code(&world, REFLECTION, &nobody).await, Code::Unauthenticated);
        world.clock.advance(std::time::Duration::from_secs(2 * 24 * 3600));
        assert_eq!(
            code(&world, "mooring.v1.AuthService/WhoAmI", &user).await,
            Code::Unauthenticated
        );
        assert_eq!(
            code(&world, "mooring.agent.v1.SessionService/Connect", &host).await,
            Code::Unauthenticated
        );
        assert_eq!(
            code(&world, "mooring.v1.AuthService/RenewCertificate", &user).await,
            Code::Ok
        );
    }

    #[test]
    fn an_address_is_limited_and_recovers_and_does_not_limit_others() {
        let limiter = Limiter::default();
        let (one, two) = (
            Some(IpAddr::from([10, 0, 0, 1])),
            Some(IpAddr::from([10, 0, 0, 2])),
        );
        let start = OffsetDateTime::UNIX_EPOCH;
        let admitted = (0..200).filter(|_| limiter.admits(one, true, start)).count();
        assert_eq!(admitted, 100);
        assert!(limiter.admits(two, true, start));
        assert!(limiter.admits(one, true, start + Duration::seconds(1)));
    }

    #[test]
    fn all_addresses_together_have_a_limit_too_and_health_checks_are_not_counted() {
        let limiter = Limiter::default();
        let start = OffsetDateTime::UNIX_EPOCH;
        let address = |n: u16| Some(IpAddr::from([10, 1, (n >> 8) as u8, n as u8]));
        let admitted = (0..1000)
            .filter(|n| limiter.admits(address(*n), true, start))
            .count();
        assert_eq!(admitted, 400);
        assert!(limiter.admits(address(2000), false, start));
        assert!(limiter.admits(address(2000), true, start + Duration::seconds(1)));
    }
}
