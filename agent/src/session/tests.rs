//! A host and a catalog in memory, over real TLS.

use std::future::Future;
use std::path::Path;

use mooring_identity::{CredentialPaths, Credentials};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::fake::FakeCatalog;
use super::*;
use crate::host::{Host, credential_paths};
use crate::ledger::LedgerError;
use crate::renewal::Renewal;

/// A host that has enrolled with a catalog in memory, and runs its session.
struct World {
    catalog: FakeCatalog,
    ledger: Arc<Ledger>,
    state: watch::Receiver<SessionState>,
    status: watch::Sender<HostStatus>,
    tls: Arc<ClientTls>,
    /// Tells the session that the certificate was renewed.
    renewed: watch::Sender<OffsetDateTime>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start(prepare: impl FnOnce(&FakeCatalog, &Ledger)) -> World {
        let (clock, stop) = (Clock::system(), CancellationToken::new());
        let catalog = FakeCatalog::start("127.0.0.1:0", clock.clone(), stop.clone()).await;
        let dir = tempfile::tempdir().unwrap();
        catalog.state(|state| state.life = Duration::from_secs(24 * 3600));
        let host = enroll(dir.path(), &catalog).await.unwrap();
        let ledger = Arc::new(Ledger::open(dir.path()).unwrap());
        prepare(&catalog, &ledger);
        let credentials = Credentials::load(&credential_paths(dir.path())).unwrap().unwrap();
        let tls = ClientTls::new(&credentials).unwrap();
        let (expires, renewed) = watch::channel(credentials.not_after());
        let (state_sender, state) = watch::channel(SessionState::default());
        let (status, status_seen) = watch::channel(HostStatus {
            ready: true,
            ..HostStatus::default()
        });
        let session = Session {
            host: host.clone(),
            tls: Arc::clone(&tls),
            renewed,
            ledger: Arc::clone(&ledger),
            status: status_seen,
            state: state_sender,
            facts: watch::channel(pb::HostFacts::default()).1,
            bans: BanDesk::new(credentials.ca_pem(), host.uid),
            offline: crate::offline::Offline::open(dir.path(), clock.now()).unwrap(),
            instance: "instance".to_owned(),
            heartbeat_interval: Duration::from_millis(50),
            clock: clock.clone(),
        };
        let renewal = Renewal {
            credentials,
            paths: credential_paths(dir.path()),
            tls: Arc::clone(&tls),
            endpoint: host.endpoint.clone(),
            host_uid: host.uid,
            bans: session.bans.clone(),
            clock,
            expires: expires.clone(),
        };
        let tasks = TaskTracker::new();
        tasks.spawn(session.run(stop.clone()));
        tasks.spawn(renewal.run(stop.clone()));
        tasks.close();
        World {
            catalog,
            ledger,
            state,
            status,
            tls,
            renewed: expires,
            stop,
            tasks,
            _dir: dir,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.tasks.wait())
            .await
            .unwrap();
    }
}

async fn enroll(dir: &Path, catalog: &FakeCatalog) -> Result<Host, crate::enroll::EnrollError> {
    crate::enroll::enroll(
        dir,
        &catalog.join(),
        "gpu-7",
        &pb::HostFacts::default(),
        &Clock::system(),
    )
    .await
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let all = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn assignment(uid: u128, mount_name: &str) -> pb::Assignment {
    pb::Assignment {
        uid: Uuid::from_u128(uid).to_string(),
        generation: 1,
        spec: Some(pb::AssignmentSpec {
            project_id: "ml".to_owned(),
            mount_name: mount_name.to_owned(),
            endpoint: "https://s3.example".to_owned(),
            bucket: "data".to_owned(),
            mode: mooring_proto::v1::Mode::ReadOnly.into(),
            backend: mooring_proto::v1::Backend::Default.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_given_up_only_when_its_catalog_refuses_it() {
    use crate::enroll::{Standing, standing};
    let stop = CancellationToken::new();
    let catalog = FakeCatalog::start("127.0.0.1:0", Clock::system(), stop.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let host = enroll(dir.path(), &catalog).await.unwrap();
    let paths = credential_paths(dir.path());
    let credentials = Credentials::load(&paths).unwrap().unwrap();
    assert_eq!(standing(&host, &credentials).await.unwrap(), Standing::Accepted);
    catalog.state(|state| state.deleted = true);
    let refused = standing(&host, &credentials).await.unwrap();
    assert_eq!(refused, Standing::Refused("the host was deleted".to_owned()));
    let elsewhere = Host {
        endpoint: "https://127.0.0.1:1".to_owned(),
        ..host
    };
    assert!(matches!(
        standing(&elsewhere, &credentials).await.unwrap(),
        Standing::Unknown(_)
    ));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_an_enrolment_strands_nobody() {
    let stop = CancellationToken::new();
    let catalog = FakeCatalog::start("127.0.0.1:0", Clock::system(), stop.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    catalog.state(|state| state.lose_replies = 2);
    let host = enroll(dir.path(), &catalog).await.unwrap();
    assert_eq!(
        catalog.state(|state| (state.counts[0], state.hosts.len())),
        (3, 1)
    );
    assert_eq!(host.name, "hosts/gpu-7");
    assert_eq!(Host::load(dir.path()).unwrap(), Some(host));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_in_the_ledger_before_it_is_acknowledged_and_a_bad_one_is_refused() {
    let world = World::start(|_, _| {}).await;
    world.catalog.state(|state| {
        for assignment in [assignment(1, "good"), assignment(2, "../../etc")] {
            state.assignments.insert(assignment.uid.clone(), assignment);
        }
    });
    world.catalog.tell();
    eventually("acknowledged and refused", || async {
        world
            .catalog
            .state(|state| state.acks.contains(&2) && state.nacks.len() == 1)
    })
    .await;
    let held = world.ledger.held();
    assert_eq!((held.revision, held.assignments.len()), (2, 2));
    let nack = world.catalog.state(|state| state.nacks[0].clone());
    assert_eq!(nack.assignment_uid, Uuid::from_u128(2).to_string());
    assert!(nack.message.contains("mount name"), "{}", nack.message);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_has_gone_back_is_not_obeyed_and_hears_why() {
    let world = World::start(|_, ledger| {
        let change = |_: &crate::ledger::Held| {
            Ok::<_, LedgerError>(crate::ledger::Held {
                realm_uid: "realm".to_owned(),
                epoch: 1,
                revision: 9,
                assignments: vec![assignment(1, "a")],
                ..Default::default()
            })
        };
        ledger.change(change).unwrap();
    })
    .await;
    eventually("a report that says so", || async {
        let said = |report: &pb::Report| report.holding_still.contains("gone back from revision 9 to 1");
        world
            .catalog
            .state(|state| state.report.as_ref().is_some_and(said))
    })
    .await;
    world.catalog.tell();
    world.catalog.state(|state| state.report = None);
    eventually("another report", || async {
        world.catalog.state(|state| state.report.is_some())
    })
    .await;
    let held = world.ledger.held();
    assert_eq!(
        (held.revision, held.assignments.len(), held.orphans.len()),
        (9, 1, 0)
    );
    assert!(world.catalog.state(|state| state.acks.is_empty()));
    assert!(world.state.borrow().holding_still.is_some());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_come_with_every_change_and_with_every_heartbeat() {
    let world = World::start(|_, _| {}).await;
    for _ in 0..3 {
        world.catalog.state(|state| state.report = None);
        eventually("a heartbeat", || async {
            world.catalog.state(|state| state.report.is_some())
        })
        .await;
    }
    let order = crate::desired::Order::of(&assignment(1, "a")).unwrap();
    let mount = crate::status::MountStatus {
        about: order.about,
        path: "/mnt/mooring/ml/a".into(),
        generation: 1,
        state: mooring_proto::v1::MountState::Mounted,
        conditions: vec![],
        mount_time: None,
    };
    world.status.send_modify(|status| {
        status.mounts.insert(Uuid::from_u128(1), mount);
    });
    eventually("the new mount is reported", || async {
        world.catalog.state(|state| {
            state
                .report
                .as_ref()
                .is_some_and(|report| report.mounts.len() == 1)
        })
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_until_there_is_a_connection_for_the_next_one() {
    let world = World::start(|_, _| {}).await;
    let streams = || world.catalog.state(|state| state.counts[2]);
    eventually("a session", || async { world.state.borrow().connected }).await;
    assert_eq!(streams(), 1);
    // With what this shows and believes no connection is made.
    let stop = CancellationToken::new();
    let other = FakeCatalog::start("127.0.0.1:0", Clock::system(), stop.clone()).await;
    other.state(|state| state.life = Duration::from_secs(3600));
    let dir = tempfile::tempdir().unwrap();
    enroll(dir.path(), &other).await.unwrap();
    let credentials = |dir: &Path| Credentials::load(&credential_paths(dir)).unwrap().unwrap();
    world.tls.replace(&credentials(dir.path())).unwrap();
    world.renewed.send_modify(|_| {});
    for _ in 0..5 {
        world.catalog.state(|state| state.report = None);
        eventually("a heartbeat on the first stream", || async {
            world.catalog.state(|state| state.report.is_some())
        })
        .await;
        assert!(streams() == 1 && world.state.borrow().connected);
    }
    world.tls.replace(&credentials(world._dir.path())).unwrap();
    eventually("the next session", || async {
        streams() == 2 && world.state.borrow().connected
    })
    .await;
    stop.cancel();
    world.stop().await;
}

/// Has the certificate of a host renewed, and checks that the new one is on disk and in use. The renewal goes on.
async fn renewed_once(
    host: &Host,
    credentials: Credentials,
    paths: CredentialPaths,
    stop: &CancellationToken,
) -> TaskTracker {
    let first_end = credentials.not_after();
    let tls = ClientTls::new(&credentials).unwrap();
    let (expires, mut renewed) = watch::channel(first_end);
    let renewal = Renewal {
        bans: BanDesk::new(credentials.ca_pem(), host.uid),
        host_uid: host.uid,
        credentials,
        paths: paths.clone(),
        tls,
        endpoint: host.endpoint.clone(),
        clock: Clock::system(),
        expires,
    };
    let tasks = TaskTracker::new();
    tasks.spawn(renewal.run(stop.clone()));
    tasks.close();
    tokio::time::timeout(Duration::from_secs(5), renewed.changed())
        .await
        .unwrap()
        .unwrap();
    let on_disk = Credentials::load(&paths).unwrap().unwrap();
    assert!(on_disk.not_after() > first_end);
    assert_eq!(*renewed.borrow(), on_disk.not_after());
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_its_end_and_the_session_goes_on_with_it() {
    let stop = CancellationToken::new();
    let catalog = FakeCatalog::start("127.0.0.1:0", Clock::system(), stop.clone()).await;
    catalog.state(|state| state.life = Duration::from_secs(2));
    let dir = tempfile::tempdir().unwrap();
    let host = enroll(dir.path(), &catalog).await.unwrap();
    let paths = credential_paths(dir.path());
    let credentials = Credentials::load(&paths).unwrap().unwrap();
    catalog.state(|state| state.life = Duration::from_secs(3600));
    let tasks = renewed_once(&host, credentials, paths, &stop).await;
    stop.cancel();
    tasks.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_certificate_has_ended_recovers_with_its_key_also_when_replies_are_lost() {
    let stop = CancellationToken::new();
    let catalog = FakeCatalog::start("127.0.0.1:0", Clock::system(), stop.clone()).await;
    catalog.state(|state| state.life = Duration::from_secs(1));
    let dir = tempfile::tempdir().unwrap();
    let host = enroll(dir.path(), &catalog).await.unwrap();
    let paths = credential_paths(dir.path());
    let credentials = Credentials::load(&paths).unwrap().unwrap();
    // Off until it has ended: seconds count in certificates.
    eventually("the certificate has ended", || async {
        !credentials.is_valid_at(Clock::system().now())
    })
    .await;
    catalog.state(|state| {
        state.life = Duration::from_secs(3600);
        state.lose_replies = 2;
    });
    let tasks = renewed_once(&host, credentials, paths, &stop).await;
    assert_eq!(catalog.state(|state| (state.counts[1], state.recoveries)), (0, 3));
    stop.cancel();
    tasks.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_with_the_catalogs_own_words() {
    let stop = CancellationToken::new();
    let catalog = FakeCatalog::start("127.0.0.1:0", Clock::system(), stop.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let join =
        mooring_identity::JoinString::new(catalog.join().endpoint.clone(), "stale", catalog.join().pin);
    let refused = crate::enroll::enroll(
        dir.path(),
        &join,
        "gpu-7",
        &pb::HostFacts::default(),
        &Clock::system(),
    )
    .await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("ask for a new one"), "{text}");
    assert_eq!(Host::load(dir.path()).unwrap(), None);
    stop.cancel();
}
