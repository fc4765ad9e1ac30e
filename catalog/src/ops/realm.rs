//! The installation's own life: its first start, the operator's way in, and the epoch after a restored backup. These
//! run on the catalog's machine, not over the API.

use std::path::{Path, PathBuf};

use mooring_identity::{Authority, Clock, JoinString};
use time::Duration;
use uuid::Uuid;

use crate::domain::access::Role;
use crate::domain::audit::{Change, EventKind};
use crate::domain::join_token::{JoinToken, Subject, TTL_MAX, TokenDigest};
use crate::domain::names::UserName;
use crate::domain::user::{User, UserState};
use crate::domain::{Error, Labels, Meta, Texts};
use crate::keyring::{Keyring, RootKey};
use crate::store::{self, Store, Writing};

/// How long the operator's join token lives.
const OPERATOR_TOKEN_TTL: Duration = TTL_MAX;
/// Who does what the catalog does by itself.
const CATALOG: &str = "catalog";

/// Opens the keyring: reads the root key and unwraps the epochs. On the very first start it makes both.
pub async fn open_keyring(store: &Store, clock: &Clock, root_key: &Path) -> Result<Keyring, Error> {
    let writing = store.write(clock.now()).await?;
    let mut epochs = store::key_epoch::list(&writing).await?;
    // A root key is made only where nothing needs an older one; a lost one is an error, never replaced.
    let root = RootKey::load(root_key, epochs.is_empty()).map_err(Error::internal)?;
    if epochs.is_empty() {
        let wrapped = Keyring::new_epoch(&root, 1).map_err(Error::internal)?;
        store::key_epoch::insert(&writing, 1, wrapped.clone()).await?;
        epochs.push((1, wrapped));
        writing.commit_unrecorded().await?;
    }
    Keyring::open(root, &epochs).map_err(Error::internal)
}

/// Makes the realm and its operator, if this is the first start. Answers whether the operator has yet to log in.
pub async fn initialise(store: &Store, clock: &Clock) -> Result<bool, Error> {
    let writing = store.write(clock.now()).await?;
    if store::realm::find(&writing).await?.is_none() {
        let (realm_uid, user_uid) = (clock.new_uid(), clock.new_uid());
        store::realm::insert(&writing, realm_uid).await?;
        let texts = Texts {
            display_name: "Operator".into(),
            description: "Made at the first start.".into(),
            labels: Labels::new(),
        };
        let user = User {
            name: operator_name(),
            meta: Meta::new(user_uid, texts, CATALOG, writing.now()),
            state: UserState::Enabled,
            login_time: None,
        };
        store::user::insert(&writing, &user).await?;
        store::access::insert(&writing, realm_uid, user_uid, Role::Operator).await?;
        let change = Change::new(CATALOG, "FirstStart", EventKind::Created, "realm", realm_uid).also(
            EventKind::Created,
            &user.name,
            user_uid,
        );
        writing.commit(change).await?;
        return Ok(true);
    }
    let operator = store::user::find(&writing, &operator_name()).await?;
    Ok(operator.is_some_and(|user| user.login_time.is_none() && user.state == UserState::Enabled))
}

/// Makes a join token for the operator and writes it into a 0600 file. Older tokens of the operator become useless.
pub async fn write_operator_token(
    store: &Store,
    clock: &Clock,
    authority: &Authority,
    endpoint: &str,
    path: &Path,
) -> Result<(), Error> {
    let writing = store.write(clock.now()).await?;
    let user = store::user::find(&writing, &operator_name())
        .await?
        .ok_or_else(|| Error::absent(&operator_name()))?;
    let token = new_token(clock);
    store::join_token::delete_of_user(&writing, user.meta.uid).await?;
    insert_token(&writing, clock.new_uid(), user.meta.uid, &token).await?;
    JoinString::new(endpoint, token.as_str(), authority.key_pin())
        .write(path)
        .map_err(Error::internal)?;
    let change = Change::new(
        CATALOG,
        "OperatorToken",
        EventKind::Updated,
        &user.name,
        user.meta.uid,
    );
    writing.commit(change).await?;
    Ok(())
}

/// The way back in for whoever is root on the catalog's machine: makes `users/operator` an enabled operator again.
pub async fn restore_operator(store: &Store, clock: &Clock) -> Result<(), Error> {
    let writing = store.write(clock.now()).await?;
    let realm = store::realm::get(&writing).await?;
    let name = operator_name();
    let mut user = store::user::find(&writing, &name)
        .await?
        .ok_or_else(|| Error::Precondition {
            reason: "OperatorDeleted",
            subject: name.to_string(),
            problem: format!("{name} was deleted; ask another operator for a join token"),
        })?;
    let bound = store::access::is_operator(&writing, user.meta.uid).await?;
    if bound && user.state == UserState::Enabled {
        return Ok(());
    }
    if !bound {
        store::access::insert(&writing, realm.uid, user.meta.uid, Role::Operator).await?;
    }
    user.state = UserState::Enabled;
    user.meta.touch(writing.now());
    store::user::update(&writing, &user).await?;
    writing
        .commit(Change::new(
            CATALOG,
            "RestoreOperator",
            EventKind::Updated,
            &name,
            user.meta.uid,
        ))
        .await?;
    Ok(())
}

/// Raises the epoch, after a database was restored from a backup: hosts that know later revisions obey again.
pub async fn raise_epoch(store: &Store, clock: &Clock) -> Result<i64, Error> {
    let writing = store.write(clock.now()).await?;
    let realm = store::realm::get(&writing).await?;
    let epoch = store::realm::raise_epoch(&writing).await?;
    let change =
        Change::new(CATALOG, "RaiseEpoch", EventKind::Updated, "realm", realm.uid).detail("epoch", epoch);
    writing.commit(change).await?;
    Ok(epoch)
}

/// A new join token: 256 random bits. Also for the tokens that operators make.
pub fn new_token(clock: &Clock) -> zeroize::Zeroizing<String> {
    use base64::Engine as _;
    let bytes = zeroize::Zeroizing::new(clock.random::<32>());
    zeroize::Zeroizing::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

/// Where the operator's join file is.
pub fn operator_file(state_dir: &Path) -> PathBuf {
    state_dir.join("operator.join")
}

async fn insert_token(writing: &Writing, uid: Uuid, user: Uuid, token: &str) -> Result<(), Error> {
    let now = writing.now();
    let row = JoinToken {
        uid,
        subject: Subject::User(user),
        uses_left: 1,
        expire_time: now + OPERATOR_TOKEN_TTL,
        creator: CATALOG.into(),
        create_time: now,
        host_labels: Labels::new(),
    };
    store::join_token::insert(writing, &row, TokenDigest::of(token)).await
}

fn operator_name() -> UserName {
    UserName::new("operator".parse().expect("it is a good id"))
}
