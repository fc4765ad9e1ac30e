//! Uploads in parts.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use mooring_test_s3::{Action, Fault};

use crate::world::{BUCKET, World, options, refusal, sample, worlds};

async fn create(world: &World, key: &str) -> String {
    let answer = world
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .metadata("a", "b")
        .send()
        .await;
    answer.unwrap().upload_id.unwrap()
}

async fn upload(world: &World, key: &str, id: &str, number: i32, bytes: Vec<u8>) -> CompletedPart {
    let part = world
        .client
        .upload_part()
        .bucket(BUCKET)
        .key(key)
        .upload_id(id)
        .part_number(number);
    let answer = part.body(ByteStream::from(bytes)).send().await.unwrap();
    CompletedPart::builder()
        .part_number(number)
        .set_e_tag(answer.e_tag)
        .build()
}

fn completion(parts: &[&CompletedPart]) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts.iter().copied().cloned().collect()))
        .build()
}

#[tokio::test]
async fn parts_become_one_object() {
    for world in worlds().await {
        let id = create(&world, "k").await;
        let second = upload(&world, "k", &id, 2, sample(1000)).await;
        let overwritten = upload(&world, "k", &id, 1, sample(5)).await;
        let first = upload(&world, "k", &id, 1, vec![7; 2_000_000]).await;
        let complete = |parts: &[&CompletedPart]| {
            let request = world
                .client
                .complete_multipart_upload()
                .bucket(BUCKET)
                .key("k")
                .upload_id(&id);
            request.multipart_upload(completion(parts)).send()
        };
        assert_eq!(
            refusal(&complete(&[&overwritten, &second]).await.unwrap_err()),
            (400, "InvalidPart")
        );
        assert_eq!(
            refusal(&complete(&[&second, &first]).await.unwrap_err()),
            (400, "InvalidPartOrder")
        );
        let done = complete(&[&first, &second]).await.unwrap();
        assert!(done.e_tag().unwrap().ends_with("-2\""), "{:?}", done.e_tag());

        let expected = [vec![7; 2_000_000], sample(1000)].concat();
        assert!(world.get("k").await == expected);
        let head = world
            .client
            .head_object()
            .bucket(BUCKET)
            .key("k")
            .send()
            .await
            .unwrap();
        assert_eq!(head.metadata().unwrap()["a"], "b");
        assert_eq!(head.e_tag(), done.e_tag());
        let part = world
            .client
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .part_number(2)
            .send()
            .await
            .unwrap();
        assert_eq!(part.parts_count(), Some(2));
        assert_eq!(part.body.collect().await.unwrap().to_vec(), sample(1000));
        let refused = world
            .client
            .get_object()
            .bucket(BUCKET)
            .key("k")
            .part_number(3)
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&refused), (416, "InvalidPartNumber"));
        let again = complete(&[&first, &second]).await.unwrap();
        assert_eq!(again.e_tag(), done.e_tag());
        world.server.faults().add(Fault::new(Action::ForgetCompleted));
        assert_eq!(
            refusal(&complete(&[&first, &second]).await.unwrap_err()),
            (404, "NoSuchUpload")
        );
        assert_eq!(world.server.upload_count(BUCKET), 0);
    }
}

#[tokio::test]
async fn a_part_may_be_a_range_of_another_object() {
    for world in worlds().await {
        let source = sample(3_000_000);
        let etag = world.put("source", source.clone()).await;
        let id = create(&world, "k").await;
        let copy = |number: i32, range: &str| {
            let part = world
                .client
                .upload_part_copy()
                .bucket(BUCKET)
                .key("k")
                .upload_id(&id);
            part.part_number(number)
                .copy_source(format!("{BUCKET}/source"))
                .copy_source_range(range)
        };
        let answer = copy(1, "bytes=0-1499999")
            .copy_source_if_match(&etag)
            .send()
            .await
            .unwrap();
        let etag = answer.copy_part_result().unwrap().e_tag().unwrap();
        let first = CompletedPart::builder().part_number(1).e_tag(etag).build();
        let second = upload(&world, "k", &id, 2, b"changed in the middle".to_vec()).await;
        let answer = copy(3, "bytes=1500021-2999999").send().await.unwrap();
        let etag = answer.copy_part_result().unwrap().e_tag().unwrap();
        let third = CompletedPart::builder().part_number(3).e_tag(etag).build();

        assert_eq!(
            refusal(&copy(4, "bytes=0-3000000").send().await.unwrap_err()),
            (400, "InvalidArgument")
        );
        assert_eq!(
            refusal(&copy(4, "bytes=5-").send().await.unwrap_err()),
            (400, "InvalidArgument")
        );
        let changed = copy(4, "bytes=0-9")
            .copy_source_if_match("\"0\"")
            .send()
            .await
            .unwrap_err();
        assert_eq!(refusal(&changed), (412, "PreconditionFailed"));

        let complete = world
            .client
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("k")
            .upload_id(&id);
        complete
            .multipart_upload(completion(&[&first, &second, &third]))
            .send()
            .await
            .unwrap();
        let mut expected = source;
        expected[1_500_000..1_500_021].copy_from_slice(b"changed in the middle");
        assert!(world.get("k").await == expected);
    }
}

#[tokio::test]
async fn small_parts_are_refused_but_at_the_end() {
    let world = World::start(mooring_test_s3::Options {
        part_bytes_min: 5 << 20,
        ..options()
    })
    .await;
    let id = create(&world, "k").await;
    let first = upload(&world, "k", &id, 1, sample((5 << 20) - 1)).await;
    let second = upload(&world, "k", &id, 2, sample(1)).await;
    let complete = world
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("k")
        .upload_id(&id);
    let refused = complete
        .multipart_upload(completion(&[&first, &second]))
        .send()
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused), (400, "EntityTooSmall"));
    let zero = world
        .client
        .upload_part()
        .bucket(BUCKET)
        .key("k")
        .upload_id(&id)
        .part_number(0);
    assert_eq!(refusal(&zero.send().await.unwrap_err()), (400, "InvalidArgument"));
}

#[tokio::test]
async fn uploads_and_parts_are_listed_in_pages_and_aborted() {
    for world in worlds().await {
        let mut ids = Vec::new();
        for key in ["a/1", "a/1", "a/2", "b"] {
            ids.push(create(&world, key).await);
        }
        let (mut told, mut marker) = (Vec::new(), (None, None));
        loop {
            let list = world
                .client
                .list_multipart_uploads()
                .bucket(BUCKET)
                .max_uploads(1);
            let page = list
                .set_key_marker(marker.0)
                .set_upload_id_marker(marker.1)
                .send()
                .await
                .unwrap();
            told.extend(
                page.uploads()
                    .iter()
                    .filter_map(|it| it.upload_id().map(str::to_owned)),
            );
            if page.is_truncated() != Some(true) {
                break;
            }
            marker = (page.next_key_marker, page.next_upload_id_marker);
        }
        assert_eq!(told, ids);
        let rolled_up = world
            .client
            .list_multipart_uploads()
            .bucket(BUCKET)
            .delimiter("/")
            .send()
            .await
            .unwrap();
        assert_eq!(rolled_up.common_prefixes().len(), 1);
        assert_eq!(rolled_up.uploads().len(), 1);

        for number in 1..=3 {
            upload(&world, "b", &ids[3], number, sample(number as usize)).await;
        }
        let parts = world
            .client
            .list_parts()
            .bucket(BUCKET)
            .key("b")
            .upload_id(&ids[3])
            .max_parts(2);
        let page = parts.clone().send().await.unwrap();
        assert_eq!(
            page.parts().iter().filter_map(|it| it.size()).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(
            (page.is_truncated(), page.next_part_number_marker()),
            (Some(true), Some("2"))
        );
        let page = parts.part_number_marker("2").send().await.unwrap();
        assert_eq!(
            page.parts()
                .iter()
                .filter_map(|it| it.part_number())
                .collect::<Vec<_>>(),
            [3]
        );

        let abort = world
            .client
            .abort_multipart_upload()
            .bucket(BUCKET)
            .key("b")
            .upload_id(&ids[3]);
        abort.clone().send().await.unwrap();
        assert_eq!(refusal(&abort.send().await.unwrap_err()), (404, "NoSuchUpload"));
        assert_eq!(world.server.upload_count(BUCKET), 3);
        let late = world
            .client
            .upload_part()
            .bucket(BUCKET)
            .key("b")
            .upload_id(&ids[3])
            .part_number(1);
        assert_eq!(refusal(&late.send().await.unwrap_err()), (404, "NoSuchUpload"));
    }
}
