//! Hosts for tests: they enrol with real keys, read their orders and report, without a stream between.

use mooring_identity::credentials::new_key_and_csr;
use mooring_identity::{Binding, HpkeKeyPair, PrivateKey};
use mooring_proto::agent::v1 as agent_pb;
use mooring_proto::agent::v1::enrollment_service_server::EnrollmentService as _;
use mooring_proto::v1 as pb;
use mooring_proto::v1::activation_service_server::ActivationService as _;
use mooring_proto::v1::audit_service_server::AuditService as _;
use mooring_proto::v1::host_service_server::HostService as _;
use prost::Message;
use tonic::{Request, Status};
use uuid::Uuid;

use super::{World, request};
use crate::domain::activation::MountState;
use crate::domain::assignment::Assignment;
use crate::domain::mount::{ObservedMount, ReportedAt};
use crate::ops::session::{Orders, SealedAssignment};
use crate::policy::{Caller, Identity};

/// A world with so many hosts in one pool, all of which are to mount connector `reports` of project `ml`.
pub(crate) async fn active_fleet(hosts_count: usize) -> (World, Vec<TestHost>) {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world.connector("reports", "ml", &world.operator).await;
    world.pool("gpu").await;
    let mut hosts = Vec::new();
    for number in 0..hosts_count {
        hosts.push(world.host(&format!("gpu-{number}"), "gpu").await);
    }
    let connector = "projects/ml/connectors/reports";
    world.activate(&world.operator, connector, "gpu").await.unwrap();
    (world, hosts)
}

/// The keys of a machine that wants to join.
pub(crate) struct Keys {
    pub(crate) key: PrivateKey,
    pub(crate) csr_pem: String,
    pub(crate) hpke: HpkeKeyPair,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let (key, csr_pem) = new_key_and_csr().unwrap();
        Self {
            key,
            csr_pem,
            hpke: HpkeKeyPair::generate(),
        }
    }

    /// The request of a machine with these keys.
    pub(crate) fn request(&self, token: &str, host_name: &str) -> agent_pb::EnrollRequest {
        let hpke = self.hpke.public_key();
        agent_pb::EnrollRequest {
            token: token.into(),
            csr_pem: self.csr_pem.clone(),
            hpke_public_key: hpke.as_bytes().to_vec(),
            hpke_key_signature: self.key.sign(hpke.as_bytes()).unwrap(),
            host_name: host_name.into(),
            facts: None,
        }
    }
}

/// A machine that has joined.
pub(crate) struct TestHost {
    pub(crate) name: String,
    pub(crate) uid: Uuid,
    pub(crate) identity: Identity,
    pub(crate) keys: Keys,
}

impl TestHost {
    /// What the host shall have that changed after a revision.
    pub(crate) async fn orders_since(&self, world: &World, revision: i64) -> Orders {
        world
            .catalog
            .orders_since(&self.identity, revision)
            .await
            .unwrap()
    }

    /// The only assignment of the host.
    pub(crate) async fn assignment(&self, world: &World) -> SealedAssignment {
        let mut orders = self.orders_since(world, 0).await;
        assert_eq!(orders.assignments.len(), 1);
        orders.assignments.remove(0)
    }

    /// Reports these mounts, twice, as a host does that has looked since it read its orders.
    pub(crate) async fn report(&self, world: &World, mounts: &[ObservedMount]) {
        self.try_report(world, mounts, false).await.unwrap();
    }

    /// The same, perhaps holding still.
    pub(crate) async fn try_report(
        &self,
        world: &World,
        mounts: &[ObservedMount],
        holds_still: bool,
    ) -> Result<(), crate::domain::Error> {
        let revision = world.revision().await;
        let at = ReportedAt {
            ledger_revision: revision,
            settled_revision: revision,
            holds_still,
            ban_carried_out: false,
        };
        let taken = world.catalog.observe(&self.identity, mounts.to_vec(), at).await;
        world.catalog.turn().await;
        taken
    }

    /// Opens the key that came with an assignment.
    pub(crate) fn open(&self, sealed: &SealedAssignment) -> agent_pb::Credential {
        let key = sealed.key.as_ref().unwrap();
        let binding = Binding {
            host_uid: self.uid,
            assignment_uid: sealed.assignment.uid,
            secret_version: key.version.to_string(),
            endpoint: sealed.assignment.spec.endpoint.clone(),
            bucket: sealed.assignment.spec.bucket.clone(),
        };
        let envelope = [key.encapsulated_key.as_slice(), key.ciphertext.as_slice()].concat();
        let plaintext = self.keys.hpke.open(&binding, &envelope).unwrap();
        agent_pb::Credential::decode(plaintext.expose()).unwrap()
    }
}

/// What a host says of an assignment.
pub(crate) fn mount(assignment: &Assignment, state: MountState) -> ObservedMount {
    ObservedMount {
        assignment_uid: assignment.uid,
        activation: "whatever the host says".into(),
        generation: assignment.generation,
        state,
        path: format!(
            "/mnt/mooring/{}/{}",
            assignment.spec.project_id, assignment.spec.mount_name
        ),
        conditions: Vec::new(),
        mount_time: None,
    }
}

impl World {
    /// A pool that admits every project.
    pub(crate) async fn pool(&self, id: &str) -> pb::Pool {
        self.pool_for(id, &["*"]).await
    }

    /// A pool that admits these projects.
    pub(crate) async fn pool_for(&self, id: &str, admitted: &[&str]) -> pb::Pool {
        let pool = pb::Pool {
            admitted_projects: admitted.iter().map(|project| (*project).to_owned()).collect(),
            ..Default::default()
        };
        let body = pb::CreatePoolRequest {
            pool_id: id.into(),
            pool: Some(pool),
            ..Default::default()
        };
        self.api
            .create_pool(request(&self.operator, body))
            .await
            .unwrap()
            .into_inner()
    }

    /// The text of a join token for a pool.
    pub(crate) async fn token(&self, pool: &str, uses: i32) -> String {
        use pb::create_join_token_request::Subject;
        let body = pb::CreateJoinTokenRequest {
            subject: Some(Subject::Pool(format!("pools/{pool}"))),
            uses,
            ..Default::default()
        };
        let token = self
            .api
            .create_join_token(request(&self.operator, body))
            .await
            .unwrap()
            .into_inner();
        let join: mooring_identity::JoinString = token.join_string.parse().unwrap();
        join.token().to_owned()
    }

    /// Enrols a machine.
    pub(crate) async fn enroll(
        &self,
        token: &str,
        keys: &Keys,
        name: &str,
    ) -> Result<agent_pb::EnrollResponse, Status> {
        let mut request = Request::new(keys.request(token, name));
        request
            .extensions_mut()
            .insert(std::sync::Arc::new(Caller::Anybody));
        self.api.enroll(request).await.map(tonic::Response::into_inner)
    }

    /// A new host in a pool.
    pub(crate) async fn host(&self, host_name: &str, pool: &str) -> TestHost {
        let token = self.token(pool, 1).await;
        let keys = Keys::new();
        let answer = self.enroll(&token, &keys, host_name).await.unwrap();
        let uid = answer.host_uid.parse().unwrap();
        let identity = Identity {
            uid,
            serial: "01".into(),
            not_after: self.clock.now() + time::Duration::days(1),
            key: mooring_identity::authority::request_key(&keys.csr_pem).unwrap(),
        };
        TestHost {
            name: answer.host,
            uid,
            identity,
            keys,
        }
    }

    /// Activates a connector (`projects/…/connectors/…`) or an import on a pool.
    pub(crate) async fn activate(
        &self,
        by: &Caller,
        target: &str,
        pool: &str,
    ) -> Result<pb::Activation, Status> {
        use pb::activate_request::Target;
        let target = if target.contains("/imports/") {
            Target::Import(target.into())
        } else {
            Target::Connector(target.into())
        };
        let body = pb::ActivateRequest {
            target: Some(target),
            pool: format!("pools/{pool}"),
            ..Default::default()
        };
        self.api
            .activate(request(by, body))
            .await
            .map(tonic::Response::into_inner)
    }

    /// Ends an activation.
    pub(crate) async fn deactivate(&self, by: &Caller, name: &str) -> pb::Activation {
        let body = pb::DeactivateRequest {
            name: name.into(),
            grace: None,
        };
        self.api.deactivate(request(by, body)).await.unwrap().into_inner()
    }

    /// How many changes of the realm have this method.
    pub(crate) async fn audited(&self, method: &str) -> usize {
        let body = pb::ListAuditEventsRequest {
            parent: "realm".into(),
            page_size: 1000,
            ..Default::default()
        };
        let listed = self.api.list_audit_events(request(&self.operator, body)).await;
        let events = listed.unwrap().into_inner().audit_events;
        events.iter().filter(|event| event.method == method).count()
    }

    /// What the audit says of the realm's changes by this method, the newest first.
    pub(crate) async fn audit_details(
        &self,
        method: &str,
    ) -> Vec<std::collections::BTreeMap<String, String>> {
        let body = pb::ListAuditEventsRequest {
            parent: "realm".into(),
            page_size: 1000,
            ..Default::default()
        };
        let listed = self.api.list_audit_events(request(&self.operator, body)).await;
        let events = listed.unwrap().into_inner().audit_events.into_iter();
        let events = events.filter(|event| event.method == method);
        events.map(|event| event.details).collect()
    }

    /// An activation as it is now.
    pub(crate) async fn activation(&self, by: &Caller, name: &str) -> pb::Activation {
        let body = pb::GetActivationRequest { name: name.into() };
        self.api
            .get_activation(request(by, body))
            .await
            .unwrap()
            .into_inner()
    }
}
