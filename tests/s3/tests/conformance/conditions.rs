//! Conditional reads, writes, copies and deletions.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use crate::world::{BUCKET, refusal, worlds};

const FAILED: (u16, &str) = (412, "PreconditionFailed");

#[tokio::test]
async fn reads_are_conditional() {
    for world in worlds().await {
        let etag = world.put("k", "text").await;
        let get = || world.client.get_object().bucket(BUCKET).key("k");
        get().if_match(&etag).send().await.unwrap();
        get().if_match("*").send().await.unwrap();
        assert_eq!(
            refusal(&get().if_match("\"0\"").send().await.unwrap_err()),
            FAILED
        );
        get().if_none_match("\"0\"").send().await.unwrap();
        assert_eq!(
            refusal(&get().if_none_match(&etag).send().await.unwrap_err()).0,
            304
        );
        let head = || world.client.head_object().bucket(BUCKET).key("k");
        assert_eq!(
            refusal(&head().if_match("\"0\"").send().await.unwrap_err()).0,
            412
        );
        let refused = head().if_none_match(&etag).send().await.unwrap_err();
        assert_eq!(refusal(&refused).0, 304);
        assert_eq!(
            refused.raw_response().unwrap().headers().get("etag"),
            Some(&*etag)
        );

        let modified = *head().send().await.unwrap().last_modified().unwrap();
        assert_eq!(
            refusal(&get().if_modified_since(modified).send().await.unwrap_err()).0,
            304
        );
        get().if_unmodified_since(modified).send().await.unwrap();
        let earlier = aws_sdk_s3::primitives::DateTime::from_secs(modified.secs() - 1);
        get().if_modified_since(earlier).send().await.unwrap();
        assert_eq!(
            refusal(&get().if_unmodified_since(earlier).send().await.unwrap_err()),
            FAILED
        );
    }
}

#[tokio::test]
async fn writes_are_conditional() {
    for world in worlds().await {
        let put = |key: &str| {
            world
                .client
                .put_object()
                .bucket(BUCKET)
                .key(key)
                .body(b"x".to_vec().into())
        };
        let etag = put("k").if_none_match("*").send().await.unwrap().e_tag.unwrap();
        assert_eq!(
            refusal(&put("k").if_none_match("*").send().await.unwrap_err()),
            FAILED
        );
        let other = put("k").if_none_match(&etag).send().await.unwrap_err();
        assert_eq!(refusal(&other), (501, "NotImplemented"));
        put("k").if_match(&etag).send().await.unwrap();
        assert_eq!(
            refusal(&put("k").if_match("\"0\"").send().await.unwrap_err()),
            FAILED
        );
        assert_eq!(
            refusal(&put("none").if_match(&etag).send().await.unwrap_err()),
            (404, "NoSuchKey")
        );
        assert_eq!(world.server.list(BUCKET, ""), ["k"]);
    }
}

#[tokio::test]
async fn of_many_writers_that_expect_nothing_one_wins() {
    for world in worlds().await {
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..20 {
            let put = world
                .client
                .put_object()
                .bucket(BUCKET)
                .key("k")
                .body(vec![number; 1000].into());
            writers.spawn(async move { put.if_none_match("*").send().await.is_ok().then_some(number) });
        }
        let won: Vec<u8> = writers.join_all().await.into_iter().flatten().collect();
        let [winner] = won[..] else { panic!("{won:?}") };
        assert_eq!(world.get("k").await, vec![winner; 1000]);
    }
}

#[tokio::test]
async fn completing_an_upload_is_conditional() {
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
        let etag = world.put("k", "first").await;
        let complete = || {
            let complete = world
                .client
                .complete_multipart_upload()
                .bucket(BUCKET)
                .key("k")
                .upload_id(id);
            complete.multipart_upload(parts.clone())
        };
        assert_eq!(
            refusal(&complete().if_none_match("*").send().await.unwrap_err()),
            FAILED
        );
        assert_eq!(
            refusal(&complete().if_match("\"0\"").send().await.unwrap_err()),
            FAILED
        );
        assert_eq!(world.get("k").await, b"first");
        complete().if_match(etag).send().await.unwrap();
        assert_eq!(world.get("k").await, b"part");
    }
}

#[tokio::test]
async fn copies_are_conditional_on_both_ends() {
    for world in worlds().await {
        let etag = world.put("source", "text").await;
        let copy = || {
            let copy = world.client.copy_object().bucket(BUCKET).key("target");
            copy.copy_source(format!("{BUCKET}/source"))
        };
        assert_eq!(
            refusal(&copy().copy_source_if_match("\"0\"").send().await.unwrap_err()),
            FAILED
        );
        assert_eq!(
            refusal(&copy().copy_source_if_none_match(&etag).send().await.unwrap_err()),
            FAILED
        );
        assert!(world.server.list(BUCKET, "target").is_empty());
        copy()
            .copy_source_if_match(&etag)
            .if_none_match("*")
            .send()
            .await
            .unwrap();
        assert_eq!(
            refusal(&copy().if_none_match("*").send().await.unwrap_err()),
            FAILED
        );
        copy().if_match(etag).send().await.unwrap();
    }
}

#[tokio::test]
async fn deletions_are_conditional() {
    for world in worlds().await {
        let etag = world.put("k", "text").await;
        let delete = || world.client.delete_object().bucket(BUCKET).key("k");
        assert_eq!(
            refusal(&delete().if_match("\"0\"").send().await.unwrap_err()),
            FAILED
        );
        assert_eq!(world.get("k").await, b"text");
        delete().if_match(&etag).send().await.unwrap();
        delete().if_match(&etag).send().await.unwrap();
        delete().send().await.unwrap();
    }
}
