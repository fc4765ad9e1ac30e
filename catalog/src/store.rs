//! The rows. One function per question, in `store/<noun>.rs`; a [`Snapshot`] can only read, and only a [`Writing`]
//! transaction can change. This folder is the only place that knows the database.
//!
//! Invariants: every mutation ends in [`Writing::commit`], which takes the next revision late, and writes the audit
//! row and the events that carry it, in the same transaction; revisions are dense and in commit order. Reads see one
//! consistent state. Writers queue in this process first, so SQLite's lock is seldom contended.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use time::OffsetDateTime;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::domain::Error;
use crate::domain::audit::Change;

pub mod access;
pub mod audit;
mod columns;
pub mod community;
//pub mod connector;
mod entity;
pub mod join_token;
pub mod key_epoch;
mod migrations;
pub mod mount_name;
pub mod project;
pub mod realm;
pub mod request;
//pub mod secret;
pub mod usage;
pub mod user;

/// How long a writer waits for another process (`raise-epoch`, a backup) that holds the lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Readers at a time. SQLite reads are CPU and page cache; more than a few per core only queue elsewhere.
const CONNECTIONS_MAX: u32 = 16;

/// The database.
#[derive(Clone, Debug)]
pub struct Store {
    connection: DatabaseConnection,
    writer: Arc<Mutex<()>>,
    revision: watch::Sender<i64>,
}

impl Store {
    /// Opens the database file, makes it if there is none, and brings its tables up to date.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let mut options = ConnectOptions::new("sqlite://catalog.db?mode=rwc");
        let file = path.to_owned();
        options
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(Duration::from_secs(10))
            .sqlx_logging(false)
            .map_sqlx_sqlite_opts(move |sqlite| {
                sqlite
                    .filename(&file)
                    .create_if_missing(true)
                    .foreign_keys(true)
                    .busy_timeout(BUSY_TIMEOUT)
                    .pragma("journal_mode", "WAL")
                    .pragma("synchronous", "FULL")
                    // Deleted bytes are overwritten: a destroyed secret leaves no ciphertext in the file.
                    .pragma("secure_delete", "ON")
            });
        let connection = Database::connect(options).await.map_err(failed)?;
        migrations::Migrator::up(&connection, None).await.map_err(failed)?;
        let store = Self { connection, writer: Arc::default(), revision: watch::Sender::new(0) };
        let revision = realm::revision_if_any(&store.connection).await?;
        store.revision.send_replace(revision);
        Ok(store)
    }

    /// A consistent view of everything, as of the first read.
    pub async fn read(&self, now: OffsetDateTime) -> Result<Snapshot, Error> {
        self.begin(SqliteTransactionMode::Deferred, now).await
    }

    /// A transaction that may write; the only one at a time.
    pub async fn write(&self, now: OffsetDateTime) -> Result<Writing, Error> {
        let guard = self.writer.clone().lock_owned().await;
        let snapshot = self.begin(SqliteTransactionMode::Immediate, now).await?;
        Ok(Writing { snapshot, revision: self.revision.clone(), _queue: guard })
    }

    /// Tells of each new revision. A hint to look: the newest wins, none is promised.
    pub fn revisions(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// Closes all connections.
    pub async fn close(&self) -> Result<(), Error> {
        self.connection.close_by_ref().await.map_err(failed)
    }

    async fn begin(&self, mode: SqliteTransactionMode, now: OffsetDateTime) -> Result<Snapshot, Error> {
        let options = TransactionOptions { sqlite_transaction_mode: Some(mode), ..TransactionOptions::default() };
        let transaction = self.connection.begin_with_options(options).await.map_err(failed)?;
        Ok(Snapshot { transaction, now: columns::to_stored_precision(now) })
    }
}

/// A transaction that reads. Dropping it ends it.
#[derive(Debug)]
pub struct Snapshot {
    transaction: DatabaseTransaction,
    now: OffsetDateTime,
}

impl Snapshot {
    /// The time of the call, in the precision that is stored.
    pub fn now(&self) -> OffsetDateTime {
        self.now
    }

    /// For the functions of this folder.
    fn db(&self) -> &DatabaseTransaction {
        &self.transaction
    }
}

/// A transaction that writes. Dropping it undoes everything.
#[derive(Debug)]
pub struct Writing {
    snapshot: Snapshot,
    revision: watch::Sender<i64>,
    _queue: OwnedMutexGuard<()>,
}

impl Deref for Writing {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Writing {
    /// Takes the next revision for what this transaction does. [`Writing::commit`] does so by itself; only rows that
    /// carry the revision (assignments) need it earlier, as late as they can, and then [`Writing::commit_at`].
    pub async fn next_revision(&self) -> Result<i64, Error> {
        realm::next_revision(self).await
    }

    /// Ends a mutation: revision, audit row and events, all or nothing. Answers the revision.
    pub async fn commit(self, change: Change) -> Result<i64, Error> {
        let revision = self.next_revision().await?;
        self.commit_at(revision, change).await
    }

    /// Ends a mutation whose revision was taken by [`Writing::next_revision`].
    pub async fn commit_at(self, revision: i64, change: Change) -> Result<i64, Error> {
        audit::insert(&self, revision, change).await?;
        let Self { snapshot, revision: revisions, _queue } = self;
        snapshot.transaction.commit().await.map_err(failed)?;
        revisions.send_replace(revision);
        Ok(revision)
    }

    /// Ends what is no mutation in the sense of the audit: heartbeats, reports, clean-up. Takes no revision.
    pub async fn commit_unrecorded(self) -> Result<(), Error> {
        self.snapshot.transaction.commit().await.map_err(failed)
    }
}

/// What the database says, as an [`Error`]. Everything it can say means that nothing was changed.
fn failed(error: DbErr) -> Error {
    match &error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) | DbErr::Exec(_) | DbErr::Query(_) if error.sql_err().is_none() => {
            Error::Store(Box::new(error))
        }
        // Keys and references are checked before they are written, inside the transaction: a violation is our mistake.
        _ => Error::internal(error),
    }
}

//#[cfg(test)]
//pub(crate) mod testing;
