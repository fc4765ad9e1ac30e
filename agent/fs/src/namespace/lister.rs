//! Lists one folder, page after page, for everybody who waits for it.
//!
//! Readers get entries as they arrive, in the order in which they arrive, which is the order of the keys.
//! A file is held back until the listing has passed its name followed by a slash: only then is it certain
//! that no folder of the same name comes (`a`, `a-b`, `a/`: other keys may lie between).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::hidden::{HiddenLog, Reason};
use super::names::FileName;
use super::runs::{Entry, ObjectVersion, Run};
use crate::error::FsError;
use crate::store::{ListPage, ListRequest, ObjectStore};

/// Keys asked for per page: S3's maximum, since a page costs a round trip whatever its size.
const PAGE_KEYS: u16 = 1000;

/// Hidden keys remembered per folder: what fits well into an extended attribute of 64 KiB.
const HIDDEN_PER_FOLDER_MAX: usize = 50;

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
    pub async fn run(
        &self,
        store: &dyn ObjectStore,
        prefix: &str,
        hidden: &HiddenLog,
    ) -> Result<Listed, FsError> {
        let result = self.pages(store, prefix, hidden).await;
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
        store: &dyn ObjectStore,
        prefix: &str,
        hidden: &HiddenLog,
    ) -> Result<Listed, FsError> {
        let mut sorting = Sorting::default();
        let mut continuation = None;
        loop {
            let page = store
                .list(ListRequest {
                    prefix: prefix.to_owned(),
                    delimited: true,
                    start_after: None,
                    continuation,
                    keys_max: PAGE_KEYS,
                })
                .await?;
            let next = page.next.clone();
            sorting.take(page, prefix, hidden, |settled| self.publish(settled));
            self.moved.notify_waiters();
            if next.is_none() {
                break;
            }
            continuation = next;
        }
        let Sorting { held, marker, hidden } = sorting;
        held.into_iter().for_each(|settled| self.publish(settled));
        let run = Arc::new(Run::new(self.progress.lock().ready.clone()));
        Ok(Listed { run, marker, hidden })
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
