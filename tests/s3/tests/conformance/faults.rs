//! Scripted faults as a client suffers them.

use std::time::{Duration, Instant};

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use mooring_test_s3::{Action, Fault, Operation, When};

use crate::world::{BUCKET, World, options, refusal, sample, worlds};

#[tokio::test]
async fn an_error_before_does_nothing_and_one_after_has_done_it() {
    for world in worlds().await {
        let faults = world.server.faults();
        let put = |key: &str| {
            world
                .client
                .put_object()
                .bucket(BUCKET)
                .key(key)
                .body(sample(1 << 20).into())
        };
        let id = faults.add(
            Fault::error(503, "SlowDown")
                .on(Operation::PutObject)
                .key_prefix("a")
                .times(1),
        );
        assert_eq!(refusal(&put("a").send().await.unwrap_err()), (503, "SlowDown"));
        assert!(world.server.list(BUCKET, "").is_empty());
        put("a").send().await.unwrap();
        assert_eq!(faults.hits(id), 1);

        let action = Action::Error {
            status: 500,
            code: "InternalError".to_owned(),
            when: When::After,
        };
        faults.add(Fault::new(action).on(Operation::PutObject).times(1));
        assert_eq!(
            refusal(&put("b").send().await.unwrap_err()),
            (500, "InternalError")
        );
        assert_eq!(world.server.list(BUCKET, ""), ["a", "b"]);
    }
}

#[tokio::test]
async fn a_reply_may_be_lost_before_and_after() {
    for world in worlds().await {
        for (when, stored) in [(When::Before, false), (When::After, true)] {
            world.server.faults().add(
                Fault::new(Action::NoReply { when })
                    .on(Operation::PutObject)
                    .times(1),
            );
            let put = world
                .client
                .put_object()
                .bucket(BUCKET)
                .key("k")
                .body(sample(100).into());
            assert!(matches!(
                put.send().await.unwrap_err(),
                SdkError::DispatchFailure(_)
            ));
            assert_eq!(world.server.get(BUCKET, "k").await.is_some(), stored, "{when:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_may_be_cut_reset_or_wrong() {
    for world in worlds().await {
        let bytes = sample(3 << 20);
        world.put("k", bytes.clone()).await;
        let at_byte = 1_500_000;
        for action in [Action::Truncate { at_byte }, Action::Reset { at_byte }] {
            world
                .server
                .faults()
                .add(Fault::new(action.clone()).on(Operation::GetObject).times(1));
            let answer = world
                .client
                .get_object()
                .bucket(BUCKET)
                .key("k")
                .send()
                .await
                .unwrap();
            assert_eq!(answer.content_length(), Some(3 << 20));
            let (mut body, mut read) = (answer.body, Vec::new());
            let ended = loop {
                match body.next().await {
                    Some(Ok(bytes)) => read.extend_from_slice(&bytes),
                    other => break other,
                }
            };
            assert!(
                matches!(ended, Some(Err(_))),
                "{action:?}: the client must notice"
            );
            assert!(
                read == bytes[..at_byte as usize],
                "{action:?}: {} bytes",
                read.len()
            );
        }
        world.server.faults().add(
            Fault::new(Action::Corrupt { at_byte })
                .on(Operation::GetObject)
                .times(1),
        );
        let wrong = world.get("k").await;
        let different: Vec<usize> = (0..bytes.len()).filter(|&at| wrong[at] != bytes[at]).collect();
        assert_eq!(different, (1_500_000..1_500_016).collect::<Vec<_>>());
        assert!(world.get("k").await == bytes);
    }
}

#[tokio::test]
async fn a_request_may_be_reset_on_its_way() {
    for world in worlds().await {
        let action = Action::ResetRequest { at_byte: 100_000 };
        world
            .server
            .faults()
            .add(Fault::new(action).on(Operation::PutObject).times(1));
        let put = world
            .client
            .put_object()
            .bucket(BUCKET)
            .key("k")
            .body(sample(2 << 20).into());
        assert!(matches!(
            put.send().await.unwrap_err(),
            SdkError::DispatchFailure(_)
        ));
        assert!(world.server.list(BUCKET, "").is_empty());
    }
}

#[tokio::test]
async fn a_stall_delays_an_answer_or_its_middle() {
    let world = World::start(options()).await;
    world.put("k", sample(1000)).await;
    world
        .server
        .faults()
        .add(Fault::new(Action::stall(Duration::from_millis(300))).times(1));
    world.server.faults().add(
        Fault::new(Action::Stall {
            millis: 200,
            at_byte: Some(500),
        })
        .skip(1)
        .times(1),
    );
    for least in [300, 200] {
        let started = Instant::now();
        assert_eq!(world.get("k").await, sample(1000));
        assert!(
            started.elapsed() >= Duration::from_millis(least),
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn a_completed_upload_may_fail_with_status_200() {
    for world in worlds().await {
        let created = world
            .client
            .create_multipart_upload()
            .bucket(BUCKET)
            .key("k")
            .send()
            .await
            .unwrap();
        let id = created.upload_id().unwrap();
        let part = world
            .client
            .upload_part()
            .bucket(BUCKET)
            .key("k")
            .upload_id(id)
            .part_number(1);
        let part = part.body(b"part".to_vec().into()).send().await.unwrap();
        let part = CompletedPart::builder()
            .part_number(1)
            .set_e_tag(part.e_tag)
            .build();
        let parts = CompletedMultipartUpload::builder().parts(part).build();
        let action = Action::ErrorInBody {
            code: "InternalError".to_owned(),
            when: When::Before,
        };
        world
            .server
            .faults()
            .add(Fault::new(action).on(Operation::CompleteMultipartUpload).times(1));
        let complete = world
            .client
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("k")
            .upload_id(id);
        let complete = complete.multipart_upload(parts);
        assert_eq!(
            refusal(&complete.clone().send().await.unwrap_err()),
            (200, "InternalError")
        );
        assert!(world.server.list(BUCKET, "").is_empty());
        complete.send().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_may_not_know_start_after_or_conditions() {
    for world in worlds().await {
        for key in ["a", "b"] {
            world.put(key, key).await;
        }
        world.server.faults().add(Fault::new(Action::IgnoreStartAfter));
        world.server.faults().add(Fault::new(Action::IgnoreConditionals));
        let page = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .start_after("a")
            .send()
            .await
            .unwrap();
        assert_eq!(page.contents().len(), 2);
        let put = world
            .client
            .put_object()
            .bucket(BUCKET)
            .key("a")
            .body(b"new".to_vec().into());
        put.if_none_match("*").send().await.unwrap();
        assert_eq!(world.get("a").await, b"new");
        world.server.faults().clear();
        let page = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .start_after("a")
            .send()
            .await
            .unwrap();
        assert_eq!(page.contents().len(), 1);
    }
}
