//! When a banned host has told that it carried its ban out; and banned hosts, found by every enrolment.

super::sql_migration!(
    "m0006_bans",
    r#"
ALTER TABLE host ADD COLUMN ban_done_time INT8;
CREATE INDEX host_banned ON host (ban_time) WHERE ban_time IS NOT NULL
"#
);
