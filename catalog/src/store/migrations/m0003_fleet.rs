//! Pools and hosts, publications and imports, activations, assignments and mounts.

super::sql_migration!(
    "m0003_fleet",
    r#"
CREATE TABLE pool (
    uid UUID PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    update_time INT8 NOT NULL,
    version INT8 NOT NULL,
    admitted TEXT NOT NULL,
    project_groups TEXT NOT NULL
);
CREATE TABLE host (
    uid UUID PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    update_time INT8 NOT NULL,
    version INT8 NOT NULL,
    pool_uid UUID NOT NULL REFERENCES pool (uid),
    pool TEXT NOT NULL,
    unschedulable BOOLEAN NOT NULL,
    seen_time INT8,
    agent_version TEXT NOT NULL,
    kernel_version TEXT NOT NULL,
    backends TEXT NOT NULL,
    certificate_expire_time INT8 NOT NULL,
    hpke_public_key BYTES NOT NULL,
    key_pin TEXT NOT NULL
);
CREATE INDEX host_pool ON host (pool_uid);
CREATE TABLE publication (
    uid UUID PRIMARY KEY,
    id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    creator TEXT NOT NULL,
    create_time INT8 NOT NULL,
    update_time INT8 NOT NULL,
    version INT8 NOT NULL,
    community_uid UUID NOT NULL REFERENCES community (uid),
    connector TEXT NOT NULL,
    connector_uid UUID NOT NULL,
    max_mode TEXT,
    state TEXT NOT NULL,
    withdraw_time INT8,
    UNIQUE (community_uid, id)
);
CREATE INDEX publication_connector ON publication (connector_uid);
CREATE TABLE import (
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
    publication_uid UUID NOT NULL REFERENCES publication (uid),
    publication TEXT NOT NULL,
    mount_name TEXT NOT NULL,
    mode TEXT,
    UNIQUE (project_uid, id)
);
CREATE INDEX import_publication ON import (publication_uid);
CREATE TABLE activation (
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
    target TEXT NOT NULL,
    target_uid UUID NOT NULL,
    connector_uid UUID NOT NULL,
    publication_uid UUID,
    pool_uid UUID NOT NULL,
    pool TEXT NOT NULL,
    asked_mode TEXT,
    end_time INT8,
    UNIQUE (project_uid, id)
);
CREATE UNIQUE INDEX activation_live ON activation (target_uid, pool_uid) WHERE end_time IS NULL;
CREATE INDEX activation_connector ON activation (connector_uid);
CREATE INDEX activation_publication ON activation (publication_uid);
CREATE INDEX activation_pool ON activation (pool_uid);
CREATE TABLE assignment (
    uid UUID PRIMARY KEY,
    activation_uid UUID NOT NULL,
    host_uid UUID NOT NULL REFERENCES host (uid) ON DELETE CASCADE,
    connector_uid UUID NOT NULL,
    generation INT8 NOT NULL,
    spec TEXT NOT NULL,
    spec_hash TEXT NOT NULL,
    revision INT8 NOT NULL,
    removal_reason TEXT,
    removal_grace INT8,
    UNIQUE (activation_uid, host_uid)
);
CREATE INDEX assignment_host ON assignment (host_uid, revision);
CREATE INDEX assignment_connector ON assignment (connector_uid);
CREATE TABLE mount (
    host_uid UUID NOT NULL REFERENCES host (uid) ON DELETE CASCADE,
    assignment_uid UUID NOT NULL,
    activation TEXT NOT NULL,
    generation INT8 NOT NULL,
    state TEXT NOT NULL,
    path TEXT NOT NULL,
    conditions TEXT NOT NULL,
    mount_time INT8,
    update_time INT8 NOT NULL,
    PRIMARY KEY (host_uid, assignment_uid)
);
"#
);
