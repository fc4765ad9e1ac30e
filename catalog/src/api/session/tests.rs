//! How streams end.

use super::*;
use crate::domain::activation::MountState;
use crate::domain::host::HostFacts;
use crate::ops::session::streams::Seat;
use crate::testing::World;
use crate::testing::fleet::{TestHost, active_fleet};

type Outgoing = mpsc::Receiver<Result<pb::ConnectResponse, Status>>;

/// A stream of a host of an active fleet, to which nothing was said yet.
async fn stream() -> (World, TestHost, Stream, Outgoing) {
    let (world, mut hosts) = active_fleet(1).await;
    let host = hosts.remove(0);
    let (catalog, identity) = (world.catalog.clone(), host.identity.clone());
    let now = catalog.clock.now();
    let open = catalog.streams.open(identity.uid, Seat::default(), now);
    let (queue, outgoing) = mpsc::channel(1);
    let (open, woken) = (open.ok().unwrap(), catalog.store.orders_of(identity.uid));
    let stream = Stream::new(catalog, identity, open, woken, queue);
    (world, host, stream, outgoing)
}

#[tokio::test]
async fn a_stream_that_was_followed_by_a_newer_one_writes_nothing_any_more() {
    let (world, host, mut stream, _outgoing) = stream().await;
    let assignment = host.assignment(&world).await.assignment;
    let report = |state: mooring_proto::v1::MountState| pb::Report {
        revision: assignment.revision,
        mounts: vec![pb::MountReport {
            assignment_uid: assignment.uid.to_string(),
            generation: assignment.generation,
            state: state.into(),
            ..pb::MountReport::default()
        }],
        ..pb::Report::default()
    };
    let now = world.clock.now();
    stream
        .reports
        .take(report(mooring_proto::v1::MountState::Mounting), now);
    let newer = world.catalog.streams.open(host.uid, Seat::default(), now);
    let newer = newer.ok().unwrap();
    host.report(
        &world,
        &[crate::testing::fleet::mount(&assignment, MountState::Mounted)],
    )
    .await;
    let newest = world.revision().await;
    stream.take_last_words(1).await;
    assert_eq!(world.revision().await, newest);
    drop(newer);
}

#[tokio::test]
async fn a_host_that_reads_nothing_keeps_no_server_from_ending() {
    let (world, host, mut stream, _outgoing) = stream().await;
    let (_, orders) = world
        .catalog
        .greet(&host.identity, HostFacts::default(), &[])
        .await
        .unwrap();
    // The first message fills the queue, and the second waits for a host that does not read.
    let sending = stream.begin(pb::Welcome::default(), orders);
    let closing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.catalog.streams.closing.cancel();
    };
    let ended = timeout(SEND_TIMEOUT / 3, async { tokio::join!(sending, closing).0 });
    assert!(ended.await.expect("it does not wait").is_err());
}

#[tokio::test]
async fn answers_to_orders_cost_no_pace_and_all_else_does() {
    let (_world, _host, mut stream, _outgoing) = stream().await;
    let says = |stream: &mut Stream, times| {
        for _ in 0..times {
            let message = Some(Said::Ack(pb::Ack { revision: 1 }));
            assert!(stream.hear(Ok(Some(pb::ConnectRequest { message }))).is_ok());
        }
        stream.pace.rests_until(Instant::now()).is_some()
    };
    stream.answers_left = 300;
    assert!(!says(&mut stream, 300));
    assert!(says(&mut stream, 300));
}
