//! How hosts leave: drained, banned; and when a copy of one was refused.

super::sql_migration!(
    "m0004_lifecycle",
    r#"
ALTER TABLE host ADD COLUMN drain_time INT8;
ALTER TABLE host ADD COLUMN ban_time INT8;
ALTER TABLE host ADD COLUMN ban_reason TEXT;
ALTER TABLE host ADD COLUMN clone_time INT8
"#
);
