//! Who may touch which part of the tree: what changes an object claims its path, what moves a file or a
//! folder claims everything at and below it, and claims that touch each other wait in the order they came.
//!
//! A rename copies and then deletes: nothing may be written, removed or made below what is moved in between,
//! or it would be lost or come back. Claims elsewhere in the tree never wait for each other, and uploads
//! never do. No I/O here.
//!
//! Invariants: a claim waits for earlier claims only, so there is no cycle, as long as nobody claims while
//! holding a claim. The path of an inode changes only under a moving claim over it, so the paths of a claim
//! stay right until it is dropped; those of a claim that waits are asked for again after each wait.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::FsError;

/// All claims of a mount.
#[derive(Default)]
pub(super) struct Subtrees {
    /// Taken before the lock of the inode table.
    queue: Mutex<Queue>,
    freed: Notify,
}

/// What a claim is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The object at a path is written or removed; others may do the same.
    Change,
    /// What is at a path and below it moves; nobody else may touch it.
    Move,
}

/// A claim, until dropped.
#[must_use = "a claim holds only as long as it lives"]
pub(super) struct Claim<'a> {
    of: &'a Subtrees,
    ticket: u64,
}

#[derive(Default)]
struct Queue {
    next: u64,
    claims: BTreeMap<u64, (Purpose, Vec<String>)>,
}

impl Subtrees {
    /// Claims paths as soon as nobody before has a claim that touches them. `paths` looks them up in the
    /// inode table.
    pub(super) async fn claim(
        &self,
        purpose: Purpose,
        paths: impl Fn() -> Result<Vec<String>, FsError>,
    ) -> Result<Claim<'_>, FsError> {
        let mut mine: Option<Claim<'_>> = None;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let mut queue = self.queue.lock();
                let wanted = match paths() {
                    Ok(wanted) => wanted,
                    Err(error) => {
                        // Dropping the claim takes the lock.
                        drop(queue);
                        return Err(error);
                    }
                };
                let ticket = match &mut mine {
                    Some(claim) => {
                        // What waited may have moved: then it waits for those who are where it is now.
                        let ticket = queue.renewed(claim.ticket, wanted);
                        if ticket != claim.ticket {
                            claim.ticket = ticket;
                            self.freed.notify_waiters();
                        }
                        ticket
                    }
                    None => {
                        let ticket = queue.add(purpose, wanted);
                        mine = Some(Claim { of: self, ticket });
                        ticket
                    }
                };
                if queue.is_first(ticket)
                    && let Some(claim) = mine.take()
                {
                    return Ok(claim);
                }
            }
            freed.await;
        }
    }
}

impl Queue {
    fn add(&mut self, purpose: Purpose, paths: Vec<String>) -> u64 {
        let ticket = self.next;
        self.next += 1;
        self.claims.insert(ticket, (purpose, paths));
        ticket
    }

    fn renewed(&mut self, ticket: u64, paths: Vec<String>) -> u64 {
        match self.claims.get(&ticket) {
            Some((purpose, known)) if *known != paths => {
                let purpose = *purpose;
                self.claims.remove(&ticket);
                self.add(purpose, paths)
            }
            Some(_) | None => ticket,
        }
    }

    fn is_first(&self, ticket: u64) -> bool {
        let Some((purpose, paths)) = self.claims.get(&ticket) else {
            return true;
        };
        self.claims.range(..ticket).all(|(_, (other, others))| {
            let exclusive = *purpose == Purpose::Move || *other == Purpose::Move;
            !exclusive
                || !paths
                    .iter()
                    .any(|path| others.iter().any(|other| touch(path, other)))
        })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.of.queue.lock().claims.remove(&self.ticket);
        self.of.freed.notify_waiters();
    }
}

/// Whether one path is the other, or below it.
fn touch(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() {
        (one, other)
    } else {
        (other, one)
    };
    long.strip_prefix(short)
        .is_some_and(|rest| rest.is_empty() || short.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn at(path: &str) -> impl Fn() -> Result<Vec<String>, FsError> {
        let path = path.to_owned();
        move || Ok(vec![path.clone()])
    }

    #[test]
    fn a_path_touches_itself_and_what_is_below_it() {
        for (one, other, expected) in [
            ("a", "a", true),
            ("a", "a/b", true),
            ("a/b/c", "a/b", true),
            ("", "a", true),
            ("a", "ab", false),
            ("a/b", "a/c", false),
        ] {
            assert_eq!(touch(one, other), expected, "{one:?} and {other:?}");
            assert_eq!(touch(other, one), expected, "{other:?} and {one:?}");
        }
    }

    #[tokio::test]
    async fn a_move_waits_for_changes_below_it_and_nobody_elsewhere_waits_for_the_move() {
        let subtrees = Subtrees::default();
        let upload = subtrees.claim(Purpose::Change, at("d/f")).await.unwrap();
        let mut moving = Box::pin(subtrees.claim(Purpose::Move, at("d")));
        assert!((&mut moving).now_or_never().is_none());
        // Neither is touched by the move that waits.
        drop(
            subtrees
                .claim(Purpose::Change, at("other"))
                .now_or_never()
                .unwrap(),
        );
        drop(subtrees.claim(Purpose::Move, at("e")).now_or_never().unwrap());
        // Later changes below do not overtake it, or it might wait for ever.
        let mut later = Box::pin(subtrees.claim(Purpose::Change, at("d/g")));
        assert!((&mut later).now_or_never().is_none());
        drop(upload);
        let moving = moving.await.unwrap();
        assert!((&mut later).now_or_never().is_none());
        drop(moving);
        assert!(later.await.is_ok());
        assert!(subtrees.queue.lock().claims.is_empty());
    }

    #[tokio::test]
    async fn a_claim_that_waited_follows_what_moved_meanwhile() {
        let subtrees = Subtrees::default();
        let place = Mutex::new("old".to_owned());
        let moving = subtrees.claim(Purpose::Move, at("old")).await.unwrap();
        let elsewhere = subtrees.claim(Purpose::Move, at("new")).await.unwrap();
        let mut waiting = Box::pin(subtrees.claim(Purpose::Change, || Ok(vec![place.lock().clone()])));
        assert!((&mut waiting).now_or_never().is_none());
        *place.lock() = "new".to_owned();
        drop(moving);
        assert!(
            (&mut waiting).now_or_never().is_none(),
            "it is where another move is now"
        );
        drop(elsewhere);
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn a_claim_that_nobody_waits_for_any_more_holds_nobody_up() {
        let subtrees = Subtrees::default();
        let upload = subtrees.claim(Purpose::Change, at("d/f")).await.unwrap();
        let mut given_up = Box::pin(subtrees.claim(Purpose::Move, at("d")));
        assert!((&mut given_up).now_or_never().is_none());
        drop(given_up);
        drop(subtrees.claim(Purpose::Change, at("d/g")).now_or_never().unwrap());
        drop(upload);
    }
}
