//! Projects over gRPC.

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::Api;
use super::decode::{self, List, Mask, TEXT_FIELDS, split, timestamp};
use crate::domain::Violations;
use crate::domain::project::{NewProject, Project, ProjectChange};
use crate::ops::project::{CreateProject, DeleteProject, GetProject, ListProjects, UpdateProject};

#[tonic::async_trait]
impl pb::project_service_server::ProjectService for Api {
    async fn create_project(
        &self,
        request: Request<pb::CreateProjectRequest>,
    ) -> Result<Response<pb::Project>, Status> {
        let (caller, body) = split(request)?;
        let community = body.project.as_ref().map_or("", |project| &project.community);
        let community = decode::name("project.community", community)?;
        let permit = self.catalog.permit(&caller, CreateProject(community)).await?;
        let mut violations = Violations::default();
        let once = decode::once(
            &self.catalog.keyring,
            "CreateProject",
            &body.request_id,
            &body,
            |project: &Project| pb::Project::from(project.clone()).encode_to_vec(),
            &mut violations,
        );
        let id = decode::optional_id("project_id", &body.project_id, &mut violations);
        let given = decode::body(body.project);
        let texts = decode::texts(
            "project",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        violations.finish()?;
        let new = NewProject { texts };
        decode::answer(self.catalog.create_project(permit, id, new, once).await?)
    }

    async fn get_project(
        &self,
        request: Request<pb::GetProjectRequest>,
    ) -> Result<Response<pb::Project>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, GetProject(name)).await?;
        Ok(Response::new(self.catalog.get_project(permit).await?.into()))
    }

    async fn list_projects(
        &self,
        request: Request<pb::ListProjectsRequest>,
    ) -> Result<Response<pb::ListProjectsResponse>, Status> {
        let (caller, body) = split(request)?;
        let permit = self.catalog.permit(&caller, ListProjects).await?;
        let list = List::read("projects", body.page_size, &body.page_token)?;
        let page = self.catalog.list_projects(permit, list.page()).await?;
        let (projects, next_page_token) = list.answer(page);
        Ok(Response::new(pb::ListProjectsResponse {
            projects,
            next_page_token,
        }))
    }

    async fn update_project(
        &self,
        request: Request<pb::UpdateProjectRequest>,
    ) -> Result<Response<pb::Project>, Status> {
        let (caller, body) = split(request)?;
        let given = decode::body(body.project);
        let name = decode::name("project.name", &given.name)?;
        let permit = self.catalog.permit(&caller, UpdateProject(name)).await?;
        let mut violations = Violations::default();
        let mask = Mask::read(body.update_mask, &TEXT_FIELDS, &["community"], &mut violations);
        let texts = mask.texts(
            "project",
            given.display_name,
            given.description,
            given.labels,
            &mut violations,
        );
        violations.finish()?;
        let change = ProjectChange {
            texts,
            etag: given.etag,
        };
        Ok(Response::new(
            self.catalog.update_project(permit, change).await?.into(),
        ))
    }

    async fn delete_project(
        &self,
        request: Request<pb::DeleteProjectRequest>,
    ) -> Result<Response<()>, Status> {
        let (caller, body) = split(request)?;
        let name = decode::name("name", &body.name)?;
        let permit = self.catalog.permit(&caller, DeleteProject(name)).await?;
        self.catalog.delete_project(permit, &body.etag).await?;
        Ok(Response::new(()))
    }
}

impl From<Project> for pb::Project {
    fn from(project: Project) -> Self {
        let etag = project.meta.etag();
        let Project {
            name,
            meta,
            community,
            community_uid: _,
        } = project;
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
            community: community.to_string(),
        }
    }
}
