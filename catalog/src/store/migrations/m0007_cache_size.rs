//! How much memory a connector's mounts may use for what they read.

super::sql_migration!(
    "m0007_cache_size",
    r#"
ALTER TABLE connector ADD COLUMN cache_size_mib INT8 NOT NULL DEFAULT 0
"#
);
