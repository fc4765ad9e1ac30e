//! How long the hosts of a pool may start mounts without the catalog.

super::sql_migration!("m0005_offline", "ALTER TABLE pool ADD COLUMN offline_max INT8");
