//! Which projects a pool speaks of, and how that is changed.

use mooring_proto::v1 as pb;
use pb::host_service_server::HostService as _;
use tonic::{Code, Status};

use crate::testing::{World, request, wrong_fields};

async fn world() -> World {
    let world = World::new().await;
    world.community("research").await;
    for project in ["ml", "web", "lab"] {
        world.project(project, "research", &world.operator).await;
    }
    world.pool_for("gpu", &["projects/ml"]).await;
    world
}

async fn update(world: &World, change: pb::UpdatePoolRequest) -> Result<pb::Pool, Status> {
    let pool = pb::Pool {
        name: "pools/gpu".into(),
        ..change.pool.unwrap_or_default()
    };
    let body = pb::UpdatePoolRequest {
        pool: Some(pool),
        ..change
    };
    let updated = world.api.update_pool(request(&world.operator, body)).await;
    updated.map(tonic::Response::into_inner)
}

fn groups(entries: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let owned = |(project, group): &(&str, &str)| ((*project).to_owned(), (*group).to_owned());
    entries.iter().map(owned).collect()
}

#[tokio::test]
async fn one_project_is_added_and_removed_and_the_others_stay() {
    let world = world().await;
    let added = pb::UpdatePoolRequest {
        add_admitted_projects: vec!["projects/web".into(), "projects/ml".into()],
        add_project_groups: groups(&[("projects/web", "web-team"), ("projects/ml", "ml-team")]),
        ..Default::default()
    };
    let pool = update(&world, added).await.unwrap();
    assert_eq!(pool.admitted_projects, ["projects/ml", "projects/web"]);
    assert_eq!(pool.project_groups.len(), 2);
    let removed = pb::UpdatePoolRequest {
        add_admitted_projects: vec!["projects/lab".into()],
        remove_admitted_projects: vec!["projects/web".into()],
        remove_project_groups: vec!["projects/web".into()],
        ..Default::default()
    };
    let pool = update(&world, removed).await.unwrap();
    assert_eq!(pool.admitted_projects, ["projects/lab", "projects/ml"]);
    assert_eq!(pool.project_groups, groups(&[("projects/ml", "ml-team")]));
}

#[tokio::test]
async fn a_project_that_does_not_exist_is_refused_and_what_was_deleted_since_is_not_in_the_way() {
    use pb::project_service_server::ProjectService as _;
    let world = world().await;
    let nope = || vec!["projects/nope".to_owned()];
    let pool = pb::Pool {
        admitted_projects: nope(),
        ..Default::default()
    };
    let body = pb::CreatePoolRequest {
        pool: Some(pool.clone()),
        ..Default::default()
    };
    let refused = world
        .api
        .create_pool(request(&world.operator, body))
        .await
        .unwrap_err();
    assert!(
        refused.message().contains("projects/nope does not exist"),
        "{refused:?}"
    );
    for (field, change) in [
        (
            "pool.admitted_projects",
            pb::UpdatePoolRequest {
                pool: Some(pool),
                ..Default::default()
            },
        ),
        (
            "add_admitted_projects",
            pb::UpdatePoolRequest {
                add_admitted_projects: nope(),
                ..Default::default()
            },
        ),
        (
            "add_project_groups",
            pb::UpdatePoolRequest {
                add_project_groups: groups(&[("projects/nope", "team")]),
                ..Default::default()
            },
        ),
    ] {
        let refused = update(&world, change).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(wrong_fields(&refused)[0].0, field);
        assert!(
            refused.message().contains("projects/nope does not exist"),
            "{refused:?}"
        );
    }
    let delete = pb::DeleteProjectRequest {
        name: "projects/ml".into(),
        ..Default::default()
    };
    world
        .api
        .delete_project(request(&world.operator, delete))
        .await
        .unwrap();
    let change = pb::UpdatePoolRequest {
        add_admitted_projects: vec!["projects/web".into()],
        ..Default::default()
    };
    let pool = update(&world, change).await.unwrap();
    assert_eq!(pool.admitted_projects, ["projects/ml", "projects/web"]);
}

#[tokio::test]
async fn a_field_is_replaced_or_adjusted_and_no_entry_is_both_added_and_removed() {
    let world = world().await;
    let web = || vec!["projects/web".to_owned()];
    let both = pb::UpdatePoolRequest {
        pool: Some(pb::Pool {
            admitted_projects: web(),
            ..Default::default()
        }),
        add_admitted_projects: web(),
        remove_admitted_projects: web(),
        ..Default::default()
    };
    let refused = update(&world, both).await.unwrap_err();
    let fields: Vec<String> = wrong_fields(&refused)
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        fields,
        [
            "add_admitted_projects",
            "remove_admitted_projects",
            "remove_admitted_projects"
        ]
    );
}

#[tokio::test]
async fn a_bound_on_starts_without_the_catalog_is_given_changed_and_taken_away() {
    let world = world().await;
    let bound = async |seconds: i64| {
        let pool = pb::Pool {
            offline_max: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        let change = pb::UpdatePoolRequest {
            pool: Some(pool),
            ..Default::default()
        };
        update(&world, change).await
    };
    assert_eq!(
        bound(604_800).await.unwrap().offline_max.unwrap().seconds,
        604_800
    );
    let shown = pb::GetPoolRequest {
        name: "pools/gpu".into(),
    };
    let shown = world.api.get_pool(request(&world.operator, shown)).await;
    let shown = shown.unwrap().into_inner();
    assert_eq!(shown.offline_max.unwrap().seconds, 604_800);
    for wrong in [1, -1] {
        let refused = bound(wrong).await.unwrap_err();
        assert_eq!(wrong_fields(&refused)[0].0, "pool.offline_max", "{wrong}");
    }
    assert_eq!(bound(0).await.unwrap().offline_max, None);
}
