//! The tables, as they came to be. A migration that has shipped is never changed; a new one is added at the end.
//!
//! The SQL is written once for both engines: `UUID`, `BYTES` and `INT8` stand for what each calls them.

use sea_orm::{ConnectionTrait, DbBackend};
use sea_orm_migration::{MigrationTrait, MigratorTrait, SchemaManager};

mod m0001_people;
mod m0002_connectors;
mod m0003_fleet;
mod m0004_lifecycle;
mod m0005_offline;
mod m0006_bans;
mod m0007_cache_size;

/// All migrations, in their order.
pub(super) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_people::Migration),
            Box::new(m0002_connectors::Migration),
            Box::new(m0003_fleet::Migration),
            Box::new(m0004_lifecycle::Migration),
            Box::new(m0005_offline::Migration),
            Box::new(m0006_bans::Migration),
            Box::new(m0007_cache_size::Migration),
        ]
    }
}

/// Runs the statements of a migration.
async fn apply(manager: &SchemaManager<'_>, sql: &str) -> Result<(), sea_orm::DbErr> {
    let words = match manager.get_database_backend() {
        DbBackend::Postgres => [("UUID", "uuid"), ("BYTES", "bytea"), ("INT8", "bigint")],
        _ => [("UUID", "uuid_text"), ("BYTES", "blob"), ("INT8", "bigint")],
    };
    let sql = words
        .iter()
        .fold(sql.to_owned(), |sql, (ours, theirs)| sql.replace(ours, theirs));
    for statement in sql
        .split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
    {
        manager.get_connection().execute_unprepared(statement).await?;
    }
    Ok(())
}

/// A migration that is nothing but SQL. There is no way back: a restored backup is.
macro_rules! sql_migration {
    ($name:literal, $sql:expr) => {
        pub(super) struct Migration;

        impl sea_orm_migration::MigrationName for Migration {
            fn name(&self) -> &str {
                $name
            }
        }

        #[allow(
            elided_lifetimes_in_paths,
            reason = "the trait's own lifetime is hidden, and must be the same"
        )]
        #[sea_orm_migration::async_trait::async_trait]
        impl sea_orm_migration::MigrationTrait for Migration {
            /// On SQLite, too: a migration that was cut off half-way could never be run again.
            fn use_transaction(&self) -> Option<bool> {
                Some(true)
            }

            async fn up(&self, manager: &sea_orm_migration::SchemaManager) -> Result<(), sea_orm::DbErr> {
                super::apply(manager, $sql).await
            }
        }
    };
}

use sql_migration;
