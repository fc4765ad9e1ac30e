//! Copies of a host's state folder, and what else a host's stream lets people know of it.

use super::*;

/// The Hello of an agent on this machine, which holds something that no catalog knows.
fn hello_of(machine: &str, agent_version: &str) -> Said {
    Said::Hello(agent_pb::Hello {
        protocol_version: 1,
        instance: format!("agent on {machine}"),
        machine_id: machine.into(),
        facts: Some(agent_pb::HostFacts {
            agent_version: agent_version.into(),
            backends: vec![agent_pb::BackendFact {
                backend: "DEFAULT".into(),
                version: agent_version.into(),
            }],
            ..Default::default()
        }),
        held: vec![agent_pb::HeldAssignment {
            uid: uuid::Uuid::from_u128(machine.len() as u128).to_string(),
            generation: 1,
            spec_hash: String::new(),
        }],
        ..Default::default()
    })
}

async fn shown(world: &World, host: &TestHost) -> pb::Host {
    let body = pb::GetHostRequest {
        name: host.name.clone(),
    };
    let shown = world.api.get_host(request(&world.operator, body)).await;
    shown.unwrap().into_inner()
}

/// Waits until a host is shown so.
async fn shows(world: &World, host: &TestHost, what: &str, is_so: impl Fn(&pb::Host) -> bool) -> pb::Host {
    let all = async {
        loop {
            let now = shown(world, host).await;
            if is_so(&now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .unwrap_or_else(|_| panic!("{what}"))
}

#[tokio::test]
async fn a_copy_that_is_refused_has_changed_nothing_and_is_told_of_once_both_were_heard() {
    let (world, host) = world().await;
    let line = Line::open(&world, &host, hello_of("one", "1.0")).await.unwrap();
    let before = shows(&world, &host, "its own facts", |host| host.agent_version == "1.0").await;
    let copy = async || {
        Line::open(&world, &host, hello_of("another", "2.0"))
            .await
            .err()
            .unwrap()
    };

    let revision = world.revision().await;
    let refused = copy().await;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("within a minute"),
        "{}",
        refused.message()
    );
    // The host may be a machine that lost power a moment ago and has another id now: nobody is accused.
    for _ in 0..3 {
        assert!(copy().await.message().contains("within a minute"));
    }
    assert_eq!(
        world.revision().await,
        revision,
        "neither its facts nor what it holds"
    );
    let after = shown(&world, &host).await;
    assert_eq!(
        (after.agent_version, after.etag, after.clone_time),
        (before.agent_version, before.etag, None)
    );

    line.report(0, vec![]).await;
    let all = async {
        while copy().await.message().contains("within a minute") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("it is certain now");
    let cloned = shown(&world, &host).await;
    assert!(cloned.message.contains("CLONED") && cloned.clone_time.is_some());
    copy().await;
    assert_eq!(world.audited("RefuseCopy").await, 1);

    world.clock.advance(Duration::from_secs(24 * 3600));
    // It is a day older now, and nobody tried again.
    let mut operator = world.operator.clone();
    if let Caller::User(operator) = &mut operator {
        operator.not_after = world.clock.now() + time::Duration::days(1);
    }
    let body = pb::GetHostRequest {
        name: host.name.clone(),
    };
    let aged = world
        .api
        .get_host(request(&operator, body))
        .await
        .unwrap()
        .into_inner();
    assert!(!aged.message.contains("CLONED"), "{}", aged.message);
}

#[tokio::test]
async fn of_two_machines_that_come_at_once_one_is_noted() {
    let (world, host) = world().await;
    // Whoever is greeted has something to be written, and waits for its turn.
    let somebody_writes = world.catalog.write().await.unwrap();
    let one = Line::open(&world, &host, hello_of("one", "1.0"));
    let another = async {
        while !world.catalog.streams.is_open(host.uid) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let another = Line::open(&world, &host, hello_of("another", "2.0"));
        let refused = tokio::time::timeout(PATIENCE, another).await;
        let refused = refused.expect("it is refused before anything of it is written");
        drop(somebody_writes);
        refused.err().unwrap()
    };
    let (one, another) = tokio::join!(one, another);
    assert_eq!(another.code(), Code::FailedPrecondition);
    assert!(one.is_ok());
    assert_eq!(shown(&world, &host).await.agent_version, "1.0");
}

#[tokio::test]
async fn people_are_done_with_a_copy_when_they_say_so() {
    let (world, host) = world().await;
    let line = Line::open(&world, &host, hello_of("one", "1.0")).await.unwrap();
    let copy = async || {
        Line::open(&world, &host, hello_of("another", "2.0"))
            .await
            .err()
            .unwrap()
    };
    copy().await;
    line.report(0, vec![]).await;
    let told = async {
        while shown(&world, &host).await.clone_time.is_none() {
            copy().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is noted");
    let body = pb::UncordonHostRequest {
        name: host.name.clone(),
    };
    let done = world.api.uncordon_host(request(&world.operator, body)).await;
    let done = done.unwrap().into_inner();
    assert!(
        done.clone_time.is_none() && done.message.is_empty(),
        "{}",
        done.message
    );
}

#[tokio::test]
async fn a_host_that_holds_still_is_shown_so_until_it_says_otherwise() {
    let (world, host) = world().await;
    let line = Line::open(&world, &host, hello_of("one", "1.0")).await.unwrap();
    let says = async |reason: &str| {
        let report = agent_pb::Report {
            revision: 0,
            mounts: vec![],
            holding_still: reason.into(),
            ban_carried_out: false,
        };
        let message = Some(Said::Report(report));
        line.say.send(agent_pb::ConnectRequest { message }).await.unwrap();
    };
    says("the catalog has gone back").await;
    shows(&world, &host, "why it obeys nobody", |host| {
        host.message.contains("holds still: the catalog has gone back")
    })
    .await;
    says("").await;
    shows(&world, &host, "that it obeys again", |host| {
        host.message.is_empty()
    })
    .await;
}

#[tokio::test]
async fn of_what_a_host_says_without_end_a_sentence_is_shown() {
    let (world, host) = world().await;
    let line = Line::open(&world, &host, hello_of("one", "1.0")).await.unwrap();
    let reason = "\u{1b}[2J".to_owned() + &"x".repeat(3_000_000);
    let nack = agent_pb::Nack {
        assignment_uid: uuid::Uuid::from_u128(9).to_string(),
        generation: 1,
        message: reason.clone(),
    };
    let report = agent_pb::Report {
        holding_still: reason,
        ..Default::default()
    };
    for said in [Said::Nack(nack), Said::Report(report)] {
        let message = Some(said);
        line.say.send(agent_pb::ConnectRequest { message }).await.unwrap();
    }
    let now = shows(&world, &host, "why it holds still", |host| {
        !host.message.is_empty()
    })
    .await;
    assert!(now.message.len() < 1100, "{}", now.message.len());
    assert!(!now.message.contains('\u{1b}'));
}

#[tokio::test]
async fn a_bound_of_the_pool_reaches_its_hosts_at_once() {
    let (world, host) = world().await;
    let (mut line, _, snapshot) = Line::greeted(&world, &host).await;
    assert_eq!(snapshot.offline_max, None);
    let bound = async |seconds: i64| {
        let pool = pb::Pool {
            name: "pools/gpu".into(),
            offline_max: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        let body = pb::UpdatePoolRequest {
            pool: Some(pool),
            ..Default::default()
        };
        world
            .api
            .update_pool(request(&world.operator, body))
            .await
            .unwrap();
    };
    bound(3600).await;
    let delta = line.delta().await;
    assert_eq!(delta.offline_max.unwrap().seconds, 3600);
    assert!(delta.upserts.is_empty() && delta.removals.is_empty());
    let (_, _, snapshot) = Line::greeted(&world, &host).await;
    assert_eq!(snapshot.offline_max.unwrap().seconds, 3600);
}
