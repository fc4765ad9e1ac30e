//! A store that counts what it is asked, how that goes and how long it takes. Retries within a request are part of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};

use super::call::Call;
use super::{
    ETag, GetResponse, Key, ListPage, ListRequest, ObjectInfo, ObjectStore, PartDone, StoreError, UploadBody,
    WriteCondition,
};

/// Upper bounds of the classes of latencies, in milliseconds; slower ones are in one more. From a store nearby to one that
/// is asked again.
pub const LATENCY_MILLIS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 30_000];

/// A store, and what it was asked.
pub struct Metered {
    store: Arc<dyn ObjectStore>,
    requests: Arc<Requests>,
}

/// What a store was asked since the process began.
#[derive(Debug, Default)]
pub struct Requests {
    kinds: [Counts; Call::ALL.len()],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    failed: AtomicU64,
    micros: AtomicU64,
    /// The last is of what takes longer than all bounds.
    latencies: [AtomicU64; LATENCY_MILLIS.len() + 1],
}

/// What was asked of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Requests that have come to an end.
    pub count: u64,
    /// Of these, how many could not be done. That something is absent, or is another version, is an answer.
    pub failed: u64,
    /// What they took together, each until its answer began.
    pub time: Duration,
    /// How many took up to the bounds of [`LATENCY_MILLIS`], and longer.
    pub latencies: Vec<u64>,
}

impl Metered {
    /// Counts what `store` is asked through it.
    pub fn new(store: Arc<dyn ObjectStore>) -> Metered {
        Metered {
            store,
            requests: Arc::default(),
        }
    }

    /// What was asked so far.
    pub fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.requests)
    }

    fn timed<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        request: BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let begun = Instant::now();
            let answer = request.await;
            self.requests.count(call, begun.elapsed(), answer.as_ref().err());
            answer
        })
    }

    fn sending<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        bytes: u64,
        request: BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let answer = self.timed(call, request).await?;
            self.requests.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
            Ok(answer)
        })
    }
}

impl Requests {
    fn count(&self, call: Call, took: Duration, error: Option<&StoreError>) {
        let counts = &self.kinds[call as usize];
        let is_answer = |error: &StoreError| {
            matches!(
                error,
                StoreError::NotFound | StoreError::PreconditionFailed | StoreError::Unsupported
            )
        };
        if error.is_some_and(|error| !is_answer(error)) {
            counts.failed.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counts.micros.fetch_add(micros, Ordering::Relaxed);
        let class = LATENCY_MILLIS.partition_point(|bound| *bound * 1000 < micros);
        counts.latencies[class].fetch_add(1, Ordering::Relaxed);
    }

    /// What was asked of each kind, by its name.
    pub fn by_kind(&self) -> BTreeMap<&'static str, Counted> {
        let counted = |counts: &Counts| {
            let latencies: Vec<u64> = counts
                .latencies
                .iter()
                .map(|class| class.load(Ordering::Relaxed))
                .collect();
            Counted {
                count: latencies.iter().sum(),
                failed: counts.failed.load(Ordering::Relaxed),
                time: Duration::from_micros(counts.micros.load(Ordering::Relaxed)),
                latencies,
            }
        };
        let names = Call::ALL.into_iter().map(Call::name);
        names.zip(self.kinds.iter().map(counted)).collect()
    }

    /// Bytes of objects that have come.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of objects that were sent and accepted.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }
}

impl ObjectStore for Metered {
    fn clock(&self) -> Option<(SystemTime, Instant)> {
        self.store.clock()
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        self.timed(Call::Head, self.store.head(key))
    }

    fn get<'a>(
        &'a self,
        key: &'a Key,
        range: Option<Range<u64>>,
        if_match: Option<&'a ETag>,
    ) -> BoxFuture<'a, Result<GetResponse, StoreError>> {
        Box::pin(async move {
            let GetResponse { info, body } = self
                .timed(Call::Get, self.store.get(key, range, if_match))
                .await?;
            let requests = Arc::clone(&self.requests);
            let count = move |bytes: &bytes::Bytes| {
                let came = bytes.len() as u64;
                requests.received_bytes.fetch_add(came, Ordering::Relaxed);
            };
            Ok(GetResponse {
                info,
                body: body.inspect_ok(count).boxed(),
            })
        })
    }

    fn list<'a>(&'a self, request: ListRequest) -> BoxFuture<'a, Result<ListPage, StoreError>> {
        self.timed(Call::List, self.store.list(request))
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        body: UploadBody,
        metadata: &'a BTreeMap<String, String>,
        condition: WriteCondition,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        let bytes = body.len();
        self.sending(Call::Put, bytes, self.store.put(key, body, metadata, condition))
    }

    fn create_upload<'a>(
        &'a self,
        key: &'a Key,
        metadata: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, StoreError>> {
        self.timed(Call::CreateUpload, self.store.create_upload(key, metadata))
    }

    fn upload_part<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        number: u16,
        body: UploadBody,
    ) -> BoxFuture<'a, Result<PartDone, StoreError>> {
        let bytes = body.len();
        let request = self.store.upload_part(key, upload, number, body);
        self.sending(Call::UploadPart, bytes, request)
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
        let request = self.store.copy_part(key, upload, number, source, range, if_match);
        self.timed(Call::CopyPart, request)
    }

    fn complete_upload<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        parts: &'a [PartDone],
        condition: WriteCondition,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        let request = self.store.complete_upload(key, upload, parts, condition);
        self.timed(Call::CompleteUpload, request)
    }

    fn abort_upload<'a>(&'a self, key: &'a Key, upload: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.timed(Call::AbortUpload, self.store.abort_upload(key, upload))
    }

    fn copy<'a>(
        &'a self,
        source: &'a Key,
        target: &'a Key,
        if_match: Option<&'a ETag>,
        metadata: Option<&'a BTreeMap<String, String>>,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        self.timed(Call::Copy, self.store.copy(source, target, if_match, metadata))
    }

    fn delete<'a>(
        &'a self,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Result<(), StoreError>>, StoreError>> {
        self.timed(Call::Delete, self.store.delete(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{Fault, MemoryStore};

    #[tokio::test]
    async fn what_is_asked_is_counted_by_its_kind_its_end_and_its_bytes() {
        let memory = Arc::new(MemoryStore::new());
        memory.insert("there", vec![7; 25_000]);
        let store = Metered::new(Arc::clone(&memory) as Arc<dyn ObjectStore>);
        let (there, absent) = (Key::new("there"), Key::new("absent"));
        store.head(&there).await.unwrap();
        assert!(store.head(&absent).await.is_err());
        memory.plan(Call::Head, Fault::Fail(StoreError::DeadlineExceeded));
        assert!(store.head(&there).await.is_err());
        memory.plan(Call::Get, Fault::Delay(Duration::from_millis(30)));
        let answer = store.get(&there, Some(0..20_000), None).await.unwrap();
        let read: Vec<_> = answer.body.try_collect().await.unwrap();
        assert_eq!(read.concat().len(), 20_000);
        let body = UploadBody::Bytes(vec![1; 300].into());
        let metadata = BTreeMap::new();
        let put = store.put(&absent, body, &metadata, WriteCondition::None);
        put.await.unwrap();

        let requests = store.requests();
        assert_eq!((requests.received_bytes(), requests.sent_bytes()), (20_000, 300));
        let kinds = requests.by_kind();
        assert_eq!((kinds["head"].count, kinds["head"].failed), (3, 1));
        let Counted {
            count,
            failed,
            time,
            latencies,
        } = &kinds["get"];
        assert_eq!((*count, *failed), (1, 0));
        assert!(*time >= Duration::from_millis(30), "{time:?}");
        let class = latencies.iter().position(|count| *count == 1).unwrap();
        assert!(LATENCY_MILLIS[class] >= 50, "{latencies:?}");
        assert_eq!(
            kinds["list"],
            Counted {
                latencies: vec![0; 13],
                ..Counted::default()
            }
        );
    }
}
