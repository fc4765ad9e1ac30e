//! Keys, secrets and connectors.

super::sql_migration!(
    "m0002_connectors",
    r#"
CREATE TABLE key_epoch (
    epoch INT8 PRIMARY KEY,
    wrapped_key BYTES NOT NULL,
    create_time INT8 NOT NULL
);
CREATE TABLE secret (
    uid UUID PRIMARY KEY,
    id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    update_time INT8 NOT NULL,
    version INT8 NOT NULL,
    project_uid UUID NOT NULL REFERENCES project (uid),
    allowed_targets TEXT NOT NULL,
    newest_version INT8 NOT NULL,
    UNIQUE (project_uid, id)
);
CREATE TABLE secret_version (
    secret_uid UUID NOT NULL REFERENCES secret (uid) ON DELETE CASCADE,
    number INT8 NOT NULL,
    state TEXT NOT NULL,
    access_key_id TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    key_epoch INT8 REFERENCES key_epoch (epoch),
    wrapped_key BYTES,
    ciphertext BYTES,
    PRIMARY KEY (secret_uid, number)
);
CREATE TABLE connector (
    uid UUID PRIMARY KEY,
    id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    update_time INT8 NOT NULL,
    version INT8 NOT NULL,
    project_uid UUID NOT NULL REFERENCES project (uid),
    endpoint TEXT NOT NULL,
    region TEXT NOT NULL,
    bucket TEXT NOT NULL,
    prefix TEXT NOT NULL,
    mount_name TEXT NOT NULL,
    access_key_id TEXT NOT NULL,
    secret_uid UUID REFERENCES secret (uid),
    secret_version INT8,
    mode TEXT NOT NULL,
    backend TEXT NOT NULL,
    virtual_host_style BOOLEAN NOT NULL,
    UNIQUE (project_uid, id)
);
CREATE INDEX connector_secret ON connector (secret_uid);
CREATE TABLE mount_name (
    project_uid UUID NOT NULL REFERENCES project (uid),
    mount_name TEXT NOT NULL,
    owner_uid UUID NOT NULL,
    PRIMARY KEY (project_uid, mount_name)
);
CREATE INDEX mount_name_owner ON mount_name (owner_uid);
"#
);
