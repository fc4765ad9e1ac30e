//! Real handshakes over loopback, with tonic on both sides. The machine's clock judges TLS, so these tests work
//! with certificates that are valid, or expired, right now.

use std::sync::Mutex;

use time::OffsetDateTime;
use tonic::Code;
use tonic::transport::{Channel, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use super::*;
use crate::client::connect_pinned;
use crate::credentials::certificate_of;
use crate::testing::TestAuthority;
use crate::{ClientTls, Clock, DialError, KeyPin, Peer, PeerLayer, Principal};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> OffsetDateTime {
    Clock::system().now()
}

fn host(n: u128) -> Principal {
    Principal::Host(Uuid::from_u128(n))
}

/// A health service that remembers who called; its tasks end with it.
struct World {
    endpoint: String,
    tls: Arc<ServerTls>,
    callers: Arc<Mutex<Vec<Peer>>>,
    _server: JoinSet<()>,
}

/// What a process with the usual number of files allows.
fn usual() -> Limits {
    Limits::of_open_files(1024)
}

async fn serve(credentials: &Credentials) -> World {
    serve_within(credentials, usual()).await
}

async fn serve_within(credentials: &Credentials, limits: Limits) -> World {
    let tls = ServerTls::new(credentials).unwrap();
    let incoming = Incoming::bind(([127, 0, 0, 1], 0).into(), Arc::clone(&tls), limits)
        .await
        .unwrap();
    let endpoint = format!("https://localhost:{}", incoming.local_address().unwrap().port());
    let callers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&callers);
    let (_, health) = tonic_health::server::health_reporter();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let remember = move |request: tonic::Request<()>| {
            seen.lock().unwrap().push(Peer::of(request.extensions()));
            Ok(request)
        };
        Server::builder()
            .layer(PeerLayer::new(TestAuthority::trust_domain()))
            .layer(tonic::service::InterceptorLayer::new(remember))
            .add_service(health)
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
    World {
        endpoint,
        tls,
        callers,
        _server: tasks,
    }
}

impl World {
    fn last_caller(&self) -> Peer {
        self.callers.lock().unwrap().last().cloned().unwrap()
    }
}

async fn check(channel: &Channel) -> Result<(), tonic::Status> {
    HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await
        .map(|_| ())
}

#[tokio::test]
async fn a_host_is_known_by_its_certificate_and_a_newcomer_is_anonymous() {
    let ca = TestAuthority::new(now());
    let world = serve(&ca.server(HOUR, now())).await;
    let credentials = ca.credentials(host(1), HOUR, now());

    check(
        &ClientTls::new(&credentials)
            .unwrap()
            .channel(&world.endpoint)
            .unwrap(),
    )
    .await
    .unwrap();
    let peer = world.last_caller();
    let identity = peer.identity().unwrap();
    assert_eq!(identity.principal, host(1));
    assert_eq!(identity.serial, credentials.serial());
    assert_eq!(identity.key_sha256, credentials.key().pin());

    let anonymous = ClientTls::without_certificate(ca.ca_pem()).unwrap();
    check(&anonymous.channel(&world.endpoint).unwrap()).await.unwrap();
    assert_eq!(world.last_caller(), Peer::Anonymous);
}

#[tokio::test]
async fn an_expired_client_certificate_passes_the_handshake_and_is_told_apart_by_its_time() {
    let ca = TestAuthority::new(now());
    let world = serve(&ca.server(HOUR, now())).await;
    let yesterday = now() - time::Duration::days(1);
    let credentials = ca.credentials(host(1), HOUR, yesterday);
    check(
        &ClientTls::new(&credentials)
            .unwrap()
            .channel(&world.endpoint)
            .unwrap(),
    )
    .await
    .unwrap();
    let peer = world.last_caller();
    assert_eq!(peer.identity().unwrap().principal, host(1));
    assert!(!peer.identity().unwrap().is_valid_at(now()));
}

#[tokio::test]
async fn a_certificate_of_the_future_of_a_foreign_ca_or_of_a_server_is_refused() {
    let ca = TestAuthority::new(now());
    let world = serve(&ca.server(HOUR, now())).await;
    let foreign = TestAuthority::new(now());
    let yesterday = now() - time::Duration::days(1);
    let tomorrow = now() + time::Duration::days(1);
    let refused = [
        with_our_ca(&foreign.credentials(host(1), HOUR, now()), &ca),
        // Expired and foreign: time must not be the only thing that is looked at.
        with_our_ca(&foreign.credentials(host(1), HOUR, yesterday), &ca),
        with_our_ca(&ca.credentials(host(1), HOUR, tomorrow), &ca),
        with_our_ca(&ca.server(HOUR, now()), &ca),
    ];
    for tls in refused {
        let status = check(&tls.channel(&world.endpoint).unwrap()).await.unwrap_err();
        assert_ne!(status.code(), Code::Ok);
        assert!(world.callers.lock().unwrap().is_empty());
    }
}

/// A client that believes our server but shows some other certificate.
fn with_our_ca(credentials: &Credentials, ca: &TestAuthority) -> Arc<ClientTls> {
    ClientTls::showing(credentials, ca.ca_pem()).unwrap()
}

#[tokio::test]
async fn a_renewed_client_certificate_applies_at_the_next_connection() {
    let ca = TestAuthority::new(now());
    let world = serve(&ca.server(HOUR, now())).await;
    let first = ca.credentials(host(1), HOUR, now());
    let tls = ClientTls::new(&first).unwrap();
    check(&tls.channel(&world.endpoint).unwrap()).await.unwrap();
    assert_eq!(world.last_caller().identity().unwrap().serial, first.serial());

    let request = first.key().certificate_request().unwrap();
    let issued = ca.authority().issue(&request, host(1), HOUR, now()).unwrap();
    let renewed = first.renewed(issued.certificate_pem).unwrap();
    tls.replace(&renewed).unwrap();
    check(&tls.channel(&world.endpoint).unwrap()).await.unwrap();
    let peer = world.last_caller();
    assert_eq!(peer.identity().unwrap().serial, renewed.serial());
    assert_eq!(peer.identity().unwrap().key_sha256, first.key().pin());
}

#[tokio::test]
async fn a_renewed_server_certificate_applies_without_dropping_anyone() {
    let ca = TestAuthority::new(now());
    // Nobody would believe this one: it is for another name.
    let other = ca
        .authority()
        .issue_server(&["elsewhere".to_owned()], HOUR, now())
        .unwrap();
    let world = serve(&other).await;
    let tls = ClientTls::without_certificate(ca.ca_pem()).unwrap();
    let channel = tls.channel(&world.endpoint).unwrap();
    let status = check(&channel).await.unwrap_err();
    let error = DialError::find(&status).unwrap();
    assert!(matches!(error, DialError::Server { .. }), "{error}");
    assert!(error.to_string().contains("server_names"), "{error}");

    world.tls.replace(&ca.server(HOUR, now())).unwrap();
    check(&channel).await.unwrap();
    world.tls.replace(&other).unwrap();
    check(&channel)
        .await
        .expect("an open connection outlives a replaced certificate");
}

#[tokio::test]
async fn a_newcomer_connects_by_the_pin_and_gets_the_ca() {
    let ca = TestAuthority::new(now());
    let world = serve(&ca.server(HOUR, now())).await;
    let pinned = connect_pinned(&world.endpoint, ca.pin()).await.unwrap();
    check(&pinned.channel).await.unwrap();
    assert_eq!(pinned.ca_pem.replace('\r', ""), ca.ca_pem().replace('\r', ""));
    assert_eq!(world.last_caller(), Peer::Anonymous);
}

#[tokio::test]
async fn a_wrong_pin_or_a_wrong_name_stops_a_newcomer() {
    let ca = TestAuthority::new(now());
    let world = serve(&ca.server(HOUR, now())).await;
    let error = connect_pinned(&world.endpoint, KeyPin::of_public_key(b"other"))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, DialError::Pin { .. }), "{error}");

    let elsewhere = ca
        .authority()
        .issue_server(&["elsewhere".to_owned()], HOUR, now())
        .unwrap();
    world.tls.replace(&elsewhere).unwrap();
    let error = connect_pinned(&world.endpoint, ca.pin()).await.err().unwrap();
    assert!(matches!(error, DialError::Server { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_shows_our_ca_without_its_signature_is_refused() {
    let ca = TestAuthority::new(now());
    let impostor = TestAuthority::new(now());
    // Its own leaf, beside the real CA's certificate, which is no secret.
    let mut config = config(&impostor.server(HOUR, now())).unwrap();
    let leaf = impostor.server(HOUR, now());
    let real = certificate_of(ca.ca_pem(), "the CA certificate").unwrap();
    let chain = vec![leaf.chain()[0].clone(), real];
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(
        rustls::sign::CertifiedKey::new(
            chain,
            rustls::crypto::ring::sign::any_ecdsa_type(&leaf.key_der()).unwrap(),
        ),
    ));
    let tls = Arc::new(ServerTls(ArcSwap::from_pointee(config)));
    let mut incoming = Incoming::bind(([127, 0, 0, 1], 0).into(), tls, usual())
        .await
        .unwrap();
    let endpoint = format!("https://localhost:{}", incoming.local_address().unwrap().port());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while tokio_stream::StreamExt::next(&mut incoming).await.is_some() {} });
    let error = connect_pinned(&endpoint, ca.pin()).await.err().unwrap();
    assert!(matches!(error, DialError::Server { .. }), "{error}");
}

#[tokio::test]
async fn nobody_at_the_address_is_told_with_a_remedy() {
    let ca = TestAuthority::new(now());
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let tls = ClientTls::without_certificate(ca.ca_pem()).unwrap();
    let status = check(&tls.channel(&format!("https://{closed}")).unwrap())
        .await
        .unwrap_err();
    let error = DialError::find(&status).unwrap();
    assert!(matches!(error, DialError::Connect { .. }), "{error}");
    for endpoint in [
        "localhost:1",
        "http://localhost:1",
        "https://u@localhost:1",
        "https://localhost/path",
        "",
    ] {
        assert!(
            matches!(tls.channel(endpoint), Err(DialError::Endpoint { .. })),
            "{endpoint}"
        );
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_keeps_nobody_else_out() {
    let ca = TestAuthority::new(now());
    let world = serve(&ca.server(HOUR, now())).await;
    let address = world.endpoint.replace("https://localhost", "127.0.0.1");
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let tls = ClientTls::without_certificate(ca.ca_pem()).unwrap();
    check(&tls.channel(&world.endpoint).unwrap()).await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn newcomers_have_so_many_places_and_keep_no_host_out() {
    let ca = TestAuthority::new(now());
    let limits = Limits {
        anonymous_of_one: 2,
        ..usual()
    };
    let world = serve_within(&ca.server(HOUR, now()), limits).await;
    let newcomer = || {
        let tls = ClientTls::without_certificate(ca.ca_pem()).unwrap();
        tls.channel(&world.endpoint).unwrap()
    };
    let (first, second) = (newcomer(), newcomer());
    check(&first).await.unwrap();
    check(&second).await.unwrap();
    check(&newcomer()).await.expect_err("all places are taken");
    let elsewhere = ClientTls::without_certificate(ca.ca_pem()).unwrap();
    let elsewhere = elsewhere
        .channel_from([127, 0, 0, 2].into(), &world.endpoint)
        .unwrap();
    check(&elsewhere)
        .await
        .expect("another machine has places of its own");
    let credentials = ca.credentials(host(1), HOUR, now());
    for _ in 0..4 {
        let tls = ClientTls::new(&credentials).unwrap();
        check(&tls.channel(&world.endpoint).unwrap()).await.unwrap();
    }
    drop(first);
    let again = async {
        while check(&newcomer()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again)
        .await
        .expect("a place that is left is free");
}

#[tokio::test]
async fn a_connection_without_a_certificate_ends_soon_and_one_with_it_goes_on() {
    let ca = TestAuthority::new(now());
    let limits = Limits {
        anonymous: 1,
        anonymous_life: Duration::from_millis(300),
        ..usual()
    };
    let world = serve_within(&ca.server(HOUR, now()), limits).await;
    let address = world.endpoint.replace("https://localhost", "127.0.0.1");
    let credentials = ca.credentials(host(1), HOUR, now());
    let known = ClientTls::new(&credentials).unwrap().channel(&world.endpoint);
    let known = known.unwrap();
    check(&known).await.unwrap();

    // A client that does everything right, and stays.
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(certificate_of(ca.ca_pem(), "the CA certificate").unwrap())
        .unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(&address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut stays = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap();
    let ended = async {
        use tokio::io::AsyncReadExt as _;
        let mut buffer = [0; 1024];
        while stays.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .expect("the server ends it");
    let newcomer = ClientTls::without_certificate(ca.ca_pem()).unwrap();
    check(&newcomer.channel(&world.endpoint).unwrap())
        .await
        .expect("its place is free again");
    assert_eq!(world.callers.lock().unwrap().len(), 2);
    check(&known).await.unwrap();
}

#[tokio::test]
async fn silent_sockets_of_one_address_leave_room_for_handshakes_of_others() {
    let ca = TestAuthority::new(now());
    let limits = Limits {
        handshakes: 8,
        handshakes_of_one: 2,
        ..usual()
    };
    let world = serve_within(&ca.server(HOUR, now()), limits).await;
    let port = world.endpoint.replace("https://localhost:", "");
    let mut silent = Vec::new();
    for _ in 0..16 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let server = format!("127.0.0.1:{port}").parse().unwrap();
        silent.push(socket.connect(server).await.unwrap());
    }
    let tls = ClientTls::without_certificate(ca.ca_pem()).unwrap();
    tokio::time::timeout(
        Duration::from_secs(3),
        check(&tls.channel(&world.endpoint).unwrap()),
    )
    .await
    .expect("well before the silent ones are dropped")
    .unwrap();
    drop(silent);
}

#[test]
fn newcomers_never_get_more_than_half_of_the_descriptors() {
    for open_files_max in [0, 4, 256, 1024, 1_048_576] {
        let limits = Limits::of_open_files(open_files_max);
        assert!(limits.handshakes > 0 && limits.handshakes_of_one > 0 && limits.anonymous_of_one > 0);
        assert!(limits.handshakes + limits.anonymous <= (open_files_max / 2).max(2));
    }
}
