//! The one table of who may do what. What is not in it is denied; a test holds it against the descriptors, and
//! another prints it as a matrix of roles × permissions.

use crate::domain::access::Role::{self, Admin, Developer, Editor, Viewer};
use Operators::{Anywhere, Never, OnRealm, OnRealmAndOrphans};
use Permission::*;

/// Something that can be permitted. Its name, such as `connectors.create`, is what denials and ExplainAccess speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Change users and see them all.
    UsersManage,
    /// Create a community.
    CommunitiesCreate,
    /// See a community.
    CommunitiesGet,
    /// Change a community's texts.
    CommunitiesUpdate,
    /// Delete a community.
    CommunitiesDelete,
    /// Create a project in a community.
    ProjectsCreate,
    /// See a project.
    ProjectsGet,
    /// Change a project's texts.
    ProjectsUpdate,
    /// Delete a project.
    ProjectsDelete,
    /// See who has which role.
    AccessList,
    /// Give and take roles.
    AccessGrant,
    /// See secrets, without their values.
    SecretsGet,
    /// Create a secret.
    SecretsCreate,
    /// Change a secret and its versions.
    SecretsUpdate,
    /// Change a secret that a published connector uses.
    SecretsUpdatePublished,
    /// Delete a secret.
    SecretsDelete,
    /// See connectors.
    ConnectorsGet,
    /// Create a connector.
    ConnectorsCreate,
    /// Change a connector.
    ConnectorsUpdate,
    /// Change more than the texts of a published connector.
    ConnectorsUpdatePublished,
    /// Delete a connector.
    ConnectorsDelete,
    /// Offer a connector to a community: the project's half.
    ConnectorsPublish,
    /// Offer a connector in a community: the community's half.
    PublicationsCreate,
    /// See what is offered in a community.
    PublicationsGet,
    /// Change an offer.
    PublicationsUpdate,
    /// Take an offer back.
    PublicationsWithdraw,
    /// See imports.
    ImportsGet,
    /// Import, and change or drop an import.
    ImportsManage,
    /// See activations and mounts.
    ActivationsGet,
    /// Activate and deactivate.
    ActivationsManage,
    /// Change pools.
    PoolsManage,
    /// See all hosts and change them.
    HostsManage,
    /// Make, list and revoke join tokens.
    JoinTokensManage,
    /// Read the audit.
    AuditList,
}

/// Which role a permission needs, on each scope where it can be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// What is permitted.
    pub permission: Permission,
    /// Its name.
    pub name: &'static str,
    /// The least role on a project; `None` if it is never judged there.
    pub project: Option<Role>,
    /// The least role on a community.
    pub community: Option<Role>,
    /// Where Operator gives it.
    pub operators: Operators,
}

/// Where Operator gives a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operators {
    /// Nowhere: it belongs to the members of projects and communities.
    Never,
    /// When it is asked for on the realm.
    OnRealm,
    /// On the realm, and on communities that nobody administers any more: somebody must be able to hand those on.
    OnRealmAndOrphans,
    /// Also on every project and community.
    Anywhere,
}

const fn need(
    permission: Permission,
    name: &'static str,
    project: Option<Role>,
    community: Option<Role>,
    operators: Operators,
) -> Need {
    Need {
        permission,
        name,
        project,
        community,
        operators,
    }
}

/// Permission × least role. Operators see which communities and projects there are, and no more of them.
#[rustfmt::skip]
pub const NEEDS: &[Need] = &[
    //                                                               project          community        operators
    need(UsersManage,               "users.manage",                  None,            None,            OnRealm),
    need(CommunitiesCreate,         "communities.create",            None,            None,            OnRealm),
    need(CommunitiesGet,            "communities.get",               None,            Some(Viewer),    Anywhere),
    need(CommunitiesUpdate,         "communities.update",            None,            Some(Editor),    Never),
    need(CommunitiesDelete,         "communities.delete",            None,            Some(Editor),    Never),
    need(ProjectsCreate,            "projects.create",               None,            Some(Developer), Never),
    need(ProjectsGet,               "projects.get",                  Some(Viewer),    None,            Anywhere),
    need(ProjectsUpdate,            "projects.update",               Some(Editor),    None,            Never),
    need(ProjectsDelete,            "projects.delete",               Some(Editor),    None,            Never),
    need(AccessList,                "access.list",                   Some(Viewer),    Some(Viewer),    OnRealmAndOrphans),
    need(AccessGrant,               "access.grant",                  Some(Admin),     Some(Admin),     OnRealmAndOrphans),
    need(SecretsGet,                "secrets.get",                   Some(Viewer),    None,            Never),
    need(SecretsCreate,             "secrets.create",                Some(Developer), None,            Never),
    need(SecretsUpdate,             "secrets.update",                Some(Developer), None,            Never),
    need(SecretsUpdatePublished,    "secrets.updatePublished",       Some(Editor),    None,            Never),
    need(SecretsDelete,             "secrets.delete",                Some(Developer), None,            Never),
    need(ConnectorsGet,             "connectors.get",                Some(Viewer),    None,            Never),
    need(ConnectorsCreate,          "connectors.create",             Some(Developer), None,            Never),
    need(ConnectorsUpdate,          "connectors.update",             Some(Developer), None,            Never),
    need(ConnectorsUpdatePublished, "connectors.updatePublished",    Some(Editor),    None,            Never),
    need(ConnectorsDelete,          "connectors.delete",             Some(Developer), None,            Never),
    need(ConnectorsPublish,         "connectors.publish",            Some(Editor),    None,            Never),
    need(PublicationsCreate,        "publications.create",           None,            Some(Developer), Never),
    need(PublicationsGet,           "publications.get",              None,            Some(Viewer),    Never),
    need(PublicationsUpdate,        "publications.update",           Some(Editor),    None,            Never),
    need(PublicationsWithdraw,      "publications.withdraw",         Some(Editor),    Some(Editor),    Never),
    need(ImportsGet,                "imports.get",                   Some(Viewer),    None,            Never),
    need(ImportsManage,             "imports.manage",                Some(Editor),    None,            Never),
    need(ActivationsGet,            "activations.get",               Some(Viewer),    None,            Never),
    need(ActivationsManage,         "activations.manage",            Some(Developer), None,            Never),
    need(PoolsManage,               "pools.manage",                  None,            None,            OnRealm),
    need(HostsManage,               "hosts.manage",                  None,            None,            OnRealm),
    need(JoinTokensManage,          "joinTokens.manage",             None,            None,            OnRealm),
    need(AuditList,                 "audit.list",                    Some(Editor),    Some(Editor),    Anywhere),
];

impl Permission {
    /// The row of the table.
    pub fn need(self) -> &'static Need {
        NEEDS
            .iter()
            .find(|need| need.permission == self)
            .expect("a test proves that every permission has its row")
    }

    /// The permission with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        NEEDS
            .iter()
            .find(|need| need.name == name)
            .map(|need| need.permission)
    }
}

/// Who may call an rpc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody; rate-limited.
    Anybody,
    /// Every user, or anybody's expired certificate that may still be renewed: the use case looks closer.
    ExpiredUser,
    /// Every enabled user; what the answer holds depends on their roles.
    User,
    /// A host, for what is its own.
    Host,
    /// A user with this permission on what the request names.
    With(Permission),
    /// A user with each of these, each on its own scope.
    WithAll(&'static [Permission]),
    /// A user with one of these, each on its own scope.
    WithAny(&'static [Permission]),
}

/// One row: rpc and who may call it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// `package.Service/Method`.
    pub rpc: &'static str,
    /// Who may.
    pub access: Access,
}

const fn rule(rpc: &'static str, access: Access) -> Rule {
    Rule { rpc, access }
}

/// Every rpc and who may call it. An rpc that is missing here is refused.
pub const RULES: &[Rule] = &[
    rule("mooring.v1.UserService/CreateUser", Access::With(UsersManage)),
    rule("mooring.v1.UserService/GetUser", Access::With(UsersManage)),
    rule("mooring.v1.UserService/ListUsers", Access::With(UsersManage)),
    rule("mooring.v1.UserService/UpdateUser", Access::With(UsersManage)),
    rule("mooring.v1.UserService/DeleteUser", Access::With(UsersManage)),
    rule("mooring.v1.UserService/DisableUser", Access::With(UsersManage)),
    rule("mooring.v1.UserService/EnableUser", Access::With(UsersManage)),
    rule(
        "mooring.v1.CommunityService/CreateCommunity",
        Access::With(CommunitiesCreate),
    ),
    rule(
        "mooring.v1.CommunityService/GetCommunity",
        Access::With(CommunitiesGet),
    ),
    rule("mooring.v1.CommunityService/ListCommunities", Access::User),
    rule(
        "mooring.v1.CommunityService/UpdateCommunity",
        Access::With(CommunitiesUpdate),
    ),
    rule(
        "mooring.v1.CommunityService/DeleteCommunity",
        Access::With(CommunitiesDelete),
    ),
    rule(
        "mooring.v1.ProjectService/CreateProject",
        Access::With(ProjectsCreate),
    ),
    rule("mooring.v1.ProjectService/GetProject", Access::With(ProjectsGet)),
    rule("mooring.v1.ProjectService/ListProjects", Access::User),
    rule(
        "mooring.v1.ProjectService/UpdateProject",
        Access::With(ProjectsUpdate),
    ),
    rule(
        "mooring.v1.ProjectService/DeleteProject",
        Access::With(ProjectsDelete),
    ),
    rule(
        "mooring.v1.AccessService/ListAccessBindings",
        Access::With(AccessList),
    ),
    rule(
        "mooring.v1.AccessService/SetAccessBindings",
        Access::With(AccessGrant),
    ),
    rule(
        "mooring.v1.AccessService/UpdateAccessBindings",
        Access::With(AccessGrant),
    ),
    rule("mooring.v1.AccessService/TestPermissions", Access::User),
    rule("mooring.v1.AccessService/ExplainAccess", Access::User),
    rule(
        "mooring.v1.SecretService/CreateSecret",
        Access::With(SecretsCreate),
    ),
    rule("mooring.v1.SecretService/GetSecret", Access::With(SecretsGet)),
    rule("mooring.v1.SecretService/ListSecrets", Access::With(SecretsGet)),
    rule(
        "mooring.v1.SecretService/UpdateSecret",
        Access::With(SecretsUpdate),
    ),
    rule(
        "mooring.v1.SecretService/DeleteSecret",
        Access::With(SecretsDelete),
    ),
    rule(
        "mooring.v1.SecretService/AddSecretVersion",
        Access::With(SecretsUpdate),
    ),
    rule(
        "mooring.v1.SecretService/ListSecretVersions",
        Access::With(SecretsGet),
    ),
    rule(
        "mooring.v1.SecretService/EnableSecretVersion",
        Access::With(SecretsUpdate),
    ),
    rule(
        "mooring.v1.SecretService/DisableSecretVersion",
        Access::With(SecretsUpdate),
    ),
    rule(
        "mooring.v1.SecretService/DestroySecretVersion",
        Access::With(SecretsUpdate),
    ),
    rule(
        "mooring.v1.ConnectorService/CreateConnector",
        Access::With(ConnectorsCreate),
    ),
    rule(
        "mooring.v1.ConnectorService/GetConnector",
        Access::With(ConnectorsGet),
    ),
    rule(
        "mooring.v1.ConnectorService/ListConnectors",
        Access::With(ConnectorsGet),
    ),
    rule(
        "mooring.v1.ConnectorService/UpdateConnector",
        Access::With(ConnectorsUpdate),
    ),
    rule(
        "mooring.v1.ConnectorService/DeleteConnector",
        Access::With(ConnectorsDelete),
    ),
    rule(
        "mooring.v1.PublicationService/PublishConnector",
        Access::WithAll(&[ConnectorsPublish, PublicationsCreate]),
    ),
    rule(
        "mooring.v1.PublicationService/UpdatePublication",
        Access::With(PublicationsUpdate),
    ),
    rule(
        "mooring.v1.PublicationService/WithdrawPublication",
        Access::With(PublicationsWithdraw),
    ),
    rule(
        "mooring.v1.PublicationService/GetPublication",
        Access::With(PublicationsGet),
    ),
    rule(
        "mooring.v1.PublicationService/ListPublications",
        Access::With(PublicationsGet),
    ),
    rule(
        "mooring.v1.PublicationService/ImportPublication",
        Access::WithAll(&[ImportsManage, PublicationsGet]),
    ),
    rule(
        "mooring.v1.PublicationService/GetImport",
        Access::With(ImportsGet),
    ),
    rule(
        "mooring.v1.PublicationService/ListImports",
        Access::With(ImportsGet),
    ),
    rule(
        "mooring.v1.PublicationService/UpdateImport",
        Access::With(ImportsManage),
    ),
    rule(
        "mooring.v1.PublicationService/DeleteImport",
        Access::With(ImportsManage),
    ),
    rule(
        "mooring.v1.ActivationService/Activate",
        Access::With(ActivationsManage),
    ),
    rule(
        "mooring.v1.ActivationService/Deactivate",
        Access::With(ActivationsManage),
    ),
    rule(
        "mooring.v1.ActivationService/GetActivation",
        Access::With(ActivationsGet),
    ),
    rule(
        "mooring.v1.ActivationService/ListActivations",
        Access::With(ActivationsGet),
    ),
    rule(
        "mooring.v1.ActivationService/ListMounts",
        Access::WithAny(&[ActivationsGet, HostsManage]),
    ),
    rule("mooring.v1.HostService/CreatePool", Access::With(PoolsManage)),
    rule("mooring.v1.HostService/GetPool", Access::User),
    rule("mooring.v1.HostService/ListPools", Access::User),
    rule("mooring.v1.HostService/UpdatePool", Access::With(PoolsManage)),
    rule("mooring.v1.HostService/DeletePool", Access::With(PoolsManage)),
    rule("mooring.v1.HostService/GetHost", Access::With(HostsManage)),
    rule("mooring.v1.HostService/ListHosts", Access::With(HostsManage)),
    rule("mooring.v1.HostService/UpdateHost", Access::With(HostsManage)),
    rule("mooring.v1.HostService/CordonHost", Access::With(HostsManage)),
    rule("mooring.v1.HostService/UncordonHost", Access::With(HostsManage)),
    rule("mooring.v1.HostService/DrainHost", Access::With(HostsManage)),
    rule("mooring.v1.HostService/BanHost", Access::With(HostsManage)),
    rule("mooring.v1.HostService/DeleteHost", Access::With(HostsManage)),
    rule(
        "mooring.v1.HostService/CreateJoinToken",
        Access::With(JoinTokensManage),
    ),
    rule(
        "mooring.v1.HostService/ListJoinTokens",
        Access::With(JoinTokensManage),
    ),
    rule(
        "mooring.v1.HostService/RevokeJoinToken",
        Access::With(JoinTokensManage),
    ),
    rule("mooring.v1.AuditService/ListAuditEvents", Access::With(AuditList)),
    rule("mooring.v1.AuthService/WhoAmI", Access::User),
    rule("mooring.v1.AuthService/GetServerInfo", Access::User),
    rule("mooring.v1.AuthService/Login", Access::Anybody),
    rule("mooring.v1.AuthService/RenewCertificate", Access::ExpiredUser),
    rule("mooring.agent.v1.EnrollmentService/Enroll", Access::Anybody),
    rule(
        "mooring.agent.v1.EnrollmentService/BeginRecovery",
        Access::Anybody,
    ),
    rule("mooring.agent.v1.EnrollmentService/Recover", Access::Anybody),
    rule(
        "mooring.agent.v1.EnrollmentService/RenewCertificate",
        Access::Host,
    ),
    rule("mooring.agent.v1.SessionService/Connect", Access::Host),
    rule("grpc.health.v1.Health/Check", Access::Anybody),
    // It never ends, so it is for people that are known.
    rule("grpc.health.v1.Health/Watch", Access::User),
    rule(
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Access::User,
    ),
];

/// The rule of an rpc, named by its path without the leading slash.
pub fn rule_of(rpc: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.rpc == rpc)
}
