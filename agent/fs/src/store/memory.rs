//! A fake bucket in memory for unit tests, with scripted failures and a record of what was asked.
//!
//! It keeps S3's promises that the filesystem builds on: order of listings, conditions, multipart,
//! versions. Its clock is a counter: each write is a second later than the one before.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Range};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use parking_lot::Mutex;

pub(crate) use super::call::Call;
use super::{
    ETag, GetResponse, Key, ListPage, ListRequest, ObjectInfo, ObjectStore, PartDone, StoreError, UploadBody,
    WriteCondition,
};

/// A body arrives in chunks of this size: small, so that tests see partial progress.
const CHUNK_BYTES: usize = 10_000;

/// The fake bucket.
#[derive(Default)]
pub(crate) struct MemoryStore {
    state: Mutex<State>,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The request fails and has no effect.
    Fail(StoreError),
    /// The request has its effect, but the reply is lost.
    LoseReply(StoreError),
    /// The body of a GET breaks off after so many bytes.
    CutBody(u64),
    /// The body of a GET stands still after so many bytes, for ever.
    StallBody(u64),
    /// The request takes this long.
    Delay(Duration),
}

/// A request that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Called {
    pub(crate) call: Call,
    pub(crate) key: String,
    pub(crate) range: Option<Range<u64>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    faults: VecDeque<(Call, Fault)>,
    called: Vec<Called>,
    writes: u64,
    clock: Option<SystemTime>,
    ignores_conditions: bool,
    ignores_start_after: bool,
    stands_still: bool,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    info: ObjectInfo,
}

struct Upload {
    key: String,
    metadata: BTreeMap<String, String>,
    parts: BTreeMap<u16, (ETag, Bytes)>,
}

impl MemoryStore {
    pub(crate) fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Puts an object without a request.
    pub(crate) fn insert(&self, key: &str, bytes: impl Into<Bytes>) -> ETag {
        self.state.lock().write(key, bytes.into(), BTreeMap::new())
    }

    /// The same, with metadata.
    pub(crate) fn insert_with(&self, key: &str, text: &'static str, metadata: &[(&str, &str)]) -> ETag {
        let metadata = metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.state.lock().write(key, text.into(), metadata)
    }

    /// As some stores do: answers success, whatever the condition.
    pub(crate) fn ignore_conditions(&self, ignore: bool) {
        self.state.lock().ignores_conditions = ignore;
    }

    /// As some stores do: lists from the beginning, wherever it is asked to begin.
    pub(crate) fn ignore_start_after(&self) {
        self.state.lock().ignores_start_after = true;
    }

    /// All that is written is written in the same second.
    pub(crate) fn stand_still(&self) {
        self.state.lock().stands_still = true;
    }

    /// Removes an object without a request.
    pub(crate) fn remove(&self, key: &str) {
        self.state.lock().objects.remove(key);
    }

    /// An object's bytes and metadata, without a request.
    pub(crate) fn object(&self, key: &str) -> Option<(Bytes, ObjectInfo)> {
        self.state
            .lock()
            .objects
            .get(key)
            .map(|object| (object.bytes.clone(), object.info.clone()))
    }

    /// What its answers give as the time; without it, whoever asks must expect the worst.
    pub(crate) fn set_clock(&self, time: SystemTime) {
        self.state.lock().clock = Some(time);
    }

    /// All keys, without a request.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// Uploads that were neither completed nor aborted.
    pub(crate) fn uploads(&self) -> usize {
        self.state.lock().uploads.len()
    }

    /// The next unplanned request of this kind goes wrong; faults of a kind are used in order, each once.
    pub(crate) fn plan(&self, call: Call, fault: Fault) {
        self.state.lock().faults.push_back((call, fault));
    }

    /// What was asked so far.
    pub(crate) fn called(&self) -> Vec<Called> {
        self.state.lock().called.clone()
    }

    /// Notes the request and answers the fault planned for it. Delays have passed when it returns.
    async fn enter(
        &self,
        call: Call,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<Fault>, StoreError> {
        let fault = {
            let mut state = self.state.lock();
            state.called.push(Called {
                call,
                key: key.to_owned(),
                range,
            });
            let planned = state.faults.iter().position(|(planned, _)| *planned == call);
            planned
                .and_then(|at| state.faults.remove(at))
                .map(|(_, fault)| fault)
        };
        match fault {
            Some(Fault::Fail(error)) => Err(error),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    /// One request: planned fault, effect, reply.
    fn answer<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        key: &'a str,
        effect: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let fault = self.enter(call, key, None).await?;
            let answer = effect(&mut self.state.lock());
            match fault {
                Some(Fault::LoseReply(error)) => Err(error),
                _ => answer,
            }
        })
    }
}

impl State {
    fn write(&mut self, key: &str, bytes: Bytes, metadata: BTreeMap<String, String>) -> ETag {
        self.writes += 1;
        let etag = ETag(format!("\"{}\"", self.writes));
        let second = if self.stands_still { 1 } else { self.writes };
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + second);
        let info = ObjectInfo {
            size: bytes.len() as u64,
            etag: etag.clone(),
            modified,
            metadata,
        };
        self.objects.insert(key.to_owned(), Object { bytes, info });
        etag
    }

    fn object(&self, key: &Key) -> Result<&Object, StoreError> {
        self.objects.get(key.as_str()).ok_or(StoreError::NotFound)
    }

    fn object_if(&self, key: &Key, if_match: Option<&ETag>) -> Result<&Object, StoreError> {
        let object = self.object(key)?;
        match if_match {
            Some(etag) if *etag != object.info.etag => Err(StoreError::PreconditionFailed),
            _ => Ok(object),
        }
    }

    fn check(&self, key: &str, condition: &WriteCondition) -> Result<(), StoreError> {
        if self.ignores_conditions {
            return Ok(());
        }
        match (condition, self.objects.get(key)) {
            (WriteCondition::None, _) | (WriteCondition::Absent, None) => Ok(()),
            (WriteCondition::Absent, Some(_)) => Err(StoreError::PreconditionFailed),
            (WriteCondition::Matches(_), None) => Err(StoreError::NotFound),
            (WriteCondition::Matches(etag), Some(object)) if *etag == object.info.etag => Ok(()),
            (WriteCondition::Matches(_), Some(_)) => Err(StoreError::PreconditionFailed),
        }
    }

    fn part(&mut self, upload: &str, number: u16, bytes: Bytes) -> Result<PartDone, StoreError> {
        self.writes += 1;
        let etag = ETag(format!("\"part-{}\"", self.writes));
        let upload = self.uploads.get_mut(upload).ok_or(StoreError::NotFound)?;
        upload.parts.insert(number, (etag.clone(), bytes));
        Ok(PartDone { number, etag })
    }

    fn list(&self, request: &ListRequest) -> ListPage {
        let ListRequest {
            prefix,
            delimited,
            start_after,
            continuation,
            keys_max,
        } = request;
        let start_after = start_after.as_ref().filter(|_| !self.ignores_start_after);
        let after = continuation.as_ref().or(start_after);
        let from = match after {
            Some(after) if after.as_str() >= prefix.as_str() => Bound::Excluded(after.clone()),
            _ => Bound::Included(prefix.clone()),
        };
        let mut page = ListPage::default();
        let mut last = String::new();
        for (key, object) in self.objects.range((from, Bound::Unbounded)) {
            let Some(rest) = key.strip_prefix(prefix.as_str()) else {
                break;
            };
            let folder = rest
                .find('/')
                .filter(|_| *delimited)
                .map(|at| &key[..prefix.len() + at + 1]);
            // Inside a folder that a page before has told.
            if folder.is_some_and(|folder| last == folder || after.is_some_and(|after| after == folder)) {
                continue;
            }
            if page.objects.len() + page.prefixes.len() == usize::from(*keys_max) {
                page.next = Some(last);
                break;
            }
            match folder {
                Some(folder) => {
                    page.prefixes.push(Key::new(folder));
                    last = folder.to_owned();
                }
                None => {
                    let info = ObjectInfo {
                        metadata: BTreeMap::new(),
                        ..object.info.clone()
                    };
                    page.objects.push((Key::new(key.clone()), info));
                    last = key.clone();
                }
            }
        }
        page
    }
}

impl ObjectStore for MemoryStore {
    fn clock(&self) -> Option<(SystemTime, Instant)> {
        Some((self.state.lock().clock?, Instant::now()))
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        self.answer(Call::Head, key.as_str(), |state| {
            Ok(state.object(key)?.info.clone())
        })
    }

    fn get<'a>(
        &'a self,
        key: &'a Key,
        range: Option<Range<u64>>,
        if_match: Option<&'a ETag>,
    ) -> BoxFuture<'a, Result<GetResponse, StoreError>> {
        Box::pin(async move {
            let fault = self.enter(Call::Get, key.as_str(), range.clone()).await?;
            let Object { bytes, info } = self.state.lock().object_if(key, if_match)?.clone();
            let range = range.unwrap_or(0..info.size);
            if range.end > info.size {
                return Err(StoreError::Refused {
                    code: "InvalidRange".to_owned(),
                });
            }
            let mut bytes = bytes.slice(range.start as usize..range.end as usize);
            let end = match fault {
                Some(Fault::CutBody(after)) => {
                    bytes.truncate(after as usize);
                    stream::iter([Err(StoreError::Interrupted {
                        reason: "planned".to_owned(),
                    })])
                    .boxed()
                }
                Some(Fault::StallBody(after)) => {
                    bytes.truncate(after as usize);
                    stream::pending().boxed()
                }
                _ => stream::empty().boxed(),
            };
            let chunks = stream::unfold(bytes, |mut bytes| async move {
                // Lets readers run between chunks, as the network would.
                tokio::task::yield_now().await;
                let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
                (!chunk.is_empty()).then_some((Ok(chunk), bytes))
            });
            Ok(GetResponse {
                info,
                body: chunks.chain(end).boxed(),
            })
        })
    }

    fn list<'a>(&'a self, request: ListRequest) -> BoxFuture<'a, Result<ListPage, StoreError>> {
        Box::pin(async move {
            self.enter(Call::List, &request.prefix, None).await?;
            Ok(self.state.lock().list(&request))
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        body: UploadBody,
        metadata: &'a BTreeMap<String, String>,
        condition: WriteCondition,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        self.answer(Call::Put, key.as_str(), move |state| {
            state.check(key.as_str(), &condition)?;
            Ok(state.write(key.as_str(), bytes_of(&body)?, metadata.clone()))
        })
    }

    fn create_upload<'a>(
        &'a self,
        key: &'a Key,
        metadata: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, StoreError>> {
        self.answer(Call::CreateUpload, key.as_str(), |state| {
            state.writes += 1;
            let id = format!("upload-{}", state.writes);
            let upload = Upload {
                key: key.as_str().to_owned(),
                metadata: metadata.clone(),
                parts: BTreeMap::new(),
            };
            state.uploads.insert(id.clone(), upload);
            Ok(id)
        })
    }

    fn upload_part<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        number: u16,
        body: UploadBody,
    ) -> BoxFuture<'a, Result<PartDone, StoreError>> {
        self.answer(Call::UploadPart, key.as_str(), move |state| {
            state.part(upload, number, bytes_of(&body)?)
        })
    }

    fn copy_part<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        number: u16,
        source: &'a Key,
        range: Range<u64>,
        if_match: &'a ETag,
    ) -> BoxFuture<'a, Result<PartDone, StoreError>> {
        self.answer(Call::CopyPart, key.as_str(), move |state| {
            let bytes = &state.object_if(source, Some(if_match))?.bytes;
            let bytes = bytes.slice(range.start as usize..range.end as usize);
            state.part(upload, number, bytes)
        })
    }

    fn complete_upload<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        parts: &'a [PartDone],
        condition: WriteCondition,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        self.answer(Call::CompleteUpload, key.as_str(), move |state| {
            let begun = state.uploads.get(upload).ok_or(StoreError::NotFound)?;
            assert_eq!(begun.key, key.as_str(), "an upload belongs to one key");
            state.check(key.as_str(), &condition)?;
            let mut whole = Vec::new();
            for PartDone { number, etag } in parts {
                match begun.parts.get(number) {
                    Some((stored, bytes)) if stored == etag => whole.extend_from_slice(bytes),
                    _ => {
                        return Err(StoreError::Refused {
                            code: "InvalidPart".to_owned(),
                        });
                    }
                }
            }
            let metadata = begun.metadata.clone();
            state.uploads.remove(upload);
            Ok(state.write(key.as_str(), whole.into(), metadata))
        })
    }

    fn abort_upload<'a>(&'a self, key: &'a Key, upload: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.answer(Call::AbortUpload, key.as_str(), |state| {
            state.uploads.remove(upload);
            Ok(())
        })
    }

    fn copy<'a>(
        &'a self,
        source: &'a Key,
        target: &'a Key,
        if_match: Option<&'a ETag>,
        metadata: Option<&'a BTreeMap<String, String>>,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        self.answer(Call::Copy, target.as_str(), move |state| {
            let Object { bytes, info } = state.object_if(source, if_match)?.clone();
            Ok(state.write(target.as_str(), bytes, metadata.cloned().unwrap_or(info.metadata)))
        })
    }

    fn delete<'a>(
        &'a self,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Result<(), StoreError>>, StoreError>> {
        let first = keys.first().map_or("", Key::as_str);
        self.answer(Call::Delete, first, move |state| {
            for key in keys {
                state.objects.remove(key.as_str());
            }
            Ok(vec![Ok(()); keys.len()])
        })
    }
}

fn bytes_of(body: &UploadBody) -> Result<Bytes, StoreError> {
    match body {
        UploadBody::Bytes(bytes) => Ok(bytes.clone()),
        UploadBody::File { file, range } => {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let unreadable = |error: std::io::Error| StoreError::Unavailable {
                reason: error.to_string(),
            };
            file.read_exact_at(&mut bytes, range.start).map_err(unreadable)?;
            Ok(bytes.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(prefix: &str, delimited: bool, keys_max: u16) -> ListRequest {
        ListRequest {
            prefix: prefix.to_owned(),
            delimited,
            start_after: None,
            continuation: None,
            keys_max,
        }
    }

    #[tokio::test]
    async fn pages_of_a_listing_tell_each_entry_once_and_in_order() {
        let store = MemoryStore::new();
        for key in ["a-b", "a/1", "a/2", "a/3/x", "b", "c/1"] {
            store.insert(key, "x");
        }
        for keys_max in 1..=5 {
            let mut told = Vec::new();
            let mut next = request("", true, keys_max);
            loop {
                let page = store.list(next.clone()).await.unwrap();
                let objects = page.objects.iter().map(|(key, _)| key);
                told.extend(objects.chain(&page.prefixes).map(|key| key.as_str().to_owned()));
                let Some(token) = page.next else { break };
                next.continuation = Some(token);
            }
            told.sort();
            assert_eq!(told, ["a-b", "a/", "b", "c/"], "pages of {keys_max}");
        }
    }

    #[tokio::test]
    async fn conditions_and_versions_hold() {
        let store = MemoryStore::new();
        let key = Key::new("k");
        let put = |condition| store.put(&key, UploadBody::Bytes("1".into()), EMPTY, condition);
        let first = put(WriteCondition::Absent).await.unwrap();
        assert!(matches!(
            put(WriteCondition::Absent).await,
            Err(StoreError::PreconditionFailed)
        ));
        put(WriteCondition::Matches(first.clone())).await.unwrap();
        assert!(matches!(
            put(WriteCondition::Matches(first)).await,
            Err(StoreError::PreconditionFailed)
        ));
        store.remove("k");
        assert!(matches!(store.head(&key).await, Err(StoreError::NotFound)));
        assert_eq!(store.keys(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_lost_reply_has_its_effect_and_an_upload_is_completed_once() {
        let store = MemoryStore::new();
        let key = Key::new("k");
        let upload = store.create_upload(&key, EMPTY).await.unwrap();
        let part = store
            .upload_part(&key, &upload, 1, UploadBody::Bytes("abc".into()))
            .await
            .unwrap();
        let lost = StoreError::Unavailable {
            reason: "planned".to_owned(),
        };
        store.plan(Call::CompleteUpload, Fault::LoseReply(lost));
        let parts = [part];
        assert!(
            store
                .complete_upload(&key, &upload, &parts, WriteCondition::None)
                .await
                .is_err()
        );
        assert_eq!(store.object("k").unwrap().0, "abc");
        assert_eq!(store.uploads(), 0);
    }

    static EMPTY: &BTreeMap<String, String> = &BTreeMap::new();
}
