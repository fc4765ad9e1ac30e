//! Objects: bytes, ranges, metadata, copies, deletion, restarts.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, MetadataDirective, ObjectIdentifier};
use mooring_test_s3::{Options, StorageOptions};

use crate::world::{BUCKET, World, options, refusal, sample, worlds};

#[tokio::test]
async fn bytes_come_back_as_they_went() {
    for world in worlds().await {
        for length in [0, 1, 65_537, (1 << 20) - 1, (5 << 20) + 1] {
            let bytes = sample(length);
            world.put("some/key", bytes.clone()).await;
            assert!(world.get("some/key").await == bytes, "{length}");
            let head = world
                .client
                .head_object()
                .bucket(BUCKET)
                .key("some/key")
                .send()
                .await
                .unwrap();
            assert_eq!(head.content_length(), Some(length as i64));
        }
    }
}

#[tokio::test]
async fn the_etag_is_the_md5_and_the_listing_agrees_with_the_head() {
    for world in worlds().await {
        assert_eq!(
            world.put("k", "hello").await,
            "\"5d41402abc4b2a76b9719d911017c592\""
        );
        let head = world
            .client
            .head_object()
            .bucket(BUCKET)
            .key("k")
            .send()
            .await
            .unwrap();
        let listed = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap();
        let [object] = listed.contents() else {
            panic!("one object")
        };
        assert_eq!(object.e_tag(), head.e_tag());
        assert_eq!(object.size(), head.content_length());
        assert_eq!(object.last_modified(), head.last_modified());
    }
}

#[tokio::test]
async fn a_range_is_what_it_says_or_refused() {
    for world in worlds().await {
        let bytes = sample((2 << 20) + 10);
        let total = bytes.len();
        world.put("k", bytes.clone()).await;
        for (range, expected) in [
            ("bytes=0-0".to_owned(), 0..1),
            ("bytes=10-99".to_owned(), 10..100),
            (format!("bytes={}-", total - 5), total - 5..total),
            (format!("bytes={}-{}", total - 5, total + 100), total - 5..total),
            ("bytes=-7".to_owned(), total - 7..total),
            ("bytes=1048570-1048580".to_owned(), 1_048_570..1_048_581),
        ] {
            let answer = world
                .client
                .get_object()
                .bucket(BUCKET)
                .key("k")
                .range(&range)
                .send()
                .await
                .unwrap();
            let told = format!("bytes {}-{}/{total}", expected.start, expected.end - 1);
            assert_eq!(answer.content_range(), Some(&*told));
            assert_eq!(answer.content_length(), Some(expected.len() as i64));
            assert!(
                answer.body.collect().await.unwrap().to_vec() == bytes[expected],
                "{range}"
            );
        }
        let beyond = format!("bytes={total}-");
        let refused = world
            .client
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .range(beyond)
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&refused), (416, "InvalidRange"));
    }
}

#[tokio::test]
async fn keys_may_be_anything_up_to_1024_bytes() {
    for world in worlds().await {
        let long = "x".repeat(1024);
        let keys = [
            "with space",
            "plus+and&?=#",
            "ünï/cödé",
            "a//b",
            "../up",
            "trailing/",
            "%2F",
            "quote\"<>'",
            &long,
        ];
        for key in keys {
            world.put(key, key).await;
            assert_eq!(world.get(key).await, key.as_bytes(), "{key}");
        }
        let listed = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap();
        let mut expected = keys.to_vec();
        expected.sort_unstable();
        assert_eq!(
            listed
                .contents()
                .iter()
                .filter_map(|it| it.key())
                .collect::<Vec<_>>(),
            expected
        );

        let longer = "x".repeat(1025);
        let refused = world
            .client
            .put_object()
            .bucket(BUCKET)
            .key(longer)
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&refused), (400, "KeyTooLongError"));
    }
}

#[tokio::test]
async fn metadata_and_headers_are_kept() {
    for world in worlds().await {
        let put = world.client.put_object().bucket(BUCKET).key("k");
        let put = put
            .content_type("text/csv")
            .cache_control("no-store")
            .content_encoding("gzip");
        put.metadata("mooring-commit", "1")
            .metadata("mode", "0644")
            .send()
            .await
            .unwrap();
        let head = world
            .client
            .head_object()
            .bucket(BUCKET)
            .key("k")
            .send()
            .await
            .unwrap();
        let get = world
            .client
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .send()
            .await
            .unwrap();
        assert_eq!(head.metadata(), get.metadata());
        assert_eq!(head.metadata().unwrap()["mooring-commit"], "1");
        assert_eq!(head.metadata().unwrap()["mode"], "0644");
        assert_eq!(get.content_type(), Some("text/csv"));
        assert_eq!(get.cache_control(), Some("no-store"));
        assert_eq!(get.content_encoding(), Some("gzip"));
    }
}

#[tokio::test]
async fn a_missing_key_is_no_such_key() {
    for world in worlds().await {
        let refused = world
            .client
            .get_object()
            .bucket(BUCKET)
            .key("none")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&refused), (404, "NoSuchKey"));
        let refused = world
            .client
            .head_object()
            .bucket(BUCKET)
            .key("none")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&refused).0, 404);
        world
            .client
            .delete_object()
            .bucket(BUCKET)
            .key("none")
            .send()
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_copy_takes_bytes_and_metadata_or_new_metadata() {
    for world in worlds().await {
        let put = world.client.put_object().bucket(BUCKET).key("a b/ü");
        put.metadata("colour", "red")
            .body(ByteStream::from_static(b"text"))
            .send()
            .await
            .unwrap();
        let source = format!("{BUCKET}/a%20b/%C3%BC");
        let copy = || world.client.copy_object().bucket(BUCKET).copy_source(&source);
        copy().key("kept").send().await.unwrap();
        let replaced = copy()
            .key("replaced")
            .metadata_directive(MetadataDirective::Replace);
        replaced.metadata("colour", "blue").send().await.unwrap();
        for (key, colour) in [("kept", "red"), ("replaced", "blue")] {
            assert_eq!(world.get(key).await, b"text");
            let head = world
                .client
                .head_object()
                .bucket(BUCKET)
                .key(key)
                .send()
                .await
                .unwrap();
            assert_eq!(head.metadata().unwrap()["colour"], colour);
        }
        // A copy has its own life.
        world
            .client
            .delete_object()
            .bucket(BUCKET)
            .key("a b/ü")
            .send()
            .await
            .unwrap();
        assert_eq!(world.get("kept").await, b"text");
        let refused = copy().key("again").send().await.unwrap_err();
        assert_eq!(refusal(&refused), (404, "NoSuchKey"));
        let itself = world
            .client
            .copy_object()
            .bucket(BUCKET)
            .key("kept")
            .copy_source(format!("{BUCKET}/kept"));
        assert_eq!(
            refusal(&itself.clone().send().await.unwrap_err()),
            (400, "InvalidRequest")
        );
        itself
            .metadata_directive(MetadataDirective::Replace)
            .metadata("x", "y")
            .send()
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn many_keys_are_deleted_at_once() {
    for world in worlds().await {
        for key in ["a", "b", "c"] {
            world.put(key, key).await;
        }
        let named = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
        let etag = ObjectIdentifier::builder()
            .key("c")
            .e_tag("\"0\"")
            .build()
            .unwrap();
        let delete = Delete::builder()
            .objects(named("a"))
            .objects(named("none"))
            .objects(etag)
            .build()
            .unwrap();
        let answer = world
            .client
            .delete_objects()
            .bucket(BUCKET)
            .delete(delete)
            .send()
            .await
            .unwrap();
        assert_eq!(
            answer
                .deleted()
                .iter()
                .filter_map(|it| it.key())
                .collect::<Vec<_>>(),
            ["a", "none"]
        );
        let [error] = answer.errors() else {
            panic!("one error")
        };
        assert_eq!(
            (error.key(), error.code()),
            (Some("c"), Some("PreconditionFailed"))
        );
        assert_eq!(world.server.list(BUCKET, ""), ["b", "c"]);

        let delete = Delete::builder().objects(named("b")).quiet(true).build().unwrap();
        let answer = world
            .client
            .delete_objects()
            .bucket(BUCKET)
            .delete(delete)
            .send()
            .await
            .unwrap();
        assert!(answer.deleted().is_empty());
        assert_eq!(world.server.list(BUCKET, ""), ["c"]);
    }
}

#[tokio::test]
async fn a_reader_keeps_its_version_when_the_object_is_replaced() {
    for world in worlds().await {
        let old = sample(20 << 20);
        world.put("k", old.clone()).await;
        let answer = world
            .client
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .send()
            .await
            .unwrap();
        world.put("k", "new").await;
        assert!(answer.body.collect().await.unwrap().to_vec() == old);
        assert_eq!(world.get("k").await, b"new");
    }
}

#[tokio::test]
async fn files_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options {
        storage: StorageOptions::Files(dir.path().to_owned()),
        ..options()
    };
    let world = World::start(options()).await;
    let put = world
        .client
        .put_object()
        .bucket(BUCKET)
        .key("kept")
        .metadata("a", "b");
    put.body(sample(3 << 20).into()).send().await.unwrap();
    world.put("empty", "").await;
    world.put("overwritten", "old").await;
    world.put("overwritten", "new").await;
    world.put("deleted", "text").await;
    let copied = world
        .client
        .copy_object()
        .bucket(BUCKET)
        .key("copy")
        .copy_source(format!("{BUCKET}/deleted"));
    copied.send().await.unwrap();
    world
        .client
        .delete_object()
        .bucket(BUCKET)
        .key("deleted")
        .send()
        .await
        .unwrap();
    let upload = world
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key("parts")
        .send()
        .await
        .unwrap();
    let upload = upload.upload_id().unwrap();
    let part = world
        .client
        .upload_part()
        .bucket(BUCKET)
        .key("parts")
        .upload_id(upload)
        .part_number(1);
    part.body(ByteStream::from_static(b"part")).send().await.unwrap();
    let before = world
        .client
        .head_object()
        .bucket(BUCKET)
        .key("kept")
        .send()
        .await
        .unwrap();
    world.server.stop().await;
    // As if the process had died while it wrote.
    let journal = dir.path().join("journal");
    let mut text = std::fs::read(&journal).unwrap();
    text.extend_from_slice(br#"{"delete":{"bucket":"bucket","key":"ke"#);
    std::fs::write(&journal, text).unwrap();
    std::fs::write(dir.path().join("blobs/000000/00000fffff"), "nobody's").unwrap();

    for _ in 0..2 {
        let world = World::start(options()).await;
        assert_eq!(
            world.server.list(BUCKET, ""),
            ["copy", "empty", "kept", "overwritten"]
        );
        assert!(world.get("kept").await == sample(3 << 20));
        assert_eq!(world.get("copy").await, b"text");
        assert_eq!(world.get("overwritten").await, b"new");
        assert_eq!(world.get("empty").await, b"");
        let after = world
            .client
            .head_object()
            .bucket(BUCKET)
            .key("kept")
            .send()
            .await
            .unwrap();
        assert_eq!(after.e_tag(), before.e_tag());
        assert_eq!(after.last_modified(), before.last_modified());
        assert_eq!(after.metadata(), before.metadata());
        let parts = world
            .client
            .list_parts()
            .bucket(BUCKET)
            .key("parts")
            .upload_id(upload);
        assert_eq!(parts.send().await.unwrap().parts().len(), 1);
        world.server.stop().await;
    }
    let blobs = std::fs::read_dir(dir.path().join("blobs/000000"))
        .unwrap()
        .count();
    assert_eq!(blobs, 4, "one for each of kept, overwritten, copy and the part");
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options {
        storage: StorageOptions::Files(dir.path().to_owned()),
        ..options()
    };
    let world = World::start(options()).await;
    let error = mooring_test_s3::Server::start(options()).await.err().unwrap();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("another server uses it"), "{error}: {cause}");
    world.put("k", "text").await;
    world.server.stop().await;
    assert_eq!(World::start(options()).await.get("k").await, b"text");
}
