//! Which stream of each host is its newest, and which hosts were heard of since somebody last wrote it down. Memory
//! only: after a restart of the catalog every host dials again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

mod seats;

use seats::Seats;
pub use seats::{Copy, Refusal, Seat};

/// How many hosts read the database at a time. Half of its connections, and more than there are cores on most machines:
/// further hosts would only make each other slower.
const LOOKS_MAX: usize = 8;

/// The open streams of this server.
pub struct Streams {
    // Neither lock is held while the other is taken, nor across an await.
    open: Mutex<Open>,
    heard: Mutex<HashMap<Uuid, OffsetDateTime>>,
    /// Places for hosts that look at the database.
    pub(super) looks: Semaphore,
    /// Owns the streams' tasks.
    pub tasks: TaskTracker,
    /// Cancelled when the server stops: every stream ends.
    pub closing: CancellationToken,
}

#[derive(Default)]
struct Open {
    next_number: u64,
    seats: HashMap<Uuid, Seats>,
    by_host: HashMap<Uuid, Newest>,
}

/// The newest stream of a host.
struct Newest {
    number: u64,
    superseded: CancellationToken,
    /// Why the host holds still, if it says so.
    holding_still: String,
}

/// The newest stream of a host, as long as `superseded` is not cancelled. Dropping it ends it.
pub struct OpenStream {
    streams: Arc<Streams>,
    host_uid: Uuid,
    number: u64,
    /// Cancelled when a newer stream of the same host has begun, or the host was deleted.
    pub superseded: CancellationToken,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            heard: Mutex::default(),
            looks: Semaphore::new(LOOKS_MAX),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }
}

impl Streams {
    /// Whether who comes would be let in: judged before anything that it says is noted.
    pub fn check(&self, host_uid: Uuid, seat: &Seat, now: OffsetDateTime) -> Result<(), Refusal> {
        let mut open = self.open.lock();
        let is_open = open.by_host.contains_key(&host_uid);
        match open.seats.get_mut(&host_uid) {
            Some(seats) => seats.check(seat, is_open, now),
            None => Ok(()),
        }
    }

    /// Begins a stream of a host and ends an older one, unless who comes is a copy of the host.
    pub fn open(
        self: &Arc<Self>,
        host_uid: Uuid,
        seat: Seat,
        now: OffsetDateTime,
    ) -> Result<OpenStream, Refusal> {
        let superseded = CancellationToken::new();
        let mut open = self.open.lock();
        let is_open = open.by_host.contains_key(&host_uid);
        let seats = open.seats.entry(host_uid).or_default();
        seats.take(seat, is_open, now)?;
        let number = open.next_number;
        open.next_number += 1;
        let newest = Newest {
            number,
            superseded: superseded.clone(),
            holding_still: String::new(),
        };
        if let Some(older) = open.by_host.insert(host_uid, newest) {
            older.superseded.cancel();
        }
        Ok(OpenStream {
            streams: Arc::clone(self),
            host_uid,
            number,
            superseded,
        })
    }

    /// Whether a host may be greeted once more. One that comes back without end costs a snapshot each time.
    pub fn may_be_greeted(&self, host_uid: Uuid, now: OffsetDateTime) -> bool {
        let mut open = self.open.lock();
        open.seats.entry(host_uid).or_default().may_be_greeted(now)
    }

    /// Ends the stream of a host that is one no longer.
    pub fn end(&self, host_uid: Uuid) {
        let mut open = self.open.lock();
        open.seats.remove(&host_uid);
        if let Some(stream) = open.by_host.remove(&host_uid) {
            stream.superseded.cancel();
        }
    }

    /// Ends all streams and waits for their tasks.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether a host has a stream here.
    pub fn is_open(&self, host_uid: Uuid) -> bool {
        self.open.lock().by_host.contains_key(&host_uid)
    }

    /// Why a host holds still, as it has said on its open stream.
    pub fn holds_still(&self, host_uid: Uuid) -> Option<String> {
        let open = self.open.lock();
        let said = &open.by_host.get(&host_uid)?.holding_still;
        (!said.is_empty()).then(|| said.clone())
    }

    /// Notes that a host was heard of.
    pub fn heard(&self, host_uid: Uuid, now: OffsetDateTime) {
        self.heard.lock().insert(host_uid, now);
    }

    /// Takes what was noted since the last time, to write it down in one go: a host costs one row a flush, however
    /// often it reports.
    pub fn take_heard(&self) -> Vec<(Uuid, OffsetDateTime)> {
        self.heard.lock().drain().collect()
    }

    /// Puts back what could not be written, unless something newer was noted meanwhile.
    pub fn put_back(&self, heard: Vec<(Uuid, OffsetDateTime)>) {
        let mut notes = self.heard.lock();
        for (host_uid, time) in heard {
            notes.entry(host_uid).or_insert(time);
        }
    }
}

impl OpenStream {
    /// Notes that the host has said something on this stream.
    pub fn heard(&self, now: OffsetDateTime) {
        let mut open = self.streams.open.lock();
        let newest = open.by_host.get(&self.host_uid);
        if newest.is_some_and(|newest| newest.number == self.number)
            && let Some(seats) = open.seats.get_mut(&self.host_uid)
        {
            seats.heard(now);
        }
        drop(open);
        self.streams.heard(self.host_uid, now);
    }

    /// Notes why the host holds still, if it does. Answers whether that is news.
    pub fn holds_still(&self, reason: &str) -> bool {
        let mut open = self.streams.open.lock();
        match open.by_host.get_mut(&self.host_uid) {
            Some(newest) if newest.number == self.number && newest.holding_still != reason => {
                newest.holding_still = reason.to_owned();
                true
            }
            Some(_) | None => false,
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock();
        if open
            .by_host
            .get(&self.host_uid)
            .is_some_and(|newest| newest.number == self.number)
        {
            open.by_host.remove(&self.host_uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Uuid = Uuid::from_u128(1);
    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn a_newer_stream_ends_the_older_and_outlives_its_end() {
        let streams = Arc::new(Streams::default());
        let older = streams.open(HOST, Seat::default(), START).ok().unwrap();
        let newer = streams.open(HOST, Seat::default(), START).ok().unwrap();
        assert!(older.superseded.is_cancelled() && !newer.superseded.is_cancelled());
        drop(older);
        assert!(
            streams.is_open(HOST),
            "the end of the older is not the end of the newer"
        );
        drop(newer);
        assert!(!streams.is_open(HOST));
    }

    #[test]
    fn a_host_that_is_one_no_longer_loses_its_stream() {
        let streams = Arc::new(Streams::default());
        let stream = streams.open(HOST, Seat::default(), START).ok().unwrap();
        streams.end(HOST);
        assert!(stream.superseded.is_cancelled() && !streams.is_open(HOST));
    }

    #[test]
    fn what_a_host_says_of_holding_still_counts_as_long_as_its_stream() {
        let streams = Arc::new(Streams::default());
        let stream = streams.open(HOST, Seat::default(), START).ok().unwrap();
        assert_eq!(streams.holds_still(HOST), None);
        assert!(stream.holds_still("gone back") && !stream.holds_still("gone back"));
        assert_eq!(streams.holds_still(HOST).as_deref(), Some("gone back"));
        let newer = streams.open(HOST, Seat::default(), START).ok().unwrap();
        assert!(!stream.holds_still("too late"));
        assert_eq!(streams.holds_still(HOST), None);
        drop(newer);
        assert_eq!(streams.holds_still(HOST), None);
    }

    #[test]
    fn many_heartbeats_are_one_note() {
        let streams = Streams::default();
        for n in 0..10 {
            streams.heard(HOST, START + time::Duration::seconds(n));
        }
        let heard = streams.take_heard();
        assert_eq!(heard, [(HOST, START + time::Duration::seconds(9))]);
        assert!(streams.take_heard().is_empty());
        streams.heard(HOST, START + time::Duration::seconds(20));
        streams.put_back(heard);
        assert_eq!(
            streams.take_heard(),
            [(HOST, START + time::Duration::seconds(20))]
        );
    }
}
