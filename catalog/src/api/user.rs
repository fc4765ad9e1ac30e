//! Users over gRPC.

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::Api;
use super::decode::{self, List, Mask, TEXT_FIELDS, split, timestamp};
use crate::domain::Violations;
use crate::domain::user::{NewUser, User, UserChange, UserState};
use crate::ops::user::{CreateUser, DeleteUser, DisableUser, EnableUser, GetUser, ListUsers, UpdateUser};

#[tonic::async_trait]
impl pb::user_service_server::UserService for Api {
    async fn create_user(
        &self,
        request: Request<pb::CreateUserRequest>,
    ) -> Result<Response<pb::User>, Status> {
        let (caller, body) = split(request)?;
        let permit = self.catalog.permit(&caller, CreateUser).await?;
        let mut violations = Violations::default();
        let once = decode::once(
            &self.catalog.keyring,
            "CreateUser",
            &body.request_id,
            &body,
            |user: &User| pb::User::from(user.clone()).encode_to_vec(),
            &mut violations,
        );
        let id = decode::optional_id("user_id", &body.user_id, &mut violations);
        let given = decode::body(body.user);
        let texts = decode::texts(
            "user",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        violations.finish()?;
        let new = NewUser { texts };
        decode::answer(self.catalog.create_user(permit, id, new, once).await?)
    }

    async fn get_user(&self, request: Request<pb::GetUserRequest>) -> Result<Response<pb::User>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, GetUser(name)).await?;
        Ok(Response::new(self.catalog.get_user(permit).await?.into()))
    }

    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let (caller, body) = split(request)?;
        let permit = self.catalog.permit(&caller, ListUsers).await?;
        let list = List::read("users", body.page_size, &body.page_token)?;
        let page = self.catalog.list_users(permit, list.page()).await?;
        let (users, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListUsersResponse {
            users,
            next_page_token,
        }))
    }

    async fn update_user(
        &self,
        request: Request<pb::UpdateUserRequest>,
    ) -> Result<Response<pb::User>, Status> {
        let (caller, body) = split(request)?;
        let given = decode::body(body.user);
        let name = decode::name("user.name", &given.name)?;
        let permit = self.catalog.permit(&caller, UpdateUser(name)).await?;
        let mut violations = Violations::default();
        let mask = Mask::read(body.update_mask, &TEXT_FIELDS, &[], &mut violations);
        let texts = mask.texts(
            "user",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        violations.finish()?;
        let change = UserChange {
            texts,
            etag: given.etag,
        };
        Ok(Response::new(
            self.catalog.update_user(permit, change).await?.into(),
        ))
    }

    async fn delete_user(&self, request: Request<pb::DeleteUserRequest>) -> Result<Response<()>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DeleteUser(name)).await?;
        self.catalog.delete_user(permit, &body.etag).await?;
        Ok(Response::new(()))
    }

    async fn disable_user(
        &self,
        request: Request<pb::DisableUserRequest>,
    ) -> Result<Response<pb::User>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DisableUser(name)).await?;
        Ok(Response::new(self.catalog.disable_user(permit).await?.into()))
    }

    async fn enable_user(
        &self,
        request: Request<pb::EnableUserRequest>,
    ) -> Result<Response<pb::User>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, EnableUser(name)).await?;
        Ok(Response::new(self.catalog.enable_user(permit).await?.into()))
    }
}

impl From<User> for pb::User {
    fn from(user: User) -> Self {
        let etag = user.meta.etag();
        let User {
            name,
            meta,
            state,
            login_time: _,
        } = user;
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
            state: match state {
                UserState::Enabled => pb::UserState::Enabled,
                UserState::Disabled => pb::UserState::Disabled,
            }
            .into(),
        }
    }
}
