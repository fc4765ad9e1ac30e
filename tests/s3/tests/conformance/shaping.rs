//! How slow the server is. Lower bounds only: a busy machine makes everything slower still.

use std::time::{Duration, Instant};

use mooring_test_s3::{Latency, Settings};

use crate::world::{BUCKET, World, options, sample};

#[tokio::test]
async fn each_class_of_operation_has_its_latency() {
    let world = World::start(options()).await;
    world.put("k", sample(10)).await;
    let latency = Latency {
        get: Duration::from_millis(25),
        put: Duration::from_millis(40),
        list: Duration::from_millis(70),
        delete: Duration::from_millis(20),
        head: Duration::from_millis(15),
    };
    world.server.set_settings(Settings {
        latency,
        ..Settings::default()
    });
    let started = Instant::now();
    let mut last = started;
    let mut took = |at_least: Duration, what: &str| {
        let now = Instant::now();
        assert!(now - last >= at_least, "{what}: {:?}", now - last);
        last = now;
    };
    world.get("k").await;
    took(latency.get, "get");
    world.put("k", sample(10)).await;
    took(latency.put, "put");
    world
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    took(latency.list, "list");
    world
        .client
        .head_object()
        .bucket(BUCKET)
        .key("k")
        .send()
        .await
        .unwrap();
    took(latency.head, "head");
    world
        .client
        .delete_object()
        .bucket(BUCKET)
        .key("k")
        .send()
        .await
        .unwrap();
    took(latency.delete, "delete");
}

#[tokio::test]
async fn a_connection_keeps_to_its_rate_in_both_directions() {
    let world = World::start(options()).await;
    let rate = Some(20_000_000);
    world.server.set_settings(Settings {
        connection_bytes_per_second: rate,
        ..Settings::default()
    });
    // 5 MB at 20 MB/s are 250 ms; a tenth less for what buffers hold.
    let started = Instant::now();
    world.put("k", sample(5_000_000)).await;
    assert!(
        started.elapsed() >= Duration::from_millis(225),
        "PUT took {:?}",
        started.elapsed()
    );
    let started = Instant::now();
    world.get("k").await;
    assert!(
        started.elapsed() >= Duration::from_millis(225),
        "GET took {:?}",
        started.elapsed()
    );
    // The cap is of a connection, not of the server.
    let started = Instant::now();
    let (client, mut readers) = (world.client.clone(), tokio::task::JoinSet::new());
    for _ in 0..4 {
        let get = client.get_object().bucket(BUCKET).key("k");
        readers.spawn(async move {
            get.send()
                .await
                .unwrap()
                .body
                .collect()
                .await
                .unwrap()
                .to_vec()
                .len()
        });
    }
    assert_eq!(readers.join_all().await, [5_000_000; 4]);
    eprintln!("4 readers at 20 MB/s each: {:?}", started.elapsed());
}
