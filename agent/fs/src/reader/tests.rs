//! The reader on the fake store: what it answers, what it asks for, what it gives back.

use std::time::Duration;

use super::*;
use crate::store::memory::{Call, Called, Fault, MemoryStore};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

struct World {
    store: Arc<MemoryStore>,
    budget: MemoryBudget,
    reader: Reader,
}

impl World {
    fn new() -> World {
        World::with(256 * MIB, ReaderOptions::default())
    }

    fn with(budget_bytes: u64, options: ReaderOptions) -> World {
        let (store, budget) = (Arc::new(MemoryStore::new()), MemoryBudget::new(budget_bytes));
        let reader = Reader::new(store.clone(), budget.clone(), options, Handle::current());
        World {
            store,
            budget,
            reader,
        }
    }

    fn open(&self, bytes: &Bytes) -> ReadHandle {
        let etag = self.store.insert("k", bytes.clone());
        self.reader.open(Key::new("k"), etag, bytes.len() as u64)
    }

    fn requests(&self) -> Vec<Range<u64>> {
        let called = self.store.called();
        called
            .into_iter()
            .filter_map(
                |Called {
                     call: _,
                     key: _,
                     range,
                 }| range,
            )
            .collect()
    }

    /// Every handle is dropped: nothing may be left running or reserved.
    async fn end(self) {
        self.reader.finished().await;
        assert_eq!(self.budget.used_bytes(), 0, "all memory is given back");
    }
}

fn some_bytes(length: u64) -> Bytes {
    (0..length)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8)
        .collect()
}

async fn read_through(handle: &ReadHandle, step: u64) -> Result<Vec<u8>, ReadError> {
    let mut whole = Vec::new();
    loop {
        let bytes = handle.read(whole.len() as u64, step).await?;
        if bytes.is_empty() {
            return Ok(whole);
        }
        whole.extend_from_slice(&bytes);
    }
}

fn interrupted() -> StoreError {
    StoreError::Interrupted {
        reason: "planned".to_owned(),
    }
}

#[tokio::test]
async fn sequential_reads_of_any_step_give_the_object() {
    for step in [4000, 128 * KIB, MIB, 3 * MIB + 1] {
        let world = World::new();
        let bytes = some_bytes(5 * MIB + 12_345);
        let handle = world.open(&bytes);
        assert!(read_through(&handle, step).await.unwrap() == bytes, "step {step}");
        let fetched: u64 = world.requests().iter().map(|range| range.end - range.start).sum();
        assert_eq!(
            fetched,
            bytes.len() as u64,
            "each byte is fetched once, step {step}"
        );
        drop(handle);
        world.end().await;
    }
}

#[tokio::test]
async fn windows_grow_and_parts_fall_on_common_bounds() {
    let world = World::new();
    let bytes = some_bytes(80 * MIB);
    let handle = world.open(&bytes);
    assert!(read_through(&handle, MIB).await.unwrap() == bytes);
    let sizes: Vec<u64> = world
        .requests()
        .iter()
        .map(|range| (range.end - range.start) / MIB)
        .collect();
    assert_eq!((sizes[0], sizes.iter().max()), (1, Some(&8)));
    assert!(sizes.len() < 30, "{sizes:?}");
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn random_reads_fetch_what_they_ask_for() {
    let world = World::new();
    let bytes = some_bytes(32 * MIB);
    let handle = world.open(&bytes);
    let mut wanted = Vec::new();
    for n in 1..200_u64 {
        let offset = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % (bytes.len() as u64 - 8 * KIB) + 1;
        let read = handle.read(offset, 4 * KIB).await.unwrap();
        assert!(read == bytes.slice(offset as usize..(offset + 4 * KIB) as usize));
        wanted.push(offset..offset + 4 * KIB);
    }
    let fetched: u64 = world.requests().iter().map(|range| range.end - range.start).sum();
    assert!(
        fetched <= 200 * 4 * KIB * 11 / 10 + 2 * MIB,
        "{fetched} bytes for 200 reads of 4 KiB"
    );
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn a_small_file_is_one_request_however_it_is_read() {
    let world = World::new();
    let bytes = some_bytes(200 * KIB);
    let handle = world.open(&bytes);
    for offset in [100 * KIB, 0, 199 * KIB, 50 * KIB] {
        let read = handle.read(offset, 10 * KIB).await.unwrap();
        let end = (offset + 10 * KIB).min(200 * KIB);
        assert!(read == bytes.slice(offset as usize..end as usize));
    }
    let asked: Vec<_> = world
        .store
        .called()
        .into_iter()
        .map(|called| called.range)
        .collect();
    assert_eq!(asked, [None], "as a whole, since stores keep checksums of that");
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn reads_at_and_beyond_the_end_are_short_or_empty() {
    let world = World::new();
    let bytes = some_bytes(300 * KIB);
    let handle = world.open(&bytes);
    assert_eq!(
        handle.read(300 * KIB - 5, 100).await.unwrap(),
        bytes.slice((300 * KIB - 5) as usize..)
    );
    assert_eq!(handle.read(300 * KIB, 100).await.unwrap(), Bytes::new());
    assert_eq!(handle.read(u64::MAX, u64::MAX).await.unwrap(), Bytes::new());
    let empty = world.open(&Bytes::new());
    assert_eq!(empty.read(0, 100).await.unwrap(), Bytes::new());
    drop((handle, empty));
    world.end().await;
}

#[tokio::test]
async fn an_interrupted_body_is_continued_where_it_broke_off() {
    let world = World::new();
    let bytes = some_bytes(MIB);
    let handle = world.open(&bytes);
    world.store.plan(Call::Get, Fault::CutBody(300_000));
    world.store.plan(Call::Get, Fault::CutBody(0));
    world.store.plan(Call::Get, Fault::CutBody(100_000));
    assert!(read_through(&handle, 128 * KIB).await.unwrap() == bytes);
    assert_eq!(
        world.requests(),
        [0..MIB, 300_000..MIB, 300_000..MIB, 400_000..MIB]
    );
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn bytes_that_have_arrived_are_answered_while_the_part_is_on_its_way() {
    let world = World::new();
    let bytes = some_bytes(MIB);
    let handle = world.open(&bytes);
    world.store.plan(Call::Get, Fault::StallBody(500_000));
    assert_eq!(handle.read(0, 400_000).await.unwrap(), bytes.slice(..400_000));
    assert!(handle.plan(0, 400_000).now().is_some());
    assert!(handle.plan(400_000, 200_000).now().is_none());
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn a_replaced_object_is_told_and_never_mixed_in() {
    let world = World::new();
    let handle = world.open(&some_bytes(4 * MIB));
    handle.read(0, KIB).await.unwrap();
    world.store.insert("k", some_bytes(4 * MIB));
    let outcome = read_through(&handle, 256 * KIB).await;
    assert!(matches!(outcome, Err(ReadError::Changed)), "{outcome:?}");
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn an_object_that_is_replaced_while_a_body_is_interrupted_is_told_too() {
    let world = World::new();
    let handle = world.open(&some_bytes(MIB));
    world.store.plan(Call::Get, Fault::CutBody(10_000));
    let pending = handle.plan(0, MIB);
    // The download has not begun: this runtime has one thread.
    tokio::task::yield_now().await;
    world.store.insert("k", some_bytes(MIB));
    let outcome = pending.wait().await;
    assert!(matches!(outcome, Err(ReadError::Changed)), "{outcome:?}");
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn a_removed_object_is_gone() {
    let world = World::new();
    let handle = world.open(&some_bytes(MIB));
    world.store.remove("k");
    assert!(matches!(handle.read(0, KIB).await, Err(ReadError::Gone)));
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn a_failed_read_fails_and_the_next_one_asks_anew() {
    let world = World::new();
    let bytes = some_bytes(2 * MIB);
    let handle = world.open(&bytes);
    let away = StoreError::Unavailable {
        reason: "planned".to_owned(),
    };
    world.store.plan(Call::Get, Fault::Fail(away.clone()));
    world.store.plan(Call::Get, Fault::Fail(away));
    assert!(matches!(handle.read(0, KIB).await, Err(ReadError::Failed(_))));
    assert!(read_through(&handle, 256 * KIB).await.unwrap() == bytes);
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn what_failed_ahead_of_the_reader_is_fetched_when_it_is_wanted() {
    let world = World::new();
    let bytes = some_bytes(4 * MIB);
    let handle = world.open(&bytes);
    handle.read(0, MIB).await.unwrap();
    world.store.plan(
        Call::Get,
        Fault::Fail(StoreError::Unavailable {
            reason: "planned".to_owned(),
        }),
    );
    assert!(read_through(&handle, 512 * KIB).await.unwrap() == bytes);
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn endless_interruptions_end_in_an_error() {
    let world = World::new();
    let handle = world.open(&some_bytes(300 * KIB));
    for _ in 0..20 {
        world.store.plan(Call::Get, Fault::Fail(interrupted()));
    }
    let outcome = handle.read(1, KIB).await;
    assert!(
        matches!(outcome, Err(ReadError::Failed(StoreError::Interrupted { .. }))),
        "{outcome:?}"
    );
    assert!(world.requests().len() < 10);
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn a_read_that_gets_no_answer_ends_at_its_deadline() {
    let options = ReaderOptions {
        deadline: Duration::from_millis(50),
        ..ReaderOptions::default()
    };
    let world = World::with(64 * MIB, options);
    let handle = world.open(&some_bytes(MIB));
    world
        .store
        .plan(Call::Get, Fault::Delay(Duration::from_secs(3600)));
    assert!(matches!(
        handle.read(0, KIB).await,
        Err(ReadError::DeadlineExceeded)
    ));
    // Repeated at once it fails at once; later it is asked anew.
    let asked = world.requests().len();
    assert!(matches!(
        handle.read(512, KIB).await,
        Err(ReadError::DeadlineExceeded)
    ));
    assert_eq!(world.requests().len(), asked);
    handle.0.state.lock().late.as_mut().unwrap().0 -= LATE_KEPT;
    handle.read(0, KIB).await.unwrap();
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn a_dropped_handle_stops_its_downloads_and_gives_its_memory_back() {
    let world = World::new();
    let handle = world.open(&some_bytes(64 * MIB));
    for n in 0..8 {
        handle.read(n * MIB, MIB).await.unwrap();
    }
    let ahead = world.budget.used_bytes();
    assert!(ahead >= 8 * MIB, "{ahead} bytes are read ahead");
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn what_lies_behind_the_reader_is_given_back() {
    let world = World::new();
    let bytes = some_bytes(24 * MIB);
    let handle = world.open(&bytes);
    assert!(read_through(&handle, MIB).await.unwrap() == bytes);
    // Downloads that are stopped hold their memory until they are scheduled once more.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let kept = world.budget.used_bytes();
    assert!(kept <= 3 * MIB, "{kept} bytes are kept at the end");
    drop(handle);
    world.end().await;
}

#[tokio::test]
async fn many_readers_share_a_small_budget() {
    let world = World::with(16 * MIB, ReaderOptions::default());
    let bytes = some_bytes(6 * MIB);
    let handles: Vec<ReadHandle> = (0..32).map(|_| world.open(&bytes)).collect();
    // The last insert made the only version that still exists.
    let etag = handles[31].etag().clone();
    let handles: Vec<ReadHandle> = handles
        .iter()
        .map(|_| world.reader.open(Key::new("k"), etag.clone(), 6 * MIB))
        .collect();
    let mut used_max = 0;
    for offset in (0..6 * MIB).step_by(256 << 10) {
        for handle in &handles {
            let read = handle.read(offset, 256 * KIB).await.unwrap();
            assert!(read == bytes.slice(offset as usize..(offset + 256 * KIB) as usize));
            used_max = used_max.max(world.budget.used_bytes());
        }
    }
    assert!(used_max <= 17 * MIB, "{used_max} bytes were reserved");
    drop(handles);
    world.end().await;
}

#[tokio::test]
async fn an_idle_handle_gives_its_window_to_a_busy_one() {
    let world = World::with(8 * MIB, ReaderOptions::default());
    let bytes = some_bytes(32 * MIB);
    let idle = world.open(&bytes);
    for n in 0..4 {
        idle.read(n * MIB, MIB).await.unwrap();
    }
    idle.0.state.lock().read_at -= IDLE_TIME_MIN;
    let busy = world.reader.open(Key::new("k"), idle.etag().clone(), idle.size());
    for n in 0..8 {
        busy.read(n * MIB, MIB).await.unwrap();
    }
    assert!(idle.0.state.lock().slots.iter().all(|slot| slot.parts.is_empty()));
    assert_eq!(
        idle.read(4 * MIB, KIB).await.unwrap(),
        bytes.slice(4 << 20..(4 << 20) + 1024)
    );
    drop((idle, busy));
    world.end().await;
}

#[test]
fn parts_end_on_bounds_and_none_is_tiny() {
    assert_eq!(part_bytes(MIB, 8 * MIB), MIB);
    assert_eq!(part_bytes(20 * MIB, 8 * MIB), 4 * MIB);
    assert_eq!(part_bytes(640 * MIB, 8 * MIB), 8 * MIB);
    assert_eq!(part_end(0, MIB), MIB);
    assert_eq!(part_end(MIB - 5, MIB), 2 * MIB);
    assert_eq!(part_end(MIB + 5, MIB), 2 * MIB);
}

#[tokio::test]
async fn small_files_that_are_open_are_kept_only_as_far_as_memory_goes() {
    let file_bytes = 250 * KIB;
    let limit_bytes = 4 * file_bytes;
    let world = World::with(limit_bytes, ReaderOptions::default());
    let bytes = some_bytes(file_bytes);
    let first = world.open(&bytes);
    let mut handles = Vec::new();
    for _ in 0..20 {
        let handle = world
            .reader
            .open(Key::new("k"), first.etag().clone(), first.size());
        assert_eq!(handle.read(0, file_bytes).await.unwrap(), bytes);
        assert_eq!(handle.read(KIB, KIB).await.unwrap(), bytes.slice(1024..2048));
        handles.push(handle);
        // The download that has given its bytes ends.
        tokio::task::yield_now().await;
        assert!(world.budget.used_bytes() <= limit_bytes);
    }
    // Those that nobody reads any more make room.
    for handle in &handles {
        handle.0.state.lock().read_at -= IDLE_TIME_MIN;
    }
    assert_eq!(first.read(0, file_bytes).await.unwrap(), bytes);
    assert_eq!(world.budget.used_bytes(), file_bytes);
    drop((first, handles));
    world.end().await;
}
