//! Who may what, and what a denial tells.

use mooring_proto::v1 as pb;
use pb::access_service_server::AccessService as _;
use pb::community_service_server::CommunityService as _;
use pb::connector_service_server::ConnectorService as _;
use pb::project_service_server::ProjectService as _;
use pb::publication_service_server::PublicationService as _;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::policy::Caller;
use crate::testing::{World, new_connector, request};

async fn get_project(world: &World, caller: &Caller, name: &str) -> Result<pb::Project, Status> {
    let body = pb::GetProjectRequest { name: name.into() };
    world
        .api
        .get_project(request(caller, body))
        .await
        .map(tonic::Response::into_inner)
}

async fn get_connector(world: &World, caller: &Caller, name: &str) -> Result<pb::Connector, Status> {
    let body = pb::GetConnectorRequest { name: name.into() };
    world
        .api
        .get_connector(request(caller, body))
        .await
        .map(tonic::Response::into_inner)
}

/// What travels: code, message and details.
fn bytes(status: &Status) -> (Code, String, Vec<u8>) {
    (
        status.code(),
        status.message().to_owned(),
        status.details().to_vec(),
    )
}

#[tokio::test]
async fn a_hidden_and_an_absent_resource_answer_the_same_bytes() {
    let world = World::new().await;
    world.community("research").await;
    world.project("hidden", "research", &world.operator).await;
    world.connector("data", "hidden", &world.operator).await;
    let stranger = world.user("stranger").await;
    let hidden = get_project(&world, &stranger, "projects/hidden")
        .await
        .unwrap_err();
    let absent = get_project(&world, &stranger, "projects/absent")
        .await
        .unwrap_err();
    assert_eq!(hidden.code(), Code::PermissionDenied);
    // The two names are equally long, and nothing but the name that was asked for may differ.
    let text = |status: &Status| String::from_utf8_lossy(status.details()).into_owned();
    assert_eq!(hidden.message().replace("hidden", "absent"), absent.message());
    assert_eq!(text(&hidden).replace("hidden", "absent"), text(&absent));

    // Below a project that the caller does not see, what is there and what is not are asked by the same name of it.
    let there = get_connector(&world, &stranger, "projects/hidden/connectors/data")
        .await
        .unwrap_err();
    let not_there = get_connector(&world, &stranger, "projects/hidden/connectors/none")
        .await
        .unwrap_err();
    assert_eq!(bytes(&there), bytes(&not_there));

    // The same name, before and after it exists.
    let before = get_project(&world, &stranger, "projects/later")
        .await
        .unwrap_err();
    world.project("later", "research", &world.operator).await;
    let after = get_project(&world, &stranger, "projects/later")
        .await
        .unwrap_err();
    assert_eq!(bytes(&before), bytes(&after));
}

#[tokio::test]
async fn who_may_list_the_parent_is_told_that_something_does_not_exist() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    let viewer = world
        .user_with("viewer", pb::Role::Viewer, "projects/ml", &world.operator)
        .await;
    let status = get_connector(&world, &viewer, "projects/ml/connectors/none")
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(
        status.get_error_details().resource_info().unwrap().resource_name,
        "projects/ml/connectors/none"
    );
    let status = get_project(&world, &world.operator, "projects/none")
        .await
        .unwrap_err();
    assert_eq!(
        status.code(),
        Code::NotFound,
        "operators see which projects there are"
    );
}

#[tokio::test]
async fn a_denial_names_the_missing_permission_and_the_role() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    let viewer = world
        .user_with("viewer", pb::Role::Viewer, "projects/ml", &world.operator)
        .await;
    let status = world
        .api
        .create_connector(request(&viewer, new_connector("x", "ml")))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.metadata["permission"], "connectors.create");
    assert_eq!(info.metadata["role_needed"], "DEVELOPER on projects/ml");
}

#[tokio::test]
async fn the_permit_is_judged_before_any_field() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    let stranger = world.user("stranger").await;
    let mut body = new_connector("x", "ml");
    body.connector.as_mut().unwrap().bucket = "bad.bucket".into();
    let status = world
        .api
        .create_connector(request(&stranger, body))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_community_s_viewers_see_its_projects_and_its_developers_do_not() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    let viewer = world
        .user_with(
            "viewer",
            pb::Role::Viewer,
            "communities/research",
            &world.operator,
        )
        .await;
    let developer = world
        .user_with(
            "developer",
            pb::Role::Developer,
            "communities/research",
            &world.operator,
        )
        .await;
    let editor = world
        .user_with(
            "editor",
            pb::Role::Editor,
            "communities/research",
            &world.operator,
        )
        .await;
    assert!(get_project(&world, &viewer, "projects/ml").await.is_ok());
    assert_eq!(
        get_project(&world, &developer, "projects/ml")
            .await
            .unwrap_err()
            .code(),
        Code::PermissionDenied
    );
    assert!(
        world
            .api
            .create_connector(request(&editor, new_connector("x", "ml")))
            .await
            .is_ok()
    );
    // But a developer of the community creates projects in it, and is Admin there.
    world.project("mine", "research", &developer).await;
    assert!(
        world
            .grant("viewer", pb::Role::Developer, "projects/mine", &developer)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn lists_hold_what_the_caller_may_see_and_no_more() {
    let world = World::new().await;
    for community in ["one", "two"] {
        world.community(community).await;
    }
    for (project, community) in [("a", "one"), ("b", "one"), ("c", "two")] {
        world.project(project, community, &world.operator).await;
    }
    let anna = world
        .user_with("anna", pb::Role::Viewer, "communities/one", &world.operator)
        .await;
    world
        .grant("anna", pb::Role::Developer, "communities/two", &world.operator)
        .await
        .unwrap();
    let bob = world
        .user_with("bob", pb::Role::Viewer, "projects/c", &world.operator)
        .await;
    assert_eq!(
        world.projects(&anna).await,
        ["projects/a", "projects/b"],
        "a Developer of two does not see its projects"
    );
    assert_eq!(world.projects(&bob).await, ["projects/c"]);
    assert_eq!(world.projects(&world.operator).await.len(), 3);
    assert_eq!(world.communities(&anna).await.len(), 2);
    assert!(world.communities(&bob).await.is_empty());
}

#[tokio::test]
async fn only_operators_create_communities_and_only_admins_grant() {
    let world = World::new().await;
    world.community("research").await;
    let editor = world
        .user_with(
            "editor",
            pb::Role::Editor,
            "communities/research",
            &world.operator,
        )
        .await;
    let body = pb::CreateCommunityRequest {
        community_id: "mine".into(),
        ..Default::default()
    };
    let status = world
        .api
        .create_community(request(&editor, body))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let status = world
        .grant("editor", pb::Role::Admin, "communities/research", &editor)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_role_that_is_taken_away_between_permit_and_act_no_longer_counts() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    let editor = world
        .user_with("editor", pb::Role::Editor, "projects/ml", &world.operator)
        .await;
    let action = crate::ops::project::DeleteProject("projects/ml".parse().unwrap());
    let permit = world.catalog.permit(&editor, action).await.unwrap();
    world
        .revoke("editor", pb::Role::Editor, "projects/ml", &world.operator)
        .await
        .unwrap();
    let error = world.catalog.delete_project(permit, "").await.unwrap_err();
    assert!(matches!(error, crate::domain::Error::Denied(_)), "{error}");
}

#[tokio::test]
async fn permissions_can_be_tested_and_explained() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    let anna = world
        .user_with("anna", pb::Role::Viewer, "communities/research", &world.operator)
        .await;
    let test = async |caller: &Caller, resource: &str| {
        let body = pb::TestPermissionsRequest {
            resource: resource.into(),
            permissions: vec!["connectors.get".into(), "connectors.create".into()],
        };
        world
            .api
            .test_permissions(request(caller, body))
            .await
            .unwrap()
            .into_inner()
            .permissions
    };
    assert_eq!(
        test(&anna, "projects/ml/connectors/any").await,
        ["connectors.get"]
    );
    assert_eq!(test(&anna, "projects/none").await, Vec::<String>::new());
    let explain = async |permission: &str, user: &str| {
        let body = pb::ExplainAccessRequest {
            resource: "projects/ml".into(),
            permission: permission.into(),
            user: user.into(),
        };
        world
            .api
            .explain_access(request(&anna, body))
            .await
            .map(tonic::Response::into_inner)
    };
    let explained = explain("connectors.get", "").await.unwrap();
    assert!(explained.allowed);
    assert_eq!(explained.granted_by, ["VIEWER on communities/research"]);
    let explained = explain("connectors.create", "").await.unwrap();
    assert!(!explained.allowed);
    assert_eq!(explained.role_needed, "DEVELOPER on projects/ml");
    assert_eq!(explained.can_grant, ["users/operator"]);
    assert!(
        explain("connectors.create", "users/operator")
            .await
            .unwrap()
            .allowed
    );
    assert_eq!(
        explain("nonsense", "").await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let stranger = world.user("stranger").await;
    let body = pb::ExplainAccessRequest {
        resource: "projects/ml".into(),
        permission: "connectors.get".into(),
        user: "users/anna".into(),
    };
    let status = world
        .api
        .explain_access(request(&stranger, body))
        .await
        .unwrap_err();
    assert_eq!(
        status.code(),
        Code::PermissionDenied,
        "others are explained to who sees the roles"
    );
}

#[tokio::test]
async fn the_name_of_a_project_that_is_hidden_reads_like_that_of_one_that_was_deleted() {
    let world = World::new().await;
    let operator = world.operator.clone();
    for community in ["research", "other"] {
        world.community(community).await;
    }
    world.project("hidden", "other", &operator).await;
    world.project("absent", "other", &operator).await;
    let body = pb::DeleteProjectRequest {
        name: "projects/absent".into(),
        ..Default::default()
    };
    world.api.delete_project(request(&operator, body)).await.unwrap();
    let dev = world
        .user_with("dev", pb::Role::Developer, "communities/research", &operator)
        .await;
    let create = async |caller: &Caller, id: &str| {
        let body = pb::CreateProjectRequest {
            project_id: id.into(),
            project: Some(pb::Project {
                community: "communities/research".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let refused = world.api.create_project(request(caller, body)).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists);
        refused.message().to_owned()
    };
    let hidden = create(&dev, "hidden").await;
    assert_eq!(hidden.replace("hidden", "absent"), create(&dev, "absent").await);
    let seen = create(&operator, "hidden").await;
    assert_eq!(seen, "projects/hidden exists already; choose another id");
}

#[tokio::test]
async fn a_denial_names_the_people_who_can_grant_to_whoever_sees_the_roles_there() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    let operator = world.operator.clone();
    let viewer = world
        .user_with("viewer", pb::Role::Viewer, "projects/ml", &operator)
        .await;
    world
        .user_with("anna", pb::Role::Admin, "projects/ml", &operator)
        .await;
    let create = |caller: &Caller, project: &str| {
        let call = request(caller, new_connector("reports", project));
        world.api.create_connector(call)
    };
    let people = |status: &Status| {
        let info = status.get_error_details().error_info().unwrap().clone();
        info.metadata.get("can_grant").cloned()
    };
    let denied = create(&viewer, "ml").await.unwrap_err();
    assert_eq!(people(&denied).unwrap(), "users/anna,users/operator");
    assert!(
        denied
            .message()
            .ends_with("is missing on projects/ml; needed is DEVELOPER on projects/ml, which users/anna or users/operator can grant"),
        "{}",
        denied.message()
    );
    let stranger = world.user("stranger").await;
    assert_eq!(people(&create(&stranger, "ml").await.unwrap_err()), None);
}

#[tokio::test]
async fn whoever_sees_all_communities_and_projects_is_told_which_does_not_exist() {
    let world = World::new().await;
    world.community("research").await;
    let stranger = world.user("stranger").await;
    let create = |caller: &Caller| {
        let body = pb::CreateProjectRequest {
            project_id: "ml".into(),
            project: Some(pb::Project {
                community: "communities/nope".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        world.api.create_project(request(caller, body))
    };
    let absent = create(&world.operator).await.unwrap_err();
    assert_eq!(
        (absent.code(), absent.message()),
        (Code::NotFound, "communities/nope does not exist")
    );
    assert_eq!(
        create(&stranger).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let absent = get_connector(&world, &world.operator, "projects/nope/connectors/x")
        .await
        .unwrap_err();
    assert_eq!(absent.message(), "projects/nope does not exist");
    let body = pb::ExplainAccessRequest {
        resource: "projects/nope".into(),
        permission: "connectors.get".into(),
        user: String::new(),
    };
    let absent = world
        .api
        .explain_access(request(&world.operator, body))
        .await
        .unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
}

/// An Admin of community A who is Developer of B may publish any connector of A's projects in A and in B; a Viewer of C
/// who is Editor of one project of C may publish that project's connectors where they are Developer, but not in C.
#[tokio::test]
async fn publishing_takes_editor_in_the_project_and_developer_in_the_community() {
    let world = World::new().await;
    for community in ["a", "b", "c"] {
        world.community(community).await;
    }
    for (project, community) in [("of-a", "a"), ("of-c", "c"), ("also-c", "c")] {
        world.project(project, community, &world.operator).await;
        world.connector("data", project, &world.operator).await;
    }
    let admin = world
        .user_with("admin", pb::Role::Admin, "communities/a", &world.operator)
        .await;
    world
        .grant("admin", pb::Role::Developer, "communities/b", &world.operator)
        .await
        .unwrap();
    let viewer = world
        .user_with("viewer", pb::Role::Viewer, "communities/c", &world.operator)
        .await;
    world
        .grant("viewer", pb::Role::Editor, "projects/of-c", &world.operator)
        .await
        .unwrap();
    for community in ["communities/a", "communities/b"] {
        world
            .grant("viewer", pb::Role::Developer, community, &world.operator)
            .await
            .unwrap();
    }
    let publish = async |caller: &Caller, project: &str, community: &str| {
        let body = pb::PublishConnectorRequest {
            connector: format!("projects/{project}/connectors/data"),
            community: format!("communities/{community}"),
            publication_id: format!("{project}-data"),
            ..Default::default()
        };
        let status = world.api.publish_connector(request(caller, body)).await.err();
        status.map(|status| {
            (
                status.code(),
                status.get_error_details().error_info().unwrap().metadata["permission"].clone(),
            )
        })
    };
    let denied = |permission: &str| Some((Code::PermissionDenied, permission.to_owned()));
    assert_eq!(publish(&admin, "of-a", "a").await, None);
    assert_eq!(publish(&admin, "of-a", "b").await, None);
    assert_eq!(publish(&admin, "of-a", "c").await, denied("publications.create"));
    assert_eq!(publish(&admin, "of-c", "b").await, denied("connectors.publish"));
    assert_eq!(publish(&viewer, "of-c", "a").await, None);
    assert_eq!(publish(&viewer, "of-c", "b").await, None);
    assert_eq!(publish(&viewer, "of-c", "c").await, denied("publications.create"));
    assert_eq!(
        publish(&viewer, "also-c", "a").await,
        denied("connectors.publish")
    );
}
