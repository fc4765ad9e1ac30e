//! How machines become hosts, and what an older or empty database makes of them.

use std::time::Duration;

use agent_pb::enrollment_service_server::EnrollmentService;
use mooring_proto::agent::v1 as agent_pb;
use mooring_proto::v1 as pb;
use pb::activation_service_server::ActivationService as _;
use pb::host_service_server::HostService as _;
use tonic::Code;
use tonic_types::StatusExt;

use crate::domain::Error;
use crate::domain::activation::MountState;
use crate::domain::host::HostFacts;
use crate::policy::Caller;
use crate::testing::fleet::{Keys, mount};
use crate::testing::{World, request, wrong_fields};

#[tokio::test]
async fn the_same_token_with_the_same_keys_answers_the_same_host_for_ten_minutes() {
    let world = World::new().await;
    world.pool("gpu").await;
    let token = world.token("gpu", 1).await;
    let keys = Keys::new();
    let first = world.enroll(&token, &keys, "gpu-1").await.unwrap();
    let revision = world.revision().await;
    let again = world.enroll(&token, &keys, "gpu-1").await.unwrap();
    assert_eq!((&first.host, &first.host_uid), (&again.host, &again.host_uid));
    assert_eq!(world.revision().await, revision, "nothing happened twice");
    assert!(again.certificate_pem.contains("BEGIN CERTIFICATE"));

    let others = world.enroll(&token, &Keys::new(), "gpu-1").await.unwrap_err();
    assert_eq!(others.code(), Code::Unauthenticated, "the token is used up");
    world.clock.advance(Duration::from_secs(600));
    let late = world.enroll(&token, &keys, "gpu-1").await.unwrap_err();
    assert_eq!(late.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_in_the_wrong_hands_says_whom_it_is_for() {
    let world = World::new().await;
    world.pool("gpu").await;
    let of_hosts = world.token("gpu", 1).await;
    let keys = Keys::new();
    let body = pb::LoginRequest {
        token: of_hosts.clone(),
        csr_pem: keys.csr_pem.clone(),
    };
    let refused =
        pb::auth_service_server::AuthService::login(&world.api, request(&Caller::Anybody, body)).await;
    let refused = refused.unwrap_err();
    assert!(
        refused.message().contains("mooring-agent enroll"),
        "{}",
        refused.message()
    );

    let body = pb::CreateJoinTokenRequest {
        subject: Some(pb::create_join_token_request::Subject::User(
            "users/operator".into(),
        )),
        uses: 1,
        ..Default::default()
    };
    let token = world.api.create_join_token(request(&world.operator, body)).await;
    let join: mooring_identity::JoinString = token.unwrap().into_inner().join_string.parse().unwrap();
    let refused = world.enroll(join.token(), &keys, "gpu-1").await.unwrap_err();
    assert!(
        refused.message().contains("mooring login"),
        "{}",
        refused.message()
    );
    // Nothing is used up by that.
    world.enroll(&of_hosts, &keys, "gpu-1").await.unwrap();
}

#[tokio::test]
async fn a_token_lets_in_as_many_hosts_as_it_says_each_under_a_name_of_its_own() {
    let world = World::new().await;
    world.pool("gpu").await;
    let token = world.token("gpu", 3).await;
    let mut names = Vec::new();
    for name in ["GPU_1.cluster.local", "gpu-1", "../../etc"] {
        names.push(world.enroll(&token, &Keys::new(), name).await.unwrap().host);
    }
    assert_eq!(names, ["hosts/gpu-1", "hosts/gpu-1-2", "hosts/host"]);
    assert!(world.enroll(&token, &Keys::new(), "one-more").await.is_err());

    // Newest first means: to the millisecond.
    world.clock.advance(Duration::from_millis(1));
    let token = world.token("gpu", 5).await;
    let listed = world
        .api
        .list_join_tokens(request(&world.operator, pb::ListJoinTokensRequest::default()))
        .await;
    let listed = listed.unwrap().into_inner().join_tokens;
    assert_eq!(listed[0].uses_left, 5);
    assert!(listed.iter().all(|token| token.join_string.is_empty()));
    let body = pb::RevokeJoinTokenRequest {
        name: listed[0].name.clone(),
    };
    world
        .api
        .revoke_join_token(request(&world.operator, body))
        .await
        .unwrap();
    assert!(world.enroll(&token, &Keys::new(), "late").await.is_err());

    let token = world.token("gpu", 5).await;
    world.clock.advance(Duration::from_secs(3600));
    assert!(
        world.enroll(&token, &Keys::new(), "late").await.is_err(),
        "an hour is over"
    );
}

#[tokio::test]
async fn the_tenth_clone_of_a_machine_gets_a_name_with_a_part_of_its_uid() {
    let world = World::new().await;
    world.pool("gpu").await;
    let token = world.token("gpu", 10).await;
    let mut names = Vec::new();
    for _ in 0..10 {
        let enrolled = world.enroll(&token, &Keys::new(), "localhost").await.unwrap();
        names.push((enrolled.host, enrolled.host_uid));
    }
    assert_eq!(names[2].0, "hosts/localhost-3");
    for (name, uid) in &names[3..] {
        let uid = uid.replace('-', "");
        assert_eq!(*name, format!("hosts/localhost-{}", &uid[22..]));
    }
}

#[tokio::test]
async fn who_comes_with_nothing_valid_is_refused_while_the_only_writer_is_busy() {
    let world = World::new().await;
    world.pool("gpu").await;
    let anna = world.user("anna").await;
    let used_up = world.token("gpu", 1).await;
    world.enroll(&used_up, &Keys::new(), "gpu-1").await.unwrap();
    world.clock.advance(Duration::from_secs(32 * 24 * 3600));
    let _writing = world.catalog.write().await.unwrap();
    let all = async {
        for token in ["never-was", &used_up] {
            let refused = world.enroll(token, &Keys::new(), "h").await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        let csr_pem = Keys::new().csr_pem;
        let refused = world.catalog.login("never-was", &csr_pem).await.unwrap_err();
        assert!(matches!(refused, Error::Unauthenticated { .. }));
        let refused = world
            .catalog
            .renew_certificate(&anna, &csr_pem)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("30 days"), "{refused}");
    };
    tokio::time::timeout(Duration::from_secs(5), all)
        .await
        .expect("none of them waits for the writer");
}

#[tokio::test]
async fn both_keys_must_belong_to_the_newcomer() {
    let world = World::new().await;
    world.pool("gpu").await;
    let token = world.token("gpu", 1).await;
    let (own, strangers) = (Keys::new(), Keys::new());
    let forge = |mut forged: agent_pb::EnrollRequest| {
        forged.hpke_public_key = strangers.hpke.public_key().as_bytes().to_vec();
        let mut request = tonic::Request::new(forged);
        request
            .extensions_mut()
            .insert(std::sync::Arc::new(Caller::Anybody));
        request
    };
    let refused = world
        .api
        .enroll(forge(own.request(&token, "h")))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&refused)[0].0, "hpke_key_signature");
    // All that is wrong is told at once, and the token is not used up by any of it.
    let nonsense = agent_pb::EnrollRequest {
        token: token.clone(),
        csr_pem: "x".into(),
        ..Default::default()
    };
    let mut nonsense = tonic::Request::new(nonsense);
    nonsense
        .extensions_mut()
        .insert(std::sync::Arc::new(Caller::Anybody));
    let refused = world.api.enroll(nonsense).await.unwrap_err();
    let fields: Vec<_> = wrong_fields(&refused)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(fields, ["csr_pem", "hpke_public_key"]);
    world.enroll(&token, &own, "h").await.unwrap();
}

#[tokio::test]
async fn a_persons_token_makes_no_host_and_limits_are_told() {
    use pb::create_join_token_request::Subject;
    let world = World::new().await;
    world.pool("gpu").await;
    world.user("anna").await;
    let make = |subject: &Subject, uses: i32, seconds: i64| pb::CreateJoinTokenRequest {
        subject: Some(subject.clone()),
        uses,
        ttl: (seconds != 0).then_some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    let (person, pool) = (
        Subject::User("users/anna".into()),
        Subject::Pool("pools/gpu".into()),
    );
    let token = world
        .api
        .create_join_token(request(&world.operator, make(&person, 0, 0)))
        .await
        .unwrap()
        .into_inner();
    let join: mooring_identity::JoinString = token.join_string.parse().unwrap();
    assert!(world.enroll(join.token(), &Keys::new(), "h").await.is_err());

    for (body, field) in [
        (make(&person, 2, 0), "uses"),
        (make(&pool, 10_001, 0), "uses"),
        (make(&pool, 1, 24 * 3600 + 1), "ttl"),
        (make(&pool, 1, -1), "ttl"),
        (pb::CreateJoinTokenRequest::default(), "subject"),
    ] {
        let refused = world
            .api
            .create_join_token(request(&world.operator, body))
            .await
            .err()
            .unwrap();
        assert_eq!(wrong_fields(&refused)[0].0, field);
    }
    let absent = Subject::Pool("pools/none".into());
    let refused = world
        .api
        .create_join_token(request(&world.operator, make(&absent, 1, 0)))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn a_host_renews_with_its_own_key_only() {
    let world = World::new().await;
    world.pool("gpu").await;
    let host = world.host("gpu-1", "gpu").await;
    world.clock.advance(Duration::from_secs(12 * 3600));
    let renew = |csr_pem: String| {
        let body = agent_pb::RenewCertificateRequest { csr_pem };
        // People's service has a call of the same name.
        let call = EnrollmentService::renew_certificate(
            &world.api,
            request(&Caller::Host(host.identity.clone()), body),
        );
        async { call.await.map(tonic::Response::into_inner) }
    };
    let renewed = renew(host.keys.csr_pem.clone()).await.unwrap();
    assert_eq!(
        renewed.expire_time.unwrap().seconds,
        world.clock.now().unix_timestamp() + 24 * 3600
    );
    let refused = renew(Keys::new().csr_pem).await.unwrap_err();
    assert_eq!(wrong_fields(&refused)[0].0, "csr_pem");
    world.clock.advance(Duration::from_secs(13 * 3600));
    let late = renew(host.keys.csr_pem.clone()).await.unwrap_err();
    assert_eq!(
        late.code(),
        Code::Unauthenticated,
        "the certificate it came with has ended"
    );
}

#[tokio::test]
async fn a_database_that_does_not_know_a_host_says_so_and_orders_nothing() {
    let world = World::new().await;
    world.pool("gpu").await;
    let host = world.host("gpu-1", "gpu").await;
    // An empty database behind the same CA.
    let empty = World::new().await;
    let unknown = empty
        .catalog
        .greet(&host.identity, HostFacts::default(), &[])
        .await
        .err()
        .unwrap();
    let status = tonic::Status::from(unknown);
    assert_eq!(status.code(), Code::FailedPrecondition);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["reason"], "HostUnknown");
    assert!(
        status.message().contains("keeps its mounts"),
        "{}",
        status.message()
    );
    assert!(empty.catalog.orders_since(&host.identity, 0).await.is_err());

    // So does the right one, once the host was deleted.
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
    let gone = world
        .catalog
        .greet(&host.identity, HostFacts::default(), &[])
        .await
        .err()
        .unwrap();
    assert!(matches!(
        gone,
        Error::Precondition {
            reason: "HostUnknown",
            ..
        }
    ));
}

#[tokio::test]
async fn a_host_of_a_restored_database_is_believed_but_carries_nothing_out_while_it_holds_still() {
    let world = World::new().await;
    let operator = world.operator.clone();
    world.community("research").await;
    world.project("ml", "research", &operator).await;
    world.connector("reports", "ml", &operator).await;
    world.pool("gpu").await;
    let host = world.host("gpu-1", "gpu").await;
    world
        .activate(&operator, "projects/ml/connectors/reports", "gpu")
        .await
        .unwrap();
    let assignment = host.assignment(&world).await.assignment;
    let later = host.assignment(&world).await.assignment;
    world
        .deactivate(&operator, "projects/ml/activations/reports-gpu")
        .await;

    // The host has seen later revisions and holds another mount, which this database does not list.
    let stray = crate::domain::mount::ObservedMount {
        assignment_uid: uuid::Uuid::from_u128(5),
        ..mount(&later, MountState::Mounted)
    };
    host.try_report(&world, std::slice::from_ref(&stray), true)
        .await
        .unwrap();
    let orders = host.orders_since(&world, 0).await;
    assert_eq!(
        orders.removals[0].uid, assignment.uid,
        "what it lacks is no carried-out order"
    );
    assert!(orders.assignments.is_empty());
    host.try_report(&world, std::slice::from_ref(&stray), false)
        .await
        .unwrap();
    assert!(host.orders_since(&world, 0).await.removals.is_empty());

    // An operator raises the epoch: the welcome says so.
    let before = world
        .catalog
        .greet(&host.identity, HostFacts::default(), &[])
        .await
        .unwrap()
        .0
        .realm;
    crate::ops::realm::raise_epoch(&world.catalog.store, &world.clock)
        .await
        .unwrap();
    let after = world
        .catalog
        .greet(&host.identity, HostFacts::default(), &[])
        .await
        .unwrap()
        .0
        .realm;
    assert_eq!((after.uid, after.epoch), (before.uid, before.epoch + 1));
    assert_eq!(after.revision, before.revision + 1);
}

#[tokio::test]
async fn what_a_host_says_of_another_hosts_assignment_counts_for_nothing() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world.connector("reports", "ml", &world.operator).await;
    world.pool("gpu").await;
    let operator = world.operator.clone();
    let one = world.host("gpu-1", "gpu").await;
    let activation = world
        .activate(&operator, "projects/ml/connectors/reports", "gpu")
        .await
        .unwrap();
    let assignment = one.assignment(&world).await.assignment;
    one.report(&world, &[mount(&assignment, MountState::Mounted)])
        .await;
    world.pool("desks").await;
    let two = world.host("desk-1", "desks").await;
    two.report(&world, &[mount(&assignment, MountState::Failed)])
        .await;

    let seen = world.activation(&operator, &activation.name).await;
    assert_eq!(
        (seen.state(), seen.message.as_str()),
        (pb::ActivationState::Active, "")
    );
    for parent in ["projects/ml", &activation.name, "projects/ml/connectors/reports"] {
        let body = pb::ListMountsRequest {
            parent: parent.to_owned(),
            ..Default::default()
        };
        let mounts = world
            .api
            .list_mounts(request(&operator, body))
            .await
            .unwrap()
            .into_inner()
            .mounts;
        assert_eq!(mounts.len(), 1, "{parent}: {mounts:?}");
        assert_eq!(mounts[0].host, "hosts/gpu-1");
    }
}
