//! Publishing and importing: who may, and what bounds a mount.

use mooring_proto::v1 as pb;
use pb::connector_service_server::ConnectorService as _;
use pb::publication_service_server::PublicationService as _;

use crate::testing::sharing::{denied_on, import_as, missing, publish, shared_world};
use crate::testing::{World, new_connector, request, wrong_fields};

#[tokio::test]
async fn publishing_needs_editor_in_the_project_and_developer_in_the_community() {
    let world = shared_world().await;
    let (connector, operator) = ("projects/ml/connectors/reports", world.operator.clone());
    let anna = world
        .user_with("anna", pb::Role::Editor, "projects/ml", &operator)
        .await;
    let denied = publish(&world, &anna, connector, "research").await.unwrap_err();
    assert_eq!(
        missing(&denied),
        (
            "publications.create".into(),
            "DEVELOPER on communities/research".into()
        )
    );
    assert_eq!(denied_on(&denied), "communities/research");

    let bob = world
        .user_with("bob", pb::Role::Developer, "communities/research", &operator)
        .await;
    let denied = publish(&world, &bob, connector, "research").await.unwrap_err();
    assert_eq!(
        missing(&denied),
        ("connectors.publish".into(), "EDITOR on projects/ml".into())
    );
    world
        .grant("bob", pb::Role::Developer, "projects/ml", &operator)
        .await
        .unwrap();
    assert!(
        publish(&world, &bob, connector, "research").await.is_err(),
        "Developer is not Editor"
    );

    world
        .grant("anna", pb::Role::Viewer, "communities/research", &operator)
        .await
        .unwrap();
    assert!(
        publish(&world, &anna, connector, "research").await.is_err(),
        "Viewer is not Developer"
    );
    world
        .grant("anna", pb::Role::Developer, "communities/research", &operator)
        .await
        .unwrap();
    let publication = publish(&world, &anna, connector, "research").await.unwrap();
    assert_eq!(publication.name, "communities/research/publications/reports");
    assert_eq!(publication.state(), pb::PublicationState::Published);
}

#[tokio::test]
async fn the_acceptance_story_of_the_roles_holds() {
    let world = World::new().await;
    let operator = world.operator.clone();
    for community in ["a", "b", "c"] {
        world.community(community).await;
    }
    world.project("pa", "a", &operator).await;
    world.connector("k", "pa", &operator).await;
    world.project("pc", "c", &operator).await;
    world.connector("k", "pc", &operator).await;

    // An Admin of A who is Developer of B publishes any connector of A's projects in A and in B.
    let anna = world
        .user_with("anna", pb::Role::Admin, "communities/a", &operator)
        .await;
    world
        .grant("anna", pb::Role::Developer, "communities/b", &operator)
        .await
        .unwrap();
    publish(&world, &anna, "projects/pa/connectors/k", "a")
        .await
        .unwrap();
    publish(&world, &anna, "projects/pa/connectors/k", "b")
        .await
        .unwrap();
    assert!(
        publish(&world, &anna, "projects/pa/connectors/k", "c")
            .await
            .is_err()
    );

    // A Viewer of C who is Editor of one project of C publishes its connectors in A and B, where they are Developer,
    // but not in C.
    let carl = world
        .user_with("carl", pb::Role::Viewer, "communities/c", &operator)
        .await;
    world
        .grant("carl", pb::Role::Editor, "projects/pc", &operator)
        .await
        .unwrap();
    world
        .grant("carl", pb::Role::Developer, "communities/a", &operator)
        .await
        .unwrap();
    world
        .grant("carl", pb::Role::Developer, "communities/b", &operator)
        .await
        .unwrap();
    let body = |community: &str| pb::PublishConnectorRequest {
        connector: "projects/pc/connectors/k".into(),
        community: format!("communities/{community}"),
        publication_id: "carls".into(),
        ..Default::default()
    };
    world
        .api
        .publish_connector(request(&carl, body("a")))
        .await
        .unwrap();
    world
        .api
        .publish_connector(request(&carl, body("b")))
        .await
        .unwrap();
    let denied = world
        .api
        .publish_connector(request(&carl, body("c")))
        .await
        .unwrap_err();
    assert_eq!(missing(&denied).1, "DEVELOPER on communities/c");
}

#[tokio::test]
async fn an_import_is_made_by_editors_in_a_project_of_the_same_community_under_a_free_folder() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    world.community("other").await;
    world.project("far", "other", &operator).await;
    let publication = publish(&world, &operator, "projects/ml/connectors/reports", "research")
        .await
        .unwrap()
        .name;

    let dora = world
        .user_with("dora", pb::Role::Editor, "projects/web", &operator)
        .await;
    let denied = import_as(&world, &dora, "web", &publication, "reports")
        .await
        .unwrap_err();
    assert_eq!(
        missing(&denied),
        ("publications.get".into(), "VIEWER on communities/research".into())
    );
    assert_eq!(denied_on(&denied), "communities/research");
    world
        .grant("dora", pb::Role::Viewer, "communities/research", &operator)
        .await
        .unwrap();
    let import = import_as(&world, &dora, "web", &publication, "reports")
        .await
        .unwrap();
    assert_eq!(
        (import.mount_name.as_str(), import.effective_mode()),
        ("reports", pb::Mode::ReadOnly)
    );

    let elsewhere = import_as(&world, &operator, "far", &publication, "reports")
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&elsewhere)[0].0, "import.publication");
    // The folder is unique among connectors and imports, in both directions.
    let taken = import_as(&world, &operator, "ml", &publication, "reports")
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&taken)[0].0, "import.mount_name");
    let taken = world
        .api
        .create_connector(request(&operator, new_connector("reports", "web")))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&taken)[0].0, "connector.mount_name");
}

#[tokio::test]
async fn no_mode_is_wider_than_what_bounds_it() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    let mut writable = new_connector("rw", "ml");
    writable.connector.as_mut().unwrap().mode = pb::Mode::ReadWrite.into();
    world
        .api
        .create_connector(request(&operator, writable))
        .await
        .unwrap();
    let offer = |connector: &str, max_mode: pb::Mode| pb::PublishConnectorRequest {
        connector: format!("projects/ml/connectors/{connector}"),
        community: "communities/research".into(),
        publication: Some(pb::Publication {
            max_mode: max_mode.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let wide = world
        .api
        .publish_connector(request(&operator, offer("reports", pb::Mode::ReadWrite)))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&wide)[0].0, "publication.max_mode");
    world
        .api
        .publish_connector(request(&operator, offer("rw", pb::Mode::ReadOnly)))
        .await
        .unwrap();
    let wide = pb::ImportPublicationRequest {
        parent: "projects/web".into(),
        import_id: "rw".into(),
        import: Some(pb::Import {
            publication: "communities/research/publications/rw".into(),
            mode: pb::Mode::ReadWrite.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let wide = world
        .api
        .import_publication(request(&operator, wide))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&wide)[0].0, "import.mode");

    import_as(
        &world,
        &operator,
        "web",
        "communities/research/publications/rw",
        "rw",
    )
    .await
    .unwrap();
    let host = world.host("h", "gpu").await;
    let activation = world
        .activate(&operator, "projects/web/imports/rw", "gpu")
        .await
        .unwrap();
    assert_eq!(activation.mode(), pb::Mode::ReadOnly);
    assert_eq!(activation.mount_path, "web/rw");
    let before = host.assignment(&world).await.assignment;
    assert_eq!(before.spec.mode, crate::domain::Mode::ReadOnly);

    // The owner widens the ceiling: the mount follows, with a new generation.
    let body = pb::UpdatePublicationRequest {
        publication: Some(pb::Publication {
            name: "communities/research/publications/rw".into(),
            max_mode: pb::Mode::ReadWrite.into(),
            ..Default::default()
        }),
        update_mask: None,
    };
    world
        .api
        .update_publication(request(&operator, body))
        .await
        .unwrap();
    let after = host.assignment(&world).await.assignment;
    assert_eq!((after.uid, after.generation), (before.uid, before.generation + 1));
    assert_eq!(after.spec.mode, crate::domain::Mode::ReadWrite);
}

#[tokio::test]
async fn whoever_uses_a_connector_is_named_only_to_those_who_may_see_it() {
    let world = shared_world().await;
    let operator = world.operator.clone();
    let connector = "projects/ml/connectors/reports";
    let publication = publish(&world, &operator, connector, "research")
        .await
        .unwrap()
        .name;
    import_as(&world, &operator, "web", &publication, "reports")
        .await
        .unwrap();
    world.activate(&operator, connector, "gpu").await.unwrap();
    world
        .activate(&operator, "projects/web/imports/reports", "gpu")
        .await
        .unwrap();
    // Editor of the owner project, and of nothing else.
    let owner = world
        .user_with("owner", pb::Role::Editor, "projects/ml", &operator)
        .await;
    let update = |caller| {
        let body = pb::UpdateConnectorRequest {
            connector: Some(pb::Connector {
                name: connector.into(),
                prefix: "2024/".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        world.api.update_connector(request(caller, body))
    };
    let delete = |caller| {
        let body = pb::DeleteConnectorRequest {
            name: connector.into(),
            ..Default::default()
        };
        world.api.delete_connector(request(caller, body))
    };
    let refused = update(&owner).await.unwrap_err();
    let said = refused.message();
    assert!(
        said.contains("projects/ml/activations/reports-gpu and 1 that you may not see"),
        "{said}"
    );
    assert!(!said.contains("web"), "{said}");
    let refused = delete(&owner).await.unwrap_err();
    let said = refused.message();
    assert!(
        said.contains("projects/ml/activations/reports-gpu and 2 that you may not see"),
        "{said}"
    );
    assert!(!said.contains("web") && !said.contains("research"), "{said}");
    let refused = delete(&operator).await.unwrap_err();
    let said = refused.message();
    assert!(
        said.contains("projects/web/activations/reports-gpu") && said.contains(&publication),
        "{said}"
    );
}
