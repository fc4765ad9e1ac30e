//! A catalog on a temporary database, with a clock that tests turn, and people who call it. Handlers are called as the
//! gate would call them, so the whole way from message to row is real but for TLS.

use std::sync::Arc;
use std::time::Duration;

use mooring_identity::{Authority, Clock, KeyPin};
use mooring_proto::v1 as pb;
use mooring_proto::v1::access_service_server::AccessService as _;
use mooring_proto::v1::community_service_server::CommunityService as _;
use mooring_proto::v1::connector_service_server::ConnectorService as _;
use mooring_proto::v1::project_service_server::ProjectService as _;
use mooring_proto::v1::user_service_server::UserService as _;
use time::OffsetDateTime;
use tonic::{Request, Status};
use uuid::Uuid;

use crate::api::Api;
use crate::domain::endpoint::EndpointRules;
use crate::ops::{Catalog, Settings, realm};
use crate::policy::{Caller, Identity};
use crate::store::Store;

pub(crate) mod fleet;
pub(crate) mod lists;
pub(crate) mod sharing;

/// A catalog and what it lives on.
pub(crate) struct World {
    /// The handlers.
    pub(crate) api: Api,
    /// The use cases below them.
    pub(crate) catalog: Arc<Catalog>,
    /// The clock that the catalog sees.
    pub(crate) clock: Clock,
    /// `users/operator`.
    pub(crate) operator: Caller,
    /// Where the database and the root key are.
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    /// A catalog after its first start.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap());
        let authority =
            Authority::load_or_create(&dir.path().join("ca"), &"test".parse().unwrap(), clock.now()).unwrap();
        let store = Store::open(&dir.path().join("catalog.db")).await.unwrap();
        let keyring = realm::open_keyring(&store, &clock, &dir.path().join("root.key"))
            .await
            .unwrap();
        assert!(realm::initialise(&store, &clock).await.unwrap());
        let settings = Settings {
            endpoint: "https://127.0.0.1:7443".into(),
            certificate_lifetime: Duration::from_secs(24 * 3600),
            endpoint_rules: Arc::new(EndpointRules::default()),
            host_lost_after: Duration::from_secs(60),
            look_interval: Duration::from_secs(15),
        };
        let catalog = Arc::new(Catalog::new(store, keyring, authority, clock.clone(), settings));
        let snapshot = catalog.read().await.unwrap();
        let operator = crate::store::user::find(&snapshot, &"users/operator".parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        drop(snapshot);
        let operator = caller(operator.meta.uid, clock.now());
        Self {
            api: Api {
                catalog: catalog.clone(),
            },
            catalog,
            clock,
            operator,
            dir,
        }
    }

    /// A new user, who may nothing yet.
    pub(crate) async fn user(&self, id: &str) -> Caller {
        let body = pb::CreateUserRequest {
            user_id: id.into(),
            ..Default::default()
        };
        let user = self
            .api
            .create_user(request(&self.operator, body))
            .await
            .unwrap()
            .into_inner();
        caller(user.uid.parse().unwrap(), self.clock.now())
    }

    /// A new user with this role on `projects/…`, `communities/…` or `realm`, as `developer`.
    pub(crate) async fn user_with(&self, id: &str, role: pb::Role, resource: &str, admin: &Caller) -> Caller {
        let user = self.user(id).await;
        self.grant(id, role, resource, admin).await.unwrap();
        user
    }

    /// Gives a role.
    pub(crate) async fn grant(
        &self,
        id: &str,
        role: pb::Role,
        resource: &str,
        admin: &Caller,
    ) -> Result<(), Status> {
        let body = pb::UpdateAccessBindingsRequest {
            resource: resource.into(),
            add: vec![pb::AccessBinding {
                role: role.into(),
                member: format!("user:{id}"),
            }],
            remove: Vec::new(),
        };
        self.api
            .update_access_bindings(request(admin, body))
            .await
            .map(drop)
    }

    /// Takes a role.
    pub(crate) async fn revoke(
        &self,
        id: &str,
        role: pb::Role,
        resource: &str,
        admin: &Caller,
    ) -> Result<(), Status> {
        let body = pb::UpdateAccessBindingsRequest {
            resource: resource.into(),
            add: Vec::new(),
            remove: vec![pb::AccessBinding {
                role: role.into(),
                member: format!("user:{id}"),
            }],
        };
        self.api
            .update_access_bindings(request(admin, body))
            .await
            .map(drop)
    }

    /// A community, made by the operator, who is its Admin then.
    pub(crate) async fn community(&self, id: &str) -> pb::Community {
        let body = pb::CreateCommunityRequest {
            community_id: id.into(),
            ..Default::default()
        };
        self.api
            .create_community(request(&self.operator, body))
            .await
            .unwrap()
            .into_inner()
    }

    /// A project in a community, made by somebody who may.
    pub(crate) async fn project(&self, id: &str, community: &str, by: &Caller) -> pb::Project {
        let body = pb::CreateProjectRequest {
            project_id: id.into(),
            project: Some(pb::Project {
                community: format!("communities/{community}"),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.api
            .create_project(request(by, body))
            .await
            .unwrap()
            .into_inner()
    }

    /// A connector with its own secret.
    pub(crate) async fn connector(&self, id: &str, project: &str, by: &Caller) -> pb::Connector {
        self.api
            .create_connector(request(by, new_connector(id, project)))
            .await
            .unwrap()
            .into_inner()
    }

    /// The newest revision.
    pub(crate) async fn revision(&self) -> i64 {
        let snapshot = self.catalog.read().await.unwrap();
        crate::store::realm::get(&snapshot).await.unwrap().revision
    }
}

/// A good connector with a new secret, to be changed for a test.
pub(crate) fn new_connector(id: &str, project: &str) -> pb::CreateConnectorRequest {
    pb::CreateConnectorRequest {
        parent: format!("projects/{project}"),
        connector_id: id.into(),
        connector: Some(pb::Connector {
            endpoint: "https://s3.example.com".into(),
            bucket: "data".into(),
            access_key_id: "AKID".into(),
            ..Default::default()
        }),
        new_secret: Some(pb::NewSecret {
            secret_access_key: "planted-secret-value".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Who has a valid certificate of this user.
pub(crate) fn caller(uid: Uuid, now: OffsetDateTime) -> Caller {
    Caller::User(Identity {
        uid,
        serial: "01".into(),
        not_after: now + time::Duration::days(1),
        key: KeyPin::of_public_key(uid.as_bytes()),
    })
}

/// A call, as it comes out of the gate.
pub(crate) fn request<T>(caller: &Caller, body: T) -> Request<T> {
    let mut request = Request::new(body);
    request.extensions_mut().insert(Arc::new(caller.clone()));
    request
}

/// The wrong fields of a refused request, each with what is said of it.
pub(crate) fn wrong_fields(status: &Status) -> Vec<(String, String)> {
    use tonic_types::StatusExt;
    let fields = status
        .get_error_details()
        .bad_request()
        .map(|bad| bad.field_violations.clone())
        .unwrap_or_default();
    fields
        .into_iter()
        .map(|violation| (violation.field, violation.description))
        .collect()
}
