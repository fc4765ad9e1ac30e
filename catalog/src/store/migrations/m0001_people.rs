//! The realm, people, communities, projects, roles, tokens, and the record of changes.

super::sql_migration!(
    "m0001_people",
    r#"
CREATE TABLE realm (
    id INTEGER PRIMARY KEY,
    uid UUID NOT NULL,
    epoch INT8 NOT NULL,
    revision INT8 NOT NULL,
    create_time INT8 NOT NULL
);
CREATE TABLE retired_name (
    name TEXT PRIMARY KEY,
    uid UUID NOT NULL,
    delete_time INT8 NOT NULL
);
CREATE TABLE "user" (
    uid UUID PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    update_time INT8 NOT NULL,
    version INT8 NOT NULL,
    state TEXT NOT NULL,
    login_time INT8
);
CREATE TABLE community (
    uid UUID PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    update_time INT8 NOT NULL,
    version INT8 NOT NULL
);
CREATE TABLE project (
    uid UUID PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    update_time INT8 NOT NULL,
    version INT8 NOT NULL,
    community_uid UUID NOT NULL REFERENCES community (uid)
);
CREATE INDEX project_community ON project (community_uid);
CREATE TABLE binding (
    user_uid UUID NOT NULL REFERENCES "user" (uid),
    scope_uid UUID NOT NULL,
    role TEXT NOT NULL,
    PRIMARY KEY (user_uid, scope_uid, role)
);
CREATE INDEX binding_scope ON binding (scope_uid);
CREATE TABLE join_token (
    uid UUID PRIMARY KEY,
    token_sha256 BYTES NOT NULL UNIQUE,
    pool_uid UUID,
    user_uid UUID REFERENCES "user" (uid),
    uses_left INTEGER NOT NULL,
    expire_time INT8 NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    host_labels TEXT NOT NULL
);
CREATE TABLE join_use (
    token_uid UUID NOT NULL REFERENCES join_token (uid) ON DELETE CASCADE,
    key_sha256 BYTES NOT NULL,
    subject_uid UUID NOT NULL,
    use_time INT8 NOT NULL,
    PRIMARY KEY (token_uid, key_sha256)
);
CREATE TABLE request (
    caller_uid UUID NOT NULL,
    request_id UUID NOT NULL,
    method TEXT NOT NULL,
    fingerprint BYTES NOT NULL,
    answer BYTES NOT NULL,
    expire_time INT8 NOT NULL,
    PRIMARY KEY (caller_uid, request_id)
);
CREATE INDEX request_expire_time ON request (expire_time);
CREATE TABLE audit (
    revision INT8 PRIMARY KEY,
    event_time INT8 NOT NULL,
    actor TEXT NOT NULL,
    method TEXT NOT NULL,
    resource TEXT NOT NULL,
    resource_uid UUID NOT NULL,
    community_uid UUID,
    project_uid UUID,
    details TEXT NOT NULL
);
CREATE INDEX audit_project ON audit (project_uid, revision);
CREATE INDEX audit_community ON audit (community_uid, revision);
CREATE TABLE event (
    revision INT8 NOT NULL REFERENCES audit (revision),
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    resource TEXT NOT NULL,
    resource_uid UUID NOT NULL,
    community_uid UUID,
    project_uid UUID,
    PRIMARY KEY (revision, seq)
);
"#
);
