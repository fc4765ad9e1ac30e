//! Scripted faults: which requests are hit, and how. A fault is judged once per request, in the order in which
//! faults were added; all that match apply.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::backend::Dialect;
use crate::operation::{Operation, Target};

pub(crate) mod body;

/// One scripted fault. As JSON: `{"operations": ["GetObject"], "key_prefix": "a/", "skip": 2, "times": 1,
/// "action": {"error": {"status": 503, "code": "SlowDown"}}}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Operations that are hit; none named: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    operations: Vec<Operation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key_prefix: String,
    /// Matching requests that pass before the first is hit.
    #[serde(default)]
    skip: u64,
    /// How many are hit; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
    /// The share of matching requests that is hit; without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probability: Option<f64>,
    action: Action,
}

/// What happens to a request that is hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Answers with an S3 error.
    Error {
        /// HTTP status.
        status: u16,
        /// S3's error code, such as `SlowDown`.
        code: String,
        /// Before: nothing was done. After: it was, and the client does not know.
        #[serde(default)]
        when: When,
    },
    /// Resets the connection (TCP RST) instead of answering.
    NoReply {
        /// Before: nothing was done. After: it was, and the client does not know.
        #[serde(default)]
        when: When,
    },
    /// Resets the connection after so many bytes of the request's body were read.
    ResetRequest {
        /// Bytes that still arrive.
        at_byte: u64,
    },
    /// Resets the connection after so many bytes of the answer's body.
    Reset {
        /// Bytes that still leave.
        at_byte: u64,
    },
    /// Closes the connection in good order after so many bytes of the answer's body, short of its Content-Length.
    Truncate {
        /// Bytes that still leave.
        at_byte: u64,
    },
    /// Waits, then goes on.
    Stall {
        /// How long, in milliseconds.
        millis: u64,
        /// After so many bytes of the answer's body; without it before the request is looked at.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_byte: Option<u64>,
    },
    /// Answers with wrong bytes: 16 of them, from this place in the body on, are inverted.
    Corrupt {
        /// Place in the answer's body.
        at_byte: u64,
    },
    /// Status 200 and an error in the body, as S3 does when completing an upload or a copy fails late.
    ErrorInBody {
        /// S3's error code, such as `InternalError`.
        code: String,
        /// Before: nothing was done. After: it was, and the client does not know.
        #[serde(default)]
        when: When,
    },
    /// Lists from the start of the prefix, whatever `start-after` or `marker` say.
    IgnoreStartAfter,
    /// Acts as if no condition had been sent.
    IgnoreConditionals,
    /// Answers NoSuchUpload when an upload is completed a second time, as most servers do; S3 repeats its answer.
    ForgetCompleted,
}

/// Whether the operation is carried out before it fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// It fails and has no effect.
    #[default]
    Before,
    /// It has its effect, and then fails.
    After,
}

impl Fault {
    /// Hits every request; narrow it with the other methods.
    pub fn new(action: Action) -> Self {
        Self {
            operations: Vec::new(),
            bucket: None,
            key_prefix: String::new(),
            skip: 0,
            times: None,
            probability: None,
            action,
        }
    }

    /// An S3 error before anything is done.
    pub fn error(status: u16, code: &str) -> Self {
        Self::new(Action::Error {
            status,
            code: code.to_owned(),
            when: When::Before,
        })
    }

    /// Only this operation, or one of those named before.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// Only requests to this bucket.
    #[must_use]
    pub fn bucket(mut self, bucket: &str) -> Self {
        self.bucket = Some(bucket.to_owned());
        self
    }

    /// Only keys (of listings: prefixes) that begin so.
    #[must_use]
    pub fn key_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.key_prefix);
        self
    }

    /// Lets this many matching requests pass first.
    #[must_use]
    pub fn skip(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// Hits only so many.
    #[must_use]
    pub fn times(mut self, requests: u64) -> Self {
        self.times = Some(requests);
        self
    }

    /// Hits this share of the matching requests, drawn from a fixed seed.
    #[must_use]
    pub fn probability(mut self, share: f64) -> Self {
        self.probability = Some(share);
        self
    }

    fn matches(&self, target: &Target) -> bool {
        (self.operations.is_empty() || self.operations.contains(&target.operation))
            && self.bucket.as_ref().is_none_or(|bucket| *bucket == target.bucket)
            && target.key.starts_with(&self.key_prefix)
    }
}

/// The faults that are set.
#[derive(Debug)]
pub struct Faults {
    state: Mutex<State>,
}

/// Names a fault that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultId(pub u64);

/// A fault and what it did so far.
#[derive(Debug, Clone, Serialize)]
pub struct FaultStatus {
    /// Its name.
    pub id: FaultId,
    /// What was set.
    pub fault: Fault,
    /// Requests that matched.
    pub matched: u64,
    /// Requests that were hit.
    pub hit: u64,
}

#[derive(Debug)]
struct State {
    next: u64,
    faults: Vec<FaultStatus>,
    random: u64,
}

/// What the faults do to one request.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) dialect: Dialect,
    pub(crate) actions: Vec<Action>,
}

impl Faults {
    /// No faults yet; probabilities are drawn from `seed`, so that a run can be repeated.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: Mutex::new(State {
                next: 1,
                faults: Vec::new(),
                random: seed,
            }),
        }
    }

    /// Adds a fault.
    pub fn add(&self, fault: Fault) -> FaultId {
        let mut state = self.state.lock();
        let id = FaultId(state.next);
        state.next += 1;
        state.faults.push(FaultStatus {
            id,
            fault,
            matched: 0,
            hit: 0,
        });
        id
    }

    /// Removes a fault and tells what it did.
    pub fn remove(&self, id: FaultId) -> Option<FaultStatus> {
        let mut state = self.state.lock();
        let at = state.faults.iter().position(|fault| fault.id == id)?;
        Some(state.faults.remove(at))
    }

    /// Removes all faults.
    pub fn clear(&self) {
        self.state.lock().faults.clear();
    }

    /// Every fault that is set.
    pub fn list(&self) -> Vec<FaultStatus> {
        self.state.lock().faults.clone()
    }

    /// How many requests a fault has hit.
    pub fn hits(&self, id: FaultId) -> u64 {
        self.state
            .lock()
            .faults
            .iter()
            .find(|fault| fault.id == id)
            .map_or(0, |fault| fault.hit)
    }

    pub(crate) fn strike(&self, target: &Target) -> Effects {
        let mut effects = Effects::default();
        let mut state = self.state.lock();
        let State {
            next: _,
            faults,
            random,
        } = &mut *state;
        for status in faults {
            if !status.fault.matches(target) {
                continue;
            }
            status.matched += 1;
            let spent = status.fault.times.is_some_and(|times| status.hit >= times);
            if status.matched <= status.fault.skip
                || spent
                || status
                    .fault
                    .probability
                    .is_some_and(|share| draw(random) >= share)
            {
                continue;
            }
            status.hit += 1;
            match status.fault.action {
                Action::IgnoreStartAfter => effects.dialect.ignore_start_after = true,
                Action::ForgetCompleted => effects.dialect.forget_completed = true,
                Action::IgnoreConditionals => effects.dialect.ignore_conditionals = true,
                _ => effects.actions.push(status.fault.action.clone()),
            }
        }
        effects
    }
}

/// The next number of SplitMix64, in 0..1.
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

impl Action {
    /// A stall before the request is looked at.
    pub fn stall(duration: Duration) -> Self {
        Self::Stall {
            millis: duration.as_millis() as u64,
            at_byte: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(operation: Operation, key: &str) -> Target {
        Target {
            operation,
            bucket: "b".to_owned(),
            key: key.to_owned(),
        }
    }

    #[test]
    fn a_fault_hits_the_named_requests_only() {
        let faults = Faults::new(1);
        let id = faults.add(
            Fault::error(503, "SlowDown")
                .on(Operation::GetObject)
                .key_prefix("a/")
                .skip(1)
                .times(2),
        );
        let mut hits = Vec::new();
        for (operation, key) in [
            (Operation::PutObject, "a/1"),
            (Operation::GetObject, "b/1"),
            (Operation::GetObject, "a/1"),
            (Operation::GetObject, "a/2"),
            (Operation::GetObject, "a/3"),
            (Operation::GetObject, "a/4"),
        ] {
            hits.push(!faults.strike(&target(operation, key)).actions.is_empty());
        }
        assert_eq!(hits, [false, false, false, true, true, false]);
        assert_eq!(faults.hits(id), 2);
    }

    #[test]
    fn a_probability_hits_about_its_share() {
        let faults = Faults::new(7);
        let id = faults.add(Fault::error(500, "InternalError").probability(0.05));
        for _ in 0..10_000 {
            faults.strike(&target(Operation::GetObject, "k"));
        }
        assert!((400..600).contains(&faults.hits(id)), "{}", faults.hits(id));
    }

    #[test]
    fn a_fault_reads_as_json() {
        let text = r#"{"operations": ["CompleteMultipartUpload"], "times": 1,
            "action": {"error_in_body": {"code": "InternalError", "when": "after"}}}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(
            fault.action,
            Action::ErrorInBody {
                code: "InternalError".to_owned(),
                when: When::After
            }
        );
        let text = r#"{"action": "ignore_start_after"}"#;
        assert_eq!(
            serde_json::from_str::<Fault>(text).unwrap().action,
            Action::IgnoreStartAfter
        );
        assert!(serde_json::from_str::<Fault>(r#"{"acton": "ignore_start_after"}"#).is_err());
    }
}
