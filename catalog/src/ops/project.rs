//! Projects: made by developers of a community, changed and deleted by their editors.

use super::{Answer, Catalog, Once, field_list};
use crate::domain::access::Role;
use crate::domain::audit::{Change, EventKind};
use crate::domain::names::{CommunityName, ProjectName, Scope};
use crate::domain::project::{NewProject, Project, ProjectChange};
use crate::domain::{Error, Id, Meta, Page, Paged};
use crate::policy::rules::Permission;
use crate::policy::{self, Action, Permit};
use crate::store;

/// Create a project in this community.
#[derive(Debug)]
pub struct CreateProject(pub CommunityName);

impl Action for CreateProject {
    const RPC: &'static str = "mooring.v1.ProjectService/CreateProject";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Community(self.0.clone())]
    }
}

/// Read a project.
#[derive(Debug)]
pub struct GetProject(pub ProjectName);

impl Action for GetProject {
    const RPC: &'static str = "mooring.v1.ProjectService/GetProject";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Project(self.0.clone())]
    }
}

/// List projects.
#[derive(Debug)]
pub struct ListProjects;

impl Action for ListProjects {
    const RPC: &'static str = "mooring.v1.ProjectService/ListProjects";

    fn scopes(&self) -> Vec<Scope> {
        Vec::new()
    }
}

/// Change a project.
#[derive(Debug)]
pub struct UpdateProject(pub ProjectName);

impl Action for UpdateProject {
    const RPC: &'static str = "mooring.v1.ProjectService/UpdateProject";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Project(self.0.clone())]
    }
}

/// Delete a project.
#[derive(Debug)]
pub struct DeleteProject(pub ProjectName);

impl Action for DeleteProject {
    const RPC: &'static str = "mooring.v1.ProjectService/DeleteProject";

    fn scopes(&self) -> Vec<Scope> {
        vec![Scope::Project(self.0.clone())]
    }
}

impl Catalog {
    /// Creates a project; the caller becomes its Admin.
    pub async fn create_project(
        &self,
        permit: Permit<CreateProject>,
        id: Option<Id>,
        new: NewProject,
        once: Once<Project>,
    ) -> Result<Answer<Project>, Error> {
        let writing = self.write().await?;
        let (CreateProject(community), actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let uid = self.clock.new_uid();
        let name = ProjectName::new(id.unwrap_or_else(|| Id::made_of(uid, 'p')));
        // Project ids are unique in the realm, so this tells of a project that the caller cannot see; but not whether it
        // is still there.
        let exists = store::project::find(&writing, &name).await?.is_some();
        if exists || store::realm::is_retired(&writing, &name).await? {
            let scope = Scope::Project(name.clone());
            let seen = exists && policy::holds(&writing, actor.uid, Permission::ProjectsGet, &scope).await?;
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: if seen {
                    "exists already; choose another id"
                } else {
                    "exists, or did once, and a name is not given out again; choose another id"
                },
            });
        }
        let parent = store::community::find(&writing, &community)
            .await?
            .ok_or_else(|| Error::absent(&community))?;
        let NewProject { texts } = new;
        let project = Project {
            name,
            meta: Meta::new(uid, texts, actor.name.to_string(), writing.now()),
            community,
            community_uid: parent.meta.uid,
        };
        store::project::insert(&writing, &project).await?;
        store::access::insert(&writing, uid, actor.uid, Role::Admin).await?;
        once.keep(&writing, &actor, &project).await?;
        let change = Change::new(
            &actor.name,
            "CreateProject",
            EventKind::Created,
            &project.name,
            uid,
        );
        writing
            .commit(change.in_project(uid, project.community_uid))
            .await?;
        Ok(Answer::New(project))
    }

    /// Reads a project.
    pub async fn get_project(&self, permit: Permit<GetProject>) -> Result<Project, Error> {
        let snapshot = self.read().await?;
        let (GetProject(name), _) = permit.spend(&snapshot).await?;
        store::project::get(&snapshot, &name).await
    }

    /// Lists the projects the caller may see.
    pub async fn list_projects(
        &self,
        permit: Permit<ListProjects>,
        page: &Page,
    ) -> Result<Paged<Project>, Error> {
        let snapshot = self.read().await?;
        let (ListProjects, actor) = permit.spend(&snapshot).await?;
        let all = policy::holds(&snapshot, actor.uid, Permission::ProjectsGet, &Scope::Realm).await?;
        store::project::list(&snapshot, actor.uid, all, page).await
    }

    /// Changes a project's texts.
    pub async fn update_project(
        &self,
        permit: Permit<UpdateProject>,
        change: ProjectChange,
    ) -> Result<Project, Error> {
        let writing = self.write().await?;
        let (UpdateProject(name), actor) = permit.spend(&writing).await?;
        let mut project = store::project::get(&writing, &name).await?;
        let ProjectChange { texts, etag } = change;
        project.meta.check_etag(&etag, &name)?;
        let fields = field_list(texts.fields());
        project.meta.change(texts, writing.now());
        store::project::update(&writing, &project).await?;
        let change = Change::new(
            &actor.name,
            "UpdateProject",
            EventKind::Updated,
            &name,
            project.meta.uid,
        )
        .in_project(project.meta.uid, project.community_uid)
        .detail("fields", fields);
        writing.commit(change).await?;
        Ok(project)
    }

    /// Deletes a project that owns nothing any more. Its name is not given out again.
    pub async fn delete_project(&self, permit: Permit<DeleteProject>, etag: &str) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeleteProject(name), actor) = permit.spend(&writing).await?;
        let project = store::project::get(&writing, &name).await?;
        project.meta.check_etag(etag, &name)?;
        let users = store::usage::of_project(&writing, &project).await?;
        if !users.is_empty() {
            return Err(Error::in_use(&name, &users, "delete them first"));
        }
        store::project::delete(&writing, &project).await?;
        let change = Change::new(
            &actor.name,
            "DeleteProject",
            EventKind::Deleted,
            &name,
            project.meta.uid,
        )
        .in_project(project.meta.uid, project.community_uid);
        writing.commit(change).await?;
        Ok(())
    }
}
