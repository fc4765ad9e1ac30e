//! Mounts over gRPC. The service they are part of is in `api/activation.rs`.

use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::decode::{self, List, split, timestamp};
use super::{Api, words};
use crate::domain::mount::ObservedMount;
use crate::ops::mount::{ListMounts, MountView};
use crate::store::mount::StoredMount;

pub(super) async fn list(
    api: &Api,
    request: Request<pb::ListMountsRequest>,
) -> Result<Response<pb::ListMountsResponse>, Status> {
    let (caller, body) = split(request)?;
    let parent = decode::name("parent", &body.parent)?;
    let permit = api.catalog.permit(&caller, ListMounts(parent)).await?;
    let list = List::read(
        format!("mounts of {}", body.parent),
        body.page_size,
        &body.page_token,
    )?;
    let page = api.catalog.list_mounts(permit, list.page()).await?;
    let (mounts, next_page_token) = list.answer(page);
    Ok(Response::new(pb::ListMountsResponse {
        mounts,
        next_page_token,
    }))
}

impl From<MountView> for pb::Mount {
    fn from(view: MountView) -> Self {
        let MountView {
            name,
            mount,
            assignment,
        } = view;
        let StoredMount {
            host_uid: _,
            observed,
            update_time,
        } = mount;
        let message = observed.message();
        let ObservedMount {
            assignment_uid: _,
            activation,
            generation: _,
            state,
            path,
            conditions,
            mount_time,
        } = observed;
        let spec = assignment.map(|assignment| assignment.spec);
        Self {
            host: name.host().to_string(),
            name: name.to_string(),
            activation,
            mode: words::mode(spec.as_ref().map(|spec| spec.mode)),
            backend: words::backend(spec.as_ref().map(|spec| spec.backend)),
            connector: spec.map(|spec| spec.connector).unwrap_or_default(),
            path,
            state: words::mount_state(state),
            conditions: conditions.into_iter().map(words::condition).collect(),
            message,
            update_time: Some(timestamp(update_time)),
            mount_time: mount_time.map(timestamp),
        }
    }
}
