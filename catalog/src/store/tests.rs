//! What every noun relies on: revisions are dense and in commit order, a transaction that is dropped leaves nothing,
//! and a reader sees one state.

use mooring_identity::Clock;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::Store;
use crate::domain::audit::{Change, EventKind, Place};
use crate::domain::join_token::{JoinToken, Subject, SubjectKind, TokenDigest};
use crate::domain::names::{CommunityName, UserName};
use crate::domain::user::{User, UserState};
use crate::domain::{Meta, Page, Texts, community::Community};

const ALL: Page = Page {
    after: None,
    size: 1000,
};

async fn store(dir: &tempfile::TempDir) -> (Store, Clock) {
    let clock = Clock::manual(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap());
    let store = Store::open(&dir.path().join("catalog.db")).await.unwrap();
    crate::ops::realm::initialise(&store, &clock).await.unwrap();
    (store, clock)
}

fn community(id: &str, clock: &Clock) -> Community {
    let name = CommunityName::new(id.parse().unwrap());
    Community {
        name,
        meta: Meta::new(clock.new_uid(), Texts::default(), "users/a", clock.now()),
    }
}

async fn add(store: &Store, clock: &Clock, id: &str) -> i64 {
    let writing = store.write(clock.now()).await.unwrap();
    let community = community(id, clock);
    super::community::insert(&writing, &community).await.unwrap();
    let change = Change::new(
        "users/a",
        "CreateCommunity",
        EventKind::Created,
        &community.name,
        community.meta.uid,
    );
    writing.commit(change).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn revisions_are_dense_however_many_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store(&dir).await;
    let before = *store.revisions().borrow();
    let mut writers = JoinSet::new();
    for number in 0..20 {
        let (store, clock) = (store.clone(), clock.clone());
        writers.spawn(async move { add(&store, &clock, &format!("c{number}")).await });
    }
    let mut revisions = writers.join_all().await;
    revisions.sort_unstable();
    assert_eq!(revisions, (before + 1..=before + 20).collect::<Vec<_>>());
    assert_eq!(*store.revisions().borrow(), before + 20);
    let snapshot = store.read(clock.now()).await.unwrap();
    let audited = super::audit::list(&snapshot, Place::default(), &ALL)
        .await
        .unwrap()
        .items;
    let audited: Vec<i64> = audited.into_iter().map(|event| event.revision).collect();
    assert_eq!(audited, (1..=before + 20).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_transaction_that_is_dropped_leaves_neither_rows_nor_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store(&dir).await;
    let first = add(&store, &clock, "one").await;
    let writing = store.write(clock.now()).await.unwrap();
    super::community::insert(&writing, &community("lost", &clock))
        .await
        .unwrap();
    writing.next_revision().await.unwrap();
    drop(writing);
    assert_eq!(add(&store, &clock, "two").await, first + 1);
    let snapshot = store.read(clock.now()).await.unwrap();
    let lost = super::community::find(&snapshot, &"communities/lost".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(lost, None);
}

#[tokio::test]
async fn a_reader_sees_one_state_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store(&dir).await;
    let snapshot = store.read(clock.now()).await.unwrap();
    let before = super::realm::get(&snapshot).await.unwrap().revision;
    add(&store, &clock, "one").await;
    let one = super::community::find(&snapshot, &"communities/one".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(one, None);
    assert_eq!(super::realm::get(&snapshot).await.unwrap().revision, before);
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (first, clock) = store(&dir).await;
    let revision = add(&first, &clock, "one").await;
    first.close().await.unwrap();
    let again = Store::open(&dir.path().join("catalog.db")).await.unwrap();
    assert_eq!(*again.revisions().borrow(), revision);
    let snapshot = again.read(clock.now()).await.unwrap();
    assert!(
        super::community::find(&snapshot, &"communities/one".parse().unwrap())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_use_of_a_token_is_had_by_one_only() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store(&dir).await;
    let writing = store.write(clock.now()).await.unwrap();
    let user = User {
        name: UserName::new("anna".parse().unwrap()),
        meta: Meta::new(clock.new_uid(), Texts::default(), "catalog", clock.now()),
        state: UserState::Enabled,
        login_time: None,
    };
    super::user::insert(&writing, &user).await.unwrap();
    let token = JoinToken {
        uid: clock.new_uid(),
        subject: Subject::User(user.meta.uid),
        uses_left: 3,
        expire_time: clock.now() + time::Duration::hours(1),
        creator: "catalog".into(),
        create_time: clock.now(),
        host_labels: Default::default(),
    };
    let digest = TokenDigest::of("token");
    super::join_token::insert(&writing, &token, digest).await.unwrap();
    writing.commit_unrecorded().await.unwrap();
    let mut takers = JoinSet::new();
    for _ in 0..10 {
        let (store, clock) = (store.clone(), clock.clone());
        takers.spawn(async move {
            let writing = store.write(clock.now()).await.unwrap();
            // A token for people is none for hosts, and asking so does not use it up.
            let as_host = super::join_token::consume(&writing, digest, SubjectKind::Pool)
                .await
                .unwrap();
            assert_eq!(as_host, None);
            let taken = super::join_token::consume(&writing, digest, SubjectKind::User)
                .await
                .unwrap();
            writing.commit_unrecorded().await.unwrap();
            taken.is_some()
        });
    }
    assert_eq!(
        takers.join_all().await.into_iter().filter(|taken| *taken).count(),
        3
    );
}

#[tokio::test]
async fn a_caller_that_gives_up_during_the_commit_parts_it_from_no_wake_up() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = store(&dir).await;
    let before = *store.revisions().borrow();
    for number in 0..20 {
        let mut told = store.revisions();
        let mut adding = Box::pin(async { add(&store, &clock, &format!("c{number}")).await });
        // Polled a few times more for each round, then dropped: somewhere on its way.
        for _ in 0..=number * 4 {
            if poll_once(&mut adding).await {
                break;
            }
        }
        drop(adding);
        // The next writer begins when the one before is over, whether it came to an end or not.
        drop(store.write(clock.now()).await.unwrap());
        let snapshot = store.read(clock.now()).await.unwrap();
        let stored = super::realm::get(&snapshot).await.unwrap().revision;
        assert_eq!(*told.borrow_and_update(), stored, "what is committed is told");
    }
    assert!(*store.revisions().borrow() >= before);
}

/// Polls once, lets others run, and says whether it is done.
async fn poll_once(future: &mut std::pin::Pin<Box<impl Future<Output = i64>>>) -> bool {
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready()));
    let done = polled.await;
    tokio::time::sleep(std::time::Duration::from_micros(300)).await;
    done
}
