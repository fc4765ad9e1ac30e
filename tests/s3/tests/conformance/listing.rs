//! Listings as a client sees them.

use aws_sdk_s3::types::EncodingType;
use mooring_test_s3::{Operation, Settings};

use crate::world::{BUCKET, World, options, refusal, worlds};

/// All keys and prefixes of a paged V2 listing, and the number of pages.
async fn walk(world: &World, prefix: &str, delimiter: Option<&str>, max_keys: i32) -> (Vec<String>, usize) {
    let (mut told, mut pages, mut token) = (Vec::new(), 0, None);
    loop {
        let list = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .prefix(prefix)
            .max_keys(max_keys);
        let page = list
            .set_delimiter(delimiter.map(str::to_owned))
            .set_continuation_token(token)
            .send();
        let page = page.await.unwrap();
        pages += 1;
        told.extend(
            page.contents()
                .iter()
                .filter_map(|it| it.key().map(str::to_owned)),
        );
        told.extend(
            page.common_prefixes()
                .iter()
                .filter_map(|it| it.prefix().map(str::to_owned)),
        );
        assert_eq!(
            page.is_truncated(),
            Some(page.next_continuation_token().is_some())
        );
        let entries = page.contents().len() + page.common_prefixes().len();
        assert_eq!(page.key_count(), Some(entries as i32));
        token = page.next_continuation_token;
        if token.is_none() {
            return (told, pages);
        }
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_double() {
    for world in worlds().await {
        let keys: Vec<String> = (0..23).map(|number| format!("dir/{number:02}")).collect();
        for key in &keys {
            world.put(key, key.as_str()).await;
        }
        for max_keys in [1, 5, 23, 24, 1000] {
            let (told, pages) = walk(&world, "dir/", None, max_keys).await;
            assert_eq!(told, keys, "{max_keys}");
            assert_eq!(pages, 23_usize.div_ceil(max_keys as usize), "{max_keys}");
        }
    }
}

#[tokio::test]
async fn folders_are_rolled_up() {
    for world in worlds().await {
        for key in ["a/1", "a/2", "a-b", "b/c/1", "b/2", "z"] {
            world.put(key, key).await;
        }
        for max_keys in [1, 2, 1000] {
            let (mut told, _) = walk(&world, "", Some("/"), max_keys).await;
            told.sort();
            assert_eq!(told, ["a-b", "a/", "b/", "z"]);
            let (mut told, _) = walk(&world, "b/", Some("/"), max_keys).await;
            told.sort();
            assert_eq!(told, ["b/2", "b/c/"]);
        }
        let v1 = world
            .client
            .list_objects()
            .bucket(BUCKET)
            .delimiter("/")
            .max_keys(2)
            .send()
            .await
            .unwrap();
        assert_eq!(v1.next_marker(), Some("a/"));
        let v1 = world
            .client
            .list_objects()
            .bucket(BUCKET)
            .delimiter("/")
            .marker("a/")
            .send()
            .await
            .unwrap();
        let told: Vec<_> = v1.common_prefixes().iter().filter_map(|it| it.prefix()).collect();
        assert_eq!(told, ["b/"]);
        assert_eq!(v1.is_truncated(), Some(false));
    }
}

#[tokio::test]
async fn start_after_and_zero_keys() {
    for world in worlds().await {
        for key in ["a", "b", "c"] {
            world.put(key, key).await;
        }
        let page = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .start_after("a")
            .send()
            .await
            .unwrap();
        assert_eq!(
            page.contents()
                .iter()
                .filter_map(|it| it.key())
                .collect::<Vec<_>>(),
            ["b", "c"]
        );
        assert_eq!(page.start_after(), Some("a"));
        let page = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .max_keys(0)
            .send()
            .await
            .unwrap();
        assert_eq!((page.contents().len(), page.is_truncated()), (0, Some(false)));
        let wrong = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .continuation_token("?!")
            .send()
            .await;
        assert_eq!(refusal(&wrong.unwrap_err()), (400, "InvalidArgument"));
    }
}

#[tokio::test]
async fn encoded_names_hold_what_xml_cannot() {
    for world in worlds().await {
        world.put("a b/\u{1}+ü", "text").await;
        let page = world
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .encoding_type(EncodingType::Url)
            .prefix("a b/");
        let page = page.send().await.unwrap();
        assert_eq!(page.contents()[0].key(), Some("a%20b/%01%2B%C3%BC"));
        assert_eq!(page.prefix(), Some("a%20b/"));
        assert_eq!(page.encoding_type(), Some(&EncodingType::Url));
    }
}

#[tokio::test]
async fn the_server_may_cap_its_pages() {
    let world = World::start(options()).await;
    world.server.fill(BUCKET, "k/", 2500, 3).await.unwrap();
    let (told, pages) = walk(&world, "k/", None, 100_000).await;
    assert_eq!((told.len(), pages), (2500, 3));
    world.server.set_settings(Settings {
        page_entries_max: Some(100),
        ..Settings::default()
    });
    world.server.requests().reset();
    let (told, pages) = walk(&world, "k/", Some("/"), 1000).await;
    assert_eq!((told.len(), pages), (2500, 25));
    assert_eq!(world.server.requests().count(Operation::ListObjectsV2), 25);
    assert_eq!(world.server.requests().count(Operation::HeadObject), 0);
}
