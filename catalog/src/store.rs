//! The rows. One function per question, in `store/<noun>.rs`; a [`Snapshot`] can only read, and only a [`Writing`]
//! transaction can change. This folder is the only place that knows the database.
//!
//! Invariants: every mutation ends in [`Writing::commit`], which takes the next revision late, and writes the audit
//! row and the events that carry it, in the same transaction; revisions are dense and in commit order. Reads see one
//! consistent state. Writers queue in this process first, so SQLite's lock is seldom contended.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use time::OffsetDateTime;
use tokio::sync::{Mutex, OnceCell, OwnedMutexGuard, watch};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;
use uuid::Uuid;

use crate::domain::Error;
use crate::domain::audit::Change;

pub mod access;
pub mod activation;
pub mod assignment;
pub mod audit;
mod columns;
pub mod community;
pub mod connector;
pub mod connector_use;
mod entity;
pub mod host;
pub mod import;
pub mod join_token;
pub mod key_epoch;
mod migrations;
pub mod mount;
pub mod mount_name;
mod orders;
pub mod pool;
pub mod project;
pub mod publication;
pub mod realm;
pub mod request;
pub mod secret;
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
    orders: Arc<orders::Orders>,
    /// Owns the commits under way.
    commits: TaskTracker,
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
        migrations::Migrator::up(&connection, None)
            .with_subscriber(NoSubscriber::default())
            .await
            .map_err(failed)?;
        let store = Self {
            connection,
            writer: Arc::default(),
            revision: watch::Sender::new(0),
            orders: Arc::default(),
            commits: TaskTracker::new(),
        };
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
        Ok(Writing {
            snapshot,
            revision: self.revision.clone(),
            taken: OnceCell::new(),
            orders: self.orders.clone(),
            commits: self.commits.clone(),
            ordered: std::sync::Mutex::default(),
            _queue: guard,
        })
    }

    /// Tells of each new revision. A hint to look: the newest wins, none is promised.
    pub fn revisions(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// Tells of each revision that changed what one host shall have. A hint to look, as well.
    pub fn orders_of(&self, host_uid: Uuid) -> watch::Receiver<i64> {
        self.orders.of_host(host_uid)
    }

    /// Has the streams of hosts look for orders that no commit of this process has told them of. Answers how many do.
    pub fn orders_missed(&self, hosts: impl IntoIterator<Item = (Uuid, i64)>) -> usize {
        self.orders.missed(hosts)
    }

    /// Has the streams of these hosts look again, whatever they were told of.
    pub fn look_again(&self, which: impl Fn(Uuid) -> bool) {
        self.orders.look_again(which);
    }

    /// Lets the commits under way end, then closes all connections.
    pub async fn close(&self) -> Result<(), Error> {
        self.commits.close();
        self.commits.wait().await;
        self.connection.close_by_ref().await.map_err(failed)
    }

    /// All statements of a transaction see one state: what a desk reads for many hosts depends on it. SQLite does it so; on
    /// PostgreSQL it would have to be asked for (REPEATABLE READ).
    async fn begin(&self, mode: SqliteTransactionMode, now: OffsetDateTime) -> Result<Snapshot, Error> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(mode),
            ..TransactionOptions::default()
        };
        let transaction = self
            .connection
            .begin_with_options(options)
            .await
            .map_err(failed)?;
        Ok(Snapshot {
            transaction,
            now: columns::to_stored_precision(now),
        })
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
    taken: OnceCell<i64>,
    orders: Arc<orders::Orders>,
    commits: TaskTracker,
    ordered: std::sync::Mutex<BTreeSet<Uuid>>,
    _queue: OwnedMutexGuard<()>,
}

impl Deref for Writing {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Writing {
    /// The revision of what this transaction does, taken at the first call. [`Writing::commit`] does so by itself; only
    /// rows that carry the revision (assignments) need it earlier, as late as they can.
    pub async fn next_revision(&self) -> Result<i64, Error> {
        self.taken
            .get_or_try_init(|| realm::next_revision(self))
            .await
            .copied()
    }

    /// Ends a mutation: revision, audit row and events, all or nothing. Answers the revision.
    pub async fn commit(self, change: Change) -> Result<i64, Error> {
        let revision = self.next_revision().await?;
        audit::insert(&self, revision, change).await?;
        self.finish(revision).await?;
        Ok(revision)
    }

    /// Ends what a host has reported: it takes a revision, because a state has changed, but nobody acted, so there is
    /// nothing to audit.
    pub async fn commit_observed(self) -> Result<i64, Error> {
        let revision = self.next_revision().await?;
        self.finish(revision).await?;
        Ok(revision)
    }

    /// Whether it changes what any host shall have.
    pub fn has_orders(&self) -> bool {
        !self
            .ordered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Has this host's stream woken by the commit.
    pub(in crate::store) fn orders_changed(&self, host_uid: Uuid) {
        self.ordered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(host_uid);
    }

    /// Commits and wakes whoever waits, in a task of its own: a caller that gives up in between (a client that is gone,
    /// a call that takes too long) would leave a change that nobody is told of.
    async fn finish(self, revision: i64) -> Result<(), Error> {
        let Self {
            snapshot,
            revision: revisions,
            taken: _,
            orders,
            commits,
            ordered,
            _queue: queue,
        } = self;
        let commit = async move {
            // Until the end: the next writer begins when this one is told of.
            let _queue = queue;
            snapshot.transaction.commit().await.map_err(failed)?;
            revisions.send_replace(revision);
            let hosts = ordered.into_inner().unwrap_or_else(PoisonError::into_inner);
            orders.changed(hosts, revision);
            Ok(())
        };
        commits
            .spawn(commit.in_current_span())
            .await
            .map_err(Error::internal)?
    }

    /// Ends what is no mutation in the sense of the audit: heartbeats, reports, clean-up. Takes no revision.
    pub async fn commit_unrecorded(self) -> Result<(), Error> {
        self.snapshot.transaction.commit().await.map_err(failed)
    }
}

/// What the database says, as an [`Error`]. Everything it can say means that nothing was changed.
fn failed(error: DbErr) -> Error {
    /// SQLITE_ERROR: the statement itself is wrong, and stays so however often it is tried.
    const STATEMENT_WRONG: &str = "1";
    let cause = match &error {
        DbErr::Exec(cause) | DbErr::Query(cause) | DbErr::Conn(cause) => Some(cause),
        _ => None,
    };
    let wrong = match cause {
        Some(sea_orm::RuntimeErr::SqlxError(cause)) => cause
            .as_database_error()
            .and_then(|cause| cause.code())
            .is_some_and(|code| code == STATEMENT_WRONG),
        Some(sea_orm::RuntimeErr::Internal(_)) | None => false,
    };
    let elsewhere = cause.is_some() || matches!(error, DbErr::ConnectionAcquire(_));
    // Keys and references are checked before they are written, inside the transaction: a violation is our mistake.
    if elsewhere && !wrong && error.sql_err().is_none() {
        Error::Store(Box::new(error))
    } else {
        Error::internal(error)
    }
}

#[cfg(test)]
mod tests;
