//! What create, get, list, update and delete have in common, shown on communities and projects.

use mooring_proto::v1 as pb;
use pb::community_service_server::CommunityService as _;
use pb::connector_service_server::ConnectorService as _;
use pb::project_service_server::ProjectService as _;
use tonic::Code;

use crate::testing::{World, new_connector, request, wrong_fields};

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    })
}

#[tokio::test]
async fn what_is_created_is_read_back_as_it_was_answered() {
    let world = World::new().await;
    let body = pb::CreateCommunityRequest {
        community_id: "research".into(),
        community: Some(pb::Community {
            display_name: "Research".into(),
            description: "All of it".into(),
            labels: [("team".to_owned(), "x".to_owned())].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let created = world
        .api
        .create_community(request(&world.operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(created.creator, "users/operator");
    let body = pb::GetCommunityRequest {
        name: created.name.clone(),
    };
    let read = world
        .api
        .get_community(request(&world.operator, body))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(created, read);
}

#[tokio::test]
async fn the_same_request_id_creates_once_and_answers_the_same_for_a_day() {
    let world = World::new().await;
    let body = pb::CreateCommunityRequest {
        request_id: "0190f0f0-0000-4000-8000-000000000001".into(),
        ..Default::default()
    };
    let create = |body: &pb::CreateCommunityRequest| {
        world.api.create_community(request(&world.operator, body.clone()))
    };
    let first = create(&body).await.unwrap().into_inner();
    let revision = world.revision().await;
    assert_eq!(create(&body).await.unwrap().into_inner(), first);
    assert_eq!(world.revision().await, revision);
    let other = pb::CreateCommunityRequest {
        community_id: "other".into(),
        ..body.clone()
    };
    assert_eq!(
        wrong_fields(&create(&other).await.unwrap_err())[0].0,
        "request_id"
    );
    world.clock.advance(std::time::Duration::from_secs(23 * 3600));
    assert_eq!(create(&body).await.unwrap().into_inner(), first);
    let bad = pb::CreateCommunityRequest {
        request_id: "no uuid".into(),
        ..body
    };
    assert_eq!(wrong_fields(&create(&bad).await.unwrap_err())[0].0, "request_id");
}

#[tokio::test]
async fn pages_hold_everything_once_and_in_order() {
    let world = World::new().await;
    for id in ["c", "a", "e", "b", "d"] {
        world.community(id).await;
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let body = pb::ListCommunitiesRequest {
            page_size: 2,
            page_token,
        };
        let page = world
            .api
            .list_communities(request(&world.operator, body))
            .await
            .unwrap()
            .into_inner();
        assert!(page.communities.len() <= 2);
        names.extend(page.communities.into_iter().map(|community| community.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(
        names,
        [
            "communities/a",
            "communities/b",
            "communities/c",
            "communities/d",
            "communities/e"
        ]
    );
    let body = pb::ListProjectsRequest {
        page_size: 2,
        page_token: "bm90aGluZw".into(),
    };
    let status = world
        .api
        .list_projects(request(&world.operator, body))
        .await
        .unwrap_err();
    assert_eq!(wrong_fields(&status)[0].0, "page_token");
}

#[tokio::test]
async fn an_update_changes_what_the_mask_names_and_an_old_etag_is_refused() {
    let world = World::new().await;
    let community = world.community("research").await;
    let update = |community: pb::Community, update_mask| {
        let body = pb::UpdateCommunityRequest {
            community: Some(community),
            update_mask,
        };
        world.api.update_community(request(&world.operator, body))
    };
    let wanted = pb::Community {
        display_name: "One".into(),
        description: "Two".into(),
        ..community.clone()
    };
    let changed = update(wanted.clone(), mask(&["display_name"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (changed.display_name.as_str(), changed.description.as_str()),
        ("One", "")
    );
    assert_ne!(changed.etag, community.etag);
    let stale = update(wanted.clone(), None).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    let without = pb::Community {
        etag: String::new(),
        ..wanted
    };
    let changed = update(without.clone(), None).await.unwrap().into_inner();
    assert_eq!(
        changed.description, "Two",
        "without a mask, what is set is changed"
    );
    let cleared = update(
        pb::Community {
            display_name: String::new(),
            ..without
        },
        mask(&["*"]),
    )
    .await
    .unwrap();
    assert_eq!(cleared.into_inner().display_name, "");
}

#[tokio::test]
async fn a_project_stays_in_its_community() {
    let world = World::new().await;
    world.community("one").await;
    world.community("two").await;
    let project = world.project("ml", "one", &world.operator).await;
    let body = pb::UpdateProjectRequest {
        project: Some(pb::Project {
            community: "communities/two".into(),
            ..project
        }),
        update_mask: mask(&["community"]),
    };
    let status = world
        .api
        .update_project(request(&world.operator, body))
        .await
        .unwrap_err();
    assert!(wrong_fields(&status)[0].1.contains("never changes"));
}

#[tokio::test]
async fn what_is_used_is_not_deleted_and_the_error_names_who_uses_it() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    world
        .api
        .create_connector(request(&world.operator, new_connector("data", "ml")))
        .await
        .unwrap();
    let body = pb::DeleteProjectRequest {
        name: "projects/ml".into(),
        ..Default::default()
    };
    let status = world
        .api
        .delete_project(request(&world.operator, body))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("projects/ml/connectors/data")
            && status.message().contains("projects/ml/secrets/data")
    );
    let body = pb::DeleteCommunityRequest {
        name: "communities/research".into(),
        ..Default::default()
    };
    let status = world
        .api
        .delete_community(request(&world.operator, body))
        .await
        .unwrap_err();
    assert!(status.message().contains("projects/ml"), "{}", status.message());
}

#[tokio::test]
async fn names_of_deleted_communities_and_projects_are_not_given_out_again() {
    let world = World::new().await;
    world.community("research").await;
    world.project("ml", "research", &world.operator).await;
    let body = pb::DeleteProjectRequest {
        name: "projects/ml".into(),
        ..Default::default()
    };
    world
        .api
        .delete_project(request(&world.operator, body))
        .await
        .unwrap();
    let body = pb::CreateProjectRequest {
        project_id: "ml".into(),
        project: Some(pb::Project {
            community: "communities/research".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let status = world
        .api
        .create_project(request(&world.operator, body))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let body = pb::DeleteCommunityRequest {
        name: "communities/research".into(),
        ..Default::default()
    };
    world
        .api
        .delete_community(request(&world.operator, body))
        .await
        .unwrap();
    let body = pb::CreateCommunityRequest {
        community_id: "research".into(),
        ..Default::default()
    };
    let status = world
        .api
        .create_community(request(&world.operator, body))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_at_once_are_all_answered_and_a_repeated_call_acts_once() {
    let world = std::sync::Arc::new(World::new().await);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..100_u128 {
        let world = world.clone();
        callers.spawn(async move {
            let create = || {
                let body = pb::CreateCommunityRequest {
                    // Two callers each share an id, as a retry over another connection does.
                    request_id: uuid::Uuid::from_u128(1 + number / 2).to_string(),
                    ..Default::default()
                };
                world.api.create_community(request(&world.operator, body))
            };
            let list = world
                .api
                .list_communities(request(&world.operator, pb::ListCommunitiesRequest::default()));
            let (created, listed) = tokio::join!(create(), list);
            listed.unwrap();
            created.unwrap().into_inner().name
        });
    }
    let names: std::collections::BTreeSet<String> = callers.join_all().await.into_iter().collect();
    assert_eq!(names.len(), 50);
}
