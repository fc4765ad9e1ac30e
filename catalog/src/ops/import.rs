//! Imports: made by editors of a project from what is offered in its community.

use super::{Answer, Catalog, Once, field_list};
use crate::domain::audit::{Change, EventKind};
use crate::domain::import::{Import, ImportChange, NewImport, checked_mode};
use crate::domain::names::{CommunityName, ImportName, ProjectName, Scope};
use crate::domain::publication::{Publication, PublicationState};
use crate::domain::{Error, Id, Meta, Mode, Page, Paged};
use crate::policy::{Action, Permit};
use crate::store::{self, Snapshot, Writing};

/// Import what a community offers into a project: two permissions, one on each.
#[derive(Debug)]
pub struct ImportPublication {
    /// The project.
    pub project: ProjectName,
    /// The community of the publication.
    pub community: CommunityName,
}

impl Action for ImportPublication {
    const RPC: &'static str = "mooring.v1.PublicationService/ImportPublication";

    fn scopes(&self) -> Vec<Scope> {
        vec![
            Scope::Project(self.project.clone()),
            Scope::Community(self.community.clone()),
        ]
    }
}

macro_rules! import_action {
    ($(#[$doc:meta])* $action:ident($target:ty), $rpc:literal, $project:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $action(pub $target);

        impl Action for $action {
            const RPC: &'static str = concat!("mooring.v1.PublicationService/", $rpc);

            fn scopes(&self) -> Vec<Scope> {
                let project: fn(&$target) -> &ProjectName = $project;
                vec![Scope::Project(project(&self.0).clone())]
            }
        }
    };
}

import_action!(
    /// Read an import.
    GetImport(ImportName), "GetImport", ImportName::project
);
import_action!(
    /// List a project's imports.
    ListImports(ProjectName), "ListImports", |project| project
);
import_action!(
    /// Change an import.
    UpdateImport(ImportName), "UpdateImport", ImportName::project
);
import_action!(
    /// Drop an import.
    DeleteImport(ImportName), "DeleteImport", ImportName::project
);

/// An import and what it leads to.
#[derive(Clone, Debug)]
pub struct ImportView {
    /// The import.
    pub import: Import,
    /// The least of connector, publication and import; `None` when the connector is gone.
    pub effective_mode: Option<Mode>,
    /// How the publication is.
    pub publication_state: Option<PublicationState>,
}

impl Catalog {
    /// Imports a publication into a project of its community.
    pub async fn import_publication(
        &self,
        permit: Permit<ImportPublication>,
        id: Option<Id>,
        new: NewImport,
        once: Once<ImportView>,
    ) -> Result<Answer<ImportView>, Error> {
        let writing = self.write().await?;
        let (ImportPublication { project, community }, actor) = permit.spend(&writing).await?;
        if let Some(answer) = once.answered(&writing, &actor).await? {
            return Ok(answer);
        }
        let project = store::project::get(&writing, &project).await?;
        let NewImport {
            texts,
            publication,
            mount_name,
            mode,
        } = new;
        if project.community != community {
            return Err(Error::invalid(
                "import.publication",
                format!(
                    "it is offered in {community}, but {} belongs to {}; ask its owner to publish it there too",
                    project.name, project.community
                ),
            ));
        }
        let publication = store::publication::find(&writing, &publication)
            .await?
            .ok_or_else(|| Error::absent(&publication))?;
        if !publication.state.is_open() {
            return Err(Error::Precondition {
                reason: "PublicationWithdrawn",
                subject: publication.name.to_string(),
                problem: format!(
                    "{} is withdrawn and cannot be imported; ask its owner",
                    publication.name
                ),
            });
        }
        let uid = self.clock.new_uid();
        let id = id.unwrap_or_else(|| Id::made_of(uid, 'i'));
        let name = ImportName::new(project.name.clone(), id.clone());
        if store::import::find(&writing, &name).await?.is_some() {
            return Err(Error::NameTaken {
                resource: name.to_string(),
                problem: "exists already; choose another id",
            });
        }
        let import = Import {
            name,
            meta: Meta::new(uid, texts, actor.name.to_string(), writing.now()),
            project_uid: project.meta.uid,
            publication: publication.name,
            publication_uid: publication.meta.uid,
            mount_name: mount_name.unwrap_or(id),
            mode,
        };
        check(&writing, &import).await?;
        store::import::insert(&writing, &import).await?;
        let view = view(&writing, import).await?;
        once.keep(&writing, &actor, &view).await?;
        let import = &view.import;
        let change = Change::new(
            &actor.name,
            "ImportPublication",
            EventKind::Created,
            &import.name,
            uid,
        )
        .in_project(project.meta.uid, project.community_uid)
        .detail("publication", &import.publication);
        writing.commit(change).await?;
        Ok(Answer::New(view))
    }

    /// Reads an import.
    pub async fn get_import(&self, permit: Permit<GetImport>) -> Result<ImportView, Error> {
        let snapshot = self.read().await?;
        let (GetImport(name), _) = permit.spend(&snapshot).await?;
        view(&snapshot, find(&snapshot, &name).await?).await
    }

    /// Lists a project's imports.
    pub async fn list_imports(
        &self,
        permit: Permit<ListImports>,
        page: &Page,
    ) -> Result<Paged<ImportView>, Error> {
        let snapshot = self.read().await?;
        let (ListImports(project), _) = permit.spend(&snapshot).await?;
        let project = store::project::get(&snapshot, &project).await?;
        let Paged { items, next } = store::import::list(&snapshot, project.meta.uid, page).await?;
        let mut views = Vec::with_capacity(items.len());
        for import in items {
            views.push(view(&snapshot, import).await?);
        }
        Ok(Paged { items: views, next })
    }

    /// Changes an import. Folder and mode change only while it is not active: they are what is mounted.
    pub async fn update_import(
        &self,
        permit: Permit<UpdateImport>,
        change: ImportChange,
    ) -> Result<ImportView, Error> {
        let writing = self.write().await?;
        let (UpdateImport(name), actor) = permit.spend(&writing).await?;
        let project = store::project::get(&writing, name.project()).await?;
        let mut import = find(&writing, &name).await?;
        let fields = field_list(change.fields().into_iter());
        let ImportChange {
            texts,
            mount_name,
            mode,
            etag,
        } = change;
        import.meta.check_etag(&etag, &name)?;
        let before = (import.mount_name.clone(), import.mode);
        import.mount_name = mount_name.unwrap_or(import.mount_name);
        import.mode = mode.unwrap_or(import.mode);
        if (&import.mount_name, import.mode) != (&before.0, before.1) {
            let standing = self.standing_activations(&writing, import.meta.uid).await?;
            if !standing.is_empty() {
                return Err(Error::in_use(
                    &name,
                    &standing,
                    "deactivate those before its folder or mode changes",
                ));
            }
            check(&writing, &import).await?;
        }
        import.meta.change(texts, writing.now());
        store::import::update(&writing, &import).await?;
        let change = Change::new(
            &actor.name,
            "UpdateImport",
            EventKind::Updated,
            &name,
            import.meta.uid,
        )
        .in_project(project.meta.uid, project.community_uid)
        .detail("fields", fields);
        let view = view(&writing, import).await?;
        writing.commit(change).await?;
        Ok(view)
    }

    /// Drops an import that is not active.
    pub async fn delete_import(&self, permit: Permit<DeleteImport>, etag: &str) -> Result<(), Error> {
        let writing = self.write().await?;
        let (DeleteImport(name), actor) = permit.spend(&writing).await?;
        let project = store::project::get(&writing, name.project()).await?;
        let import = find(&writing, &name).await?;
        import.meta.check_etag(etag, &name)?;
        let uid = import.meta.uid;
        let standing = self.standing_activations(&writing, uid).await?;
        if !standing.is_empty() {
            return Err(Error::in_use(
                &name,
                &standing,
                "deactivate those and wait until they are INACTIVE",
            ));
        }
        store::activation::delete_ended_of_target(&writing, uid).await?;
        store::import::delete(&writing, uid).await?;
        let change = Change::new(&actor.name, "DeleteImport", EventKind::Deleted, &name, uid)
            .in_project(project.meta.uid, project.community_uid);
        writing.commit(change).await?;
        Ok(())
    }
}

/// Claims the folder, and holds the mode against the publication's.
async fn check(writing: &Writing, import: &Import) -> Result<(), Error> {
    let mut violations = crate::domain::Violations::default();
    if !store::mount_name::claim(writing, import.project_uid, &import.mount_name, import.meta.uid).await? {
        violations.add(
            "import.mount_name",
            format!(
                "another connector or import of {} has the folder `{}`; choose another name",
                import.name.project(),
                import.mount_name
            ),
        );
    }
    let publication = store::publication::by_uid(writing, import.publication_uid).await?;
    if let Some(bound) = bound(writing, publication.as_ref()).await? {
        violations.take(
            "import.mode",
            checked_mode(import.mode, bound, "what the publication allows"),
        );
    }
    violations.finish()
}

/// The least of connector and publication; `None` when one of them is gone.
async fn bound(snapshot: &Snapshot, publication: Option<&Publication>) -> Result<Option<Mode>, Error> {
    let Some(publication) = publication else {
        return Ok(None);
    };
    let connector = store::connector::by_uid(snapshot, publication.connector_uid).await?;
    Ok(connector.map(|connector| {
        connector
            .spec
            .mode
            .min(publication.max_mode.unwrap_or(Mode::ReadWrite))
    }))
}

async fn view(snapshot: &Snapshot, import: Import) -> Result<ImportView, Error> {
    let publication = store::publication::by_uid(snapshot, import.publication_uid).await?;
    let bound = bound(snapshot, publication.as_ref()).await?;
    Ok(ImportView {
        effective_mode: bound.map(|bound| bound.min(import.mode.unwrap_or(bound))),
        publication_state: publication.map(|publication| publication.state),
        import,
    })
}

async fn find(snapshot: &Snapshot, name: &ImportName) -> Result<Import, Error> {
    store::import::find(snapshot, name)
        .await?
        .ok_or_else(|| Error::absent(name))
}
