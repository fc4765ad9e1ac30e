//! One attempt at a request of the kernel, so that the successor of a dead worker can tell what became of it.
//!
//! Before anything is changed, the attempt notes what it is about to do; when all is done, what came of it. The
//! kernel marks requests that it sends again. For one of these there are three cases: it had ended, and only the
//! reply was lost, then the same is answered; it had begun, then it is carried on, taking what it finds for its
//! own work; or neither, then it is done as if it came for the first time.
//!
//! An outcome is forgotten as soon as the reply has been handed to the kernel, which then drops the request and
//! can never send it again. So there are at most as many outcomes as requests on their way, and after a death a
//! few more, of those whose forgetting was not written.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::recorder::Recorder;

/// The kernel's mark on the number of a request that it sends once more.
const RESENT: u64 = 1 << 63;

/// What a request was about to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Intent {
    /// To make a file that exists only here at first.
    MakeFile,
    /// To make a folder, whose marker carries this stamp.
    MakeFolder {
        /// An id.
        stamp: u128,
    },
    /// To remove a name.
    Remove,
    /// To move this inode: a folder, or a file of which nobody noted the version.
    Rename {
        /// Its number.
        ino: u64,
    },
    /// To move this file.
    RenameOf {
        /// Its number.
        ino: u64,
        /// The version that is copied; another one under the old name is somebody else's.
        etag: String,
    },
}

/// What came of a request. What was opened is told by the record of its handle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done.
    Done,
    /// This inode was made.
    Made {
        /// Its number.
        ino: u64,
    },
}

/// What is known of a request that another process had begun.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Before {
    /// What it was about to do.
    pub intent: Option<Intent>,
    /// What came of it.
    pub outcome: Option<Outcome>,
}

/// One attempt at a request.
pub struct Attempt {
    recorder: Recorder,
    request: Option<u64>,
    repeated: bool,
    before: Before,
    /// Something was noted that must not be kept for longer than the request.
    noted: AtomicBool,
}

impl Attempt {
    /// An attempt at nothing that the kernel asks for, or where nobody succeeds anybody.
    pub fn unrecorded() -> Attempt {
        Attempt {
            recorder: Recorder::default(),
            request: None,
            repeated: false,
            before: Before::default(),
            noted: AtomicBool::new(false),
        }
    }

    /// The attempt at the request of this number, as the kernel gives it.
    pub fn at(recorder: &Recorder, unique: u64) -> Attempt {
        let request = unique & !RESENT;
        let resent = unique & RESENT != 0;
        let before = resent.then(|| recorder.inherited(request)).flatten();
        Attempt {
            request: recorder.is_on().then_some(request),
            recorder: recorder.clone(),
            repeated: resent,
            noted: AtomicBool::new(before.is_some()),
            before: before.unwrap_or_default(),
        }
    }

    /// The request's number, if it matters to anybody.
    pub fn request(&self) -> Option<u64> {
        self.request
    }

    /// Whether the kernel asks for it once more.
    pub fn is_repeated(&self) -> bool {
        self.repeated
    }

    /// What came of an earlier attempt.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.before.outcome.as_ref()
    }

    /// What an earlier attempt was about to do. It may have done all, some or nothing of it.
    pub fn begun(&self) -> Option<&Intent> {
        self.before.intent.as_ref()
    }

    /// Notes what is about to be done; the caller writes it down before the store is asked.
    pub fn begin(&self, intent: Intent) {
        if let Some(request) = self.request {
            self.noted.store(true, Ordering::Relaxed);
            self.recorder.note(&Record::Began(request, intent));
        }
    }

    /// Notes what came of it.
    pub fn end(&self, outcome: Outcome) {
        if let Some(ended) = self.ended(outcome) {
            self.recorder.note(&ended);
        }
    }

    /// The record that [`Attempt::end`] notes, to be noted together with others.
    pub fn ended(&self, outcome: Outcome) -> Option<Record> {
        let request = self.request?;
        self.noted.store(true, Ordering::Relaxed);
        Some(Record::Ended(request, outcome))
    }

    /// The kernel has the reply.
    pub fn answered(&self) {
        if let Some(request) = self.request
            && self.noted.load(Ordering::Relaxed)
        {
            self.recorder.note_in_passing(&Record::Answered(request));
        }
    }
}
