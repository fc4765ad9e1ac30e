//! Users, roles and logging in.

use mooring_identity::credentials::new_key_and_csr;
use mooring_proto::v1 as pb;
use pb::access_service_server::AccessService as _;
use pb::audit_service_server::AuditService as _;
use pb::auth_service_server::AuthService as _;
use pb::user_service_server::UserService as _;
use tonic::{Code, Request};

use crate::domain::join_token::{JoinToken, Subject, TokenDigest};
use crate::ops::realm;
use crate::policy::{Caller, Identity};
use crate::testing::{World, caller, request, wrong_fields};

#[tokio::test]
async fn the_last_operator_cannot_be_removed_disabled_or_deleted() {
    let world = World::new().await;
    let name = || "users/operator".to_owned();
    let disable = world
        .api
        .disable_user(request(&world.operator, pb::DisableUserRequest { name: name() }))
        .await;
    assert_eq!(disable.unwrap_err().code(), Code::FailedPrecondition);
    let body = pb::DeleteUserRequest {
        name: name(),
        ..Default::default()
    };
    assert_eq!(
        world
            .api
            .delete_user(request(&world.operator, body))
            .await
            .unwrap_err()
            .code(),
        Code::FailedPrecondition
    );
    let revoked = world
        .revoke("operator", pb::Role::Operator, "realm", &world.operator)
        .await;
    assert_eq!(revoked.unwrap_err().code(), Code::FailedPrecondition);

    // A disabled operator does not count as one.
    let second = world
        .user_with("second", pb::Role::Operator, "realm", &world.operator)
        .await;
    let body = pb::DisableUserRequest {
        name: "users/second".into(),
    };
    world
        .api
        .disable_user(request(&world.operator, body))
        .await
        .unwrap();
    let revoked = world
        .revoke("operator", pb::Role::Operator, "realm", &world.operator)
        .await;
    assert_eq!(revoked.unwrap_err().code(), Code::FailedPrecondition);
    let body = pb::EnableUserRequest {
        name: "users/second".into(),
    };
    world
        .api
        .enable_user(request(&world.operator, body))
        .await
        .unwrap();
    world
        .revoke("operator", pb::Role::Operator, "realm", &second)
        .await
        .unwrap();
    let who = world
        .api
        .list_users(request(&world.operator, pb::ListUsersRequest::default()))
        .await;
    assert_eq!(
        who.unwrap_err().code(),
        Code::PermissionDenied,
        "the first is no operator any more"
    );
}

#[tokio::test]
async fn a_community_keeps_an_admin() {
    let world = World::new().await;
    world.community("research").await;
    let revoked = world
        .revoke(
            "operator",
            pb::Role::Admin,
            "communities/research",
            &world.operator,
        )
        .await;
    assert_eq!(revoked.unwrap_err().code(), Code::FailedPrecondition);
    world
        .user_with("anna", pb::Role::Admin, "communities/research", &world.operator)
        .await;
    world
        .revoke(
            "operator",
            pb::Role::Admin,
            "communities/research",
            &world.operator,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn operators_hand_on_a_community_that_nobody_administers_and_no_other() {
    let world = World::new().await;
    world.community("research").await;
    let anna = world
        .user_with("anna", pb::Role::Admin, "communities/research", &world.operator)
        .await;
    world
        .revoke("operator", pb::Role::Admin, "communities/research", &anna)
        .await
        .unwrap();
    world.user("bob").await;
    let grant = || world.grant("bob", pb::Role::Admin, "communities/research", &world.operator);
    assert_eq!(grant().await.unwrap_err().code(), Code::PermissionDenied);
    let body = pb::DisableUserRequest {
        name: "users/anna".into(),
    };
    world
        .api
        .disable_user(request(&world.operator, body))
        .await
        .unwrap();
    grant().await.unwrap();
    assert_eq!(
        grant().await.unwrap_err().code(),
        Code::PermissionDenied,
        "it has an admin again"
    );
}

#[tokio::test]
async fn a_disabled_or_deleted_user_is_refused_at_once() {
    let world = World::new().await;
    let anna = world.user("anna").await;
    let whoami = || world.api.who_am_i(request(&anna, pb::WhoAmIRequest {}));
    assert_eq!(whoami().await.unwrap().into_inner().user, "users/anna");
    let body = pb::DisableUserRequest {
        name: "users/anna".into(),
    };
    world
        .api
        .disable_user(request(&world.operator, body))
        .await
        .unwrap();
    assert_eq!(whoami().await.unwrap_err().code(), Code::Unauthenticated);
    let body = pb::EnableUserRequest {
        name: "users/anna".into(),
    };
    world
        .api
        .enable_user(request(&world.operator, body))
        .await
        .unwrap();
    assert!(whoami().await.is_ok());
    let body = pb::DeleteUserRequest {
        name: "users/anna".into(),
        ..Default::default()
    };
    world
        .api
        .delete_user(request(&world.operator, body))
        .await
        .unwrap();
    assert_eq!(whoami().await.unwrap_err().code(), Code::Unauthenticated);
    let body = pb::CreateUserRequest {
        user_id: "anna".into(),
        ..Default::default()
    };
    let again = world
        .api
        .create_user(request(&world.operator, body))
        .await
        .unwrap_err();
    assert_eq!(
        again.code(),
        Code::AlreadyExists,
        "the name is not given out again"
    );
}

#[tokio::test]
async fn roles_that_cannot_be_given_are_named_all_at_once() {
    let world = World::new().await;
    world.community("research").await;
    let binding = |role: pb::Role, member: &str| pb::AccessBinding {
        role: role.into(),
        member: member.into(),
    };
    let body = pb::UpdateAccessBindingsRequest {
        resource: "communities/research".into(),
        add: vec![
            binding(pb::Role::Operator, "user:operator"),
            binding(pb::Role::Unspecified, "anna"),
        ],
        remove: Vec::new(),
    };
    let status = world
        .api
        .update_access_bindings(request(&world.operator, body))
        .await
        .unwrap_err();
    let fields: Vec<String> = wrong_fields(&status)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(fields, ["add[0].role", "add[1].role", "add[1].member"]);
    let missing = world
        .grant(
            "nobody",
            pb::Role::Viewer,
            "communities/research",
            &world.operator,
        )
        .await
        .unwrap_err();
    assert!(
        wrong_fields(&missing)[0]
            .1
            .contains("mooring users create nobody")
    );
}

#[tokio::test]
async fn setting_roles_replaces_them_and_an_old_etag_is_refused() {
    let world = World::new().await;
    world.community("research").await;
    world.user("anna").await;
    let resource = || "communities/research".to_owned();
    let list = world.api.list_access_bindings(request(
        &world.operator,
        pb::ListAccessBindingsRequest { resource: resource() },
    ));
    let before = list.await.unwrap().into_inner();
    let wanted = vec![
        pb::AccessBinding {
            role: pb::Role::Viewer.into(),
            member: "user:anna".into(),
        },
        pb::AccessBinding {
            role: pb::Role::Admin.into(),
            member: "user:operator".into(),
        },
    ];
    let body = pb::SetAccessBindingsRequest {
        resource: resource(),
        access_bindings: wanted.clone(),
        etag: before.etag.clone(),
    };
    let set = world
        .api
        .set_access_bindings(request(&world.operator, body.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(set.access_bindings.len(), 2);
    let body = pb::SetAccessBindingsRequest {
        access_bindings: wanted[1..].to_vec(),
        ..body
    };
    let stale = world
        .api
        .set_access_bindings(request(&world.operator, body))
        .await
        .unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
}

async fn token_for(world: &World, user: &Caller) -> String {
    let Caller::User(identity) = user else {
        panic!("a user")
    };
    let token = realm::new_token(&world.clock);
    let writing = world.catalog.write().await.unwrap();
    let row = JoinToken {
        uid: world.clock.new_uid(),
        subject: Subject::User(identity.uid),
        uses_left: 1,
        expire_time: writing.now() + time::Duration::hours(1),
        creator: "users/operator".into(),
        create_time: writing.now(),
        host_labels: Default::default(),
    };
    crate::store::join_token::insert(&writing, &row, TokenDigest::of(&token))
        .await
        .unwrap();
    writing.commit_unrecorded().await.unwrap();
    token.to_string()
}

#[tokio::test]
async fn a_join_token_logs_in_once_and_a_lost_reply_strands_nobody() {
    let world = World::new().await;
    let anna = world.user("anna").await;
    let token = token_for(&world, &anna).await;
    let (_, csr_pem) = new_key_and_csr().unwrap();
    let login = |token: &str, csr_pem: &str| {
        let body = pb::LoginRequest {
            token: token.to_owned(),
            csr_pem: csr_pem.to_owned(),
        };
        world.api.login(request(&Caller::Anybody, body))
    };
    assert_eq!(
        login("wrong", &csr_pem).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(
        login(&token, "no csr").await.unwrap_err().code(),
        Code::InvalidArgument,
        "and the token is not consumed"
    );
    let first = login(&token, &csr_pem).await.unwrap().into_inner();
    assert_eq!(first.user, "users/anna");
    assert!(first.certificate_pem.contains("BEGIN CERTIFICATE"));
    assert!(
        login(&token, &csr_pem).await.is_ok(),
        "the same key within ten minutes"
    );
    let (_, other) = new_key_and_csr().unwrap();
    assert_eq!(
        login(&token, &other).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    world.clock.advance(std::time::Duration::from_secs(601));
    assert_eq!(
        login(&token, &csr_pem).await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn an_ended_token_and_a_disabled_user_s_token_do_not_log_in() {
    let world = World::new().await;
    let anna = world.user("anna").await;
    let (_, csr_pem) = new_key_and_csr().unwrap();
    let token = token_for(&world, &anna).await;
    world.clock.advance(std::time::Duration::from_secs(3601));
    let body = pb::LoginRequest {
        token,
        csr_pem: csr_pem.clone(),
    };
    assert_eq!(
        world
            .api
            .login(request(&Caller::Anybody, body))
            .await
            .unwrap_err()
            .code(),
        Code::Unauthenticated
    );
    let token = token_for(&world, &anna).await;
    let body = pb::DisableUserRequest {
        name: "users/anna".into(),
    };
    world
        .api
        .disable_user(request(&world.operator, body))
        .await
        .unwrap();
    let body = pb::LoginRequest { token, csr_pem };
    assert_eq!(
        world
            .api
            .login(request(&Caller::Anybody, body))
            .await
            .unwrap_err()
            .code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn an_ended_certificate_renews_for_thirty_days_unless_the_user_is_disabled() {
    let world = World::new().await;
    let anna = world.user("anna").await;
    let (_, csr_pem) = new_key_and_csr().unwrap();
    let renew = |caller: &Caller| {
        world.api.renew_certificate(request(
            caller,
            pb::RenewCertificateRequest {
                csr_pem: csr_pem.clone(),
            },
        ))
    };
    let day = std::time::Duration::from_secs(24 * 3600);
    world.clock.advance(day * 20);
    let whoami = world.api.who_am_i(request(&anna, pb::WhoAmIRequest {})).await;
    assert_eq!(
        whoami.unwrap_err().code(),
        Code::Unauthenticated,
        "an ended certificate can nothing but renew"
    );
    assert!(renew(&anna).await.is_ok());
    world.clock.advance(day * 12);
    assert_eq!(renew(&anna).await.unwrap_err().code(), Code::Unauthenticated);
    let Caller::User(Identity { uid, .. }) = anna else {
        panic!("a user")
    };
    let anna = caller(uid, world.clock.now());
    let operator = match &world.operator {
        Caller::User(identity) => caller(identity.uid, world.clock.now()),
        other => other.clone(),
    };
    let body = pb::DisableUserRequest {
        name: "users/anna".into(),
    };
    world.api.disable_user(request(&operator, body)).await.unwrap();
    assert_eq!(renew(&anna).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn every_mutation_leaves_one_revision_and_one_audit_row() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world.connector("data", "ml", &world.operator).await;
    let newest = world.revision().await;
    let list = async |parent: &str| {
        let body = pb::ListAuditEventsRequest {
            parent: parent.into(),
            ..Default::default()
        };
        world
            .api
            .list_audit_events(request(&world.operator, body))
            .await
            .unwrap()
            .into_inner()
            .audit_events
    };
    let revisions: Vec<i64> = list("realm").await.iter().map(|event| event.revision).collect();
    assert_eq!(
        revisions,
        (1..=newest).rev().collect::<Vec<_>>(),
        "dense, newest first"
    );
    let project: Vec<String> = list("projects/ml")
        .await
        .into_iter()
        .map(|event| event.method)
        .collect();
    assert_eq!(project, ["CreateConnector", "CreateProject"]);
    let community: Vec<String> = list("communities/research")
        .await
        .into_iter()
        .map(|event| event.method)
        .collect();
    assert_eq!(community, ["CreateConnector", "CreateProject", "CreateCommunity"]);
    assert!(!format!("{:?}", list("realm").await).contains("planted"));
}

#[tokio::test]
async fn a_call_that_did_not_pass_the_gate_is_a_mistake_of_ours() {
    let world = World::new().await;
    let status = world
        .api
        .who_am_i(Request::new(pb::WhoAmIRequest {}))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
}
