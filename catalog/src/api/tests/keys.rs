//! Secrets and connectors: the rules that must hold.

use mooring_proto::v1 as pb;
use pb::connector_service_server::ConnectorService as _;
use pb::publication_service_server::PublicationService as _;
use pb::secret_service_server::SecretService as _;
use tonic::{Code, Status};

use crate::policy::Caller;
use crate::testing::{World, new_connector, request, wrong_fields};

async fn world() -> World {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world
}

async fn create(world: &World, body: pb::CreateConnectorRequest) -> Result<pb::Connector, Status> {
    world
        .api
        .create_connector(request(&world.operator, body))
        .await
        .map(tonic::Response::into_inner)
}

async fn secret(world: &World, id: &str, targets: Vec<pb::SecretTarget>) -> Result<pb::Secret, Status> {
    let body = pb::CreateSecretRequest {
        parent: "projects/ml".into(),
        secret_id: id.into(),
        secret: Some(pb::Secret {
            allowed_targets: targets,
            ..Default::default()
        }),
        secret_access_key: "planted-secret-value".into(),
        ..Default::default()
    };
    world
        .api
        .create_secret(request(&world.operator, body))
        .await
        .map(tonic::Response::into_inner)
}

fn with(change: impl FnOnce(&mut pb::Connector)) -> pb::CreateConnectorRequest {
    let mut body = new_connector("data", "ml");
    change(body.connector.as_mut().unwrap());
    body
}

fn target(bucket: &str) -> pb::SecretTarget {
    pb::SecretTarget {
        endpoint: "https://s3.example.com/".into(),
        bucket: bucket.into(),
    }
}

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    })
}

async fn stored(world: &World) -> (usize, usize) {
    let body = pb::ListConnectorsRequest {
        parent: "projects/ml".into(),
        ..Default::default()
    };
    let connectors = world
        .api
        .list_connectors(request(&world.operator, body))
        .await
        .unwrap()
        .into_inner()
        .connectors;
    let body = pb::ListSecretsRequest {
        parent: "projects/ml".into(),
        ..Default::default()
    };
    let secrets = world
        .api
        .list_secrets(request(&world.operator, body))
        .await
        .unwrap()
        .into_inner()
        .secrets;
    (connectors.len(), secrets.len())
}

#[tokio::test]
async fn a_connector_and_its_secret_are_created_in_one_call() {
    let world = world().await;
    let revision = world.revision().await;
    let connector = create(&world, with(|connector| connector.endpoint.push('/')))
        .await
        .unwrap();
    assert_eq!(world.revision().await, revision + 1, "one mutation");
    assert_eq!(
        connector.endpoint, "https://s3.example.com",
        "the lone slash is dropped"
    );
    assert_eq!(connector.secret, "projects/ml/secrets/data");
    assert_eq!(
        (connector.mount_name.as_str(), connector.region.as_str()),
        ("data", "us-east-1")
    );
    assert_eq!(
        (connector.mode(), connector.backend()),
        (pb::Mode::ReadOnly, pb::Backend::Default)
    );
    let body = pb::GetConnectorRequest {
        name: connector.name.clone(),
    };
    let read = world
        .api
        .get_connector(request(&world.operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(read, connector);
}

#[tokio::test]
async fn all_wrong_fields_are_named_at_once_and_nothing_is_stored() {
    let world = world().await;
    let mut body = with(|connector| {
        connector.bucket = "my.bucket".into();
        connector.endpoint = "https://s3.example.com/path".into();
        connector.mount_name = "../../etc".into();
        connector.prefix = "../".into();
        connector.region = "US EAST".into();
        connector.mode = 77;
        connector.display_name = "x".repeat(129);
    });
    body.new_secret.as_mut().unwrap().secret_access_key = String::new();
    let status = create(&world, body).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let fields: Vec<String> = wrong_fields(&status)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        fields,
        [
            "connector.display_name",
            "connector.endpoint",
            "connector.region",
            "connector.bucket",
            "connector.prefix",
            "connector.mount_name",
            "new_secret.secret_access_key",
            "connector.mode",
        ]
    );
    assert_eq!(stored(&world).await, (0, 0));
}

#[tokio::test]
async fn a_connector_that_breaks_a_rule_takes_its_new_secret_with_it() {
    let world = world().await;
    world.connector("first", "ml", &world.operator).await;
    let mut body = with(|connector| connector.mount_name = "first".into());
    body.connector_id = "second".into();
    let status = create(&world, body).await.unwrap_err();
    assert_eq!(wrong_fields(&status)[0].0, "connector.mount_name");
    assert_eq!(stored(&world).await, (1, 1));
}

#[tokio::test]
async fn the_secret_belongs_to_the_same_project_and_covers_the_target() {
    let world = world().await;
    world.project("web", "research", &world.operator).await;
    world.connector("data", "web", &world.operator).await;
    secret(&world, "narrow", vec![target("other"), target("third")])
        .await
        .unwrap();
    let using = |name: &str| {
        let mut body = with(|connector| connector.secret = name.into());
        body.new_secret = None;
        body
    };
    let foreign = create(&world, using("projects/web/secrets/data"))
        .await
        .unwrap_err();
    assert!(wrong_fields(&foreign)[0].1.contains("another project"));
    let absent = create(&world, using("projects/ml/secrets/none"))
        .await
        .unwrap_err();
    assert!(wrong_fields(&absent)[0].1.contains("does not exist"));
    let narrow = create(&world, using("projects/ml/secrets/narrow"))
        .await
        .unwrap_err();
    assert!(wrong_fields(&narrow)[0].1.contains("allowed targets"));
    let body = pb::UpdateSecretRequest {
        secret: Some(pb::Secret {
            name: "projects/ml/secrets/narrow".into(),
            allowed_targets: vec![target("data")],
            ..Default::default()
        }),
        update_mask: mask(&["allowed_targets"]),
    };
    world
        .api
        .update_secret(request(&world.operator, body.clone()))
        .await
        .unwrap();
    create(&world, using("projects/ml/secrets/narrow")).await.unwrap();
    // And the targets cannot be narrowed behind the connector's back.
    let mut narrower = body;
    narrower.secret.as_mut().unwrap().allowed_targets = vec![target("other")];
    let status = world
        .api
        .update_secret(request(&world.operator, narrower))
        .await
        .unwrap_err();
    assert!(wrong_fields(&status)[0].1.contains("projects/ml/connectors/data"));
}

#[tokio::test]
async fn a_connector_cannot_move_where_its_secret_may_not_be_used() {
    let world = world().await;
    secret(&world, "narrow", vec![target("data")]).await.unwrap();
    let mut body = with(|connector| connector.secret = "projects/ml/secrets/narrow".into());
    body.new_secret = None;
    let narrow = create(&world, body).await.unwrap();
    let update = |name: &str, bucket: &str| {
        let body = pb::UpdateConnectorRequest {
            connector: Some(pb::Connector {
                name: name.into(),
                bucket: bucket.into(),
                ..Default::default()
            }),
            update_mask: mask(&["bucket"]),
            restart_mounts: false,
        };
        world.api.update_connector(request(&world.operator, body))
    };
    let status = update(&narrow.name, "elsewhere").await.unwrap_err();
    assert_eq!(wrong_fields(&status)[0].0, "connector.secret");
    let status = update(&narrow.name, "a.b").await.unwrap_err();
    assert!(wrong_fields(&status)[0].1.contains("dot"));
    // A secret that came with its connector is for every connector of the project.
    let free = world.connector("free", "ml", &world.operator).await;
    update(&free.name, "elsewhere").await.unwrap();
}

#[tokio::test]
async fn updates_change_the_named_fields_and_keep_the_rest() {
    let world = world().await;
    let connector = world.connector("data", "ml", &world.operator).await;
    let body = pb::UpdateConnectorRequest {
        connector: Some(pb::Connector {
            name: connector.name.clone(),
            mode: pb::Mode::ReadWrite.into(),
            mount_name: "folder".into(),
            options: Some(pb::ConnectorOptions {
                virtual_host_style: true,
                cache_size_mib: 64,
            }),
            ..Default::default()
        }),
        update_mask: mask(&["mode", "mount_name", "options.virtual_host_style"]),
        restart_mounts: false,
    };
    let changed = world
        .api
        .update_connector(request(&world.operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(changed.mode(), pb::Mode::ReadWrite);
    assert_eq!(
        (changed.mount_name.as_str(), changed.bucket.as_str()),
        ("folder", "data")
    );
    let options = changed.options.unwrap_or_default();
    assert!(options.virtual_host_style && options.cache_size_mib == 0);
    let update = |cache_size_mib: i32, backend: pb::Backend| {
        let body = pb::UpdateConnectorRequest {
            connector: Some(pb::Connector {
                name: connector.name.clone(),
                backend: backend.into(),
                options: Some(pb::ConnectorOptions {
                    cache_size_mib,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            update_mask: mask(&["backend", "options.cache_size_mib"]),
            restart_mounts: false,
        };
        world.api.update_connector(request(&world.operator, body))
    };
    for (size, backend) in [
        (15, pb::Backend::Default),
        (-1, pb::Backend::Geesefs),
        (1 << 21, pb::Backend::Default),
        (64, pb::Backend::S3fs),
    ] {
        let status = update(size, backend).await.unwrap_err();
        assert_eq!(wrong_fields(&status)[0].0, "connector.options.cache_size_mib");
    }
    update(0, pb::Backend::S3fs).await.unwrap();
    let sized = update(64, pb::Backend::Geesefs).await.unwrap().into_inner();
    let options = sized.options.unwrap_or_default();
    assert!(options.virtual_host_style && options.cache_size_mib == 64);
    // The old folder's name is free again.
    let mut body = with(|connector| connector.mount_name = "data".into());
    body.connector_id = "second".into();
    create(&world, body).await.unwrap();
}

#[tokio::test]
async fn a_secret_in_use_is_not_deleted_and_one_that_is_not_goes() {
    let world = world().await;
    world.connector("data", "ml", &world.operator).await;
    let delete = || {
        let body = pb::DeleteSecretRequest {
            name: "projects/ml/secrets/data".into(),
            ..Default::default()
        };
        world.api.delete_secret(request(&world.operator, body))
    };
    let status = delete().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("projects/ml/connectors/data"));
    let body = pb::DeleteConnectorRequest {
        name: "projects/ml/connectors/data".into(),
        ..Default::default()
    };
    world
        .api
        .delete_connector(request(&world.operator, body))
        .await
        .unwrap();
    delete().await.unwrap();
    assert_eq!(stored(&world).await, (0, 0));
    // Names below a project are free again: nothing outlives them.
    create(&world, new_connector("data", "ml")).await.unwrap();
}

#[tokio::test]
async fn a_connector_needs_a_key_id_from_somewhere_and_a_version_that_exists() {
    let world = world().await;
    let status = create(&world, with(|connector| connector.access_key_id.clear()))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&status)[0].0, "connector.access_key_id");
    secret(&world, "key", Vec::new()).await.unwrap();
    let mut body = with(|connector| {
        connector.secret = "projects/ml/secrets/key".into();
        connector.secret_version = 7;
    });
    body.new_secret = None;
    let status = create(&world, body).await.unwrap_err();
    assert_eq!(wrong_fields(&status)[0].0, "connector.secret_version");
}

#[tokio::test]
async fn no_secret_value_is_on_disk_in_an_error_or_in_debug_output() {
    let world = world().await;
    world.connector("data", "ml", &world.operator).await;
    let mut body = new_connector("second", "ml");
    body.new_secret.as_mut().unwrap().secret_access_key = "planted secret with spaces".into();
    let status = create(&world, body).await.unwrap_err();
    assert!(!format!("{status:?}").contains("planted"));
    for entry in std::fs::read_dir(world.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes.windows(7).any(|window| window == b"planted"),
                "{}",
                path.display()
            );
        }
    }
}

#[tokio::test]
async fn viewers_see_connectors_and_secrets_and_change_neither() {
    let world = world().await;
    world.connector("data", "ml", &world.operator).await;
    let viewer = world
        .user_with("viewer", pb::Role::Viewer, "projects/ml", &world.operator)
        .await;
    let body = pb::GetSecretRequest {
        name: "projects/ml/secrets/data".into(),
    };
    assert!(world.api.get_secret(request(&viewer, body)).await.is_ok());
    let denied = async |caller: &Caller| {
        let body = pb::AddSecretVersionRequest {
            parent: "projects/ml/secrets/data".into(),
            secret_access_key: "value".into(),
            ..Default::default()
        };
        let add = world
            .api
            .add_secret_version(request(caller, body))
            .await
            .map(drop);
        let body = pb::DeleteConnectorRequest {
            name: "projects/ml/connectors/data".into(),
            ..Default::default()
        };
        let delete = world.api.delete_connector(request(caller, body)).await.map(drop);
        [add, delete].map(|result| result.unwrap_err().code())
    };
    assert_eq!(denied(&viewer).await, [Code::PermissionDenied; 2]);
}

#[tokio::test]
async fn what_is_published_is_changed_by_editors_only() {
    let world = world().await;
    let connector = world.connector("data", "ml", &world.operator).await;
    let developer = world
        .user_with("developer", pb::Role::Developer, "projects/ml", &world.operator)
        .await;
    let rename = || pb::UpdateConnectorRequest {
        connector: Some(pb::Connector {
            name: connector.name.clone(),
            display_name: "New".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let widen = |mode: pb::Mode| pb::UpdateConnectorRequest {
        connector: Some(pb::Connector {
            name: connector.name.clone(),
            mode: mode.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let rotate = || pb::AddSecretVersionRequest {
        parent: connector.secret.clone(),
        secret_access_key: "other".into(),
        ..Default::default()
    };
    let update = |caller: &Caller, body| world.api.update_connector(request(caller, body));
    update(&developer, widen(pb::Mode::ReadWrite)).await.unwrap();
    world
        .api
        .add_secret_version(request(&developer, rotate()))
        .await
        .unwrap();

    let body = pb::PublishConnectorRequest {
        connector: connector.name.clone(),
        community: "communities/research".into(),
        ..Default::default()
    };
    world
        .api
        .publish_connector(request(&world.operator, body))
        .await
        .unwrap();
    let body = pb::GetConnectorRequest {
        name: connector.name.clone(),
    };
    assert!(
        world
            .api
            .get_connector(request(&developer, body))
            .await
            .unwrap()
            .into_inner()
            .published
    );

    update(&developer, rename()).await.unwrap();
    let denied = update(&developer, widen(pb::Mode::ReadOnly)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(
        denied.message().contains("EDITOR on projects/ml"),
        "{}",
        denied.message()
    );
    let denied = world
        .api
        .add_secret_version(request(&developer, rotate()))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let body = pb::DeleteConnectorRequest {
        name: connector.name.clone(),
        ..Default::default()
    };
    let status = world
        .api
        .delete_connector(request(&developer, body))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("used by 1 that you may not see"),
        "{}",
        status.message()
    );

    let editor = world
        .user_with("editor", pb::Role::Editor, "projects/ml", &world.operator)
        .await;
    update(&editor, widen(pb::Mode::ReadOnly)).await.unwrap();
    world
        .api
        .add_secret_version(request(&editor, rotate()))
        .await
        .unwrap();
}
