//! Imports over gRPC. The service they are part of is in `api/publication.rs`.

use prost::Message;
use tonic::{Request, Response, Status};

use mooring_proto::v1 as pb;

use super::decode::{self, List, Mask, split, timestamp};
use super::{Api, words};
use crate::domain::Violations;
use crate::domain::import::{Import, ImportChange, NewImport};
use crate::domain::names::PublicationName;
use crate::ops::import::{DeleteImport, GetImport, ImportPublication, ImportView, ListImports, UpdateImport};

pub(super) async fn create(
    api: &Api,
    request: Request<pb::ImportPublicationRequest>,
) -> Result<Response<pb::Import>, Status> {
    let (caller, body) = split(request)?;
    let project = decode::name("parent", &body.parent)?;
    let publication = body.import.as_ref().map_or("", |import| &import.publication);
    let publication: PublicationName = decode::name("import.publication", publication)?;
    let action = ImportPublication {
        project,
        community: publication.community().clone(),
    };
    let permit = api.catalog.permit(&caller, action).await?;
    let mut violations = Violations::default();
    let once = decode::once(
        &api.catalog.keyring,
        "ImportPublication",
        &body.request_id,
        &body,
        |view: &ImportView| pb::Import::from(view.clone()).encode_to_vec(),
        &mut violations,
    );
    let id = decode::optional_id("import_id", &body.import_id, &mut violations);
    let given = decode::body(body.import);
    let texts = decode::texts(
        "import",
        given.display_name,
        given.description,
        given.labels,
        &mut violations,
    );
    let mount_name = decode::optional_id("import.mount_name", &given.mount_name, &mut violations);
    let mode = words::optional_mode("import.mode", given.mode, &mut violations);
    violations.finish()?;
    let new = NewImport {
        texts,
        publication,
        mount_name,
        mode,
    };
    decode::answer(api.catalog.import_publication(permit, id, new, once).await?)
}

pub(super) async fn get(
    api: &Api,
    request: Request<pb::GetImportRequest>,
) -> Result<Response<pb::Import>, Status> {
    let (caller, body) = split(request)?;
    let name = decode::name("name", &body.name)?;
    let permit = api.catalog.permit(&caller, GetImport(name)).await?;
    Ok(Response::new(api.catalog.get_import(permit).await?.into()))
}

pub(super) async fn list(
    api: &Api,
    request: Request<pb::ListImportsRequest>,
) -> Result<Response<pb::ListImportsResponse>, Status> {
    let (caller, body) = split(request)?;
    let project = decode::name("parent", &body.parent)?;
    let permit = api.catalog.permit(&caller, ListImports(project)).await?;
    let list = List::read(
        format!("imports of {}", body.parent),
        body.page_size,
        &body.page_token,
    )?;
    let page = api.catalog.list_imports(permit, list.page()).await?;
    let (imports, next_page_token) = list.answer(page);
    Ok(Response::new(pb::ListImportsResponse {
        imports,
        next_page_token,
    }))
}

pub(super) async fn update(
    api: &Api,
    request: Request<pb::UpdateImportRequest>,
) -> Result<Response<pb::Import>, Status> {
    let (caller, body) = split(request)?;
    let given = decode::body(body.import);
    let name: crate::domain::names::ImportName = decode::name("import.name", &given.name)?;
    let own_id = name.id().clone();
    let permit = api.catalog.permit(&caller, UpdateImport(name)).await?;
    let mut violations = Violations::default();
    let mutable = ["display_name", "description", "labels", "mount_name", "mode"];
    let mask = Mask::read(body.update_mask, &mutable, &["publication"], &mut violations);
    let texts = mask.texts(
        "import",
        given.display_name,
        given.description,
        given.labels,
        &mut violations,
    );
    let mount_name = mask
        .pick("mount_name", given.mount_name)
        .and_then(|text| match text.as_str() {
            "" => Some(own_id),
            text => violations.take("import.mount_name", text.parse()),
        });
    let mode = mask
        .pick("mode", given.mode)
        .map(|number| words::optional_mode("import.mode", number, &mut violations));
    violations.finish()?;
    let change = ImportChange {
        texts,
        mount_name,
        mode,
        etag: given.etag,
    };
    Ok(Response::new(
        api.catalog.update_import(permit, change).await?.into(),
    ))
}

pub(super) async fn delete(
    api: &Api,
    request: Request<pb::DeleteImportRequest>,
) -> Result<Response<()>, Status> {
    let (caller, body) = split(request)?;
    let name = decode::name("name", &body.name)?;
    let permit = api.catalog.permit(&caller, DeleteImport(name)).await?;
    api.catalog.delete_import(permit, &body.etag).await?;
    Ok(Response::new(()))
}

impl From<ImportView> for pb::Import {
    fn from(view: ImportView) -> Self {
        let ImportView {
            import,
            effective_mode,
            publication_state,
        } = view;
        let etag = import.meta.etag();
        let Import {
            name,
            meta,
            project_uid: _,
            publication,
            publication_uid: _,
            mount_name,
            mode,
        } = import;
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
            publication: publication.to_string(),
            mount_name: mount_name.to_string(),
            mode: words::mode(mode),
            effective_mode: words::mode(effective_mode),
            publication_state: words::publication_state(publication_state),
        }
    }
}
