//! Pools over gRPC. The service they are part of is in `api/host.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::Api;
use super::decode::{self, List, Mask, split, timestamp};
use super::words;
use crate::domain::Violations;
use crate::domain::names::ProjectName;
use crate::domain::pool::{
    Admission, AdmissionChange, GroupsChange, NewPool, Pool, PoolChange, checked_offline_max, parse_groups,
    parse_projects,
};
use crate::ops::pool::{CreatePool, DeletePool, GetPool, ListPools, PoolView, UpdatePool};

pub(super) async fn create(
    api: &Api,
    request: Request<pb::CreatePoolRequest>,
) -> Result<Response<pb::Pool>, Status> {
    let (caller, body) = split(request)?;
    let permit = api.catalog.permit(&caller, CreatePool).await?;
    let mut violations = Violations::default();
    let once = decode::once(
        &api.catalog.keyring,
        "CreatePool",
        &body.request_id,
        &body,
        |view: &PoolView| pb::Pool::from(view.clone()).encode_to_vec(),
        &mut violations,
    );
    let id = decode::optional_id("pool_id", &body.pool_id, &mut violations);
    let given = decode::body(body.pool);
    let texts = decode::texts(
        "pool",
        given.display_name,
        given.description,
        given.labels,
        &mut violations,
    );
    let admission = Admission::parse(
        &given.admitted_projects,
        "pool.admitted_projects",
        &mut violations,
    );
    let groups = parse_groups(&given.project_groups, "pool.project_groups", &mut violations);
    let offline_max = offline_max(given.offline_max, &mut violations);
    violations.finish()?;
    let new = NewPool {
        texts,
        admission,
        groups,
        offline_max,
    };
    decode::answer(api.catalog.create_pool(permit, id, new, once).await?)
}

pub(super) async fn get(
    api: &Api,
    request: Request<pb::GetPoolRequest>,
) -> Result<Response<pb::Pool>, Status> {
    let (caller, body) = split(request)?;
    let name = decode::name("name", &body.name)?;
    let permit = api.catalog.permit(&caller, GetPool(name)).await?;
    Ok(Response::new(api.catalog.get_pool(permit).await?.into()))
}

pub(super) async fn list(
    api: &Api,
    request: Request<pb::ListPoolsRequest>,
) -> Result<Response<pb::ListPoolsResponse>, Status> {
    let (caller, body) = split(request)?;
    let permit = api.catalog.permit(&caller, ListPools).await?;
    let list = List::read("pools", body.page_size, &body.page_token)?;
    let page = api.catalog.list_pools(permit, list.page()).await?;
    let (pools, next_page_token) = list.answer(page);
    Ok(Response::new(pb::ListPoolsResponse {
        pools,
        next_page_token,
    }))
}

pub(super) async fn update(
    api: &Api,
    request: Request<pb::UpdatePoolRequest>,
) -> Result<Response<pb::Pool>, Status> {
    let (caller, body) = split(request)?;
    let given = decode::body(body.pool);
    let name = decode::name("pool.name", &given.name)?;
    let permit = api.catalog.permit(&caller, UpdatePool(name)).await?;
    let mut violations = Violations::default();
    let mutable = [
        "display_name",
        "description",
        "labels",
        "admitted_projects",
        "project_groups",
        "offline_max",
    ];
    let mask = Mask::read(body.update_mask, &mutable, &[], &mut violations);
    let texts = mask.texts(
        "pool",
        given.display_name,
        given.description,
        given.labels,
        &mut violations,
    );
    let replaced = mask
        .pick("admitted_projects", given.admitted_projects)
        .map(|projects| Admission::parse(&projects, "pool.admitted_projects", &mut violations));
    let add = parse_projects(
        &body.add_admitted_projects,
        "add_admitted_projects",
        &mut violations,
    );
    let remove = parse_projects(
        &body.remove_admitted_projects,
        "remove_admitted_projects",
        &mut violations,
    );
    not_both(
        "admitted_projects",
        &add,
        &remove,
        replaced.is_some(),
        &mut violations,
    );
    let admission = match replaced {
        Some(admission) => Some(AdmissionChange::Replace(admission)),
        None if add.is_empty() && remove.is_empty() => None,
        None => Some(AdmissionChange::Adjust { add, remove }),
    };
    let replaced = mask
        .pick("project_groups", given.project_groups)
        .map(|groups| parse_groups(&groups, "pool.project_groups", &mut violations));
    let set = parse_groups(&body.add_project_groups, "add_project_groups", &mut violations);
    let remove = parse_projects(
        &body.remove_project_groups,
        "remove_project_groups",
        &mut violations,
    );
    let named = set.keys().cloned().collect();
    not_both(
        "project_groups",
        &named,
        &remove,
        replaced.is_some(),
        &mut violations,
    );
    let groups = match replaced {
        Some(groups) => Some(GroupsChange::Replace(groups)),
        None if set.is_empty() && remove.is_empty() => None,
        None => Some(GroupsChange::Adjust { set, remove }),
    };
    let offline_max = mask
        .pick("offline_max", given.offline_max)
        .map(|given| offline_max(given, &mut violations));
    violations.finish()?;
    let change = PoolChange {
        texts,
        admission,
        groups,
        offline_max,
        etag: given.etag,
    };
    Ok(Response::new(
        api.catalog.update_pool(permit, change).await?.into(),
    ))
}

fn offline_max(given: Option<prost_types::Duration>, violations: &mut Violations) -> Option<Duration> {
    const FIELD: &str = "pool.offline_max";
    let given = words::optional_duration(FIELD, given, violations);
    violations.take(FIELD, checked_offline_max(given)).flatten()
}

/// A field is replaced, or its entries are added and removed; and no entry is both.
fn not_both(
    field: &str,
    add: &BTreeSet<ProjectName>,
    remove: &BTreeSet<ProjectName>,
    replaced: bool,
    violations: &mut Violations,
) {
    for (verb, names) in [("add", add), ("remove", remove)] {
        if replaced && !names.is_empty() {
            violations.add(
                format!("{verb}_{field}"),
                format!("it is given together with `pool.{field}`, which replaces all; give one of them"),
            );
        }
    }
    for both in add.intersection(remove) {
        violations.add(
            format!("remove_{field}"),
            format!("{both} is also in `add_{field}`; leave it out of one of them"),
        );
    }
}

pub(super) async fn delete(
    api: &Api,
    request: Request<pb::DeletePoolRequest>,
) -> Result<Response<()>, Status> {
    let (caller, body) = split(request)?;
    let name = decode::name("name", &body.name)?;
    let permit = api.catalog.permit(&caller, DeletePool(name)).await?;
    api.catalog.delete_pool(permit, &body.etag).await?;
    Ok(Response::new(()))
}

impl From<PoolView> for pb::Pool {
    fn from(view: PoolView) -> Self {
        let PoolView { pool, host_count } = view;
        let etag = pool.meta.etag();
        let Pool {
            name,
            meta,
            admission,
            groups,
            offline_max,
        } = pool;
        Self {
            name: name.to_string(),
            uid: meta.uid.to_string(),
            display_name: meta.texts.display_name,
            description: meta.texts.description,
            labels: meta.texts.labels,
            creator: meta.creator,
            create_time: Some(timestamp(meta.create_time)),
            update_time: Some(timestamp(meta.update_time)),
            etag,
            admitted_projects: admission.to_texts(),
            project_groups: groups
                .into_iter()
                .map(|(project, group)| (project.to_string(), group.as_str().to_owned()))
                .collect(),
            host_count,
            offline_max: offline_max.and_then(|max| max.try_into().ok()),
        }
    }
}
