//! How quick the filesystem's store and reader are, without kernel and mount: printed, with a bound that only a forgotten
//! wait or a copy too many can miss.

use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use mooring_fs::budget::MemoryBudget;
use mooring_fs::reader::{Reader, ReaderOptions};
use mooring_fs::store::{Key, ObjectStore};

use super::{Bucket, put, remove_all, some_bytes};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Far below what a loaded machine does without optimisation.
const RATE_MIN: f64 = 10.0; // MB/s

on_both_servers! {
    transfers_are_quick,
    reading_is_quick,
}

async fn transfers_are_quick(bucket: Bucket) {
    let store = &bucket.s3;
    let part = 8 * 1024 * 1024;
    let bytes = some_bytes(part);
    let started = Instant::now();
    for number in 0..16 {
        put(store, &Key::new(format!("figures/{number}")), bytes.clone()).await;
    }
    let rate = (16 * part) as f64 / 1e6 / started.elapsed().as_secs_f64();
    println!("put 8 MiB, one at a time: {rate:.0} MB/s");
    assert!(rate > RATE_MIN);
    for in_flight in [1, 8] {
        let started = Instant::now();
        let total: usize = stream::iter(0..64)
            .map(|number| {
                let store = Arc::clone(store);
                async move {
                    let key = Key::new(format!("figures/{}", number % 16));
                    let mut body = store.get(&key, None, None).await.unwrap().body;
                    let mut length = 0;
                    while let Some(chunk) = body.try_next().await.unwrap() {
                        length += chunk.len();
                    }
                    length
                }
            })
            .buffer_unordered(in_flight)
            .fold(0, |sum, length| async move { sum + length })
            .await;
        let rate = total as f64 / 1e6 / started.elapsed().as_secs_f64();
        println!("get 8 MiB, {in_flight} in flight: {rate:.0} MB/s");
        assert!(rate > RATE_MIN);
    }
    remove_all(store, "figures/").await;
}

async fn reading_is_quick(bucket: Bucket) {
    let store = &bucket.s3;
    let key = Key::new("figures-of-reading");
    let bytes = some_bytes(128 << 20);
    let size = bytes.len() as u64;
    let etag = put(store, &key, bytes.clone()).await;
    let budget = MemoryBudget::of_this_process(None);
    let reader = Reader::new(
        Arc::clone(store) as Arc<dyn ObjectStore>,
        budget.clone(),
        ReaderOptions::default(),
        tokio::runtime::Handle::current(),
    );
    for step in [128 * KIB, MIB] {
        let (handle, started) = (reader.open(key.clone(), etag.clone(), size), Instant::now());
        for offset in (0..size).step_by(step as usize) {
            let read = handle.read(offset, step).await.unwrap();
            assert!(read == bytes.slice(offset as usize..(offset + step) as usize));
        }
        let rate = size as f64 / 1e6 / started.elapsed().as_secs_f64();
        println!("sequential, {} KiB a read: {rate:.0} MB/s", step / KIB);
        assert!(rate > RATE_MIN);
    }
    let (handle, started) = (reader.open(key.clone(), etag, size), Instant::now());
    for n in 1..=500_u64 {
        let offset = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 30) % (size - MIB);
        let read = handle.read(offset, 4 * KIB).await.unwrap();
        assert!(read == bytes.slice(offset as usize..(offset + 4 * KIB) as usize));
    }
    let rate = 500.0 / started.elapsed().as_secs_f64();
    println!("random 4 KiB: {rate:.0} reads/s");
    assert!(rate > 20.0);
    drop(handle);
    reader.finished().await;
    assert_eq!(budget.used_bytes(), 0, "all memory is given back");
}
