//! Versions of secrets: how a key rotates.

use mooring_proto::v1 as pb;
use pb::connector_service_server::ConnectorService as _;
use pb::secret_service_server::SecretService as _;
use tonic::Code;

use crate::testing::{World, new_connector, request, wrong_fields};

async fn world() -> World {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world
}

/// Secret `projects/ml/secrets/key` with its first version.
async fn secret(world: &World, access_key_id: &str) {
    let body = pb::CreateSecretRequest {
        parent: "projects/ml".into(),
        secret_id: "key".into(),
        secret_access_key: "planted-secret-value".into(),
        access_key_id: access_key_id.into(),
        ..Default::default()
    };
    world
        .api
        .create_secret(request(&world.operator, body))
        .await
        .unwrap();
}

#[tokio::test]
async fn versions_rotate_and_a_destroyed_one_is_gone_for_ever() {
    let world = world().await;
    secret(&world, "").await;
    let parent = || "projects/ml/secrets/key".to_owned();
    let body = pb::AddSecretVersionRequest {
        parent: parent(),
        secret_access_key: "planted-second-value".into(),
        access_key_id: "AKID2".into(),
        request_id: "0190f0f0-0000-4000-8000-000000000002".into(),
    };
    let added = world
        .api
        .add_secret_version(request(&world.operator, body.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(added.name, "projects/ml/secrets/key/versions/2");
    let again = world
        .api
        .add_secret_version(request(&world.operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, added, "the same request id adds nothing");
    let usable = async || {
        let snapshot = world.catalog.read().await.unwrap();
        let project = crate::store::project::get(&snapshot, &"projects/ml".parse().unwrap())
            .await
            .unwrap();
        let secret = crate::store::secret::find(&snapshot, &project, &parent().parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        let usable = crate::store::secret::usable_version(&snapshot, secret.meta.uid, None)
            .await
            .unwrap()?;
        let context = crate::keyring::SecretContext {
            secret_uid: secret.meta.uid,
            version: usable.version.number,
            project_uid: project.meta.uid,
        };
        let value = world.catalog.keyring.unseal(context, &usable.sealed).unwrap();
        Some(String::from_utf8(value.expose().to_vec()).unwrap())
    };
    assert_eq!(usable().await.as_deref(), Some("planted-second-value"));
    let name = |number: i64| format!("projects/ml/secrets/key/versions/{number}");
    let body = pb::DisableSecretVersionRequest { name: name(2) };
    world
        .api
        .disable_secret_version(request(&world.operator, body))
        .await
        .unwrap();
    assert_eq!(
        usable().await.as_deref(),
        Some("planted-secret-value"),
        "the newest that is enabled"
    );
    let destroy = async || {
        let body = pb::DestroySecretVersionRequest { name: name(1) };
        world
            .api
            .destroy_secret_version(request(&world.operator, body))
            .await
    };
    let refused = destroy().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused
            .message()
            .contains("secrets disable-version projects/ml/secrets/key/versions/1"),
        "{}",
        refused.message()
    );
    assert_eq!(usable().await.as_deref(), Some("planted-secret-value"));
    let body = pb::DisableSecretVersionRequest { name: name(1) };
    world
        .api
        .disable_secret_version(request(&world.operator, body))
        .await
        .unwrap();
    destroy().await.unwrap();
    assert_eq!(usable().await, None);
    let body = pb::EnableSecretVersionRequest { name: name(1) };
    let status = world
        .api
        .enable_secret_version(request(&world.operator, body))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let body = pb::ListSecretVersionsRequest {
        parent: parent(),
        ..Default::default()
    };
    let versions = world
        .api
        .list_secret_versions(request(&world.operator, body))
        .await
        .unwrap()
        .into_inner();
    let states: Vec<_> = versions
        .secret_versions
        .iter()
        .map(|version| (version.name.clone(), version.state()))
        .collect();
    assert_eq!(
        states,
        [
            (name(2), pb::SecretVersionState::Disabled),
            (name(1), pb::SecretVersionState::Destroyed)
        ]
    );
}

#[tokio::test]
async fn a_version_without_an_access_key_id_is_refused_where_its_connectors_have_none() {
    let world = world().await;
    let mut new = new_connector("data", "ml");
    new.connector.as_mut().unwrap().access_key_id.clear();
    new.new_secret = None;
    new.connector.as_mut().unwrap().secret = "projects/ml/secrets/key".into();
    secret(&world, "AKID").await;
    world
        .api
        .create_connector(request(&world.operator, new))
        .await
        .unwrap();
    let version = |access_key_id: &str| pb::AddSecretVersionRequest {
        parent: "projects/ml/secrets/key".into(),
        secret_access_key: "two".into(),
        access_key_id: access_key_id.into(),
        ..Default::default()
    };
    let add = |body| world.api.add_secret_version(request(&world.operator, body));
    let refused = add(version("")).await.unwrap_err();
    let (field, problem) = wrong_fields(&refused).remove(0);
    assert_eq!(field, "access_key_id");
    assert!(problem.contains("projects/ml/connectors/data"), "{problem}");
    add(version("AKID2")).await.unwrap();
}
