//! What was asked of the server: counters by operation, and the latest requests one by one.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use serde::Serialize;

use crate::operation::{Operation, Target};

/// Requests kept one by one; counters count all. 10,000 × ~200 bytes is nothing, and a story has fewer.
const LOG_ENTRIES_MAX: usize = 10_000;

/// Counters and log of a server.
#[derive(Debug, Default)]
pub struct Requests {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<Operation, Count>,
    log: VecDeque<Request>,
    /// Number of the request at the front of the log.
    first: u64,
}

/// Sums of one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Requests that arrived.
    pub requests: u64,
    /// Of these: answered with a status of 400 and above, or not at all.
    pub failures: u64,
    /// Bytes of the bodies received, as announced.
    pub bytes_received: u64,
    /// Bytes of the bodies sent, as announced.
    pub bytes_sent: u64,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// What was asked.
    pub operation: Operation,
    /// Of which bucket.
    pub bucket: String,
    /// And which key; of listings the prefix.
    pub key: String,
    /// The query as sent.
    pub query: String,
    /// The `Range` header, when there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// The id of the key that signed it, when it was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<String>,
    /// Status of the answer; none yet, or never when the client went away or the connection was reset.
    pub status: Option<u16>,
}

impl Requests {
    /// Requests of this operation so far.
    pub fn count(&self, operation: Operation) -> u64 {
        self.counts(operation).requests
    }

    /// Sums of this operation so far.
    pub fn counts(&self, operation: Operation) -> Count {
        self.state
            .lock()
            .counts
            .get(&operation)
            .copied()
            .unwrap_or_default()
    }

    /// Sums of all operations that were asked for.
    pub fn all_counts(&self) -> BTreeMap<Operation, Count> {
        self.state.lock().counts.clone()
    }

    /// The latest requests, oldest first.
    pub fn log(&self) -> Vec<Request> {
        self.state.lock().log.iter().cloned().collect()
    }

    /// Forgets everything, as if the server had just started.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        state.first += state.log.len() as u64;
        state.counts.clear();
        state.log.clear();
    }

    /// Notes a request when it arrives; gives the number to end it with.
    pub(crate) fn begin(
        &self,
        target: &Target,
        query: &str,
        (range, access_key): (Option<&str>, Option<&str>),
        bytes_received: u64,
    ) -> u64 {
        let mut state = self.state.lock();
        let count = state.counts.entry(target.operation).or_default();
        count.requests += 1;
        count.bytes_received += bytes_received;
        if state.log.len() == LOG_ENTRIES_MAX {
            state.log.pop_front();
            state.first += 1;
        }
        state.log.push_back(Request {
            operation: target.operation,
            bucket: target.bucket.clone(),
            key: target.key.clone(),
            query: query.to_owned(),
            range: range.map(str::to_owned),
            access_key: access_key.map(str::to_owned),
            status: None,
        });
        state.first + state.log.len() as u64 - 1
    }

    pub(crate) fn end(&self, number: u64, operation: Operation, status: Option<u16>, bytes_sent: u64) {
        let mut state = self.state.lock();
        let Some(at) = number.checked_sub(state.first) else {
            return;
        };
        let count = state.counts.entry(operation).or_default();
        count.bytes_sent += bytes_sent;
        if status.is_none_or(|status| status >= 400) {
            count.failures += 1;
        }
        if let Some(request) = state.log.get_mut(at as usize) {
            request.status = status;
        }
    }
}
