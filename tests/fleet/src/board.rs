//! What all hosts of the fleet share: how many are where, what arrived when, and what the director wants of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// The fleet's common ground.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) enrolled: Count,
    /// Enrolments that were told to come again.
    pub(crate) enrol_retries: Count,
    /// Hosts that have a session and have been told all that they shall have.
    pub(crate) open: Count,
    pub(crate) renewed: Count,
    pub(crate) renewals_failed: Count,
    /// Hosts that hold still, which no test here gives them a reason for.
    pub(crate) holding_still: Count,
    /// Mounts that hosts pretend, all together.
    pub(crate) mounts: Count,
    /// Why sessions and attempts at one have ended, with how many.
    ends: Mutex<BTreeMap<String, usize>>,
    /// Which hosts those are that have a session.
    attending: Mutex<HashSet<usize>>,
    watched: Mutex<HashMap<String, mpsc::UnboundedSender<Arrival>>>,
    mood: watch::Sender<Mood>,
}

/// What the director wants of the fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Mood {
    /// So many of the hosts, from the first, read nothing from now on.
    pub(crate) deaf: usize,
    /// And so many after those talk without end.
    pub(crate) talkative: usize,
    /// Everybody renews their certificate once for each number, at some moment within `renew_within`.
    pub(crate) renew: u64,
    pub(crate) renew_within: Duration,
}

/// A host is told that it shall have something, or shall have it no longer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) removal: bool,
    pub(crate) at: Instant,
}

impl Board {
    /// Arrivals of an activation from now on. To be called before it is asked for.
    pub(crate) fn watch(&self, activation: &str) -> mpsc::UnboundedReceiver<Arrival> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watched.lock().insert(activation.to_owned(), sender);
        receiver
    }

    pub(crate) fn arrived(&self, activation: &str, removal: bool) {
        let watched = self.watched.lock();
        if let Some(sender) = watched.get(activation) {
            let at = Instant::now();
            let _ = sender.send(Arrival { removal, at });
        }
    }

    /// A host has a session, until the guard is dropped.
    pub(crate) fn attends(&self, number: usize) -> Attending<'_> {
        self.attending.lock().insert(number);
        Attending {
            board: self,
            number,
            _open: self.open.hold(),
        }
    }

    pub(crate) fn is_attending(&self, number: usize) -> bool {
        self.attending.lock().contains(&number)
    }

    pub(crate) fn ended(&self, reason: String) {
        *self.ends.lock().entry(reason).or_default() += 1;
    }

    /// The reasons so far, which are forgotten by this.
    pub(crate) fn take_ends(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.ends.lock())
    }

    pub(crate) fn mood(&self) -> watch::Receiver<Mood> {
        self.mood.subscribe()
    }

    pub(crate) fn set_mood(&self, change: impl FnOnce(&mut Mood)) {
        self.mood.send_modify(change);
    }
}

/// A number that many change.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, less: usize) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    /// One more, until the guard is dropped.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.add(1);
        Held(self)
    }
}

/// One of a [`Count`].
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Count);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.subtract(1);
    }
}

/// A host's session.
#[derive(Debug)]
pub(crate) struct Attending<'a> {
    board: &'a Board,
    number: usize,
    _open: Held<'a>,
}

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        self.board.attending.lock().remove(&self.number);
    }
}
