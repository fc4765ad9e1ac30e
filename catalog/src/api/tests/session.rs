//! The stream itself, over a real connection: what is said, in which order, and what ends it.

use std::sync::Arc;
use std::time::Duration;

use agent_pb::connect_request::Message as Said;
use agent_pb::connect_response::Message as Told;
use agent_pb::session_service_client::SessionServiceClient;
use agent_pb::session_service_server::SessionServiceServer;
use mooring_identity::Authority;
use mooring_proto::agent::v1 as agent_pb;
use mooring_proto::v1 as pb;
use pb::host_service_server::HostService as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Code, Request, Status, Streaming};

use crate::api::Api;
use crate::ops::{Catalog, Settings, realm};
use crate::policy::Caller;
use crate::store::Store;
use crate::testing::fleet::TestHost;
use crate::testing::{World, request};

mod copies;

/// How long a story waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host's end of its stream, and the server at the other end.
struct Line {
    say: mpsc::Sender<agent_pb::ConnectRequest>,
    told: Streaming<agent_pb::ConnectResponse>,
    _server: JoinSet<()>,
}

impl Line {
    /// Serves the stream on a port of its own, with the caller that TLS and the gate would have named, and opens it.
    async fn open(world: &World, host: &TestHost, first: Said) -> Result<Self, Status> {
        let caller = Arc::new(Caller::Host(host.identity.clone()));
        let service =
            SessionServiceServer::with_interceptor(world.api.clone(), move |mut request: Request<()>| {
                request.extensions_mut().insert(caller.clone());
                Ok(request)
            });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        let channel = channel.unwrap().connect().await.unwrap();
        let mut client = SessionServiceClient::new(channel);
        let (say, said) = mpsc::channel(8);
        say.send(agent_pb::ConnectRequest { message: Some(first) })
            .await
            .unwrap();
        let told = client.connect(ReceiverStream::new(said)).await?.into_inner();
        Ok(Self {
            say,
            told,
            _server: server,
        })
    }

    async fn greeted(world: &World, host: &TestHost) -> (Self, agent_pb::Welcome, agent_pb::Snapshot) {
        let mut line = Self::open(world, host, hello()).await.unwrap();
        let Told::Welcome(welcome) = line.next().await.unwrap() else {
            panic!("a Welcome comes first")
        };
        let Told::Snapshot(snapshot) = line.next().await.unwrap() else {
            panic!("a Snapshot comes second")
        };
        (line, welcome, snapshot)
    }

    async fn next(&mut self) -> Result<Told, Status> {
        let next = tokio::time::timeout(PATIENCE, self.told.message())
            .await
            .expect("the catalog says something");
        Ok(next?.expect("the stream goes on").message.unwrap())
    }

    async fn delta(&mut self) -> agent_pb::Delta {
        match self.next().await.unwrap() {
            Told::Delta(delta) => delta,
            Told::Welcome(_) | Told::Snapshot(_) | Told::Ban(_) => panic!("only deltas after the snapshot"),
        }
    }

    async fn report(&self, revision: i64, mounts: Vec<agent_pb::MountReport>) {
        let report = agent_pb::Report {
            revision,
            mounts,
            holding_still: String::new(),
            ban_carried_out: false,
        };
        self.say
            .send(agent_pb::ConnectRequest {
                message: Some(Said::Report(report)),
            })
            .await
            .unwrap();
    }
}

fn hello() -> Said {
    hello_with("DEFAULT")
}

fn hello_with(backend: &str) -> Said {
    Said::Hello(agent_pb::Hello {
        protocol_version: 1,
        facts: Some(agent_pb::HostFacts {
            agent_version: "0.1.0".into(),
            kernel_version: "6.18".into(),
            backends: vec![agent_pb::BackendFact {
                backend: backend.into(),
                version: "0.1.0".into(),
            }],
        }),
        ..Default::default()
    })
}

fn mounted(assignment: &agent_pb::Assignment) -> agent_pb::MountReport {
    agent_pb::MountReport {
        assignment_uid: assignment.uid.clone(),
        generation: assignment.generation,
        state: pb::MountState::Mounted.into(),
        path: "/mnt/mooring/ml/reports".into(),
        ..Default::default()
    }
}

async fn world() -> (World, TestHost) {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world.connector("reports", "ml", &world.operator).await;
    world.pool("gpu").await;
    let host = world.host("gpu-1", "gpu").await;
    (world, host)
}

/// Waits until an activation is in this state.
async fn becomes(world: &World, name: &str, state: pb::ActivationState) {
    let arrives = async {
        while world.activation(&world.operator, name).await.state() != state {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, arrives)
        .await
        .expect("the activation arrives at its state");
}

#[tokio::test]
async fn a_host_without_our_own_program_says_what_it_cannot_mount() {
    let (world, host) = world().await;
    let mut line = Line::open(&world, &host, hello_with("GEESEFS")).await.unwrap();
    assert!(matches!(line.next().await.unwrap(), Told::Welcome(_)));
    let body = pb::GetHostRequest {
        name: host.name.clone(),
    };
    let shown = world.api.get_host(request(&world.operator, body)).await.unwrap();
    let shown = shown.into_inner();
    assert!(
        shown.message.contains("backend DEFAULT cannot be mounted"),
        "{}",
        shown.message
    );
}

#[tokio::test]
async fn a_stream_leads_a_host_from_nothing_to_a_mount_and_back() {
    let (world, host) = world().await;
    let operator = world.operator.clone();
    let (mut line, welcome, snapshot) = Line::greeted(&world, &host).await;
    assert_eq!(welcome.revision, snapshot.revision);
    assert!(snapshot.assignments.is_empty());
    assert_eq!(welcome.heartbeat_interval.unwrap().seconds, 10);
    let body = pb::GetHostRequest {
        name: host.name.clone(),
    };
    let shown = world
        .api
        .get_host(request(&operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((shown.agent_version.as_str(), shown.backends.len()), ("0.1.0", 1));
    assert_eq!(shown.message, "");

    let name = world
        .activate(&operator, "projects/ml/connectors/reports", "gpu")
        .await
        .unwrap()
        .name;
    let up = line.delta().await;
    assert_eq!(up.from_revision, snapshot.revision);
    let assignment = up.upserts[0].clone();
    assert!(assignment.credential.is_some());
    assert_eq!(assignment.spec.as_ref().unwrap().mode(), pb::Mode::ReadOnly);
    line.report(up.to_revision, vec![mounted(&assignment)]).await;
    becomes(&world, &name, pb::ActivationState::Active).await;

    world.deactivate(&operator, &name).await;
    let down = line.delta().await;
    assert_eq!(
        down.from_revision, up.to_revision,
        "each delta follows the one before"
    );
    assert_eq!(down.removals[0].assignment_uid, assignment.uid);
    assert_eq!(down.removals[0].grace.unwrap().seconds, 30);
    // An early report without the mount proves nothing; the next one does.
    line.report(down.to_revision, vec![]).await;
    line.report(down.to_revision, vec![]).await;
    becomes(&world, &name, pb::ActivationState::Inactive).await;

    // A new stream has nothing left to undo.
    drop(line);
    let (_line, _, snapshot) = Line::greeted(&world, &host).await;
    assert!(snapshot.assignments.is_empty() && snapshot.removals.is_empty());
}

#[tokio::test]
async fn changes_that_concern_other_hosts_are_not_told() {
    let (world, host) = world().await;
    let operator = world.operator.clone();
    let (mut line, ..) = Line::greeted(&world, &host).await;
    world.pool("cpu").await;
    world.host("cpu-1", "cpu").await;
    world
        .activate(&operator, "projects/ml/connectors/reports", "cpu")
        .await
        .unwrap();
    let own = world
        .activate(&operator, "projects/ml/connectors/reports", "gpu")
        .await
        .unwrap();
    let delta = line.delta().await;
    assert_eq!(delta.upserts.len(), 1);
    assert_eq!(delta.upserts[0].spec.as_ref().unwrap().activation, own.name);
}

#[tokio::test]
async fn a_newer_stream_ends_the_older() {
    let (world, host) = world().await;
    let (mut older, ..) = Line::greeted(&world, &host).await;
    let (mut newer, ..) = Line::greeted(&world, &host).await;
    let ended = older.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition);
    assert!(ended.message().contains("newer stream"), "{}", ended.message());
    world
        .activate(&world.operator, "projects/ml/connectors/reports", "gpu")
        .await
        .unwrap();
    assert_eq!(newer.delta().await.upserts.len(), 1);
}

#[tokio::test]
async fn a_stream_ends_with_the_hosts_certificate() {
    let (world, mut host) = world().await;
    host.identity.not_after = world.clock.now() + time::Duration::milliseconds(300);
    let (mut line, ..) = Line::greeted(&world, &host).await;
    // The stream sleeps until then by the machine's clock, and judges by the catalog's.
    world.clock.advance(Duration::from_secs(1));
    let ended = line.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_stream_ends_with_its_host_and_with_the_server_and_neither_is_an_order() {
    let (world, host) = world().await;
    let (mut line, ..) = Line::greeted(&world, &host).await;
    let body = pb::DeleteHostRequest {
        name: host.name.clone(),
        etag: String::new(),
        force: true,
    };
    world
        .api
        .delete_host(request(&world.operator, body))
        .await
        .unwrap();
    assert!(line.next().await.is_err());
    let refused = Line::open(&world, &host, hello()).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let other = world.host("gpu-2", "gpu").await;
    let (mut line, ..) = Line::greeted(&world, &other).await;
    tokio::time::timeout(PATIENCE, world.catalog.streams.close())
        .await
        .unwrap();
    assert!(line.told.message().await.unwrap().is_none(), "a clean end");
}

#[tokio::test]
async fn a_stream_begins_with_a_hello_of_a_known_version() {
    let (world, host) = world().await;
    let refused = Line::open(&world, &host, Said::Ack(agent_pb::Ack { revision: 1 }))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let strange = Said::Hello(agent_pb::Hello {
        protocol_version: 2,
        ..Default::default()
    });
    let refused = Line::open(&world, &host, strange).await.err().unwrap();
    assert!(refused.message().contains("upgrade"), "{}", refused.message());
}

#[tokio::test]
async fn what_a_host_refuses_is_told_to_people() {
    let (world, host) = world().await;
    let operator = world.operator.clone();
    let name = world
        .activate(&operator, "projects/ml/connectors/reports", "gpu")
        .await
        .unwrap()
        .name;
    let (line, _, snapshot) = Line::greeted(&world, &host).await;
    let nack = agent_pb::Nack {
        assignment_uid: snapshot.assignments[0].uid.clone(),
        generation: 1,
        message: "this agent has no such backend; install it".into(),
    };
    line.say
        .send(agent_pb::ConnectRequest {
            message: Some(Said::Nack(nack)),
        })
        .await
        .unwrap();
    line.report(snapshot.revision, vec![]).await;
    becomes(&world, &name, pb::ActivationState::Failed).await;
    let failed = world.activation(&operator, &name).await;
    assert_eq!(
        failed.message,
        "hosts/gpu-1: this agent has no such backend; install it"
    );
}

#[tokio::test]
async fn a_host_that_talks_all_the_time_is_told_what_no_wake_up_came_for() {
    let (mut world, host) = world().await;
    // A second catalog on the same database, as after a wake-up that was lost: this one's commits wake nobody here.
    let path = |name| world.dir.path().join(name);
    let store = Store::open(&path("catalog.db")).await.unwrap();
    let keyring = realm::open_keyring(&store, &world.clock, &path("root.key"))
        .await
        .unwrap();
    let authority =
        Authority::load_or_create(&path("ca"), &"test".parse().unwrap(), world.clock.now()).unwrap();
    let settings = Settings {
        look_interval: Duration::from_secs(1),
        ..world.catalog.settings.clone()
    };
    let serving = Arc::new(Catalog::new(
        store,
        keyring,
        authority,
        world.clock.clone(),
        settings,
    ));
    let mut sweeps = JoinSet::new();
    let (sweeping, swept) = (serving.clone(), serving.swept().await.unwrap());
    sweeps.spawn(async move { sweeping.sweep_orders(swept, CancellationToken::new()).await });
    let acting = std::mem::replace(&mut world.api, Api { catalog: serving });
    let (mut line, _, snapshot) = Line::greeted(&world, &host).await;
    world.api = acting;
    world
        .activate(&world.operator, "projects/ml/connectors/reports", "gpu")
        .await
        .unwrap();
    // Far more often than it looks.
    let talk = async {
        loop {
            line.say
                .send(agent_pb::ConnectRequest {
                    message: Some(Said::Ack(agent_pb::Ack {
                        revision: snapshot.revision,
                    })),
                })
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, line.told.message());
    let told = tokio::select! {
        () = talk => unreachable!("it never stops"),
        told = told => told.expect("it looks by itself").unwrap().unwrap(),
    };
    let Some(Told::Delta(delta)) = told.message else {
        panic!("only deltas after the snapshot")
    };
    assert_eq!(delta.upserts.len(), 1);

    // Nor did one come for the bound of its pool.
    let pool = pb::Pool {
        name: "pools/gpu".into(),
        offline_max: Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        }),
        ..Default::default()
    };
    let body = pb::UpdatePoolRequest {
        pool: Some(pool),
        ..Default::default()
    };
    world
        .api
        .update_pool(request(&world.operator, body))
        .await
        .unwrap();
    assert_eq!(line.delta().await.offline_max.unwrap().seconds, 3600);

    // Nor for what the other catalog says of the host itself.
    let body = pb::BanHostRequest {
        name: host.name.clone(),
        reason: "stolen".into(),
    };
    world.api.ban_host(request(&world.operator, body)).await.unwrap();
    assert!(matches!(line.next().await.unwrap(), Told::Ban(_)));
    let body = pb::DeleteHostRequest {
        name: host.name.clone(),
        etag: String::new(),
        force: true,
    };
    world
        .api
        .delete_host(request(&world.operator, body))
        .await
        .unwrap();
    let ended = line.next().await.unwrap_err();
    assert!(
        ended.message().contains("does not know this host"),
        "{}",
        ended.message()
    );
}
