//! A catalog in memory for tests: real TLS, real stream, orders as the test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mooring_identity::testing::TestAuthority;
use mooring_identity::{
    Authority, Clock, Incoming, JoinString, Peer, PeerLayer, Principal, ServerTls, StatementKind, possession,
};
use mooring_proto::agent::v1 as pb;
use mooring_proto::agent::v1::connect_request::Message as Said;
use mooring_proto::agent::v1::connect_response::Message as Told;
use mooring_proto::agent::v1::enrollment_service_server::{EnrollmentService, EnrollmentServiceServer};
use mooring_proto::agent::v1::session_service_server::{SessionService, SessionServiceServer};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

/// A catalog with one realm.
#[derive(Clone)]
pub(crate) struct FakeCatalog(Arc<Inner>);

struct Inner {
    authority: TestAuthority,
    clock: Clock,
    endpoint: String,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    stop: CancellationToken,
}

/// What the catalog believes, and what it was told.
#[derive(Default)]
pub(crate) struct State {
    /// Realm, epoch, revision of the next Welcome.
    pub(crate) realm: String,
    /// See above.
    pub(crate) epoch: i64,
    /// See above.
    pub(crate) revision: i64,
    /// Orders.
    pub(crate) assignments: BTreeMap<String, pb::Assignment>,
    /// Removals.
    pub(crate) removals: Vec<pb::Removal>,
    /// How long certificates live.
    pub(crate) life: Duration,
    /// Host by key.
    pub(crate) hosts: BTreeMap<String, Uuid>,
    /// The last Hello.
    pub(crate) hello: Option<pb::Hello>,
    /// The last report.
    pub(crate) report: Option<pb::Report>,
    /// Acknowledged revisions.
    pub(crate) acks: Vec<i64>,
    /// Refused assignments.
    pub(crate) nacks: Vec<pb::Nack>,
    /// Requests that were enrolments, renewals, streams.
    pub(crate) counts: [u32; 3],
    /// Requests that were recoveries.
    pub(crate) recoveries: u32,
    /// Hosts that were deleted.
    pub(crate) deleted: bool,
    /// The next enrolments lose their replies.
    pub(crate) lose_replies: u32,
}

impl FakeCatalog {
    /// Starts at `address`; ends when `stop` is cancelled.
    pub(crate) async fn start(address: &str, clock: Clock, stop: CancellationToken) -> FakeCatalog {
        let authority = TestAuthority::new(clock.now());
        let server = authority.server(Duration::from_secs(24 * 3600), clock.now());
        let tls = ServerTls::new(&server).unwrap();
        let incoming = Incoming::bind(
            address.parse().unwrap(),
            tls,
            mooring_identity::Limits::of_open_files(1024),
        )
        .await
        .unwrap();
        let endpoint = format!("https://{}", incoming.local_address().unwrap());
        let state = State {
            realm: "realm".to_owned(),
            epoch: 1,
            revision: 1,
            life: Duration::from_secs(24 * 3600),
            ..State::default()
        };
        let catalog = FakeCatalog(Arc::new(Inner {
            authority,
            clock,
            endpoint,
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            stop: stop.clone(),
        }));
        let serving = tonic::transport::Server::builder()
            .layer(PeerLayer::new(TestAuthority::trust_domain()))
            .add_service(EnrollmentServiceServer::new(catalog.clone()))
            .add_service(SessionServiceServer::new(catalog.clone()));
        #[expect(clippy::disallowed_methods, reason = "a test's server ends with its runtime")]
        tokio::spawn(async move {
            serving
                .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
                .await
                .unwrap();
        });
        catalog
    }

    /// A join string.
    pub(crate) fn join(&self) -> JoinString {
        JoinString::new(&self.0.endpoint, "token", self.0.authority.pin())
    }

    /// Looks at, or changes, what it believes; streams hear of orders by [`FakeCatalog::tell`].
    pub(crate) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.state.lock().unwrap())
    }

    /// The revision goes on, and open streams are told.
    pub(crate) fn tell(&self) {
        self.state(|state| state.revision += 1);
        self.0.changed.send_modify(|count| *count += 1);
    }

    fn issue(&self, csr: &str, host: Uuid) -> (String, prost_types::Timestamp) {
        let authority: &Authority = self.0.authority.authority();
        let life = self.state(|state| state.life);
        let issued = authority
            .issue(csr, Principal::Host(host), life, self.0.clock.now())
            .unwrap();
        let end = prost_types::Timestamp {
            seconds: issued.not_after.unix_timestamp(),
            nanos: 0,
        };
        (issued.certificate_pem, end)
    }
}

#[tonic::async_trait]
impl EnrollmentService for FakeCatalog {
    async fn enroll(
        &self,
        request: Request<pb::EnrollRequest>,
    ) -> Result<Response<pb::EnrollResponse>, Status> {
        let request = request.into_inner();
        possession::verify(
            &request.csr_pem,
            &request.hpke_public_key,
            &request.hpke_key_signature,
        )
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if request.token != "token" {
            return Err(Status::permission_denied(
                "the join token is unknown or used up; ask for a new one",
            ));
        }
        let key = mooring_identity::authority::request_key(&request.csr_pem)
            .unwrap()
            .to_string();
        let fresh = self.0.clock.new_uid();
        let lost = self.state(|state| {
            state.counts[0] += 1;
            let lost = state.lose_replies > 0;
            state.lose_replies = state.lose_replies.saturating_sub(1);
            lost
        });
        let uid = self.state(|state| *state.hosts.entry(key).or_insert(fresh));
        if lost {
            return Err(Status::unavailable("the reply is lost"));
        }
        let (certificate_pem, end) = self.issue(&request.csr_pem, uid);
        Ok(Response::new(pb::EnrollResponse {
            host: format!("hosts/{}", request.host_name),
            host_uid: uid.to_string(),
            realm_uid: self.state(|state| state.realm.clone()),
            certificate_pem,
            ca_pem: self.0.authority.ca_pem().to_owned(),
            expire_time: Some(end),
        }))
    }

    async fn renew_certificate(
        &self,
        request: Request<pb::RenewCertificateRequest>,
    ) -> Result<Response<pb::RenewCertificateResponse>, Status> {
        let peer = Peer::of(request.extensions());
        let identity = peer
            .identity()
            .ok_or_else(|| Status::unauthenticated("who are you?"))?;
        self.state(|state| state.counts[1] += 1);
        if self.state(|state| state.deleted) {
            return Err(Status::failed_precondition("the host was deleted"));
        }
        if !identity.is_valid_at(self.0.clock.now()) {
            return Err(Status::unauthenticated("your certificate has expired"));
        }
        let (certificate_pem, end) = self.issue(&request.get_ref().csr_pem, identity.principal.uid());
        Ok(Response::new(pb::RenewCertificateResponse {
            certificate_pem,
            expire_time: Some(end),
            ban: None,
        }))
    }

    async fn begin_recovery(
        &self,
        _: Request<pb::BeginRecoveryRequest>,
    ) -> Result<Response<pb::BeginRecoveryResponse>, Status> {
        Ok(Response::new(pb::BeginRecoveryResponse {
            nonce: b"sign me".to_vec(),
            expire_time: None,
        }))
    }

    async fn recover(
        &self,
        request: Request<pb::RecoverRequest>,
    ) -> Result<Response<pb::RecoverResponse>, Status> {
        let request = request.into_inner();
        let uid: Uuid = request.host_uid.parse().unwrap();
        let said = [uid.as_bytes().as_slice(), b"sign me"].concat();
        let signed = StatementKind::Recovery.signed_bytes(&said);
        possession::verify(&request.csr_pem, &signed, &request.signature)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let lost = self.state(|state| {
            state.recoveries += 1;
            let lost = state.lose_replies > 0;
            state.lose_replies = state.lose_replies.saturating_sub(1);
            lost
        });
        if lost {
            return Err(Status::unavailable("the reply is lost"));
        }
        let (certificate_pem, end) = self.issue(&request.csr_pem, uid);
        Ok(Response::new(pb::RecoverResponse {
            certificate_pem,
            expire_time: Some(end),
            ban: None,
        }))
    }
}

#[tonic::async_trait]
impl SessionService for FakeCatalog {
    type ConnectStream = ReceiverStream<Result<pb::ConnectResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = Peer::of(request.extensions());
        let identity = peer
            .identity()
            .ok_or_else(|| Status::unauthenticated("who are you?"))?;
        if !identity.is_valid_at(self.0.clock.now()) {
            return Err(Status::unauthenticated("your certificate has expired"));
        }
        self.state(|state| state.counts[2] += 1);
        let mut inbound = request.into_inner();
        let (queue, outbound) = mpsc::channel(16);
        let (catalog, mut changed) = (self.clone(), self.0.changed.subscribe());
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's stream ends with its connection"
        )]
        tokio::spawn(async move {
            let mut welcomed = false;
            loop {
                tokio::select! {
                    () = catalog.0.stop.cancelled() => return,
                    said = inbound.next() => match said {
                        Some(Ok(said)) => for told in catalog.hear(said) {
                            welcomed = true;
                            let _ = queue.send(Ok(told)).await;
                        },
                        _ => return,
                    },
                    _ = changed.changed(), if welcomed => {
                        let snapshot = catalog.snapshot();
                        let _ = queue.send(Ok(snapshot)).await;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

impl FakeCatalog {
    fn hear(&self, said: pb::ConnectRequest) -> Vec<pb::ConnectResponse> {
        match said.message.unwrap() {
            Said::Hello(hello) => {
                self.state(|state| state.hello = Some(hello));
                let welcome = self.state(|state| pb::Welcome {
                    realm_uid: state.realm.clone(),
                    epoch: state.epoch,
                    revision: state.revision,
                    heartbeat_interval: None,
                });
                let welcome = pb::ConnectResponse {
                    message: Some(Told::Welcome(welcome)),
                };
                vec![welcome, self.snapshot()]
            }
            Said::Report(report) => {
                self.state(|state| state.report = Some(report));
                Vec::new()
            }
            Said::Ack(ack) => {
                self.state(|state| state.acks.push(ack.revision));
                Vec::new()
            }
            Said::Nack(nack) => {
                self.state(|state| state.nacks.push(nack));
                Vec::new()
            }
        }
    }

    fn snapshot(&self) -> pb::ConnectResponse {
        let snapshot = self.state(|state| pb::Snapshot {
            revision: state.revision,
            assignments: state.assignments.values().cloned().collect(),
            removals: state.removals.clone(),
            offline_max: None,
        });
        pb::ConnectResponse {
            message: Some(Told::Snapshot(snapshot)),
        }
    }
}
