//! The limit of cold reads: a bare HTTP client that fetches ranges in parallel and throws them away. No mount can be
//! faster than this, whatever it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use mooring_test_s3::client::{client, shared_url};
use mooring_tests::Store;
use mooring_tests::store::ACCESS_KEY_ID;
use tokio::task::JoinSet;

use crate::data::Data;

/// What one request fetches, and how many are on their way.
const PART_BYTES: u64 = 8 << 20;
const PARALLEL: usize = 8;

/// How fast everything of `data` can be fetched.
pub(crate) fn megabytes_per_second(store: &Store, data: Data) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(fetch_all(store, data))
}

async fn fetch_all(store: &Store, data: Data) -> anyhow::Result<f64> {
    let signer = client(&store.endpoint, ACCESS_KEY_ID, &store.secret);
    let mut urls = Vec::new();
    for number in 0..data.count {
        let key = format!("{}/{}", data.folder, Data::name(number));
        let url = shared_url(&signer, &store.bucket, &key).await?;
        urls.push(url.parse::<hyper::Uri>()?);
    }
    let parts_each = data.size.div_ceil(PART_BYTES);
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    let http: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(tcp);
    let shared = Arc::new((http, urls, AtomicU64::new(0), AtomicU64::new(0)));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..PARALLEL {
        let shared = Arc::clone(&shared);
        workers.spawn(async move {
            let (http, urls, next, bytes) = &*shared;
            loop {
                let part = next.fetch_add(1, Ordering::Relaxed);
                let Some(url) = urls.get((part / parts_each) as usize) else {
                    return anyhow::Ok(());
                };
                let from = part % parts_each * PART_BYTES;
                let to = (from + PART_BYTES).min(data.size) - 1;
                let request = hyper::Request::get(url.clone())
                    .header("range", format!("bytes={from}-{to}"))
                    .body(Empty::new())?;
                let mut answer = http.request(request).await?;
                anyhow::ensure!(answer.status().is_success(), "{}", answer.status());
                while let Some(frame) = answer.frame().await {
                    let length = frame?.data_ref().map_or(0, Bytes::len);
                    bytes.fetch_add(length as u64, Ordering::Relaxed);
                }
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let took = begun.elapsed();
    let fetched = shared.3.load(Ordering::Relaxed);
    anyhow::ensure!(fetched == data.count * data.size, "{fetched} bytes came");
    Ok(fetched as f64 / 1e6 / took.as_secs_f64())
}
