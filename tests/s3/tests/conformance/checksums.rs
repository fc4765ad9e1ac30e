//! Checksums beside the ETag, in headers and in trailers.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};

use mooring_test_s3::{Etags, Options};

use crate::world::{BUCKET, World, options, refusal, sample, worlds};

#[tokio::test]
async fn checksums_are_verified_kept_and_told_on_demand() {
    for world in worlds().await {
        let client = world.checking_client();
        for algorithm in [
            ChecksumAlgorithm::Crc32,
            ChecksumAlgorithm::Crc32C,
            ChecksumAlgorithm::Sha1,
            ChecksumAlgorithm::Sha256,
            ChecksumAlgorithm::Crc64Nvme,
        ] {
            let put = client
                .put_object()
                .bucket(BUCKET)
                .key("k")
                .body(sample(100_000).into());
            put.checksum_algorithm(algorithm.clone()).send().await.unwrap();
            // The SDK verifies what it gets back.
            let get = client
                .get_object()
                .bucket(BUCKET)
                .key("k")
                .checksum_mode(ChecksumMode::Enabled);
            let answer = get.clone().send().await.unwrap();
            let told = [
                answer.checksum_crc32(),
                answer.checksum_crc32_c(),
                answer.checksum_sha1(),
                answer.checksum_sha256(),
                answer.checksum_crc64_nvme(),
            ];
            assert_eq!(told.iter().flatten().count(), 1, "{algorithm:?}");
            assert_eq!(answer.body.collect().await.unwrap().to_vec(), sample(100_000));
            let part = get.range("bytes=1-5").send().await.unwrap();
            assert!(
                part.checksum_crc32().or(part.checksum_sha256()).is_none(),
                "not on a range"
            );
        }
        let wrong = || {
            client
                .put_object()
                .bucket(BUCKET)
                .key("other")
                .body(sample(10).into())
        };
        let refused = wrong().checksum_crc32("AAAAAA==").send().await.unwrap_err();
        assert_eq!(refusal(&refused), (400, "BadDigest"));
        let refused = wrong()
            .content_md5("1B2M2Y8AsgTpgAmY7PhCfg==")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&refused), (400, "BadDigest"));
        assert_eq!(world.server.list(BUCKET, ""), ["k"]);
    }
}

#[tokio::test]
async fn a_streamed_body_with_a_trailer_is_taken() {
    for world in worlds().await {
        let client = world.checking_client();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        std::fs::write(&path, sample(3_000_000)).unwrap();
        // A file is streamed as aws-chunked with the checksum behind it.
        let body = ByteStream::from_path(&path).await.unwrap();
        let put = client.put_object().bucket(BUCKET).key("k").body(body);
        put.checksum_algorithm(ChecksumAlgorithm::Crc32)
            .send()
            .await
            .unwrap();
        assert!(world.get("k").await == sample(3_000_000));
        let head = client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!(
            head.content_encoding(),
            None,
            "aws-chunked is no property of the object"
        );
    }
}

#[tokio::test]
async fn opaque_etags_tell_versions_apart_and_content_md5_still_counts() {
    let world = World::start(Options {
        etags: Etags::Opaque,
        ..options()
    })
    .await;
    let first = world.put("k", "same").await;
    let second = world.put("k", "same").await;
    assert_ne!(first, second);
    let put = || {
        world
            .client
            .put_object()
            .bucket(BUCKET)
            .key("k")
            .body(b"hello".to_vec().into())
    };
    put()
        .content_md5("XUFAKrxLKna5cZ2REBfFkg==")
        .send()
        .await
        .unwrap();
    let refused = put()
        .content_md5("1B2M2Y8AsgTpgAmY7PhCfg==")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused), (400, "BadDigest"));
    assert_eq!(world.get("k").await, b"hello");
}
