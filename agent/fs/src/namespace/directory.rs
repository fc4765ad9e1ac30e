//! One folder as it is known here: the last listing, local changes on top of it, and how long both may
//! be believed.
//!
//! Invariants: a change that is not in S3 yet (`at` is `None`) is never forgotten; a change that is in S3
//! is forgotten only for a listing that began after it. No I/O here, and `now` is an argument.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::inode::Ino;
use super::lister::{Listed, Lister};
use super::names::FileName;
use super::runs::{Entry, Run};

/// Finished changes kept before those that nobody may believe any more are dropped.
const CHANGES_KEPT: usize = 4096;

/// A folder.
#[derive(Debug)]
pub struct Directory {
    /// Inodes of the entries that the kernel or we hold.
    pub children: HashMap<FileName, Ino>,
    /// When an entry was last added or removed here, as shown to applications.
    pub changed: SystemTime,
    /// The listing in progress, if there is one.
    pub loading: Option<Arc<Lister>>,
    listing: Option<Listing>,
    changes: HashMap<FileName, Change>,
    marker: bool,
    hidden: Arc<Vec<String>>,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// It is this, and may be believed until then.
    Is(Entry, Instant),
    /// It does not exist, which may be believed until then.
    Absent(Instant),
    /// Ask the store.
    Unknown,
}

/// Local changes on top of a listing, for one reader: their entries come first, then the listing's without
/// the names that changed.
#[derive(Debug)]
pub struct Snapshot {
    /// Entries that local changes made.
    pub head: Vec<(FileName, Entry)>,
    /// Names that the listing's entries do not count for.
    pub changed: HashSet<FileName>,
}

/// A finished listing.
#[derive(Clone, Debug)]
pub struct Listing {
    /// What it found.
    pub run: Arc<Run>,
    /// When its first page was asked for.
    pub started: Instant,
    /// When its last page had come.
    pub finished: Instant,
}

#[derive(Debug)]
struct Change {
    /// When it had reached S3; `None` while it exists only here.
    at: Option<Instant>,
    entry: Option<Entry>,
}

impl Directory {
    /// A folder of which nothing is known.
    pub fn new(changed: SystemTime) -> Directory {
        Directory {
            children: HashMap::new(),
            changed,
            loading: None,
            listing: None,
            changes: HashMap::new(),
            marker: false,
            hidden: Arc::default(),
        }
    }

    /// A folder that was made here just now: empty, with a marker.
    pub fn created(wall: SystemTime, now: Instant) -> Directory {
        let mut directory = Directory::new(wall);
        directory.marker = true;
        directory.listing = Some(Listing {
            run: Arc::default(),
            started: now,
            finished: now,
        });
        directory
    }

    /// What is known of a name without asking the store.
    pub fn known(&self, name: &FileName, now: Instant, ttl: Duration) -> Known {
        let fresh = self.fresh(now, ttl);
        if let Some(change) = self.changes.get(name) {
            let until = match (change.at, fresh) {
                (None, _) => Some(now + ttl),
                (Some(at), listed) => listed.max(Some(at + ttl)).filter(|until| *until > now),
            };
            if let Some(until) = until {
                return match &change.entry {
                    Some(entry) => Known::Is(entry.clone(), until),
                    None => Known::Absent(until),
                };
            }
        } else if let (Some(listing), Some(until)) = (&self.listing, fresh) {
            return match listing.run.get(name.as_str()) {
                Some(entry) => Known::Is(entry.clone(), until),
                None => Known::Absent(until),
            };
        }
        // What was changed here since the listing began, it has perhaps seen before.
        let loading = self.loading.as_ref();
        let loading = loading.filter(|lister| self.changed_since(name, lister.started).is_none());
        match loading.and_then(|lister| lister.seen(name)) {
            Some(entry) => Known::Is(entry, now + ttl),
            None => Known::Unknown,
        }
    }

    /// The local change of a name that an answer of the store, asked at `asked`, may not have seen.
    /// `Some(None)` is a removal.
    pub fn changed_since(&self, name: &FileName, asked: Instant) -> Option<Option<Entry>> {
        let change = self.changes.get(name)?;
        match change.at {
            Some(at) if at < asked => None,
            Some(_) | None => Some(change.entry.clone()),
        }
    }

    /// Notes that a name is now `entry`, in S3 since `at`, or only here.
    pub fn change(&mut self, name: FileName, entry: Option<Entry>, at: Option<Instant>) {
        self.changes.insert(name, Change { at, entry });
    }

    /// Drops finished changes that are older than anything that may be believed. Called now and then.
    pub fn tidy(&mut self, now: Instant, ttl: Duration) {
        if self.changes.len() > CHANGES_KEPT && self.fresh(now, ttl).is_none() && self.loading.is_none() {
            self.changes
                .retain(|_, change| change.at.is_none_or(|at| at + ttl > now));
        }
    }

    /// Forgets what nobody may believe any more.
    pub fn drop_stale(&mut self, now: Instant, ttl: Duration) {
        if self.fresh(now, ttl).is_none() {
            self.listing = None;
            if self.loading.is_none() {
                self.changes
                    .retain(|_, change| change.at.is_none_or(|at| at + ttl > now));
            }
        }
    }

    /// Takes a finished listing, and forgets the changes that it must have seen.
    pub fn install(&mut self, started: Instant, finished: Instant, listed: Listed) {
        let Listed { run, marker, hidden } = listed;
        self.changes
            .retain(|_, change| change.at.is_none_or(|at| at >= started));
        self.marker = marker;
        self.hidden = Arc::new(hidden);
        self.listing = Some(Listing {
            run,
            started,
            finished,
        });
    }

    /// Believes nothing any more but local changes.
    pub fn distrust(&mut self) {
        self.listing = None;
        self.loading = None;
        self.marker = false;
        self.changes.retain(|_, change| change.at.is_none());
    }

    /// The last listing, if it may still be believed.
    pub fn fresh_listing(&self, now: Instant, ttl: Duration) -> Option<&Listing> {
        self.listing.as_ref().filter(|_| self.fresh(now, ttl).is_some())
    }

    /// What changed here that a listing which began at `asked` may not have seen.
    pub fn snapshot(&self, asked: Instant) -> Snapshot {
        let newer = || {
            self.changes
                .iter()
                .filter(|(_, change)| change.at.is_none_or(|at| at >= asked))
        };
        Snapshot {
            head: newer()
                .filter_map(|(name, change)| Some((name.clone(), change.entry.clone()?)))
                .collect(),
            changed: newer().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// Whether some other entry than `name` is certainly in S3, so that the folder stays when `name` goes.
    pub fn certainly_keeps_without(&self, name: &FileName, now: Instant, ttl: Duration) -> bool {
        if self.marker {
            return true;
        }
        let removed = |other: &FileName| {
            self.changes
                .get(other)
                .is_some_and(|change| change.entry.is_none())
        };
        let listed = self.fresh(now, ttl).is_some()
            && self.listing.as_ref().is_some_and(|listing| {
                listing
                    .run
                    .entries()
                    .iter()
                    .any(|(other, _)| other != name && !removed(other))
            });
        listed
            || self.changes.iter().any(|(other, change)| {
                other != name && change.entry.is_some() && change.at.is_some_and(|at| at + ttl > now)
            })
    }

    /// Whether something exists here that is not in S3 yet.
    pub fn has_local_entries(&self) -> bool {
        self.changes
            .values()
            .any(|change| change.at.is_none() && change.entry.is_some())
    }

    /// Whether the folder has a key of its own, as far as is known.
    pub fn has_marker(&self) -> bool {
        self.marker
    }

    /// Notes whether the folder has a key of its own.
    pub fn set_marker(&mut self, exists: bool) {
        self.marker = exists;
    }

    /// Keys directly in this folder that cannot be shown, as of the last listing; cut to what an
    /// attribute may hold.
    pub fn hidden(&self) -> Arc<Vec<String>> {
        Arc::clone(&self.hidden)
    }

    fn fresh(&self, now: Instant, ttl: Duration) -> Option<Instant> {
        let until = self.listing.as_ref()?.finished + ttl;
        (until > now).then_some(until)
    }
}
