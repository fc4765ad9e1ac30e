//! Lists one folder for everybody who waits for it, a large one in several places at the same time.
//!
//! Readers get entries as they arrive, in the order in which they arrive. A file is held back until the listing has
//! passed its name followed by a slash, or has come to its end: only then is it certain that no folder of the same
//! name comes (`a`, `a-b`, `a/`: other keys may lie between).
//!
//! A store that does not begin where it is asked to, or whose keys come in another order than that of their bytes, is
//! listed page after page.

mod ranges;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::ranges::Ranges;
use super::hidden::{HiddenLog, Reason};
use super::names::FileName;
use super::runs::{Entry, ObjectVersion, Run};
use crate::error::FsError;
use crate::store::{Key, ListPage, ListRequest, ObjectStore, StoreError};

/// Keys asked for per page: S3's maximum, since a page costs a round trip whatever its size.
const PAGE_KEYS: u16 = 1000;

/// Hidden keys remembered per folder: what fits well into an extended attribute of 64 KiB.
const HIDDEN_PER_FOLDER_MAX: usize = 50;

/// Requests at a time. S3 takes thousands of them a second; a store nearby is limited by what it and we compute.
const PARALLEL_FAR: usize = 16;
const PARALLEL_NEAR: usize = 4;

/// With its first page still on the way, nobody knows whether a folder is large: then fewer questions are asked.
const PARALLEL_AT_FIRST: usize = 8;

/// A store that answers faster is nearby.
const NEAR: Duration = Duration::from_millis(10);

/// A listing in progress, or one that has just ended.
#[derive(Debug)]
pub struct Lister {
    /// When the first page was asked for.
    pub started: Instant,
    /// The namespace's generation at that time; the result counts only if it is still the same.
    pub generation: u64,
    progress: Mutex<Progress>,
    moved: Notify,
}

/// A complete listing.
#[derive(Debug)]
pub struct Listed {
    /// What is in the folder.
    pub run: Arc<Run>,
    /// Whether the folder has a key of its own.
    pub marker: bool,
    /// Keys that cannot be shown, cut to a bound.
    pub hidden: Vec<String>,
}

#[derive(Debug, Default)]
struct Progress {
    ready: Vec<(FileName, Entry)>,
    index: HashMap<FileName, usize>,
    end: Option<Result<(), FsError>>,
}

/// What [`Lister::run`] keeps to itself between two pages.
#[derive(Default)]
struct Sorting {
    held: Vec<(FileName, Entry)>,
    marker: bool,
    hidden: Vec<String>,
}

impl Lister {
    /// A listing that has not begun.
    pub fn new(started: Instant, generation: u64) -> Lister {
        Lister {
            started,
            generation,
            progress: Mutex::default(),
            moved: Notify::new(),
        }
    }

    /// Lists everything directly below `prefix` (empty, or ending in a slash).
    ///
    /// `divisible` says whether the store begins where it is asked to, as far as is known, and is told otherwise.
    pub async fn run(
        &self,
        store: &Arc<dyn ObjectStore>,
        prefix: &str,
        hidden: &HiddenLog,
        divisible: &AtomicBool,
    ) -> Result<Listed, FsError> {
        let mut result = self
            .pages(store, prefix, hidden, divisible.load(Ordering::Relaxed))
            .await;
        if let Err(Unlisted::Indivisible) = result {
            divisible.store(false, Ordering::Relaxed);
            tracing::info!(
                prefix,
                "the store does not list from where it is asked to; folders are listed page after page"
            );
            result = self.pages(store, prefix, hidden, false).await;
        }
        let result = result.map_err(|unlisted| match unlisted {
            Unlisted::Failed(error) => error,
            Unlisted::Indivisible => unreachable!("nothing was divided"),
        });
        self.progress.lock().end = Some(result.as_ref().map(|_| ()).map_err(Clone::clone));
        self.moved.notify_waiters();
        result
    }

    /// Notes that nobody will continue, so that readers do not wait for ever.
    pub fn abandon(&self, error: FsError) {
        self.progress.lock().end.get_or_insert(Err(error));
        self.moved.notify_waiters();
    }

    /// The entry of a name, if the listing has come that far.
    pub fn seen(&self, name: &FileName) -> Option<Entry> {
        let progress = self.progress.lock();
        progress.index.get(name).map(|at| progress.ready[*at].1.clone())
    }

    /// Up to `count` entries from position `from`; waits until there is at least one. Empty at the end.
    pub async fn entries(&self, from: usize, count: usize) -> Result<Vec<(FileName, Entry)>, FsError> {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let progress = self.progress.lock();
                if from < progress.ready.len() {
                    let to = (from + count).min(progress.ready.len());
                    return Ok(progress.ready[from..to].to_vec());
                }
                match &progress.end {
                    Some(Ok(())) => return Ok(Vec::new()),
                    Some(Err(error)) => return Err(error.clone()),
                    None => {}
                }
            }
            moved.await;
        }
    }

    async fn pages(
        &self,
        store: &Arc<dyn ObjectStore>,
        prefix: &str,
        hidden: &HiddenLog,
        divisible: bool,
    ) -> Result<Listed, Unlisted> {
        let mut ranges = Ranges::whole();
        let mut sortings = vec![Sorting::default()];
        let mut asked = Asked::new(store, prefix);
        let begun = Instant::now();
        asked.ask(0, None, None);
        let mut pages = 0_u32;
        let mut parallel = PARALLEL_AT_FIRST;
        while let Some((range, first, answer)) = asked.answered().await {
            let mut page = match answer {
                Ok(page) => page,
                // It may not know the question; if it knows no other either, that is told then.
                Err(_) if first && range > 0 => return Err(Unlisted::Indivisible),
                Err(error) => return Err(Unlisted::Failed(error.into())),
            };
            if pages == 0 && begun.elapsed() < NEAR {
                parallel = PARALLEL_NEAR;
            } else if pages == 1 && parallel > PARALLEL_NEAR {
                parallel = PARALLEL_FAR;
            }
            pages += 1;
            if divisible && !is_in_order(&page, prefix, ranges.at(range)) {
                return Err(Unlisted::Indivisible);
            }
            let whole = page.objects.len() + page.prefixes.len();
            page.objects
                .retain(|(key, _)| ranges.holds(range, below(key, prefix)));
            page.prefixes
                .retain(|key| ranges.holds(range, below(key, prefix)));
            let own = page.objects.len() + page.prefixes.len();
            let next = page.next.clone().filter(|_| own == whole);
            let keys = page.objects.iter().map(|(key, _)| key).chain(&page.prefixes);
            ranges.came(range, keys.map(|key| below(key, prefix)), next.is_none());
            sortings[range].take(page, prefix, hidden, |settled| self.publish(settled));
            self.moved.notify_waiters();
            if next.is_some() {
                asked.ask(range, None, next);
            }
            if divisible {
                let idle = parallel.saturating_sub(asked.on_their_way());
                for fresh in ranges.divide(idle, PAGE_KEYS.into()) {
                    sortings.push(Sorting::default());
                    asked.ask(fresh, Some(ranges.at(fresh)), None);
                }
            }
        }
        Ok(self.finish(sortings, prefix, hidden))
    }

    /// Everything has come: shows the files that may now be shown.
    fn finish(&self, sortings: Vec<Sorting>, prefix: &str, hidden: &HiddenLog) -> Listed {
        let mut all = Sorting::default();
        for mut sorting in sortings {
            all.marker |= sorting.marker;
            let room = HIDDEN_PER_FOLDER_MAX.saturating_sub(all.hidden.len());
            all.hidden.extend(sorting.hidden.drain(..).take(room));
            all.held.append(&mut sorting.held);
        }
        for (name, entry) in std::mem::take(&mut all.held) {
            // Its folder may have come in another range.
            match self.seen(&name) {
                Some(Entry::Folder) => {
                    all.hide(&format!("{prefix}{}", name.as_str()), Reason::AlsoFolder, hidden);
                }
                Some(Entry::File(_) | Entry::Local) | None => self.publish((name, entry)),
            }
        }
        let run = Arc::new(Run::new(self.progress.lock().ready.clone()));
        let Sorting {
            held: _,
            marker,
            hidden,
        } = all;
        Listed { run, marker, hidden }
    }

    fn publish(&self, (name, entry): (FileName, Entry)) {
        let mut progress = self.progress.lock();
        // A store that repeats a key across pages must not make a name appear twice.
        if progress.index.contains_key(&name) {
            return;
        }
        let at = progress.ready.len();
        progress.index.insert(name.clone(), at);
        progress.ready.push((name, entry));
    }
}

/// The requests of one listing that are on their way. Dropping it calls them off.
struct Asked<'a> {
    store: &'a Arc<dyn ObjectStore>,
    prefix: &'a str,
    requests: JoinSet<(usize, bool, Result<ListPage, StoreError>)>,
}

/// Why there is no listing.
enum Unlisted {
    /// The store begins elsewhere than it was asked to.
    Indivisible,
    /// It does not answer, or refuses.
    Failed(FsError),
}

impl<'a> Asked<'a> {
    fn new(store: &'a Arc<dyn ObjectStore>, prefix: &'a str) -> Asked<'a> {
        Asked {
            store,
            prefix,
            requests: JoinSet::new(),
        }
    }

    /// Asks for a page of a range: the first one after a key, or the one that follows another. In a task of its own, since
    /// reading a page takes as long as a round trip to a store nearby.
    fn ask(&mut self, range: usize, after: Option<&str>, continuation: Option<String>) {
        let first = continuation.is_none();
        let request = ListRequest {
            prefix: self.prefix.to_owned(),
            delimited: true,
            start_after: after.map(|after| format!("{}{after}", self.prefix)),
            continuation,
            keys_max: PAGE_KEYS,
        };
        let store = Arc::clone(self.store);
        self.requests
            .spawn(async move { (range, first, store.list(request).await) });
    }

    fn on_their_way(&self) -> usize {
        self.requests.len()
    }

    /// The next page that comes: of which range, whether it is the first one, and what it is. None if none is asked for.
    async fn answered(&mut self) -> Option<(usize, bool, Result<ListPage, StoreError>)> {
        match self.requests.join_next().await? {
            Ok(answered) => Some(answered),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The process ends.
                Err(_) => Some((0, false, Err(StoreError::DeadlineExceeded))),
            },
        }
    }
}

/// A key relative to the folder.
fn below<'a>(key: &'a Key, prefix: &str) -> &'a str {
    key.as_str().strip_prefix(prefix).unwrap_or_default()
}

/// Whether a page's keys come in the order of their bytes, behind those that came before.
fn is_in_order(page: &ListPage, prefix: &str, after: &str) -> bool {
    // Some stores name a folder on two pages.
    let behind = |key: &Key| below(key, prefix) >= after || key.as_str() == prefix;
    page.objects.iter().all(|(key, _)| behind(key))
        && page.prefixes.iter().all(behind)
        && page.objects.is_sorted_by(|(one, _), (other, _)| one < other)
        && page.prefixes.is_sorted_by(|one, other| one < other)
}

impl Sorting {
    fn take(
        &mut self,
        page: ListPage,
        prefix: &str,
        hidden: &HiddenLog,
        mut settle: impl FnMut((FileName, Entry)),
    ) {
        let mut objects = page.objects.into_iter().peekable();
        let mut folders = page.prefixes.into_iter().peekable();
        loop {
            let object_first = match (objects.peek(), folders.peek()) {
                (Some((object, _)), Some(folder)) => object < folder,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return,
            };
            if object_first {
                let Some((key, info)) = objects.next() else { return };
                let Some(rest) = key.as_str().strip_prefix(prefix) else {
                    continue;
                };
                if rest.is_empty() {
                    self.marker = true;
                    if info.size > 0 {
                        self.hide(key.as_str(), Reason::MarkerWithBytes, hidden);
                    }
                    continue;
                }
                self.settle_before(rest, &mut settle);
                match FileName::of_component(rest) {
                    Some(name) => self
                        .held
                        .push((name, Entry::File(Arc::new(ObjectVersion::of(&info))))),
                    None => self.hide(key.as_str(), Reason::InvalidComponent, hidden),
                }
            } else {
                let Some(key) = folders.next() else { return };
                let Some(rest) = key.as_str().strip_prefix(prefix) else {
                    continue;
                };
                self.settle_before(rest, &mut settle);
                let component = rest.strip_suffix('/').unwrap_or(rest);
                let Some(name) = FileName::of_component(component) else {
                    self.hide(key.as_str(), Reason::InvalidComponent, hidden);
                    continue;
                };
                if let Some(at) = self.held.iter().position(|(file, _)| *file == name) {
                    self.held.remove(at);
                    self.hide(&format!("{prefix}{component}"), Reason::AlsoFolder, hidden);
                }
                settle((name, Entry::Folder));
            }
        }
    }

    /// Lets go of the files that can have no folder of the same name any more, as the listing is at `rest`.
    fn settle_before(&mut self, rest: &str, settle: &mut impl FnMut((FileName, Entry))) {
        let mut at = 0;
        while at < self.held.len() {
            let name = self.held[at].0.as_str();
            let folder_passed = rest.as_bytes().iter().copied().gt(name.bytes().chain([b'/']));
            if folder_passed {
                settle(self.held.remove(at));
            } else {
                at += 1;
            }
        }
    }

    fn hide(&mut self, key: &str, reason: Reason, hidden: &HiddenLog) {
        if self.hidden.len() < HIDDEN_PER_FOLDER_MAX {
            self.hidden.push(key.to_owned());
        }
        hidden.note(key, reason);
    }
}

#[cfg(test)]
mod tests;
