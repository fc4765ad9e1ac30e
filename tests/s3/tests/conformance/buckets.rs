//! Buckets, keys and rights.

use mooring_test_s3::{Rights, client};

use crate::world::{ACCESS_KEY, BUCKET, SECRET_KEY, World, options, refusal, worlds};

#[tokio::test]
async fn buckets_are_created_listed_and_deleted() {
    for world in worlds().await {
        world
            .client
            .create_bucket()
            .bucket("second")
            .send()
            .await
            .unwrap();
        let again = world
            .client
            .create_bucket()
            .bucket("second")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&again), (409, "BucketAlreadyOwnedByYou"));
        let listed = world.client.list_buckets().send().await.unwrap();
        let names: Vec<&str> = listed
            .buckets()
            .iter()
            .filter_map(|bucket| bucket.name())
            .collect();
        assert_eq!(names, [BUCKET, "second"]);

        world.client.head_bucket().bucket("second").send().await.unwrap();
        let location = world
            .client
            .get_bucket_location()
            .bucket("second")
            .send()
            .await
            .unwrap();
        assert!(
            location
                .location_constraint
                .is_none_or(|name| name.as_str().is_empty())
        );

        world
            .client
            .put_object()
            .bucket("second")
            .key("k")
            .send()
            .await
            .unwrap();
        let full = world
            .client
            .delete_bucket()
            .bucket("second")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&full), (409, "BucketNotEmpty"));
        world
            .client
            .delete_object()
            .bucket("second")
            .key("k")
            .send()
            .await
            .unwrap();
        world
            .client
            .delete_bucket()
            .bucket("second")
            .send()
            .await
            .unwrap();
        let gone = world
            .client
            .head_bucket()
            .bucket("second")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&gone).0, 404);
        let gone = world
            .client
            .list_objects_v2()
            .bucket("second")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&gone), (404, "NoSuchBucket"));
        let gone = world
            .client
            .put_object()
            .bucket("second")
            .key("k")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&gone), (404, "NoSuchBucket"));
    }
}

#[tokio::test]
async fn a_wrong_signature_an_unknown_key_and_a_removed_key_are_refused() {
    let world = World::start(options()).await;
    let endpoint = world.server.endpoint();
    let wrong = client::client(&endpoint, ACCESS_KEY, "another");
    let refused = wrong.list_objects_v2().bucket(BUCKET).send().await.unwrap_err();
    assert_eq!(refusal(&refused), (403, "SignatureDoesNotMatch"));
    // Also when the body is long: the answer arrives all the same.
    let body = vec![0; 8 << 20].into();
    let refused = wrong
        .put_object()
        .bucket(BUCKET)
        .key("k")
        .body(body)
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused), (403, "SignatureDoesNotMatch"));

    let unknown = client::client(&endpoint, "AKIAOTHER", SECRET_KEY);
    let refused = unknown.list_objects_v2().bucket(BUCKET).send().await.unwrap_err();
    assert_eq!(refusal(&refused), (403, "InvalidAccessKeyId"));

    world
        .server
        .keys()
        .set("AKIAOTHER", SECRET_KEY, Rights::ReadWrite);
    unknown.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    assert!(world.server.keys().remove("AKIAOTHER"));
    let refused = unknown.list_objects_v2().bucket(BUCKET).send().await.unwrap_err();
    assert_eq!(refusal(&refused), (403, "InvalidAccessKeyId"));
}

#[tokio::test]
async fn a_key_for_reading_cannot_change_anything() {
    let world = World::start(options()).await;
    world.put("k", "text").await;
    world.server.keys().set("AKIAREAD", "reader", Rights::ReadOnly);
    let reader = client::client(&world.server.endpoint(), "AKIAREAD", "reader");
    reader.get_object().bucket(BUCKET).key("k").send().await.unwrap();
    reader.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    let refused = reader
        .put_object()
        .bucket(BUCKET)
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused), (403, "AccessDenied"));
    let refused = reader
        .delete_object()
        .bucket(BUCKET)
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused), (403, "AccessDenied"));
    assert_eq!(world.get("k").await, b"text");
}
