//! Join tokens over gRPC. The service they are part of is in `api/host.rs`.

use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::decode::{self, List, split, timestamp};
use super::{Api, words};
use crate::domain::join_token::{JoinToken, checked_ttl, checked_uses};
use crate::domain::names::JoinTokenName;
use crate::domain::texts::check_labels;
use crate::domain::{Error, Violations};
use crate::ops::join_token::{
    CreateJoinToken, JoinTokenView, ListJoinTokens, NewJoinToken, NewSubject, RevokeJoinToken,
};

pub(super) async fn create(
    api: &Api,
    request: Request<pb::CreateJoinTokenRequest>,
) -> Result<Response<pb::JoinToken>, Status> {
    use pb::create_join_token_request::Subject;
    let (caller, body) = split(request)?;
    let permit = api.catalog.permit(&caller, CreateJoinToken).await?;
    let mut violations = Violations::default();
    let subject = match &body.subject {
        Some(Subject::Pool(pool)) => violations.take("pool", pool.parse()).map(NewSubject::Pool),
        Some(Subject::User(user)) => violations.take("user", user.parse()).map(NewSubject::User),
        None => {
            violations.add(
                "subject",
                "it is missing; give `pool` for hosts or `user` for a person",
            );
            None
        }
    };
    let for_person = matches!(body.subject, Some(Subject::User(_)));
    let ttl = words::optional_duration("ttl", body.ttl, &mut violations);
    let ttl = ttl.map(|ttl| time::Duration::try_from(ttl).unwrap_or(time::Duration::MAX));
    let ttl = violations.take("ttl", checked_ttl(ttl));
    let uses = violations.take("uses", checked_uses(body.uses, for_person));
    let host_labels = body.host_labels;
    check_labels(&host_labels, "host_labels", &mut violations);
    if for_person && !host_labels.is_empty() {
        violations.add("host_labels", "a person gets no labels; leave them out");
    }
    violations.finish()?;
    let (Some(subject), Some(ttl), Some(uses)) = (subject, ttl, uses) else {
        return Err(Error::internal("a token whose fields were judged good is missing").into());
    };
    let new = NewJoinToken {
        subject,
        ttl,
        uses,
        host_labels,
    };
    let (view, join_string) = api.catalog.create_join_token(permit, new).await?;
    Ok(Response::new(pb::JoinToken {
        join_string: join_string.to_string(),
        ..view.into()
    }))
}

pub(super) async fn list(
    api: &Api,
    request: Request<pb::ListJoinTokensRequest>,
) -> Result<Response<pb::ListJoinTokensResponse>, Status> {
    let (caller, body) = split(request)?;
    let permit = api.catalog.permit(&caller, ListJoinTokens).await?;
    let list = List::read("joinTokens", body.page_size, &body.page_token)?;
    let page = api.catalog.list_join_tokens(permit, list.page()).await?;
    let (join_tokens, next_page_token) = list.answer(page);
    Ok(Response::new(pb::ListJoinTokensResponse {
        join_tokens,
        next_page_token,
    }))
}

pub(super) async fn revoke(
    api: &Api,
    request: Request<pb::RevokeJoinTokenRequest>,
) -> Result<Response<()>, Status> {
    let (caller, body) = split(request)?;
    let name = decode::name("name", &body.name)?;
    let permit = api.catalog.permit(&caller, RevokeJoinToken(name)).await?;
    api.catalog.revoke_join_token(permit).await?;
    Ok(Response::new(()))
}

impl From<JoinTokenView> for pb::JoinToken {
    fn from(view: JoinTokenView) -> Self {
        let JoinTokenView { token, pool, user } = view;
        let JoinToken {
            uid,
            subject: _,
            uses_left,
            expire_time,
            creator,
            create_time,
            host_labels,
        } = token;
        Self {
            name: JoinTokenName::new(uid).to_string(),
            pool: pool.map(|pool| pool.to_string()).unwrap_or_default(),
            user: user.map(|user| user.to_string()).unwrap_or_default(),
            uses_left,
            expire_time: Some(timestamp(expire_time)),
            creator,
            create_time: Some(timestamp(create_time)),
            host_labels,
            join_string: String::new(),
        }
    }
}
