//! The contract of the filesystem's store, `S3Store`, over the library and on real servers: our own and versitygw.
//! Where they differ, the story says so.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt;
use mooring_fs::credentials::{AccessKey, Credential, LiveCredential};
use mooring_fs::store::address::AddressRules;
use mooring_fs::store::s3::{S3Options, S3Store};
use mooring_fs::store::{
    Deadlines, ETag, Key, ListRequest, ObjectStore, StoreError, UploadBody, WriteCondition, standard,
};
use mooring_tests::{Store, folder, store, versitygw};
use zeroize::Zeroizing;

/// A server's bucket, seen through the library.
struct Bucket {
    s3: Arc<S3Store>,
    server: Store,
    _scratch: tempfile::TempDir,
}

macro_rules! on_both_servers {
    ($($story:ident,)*) => {
        mod on_our_own_store {
            $(#[test] fn $story() { $crate::store::play($crate::store::Bucket::of_our_own(), super::$story); })*
        }
        mod on_versitygw {
            $(#[test] fn $story() { $crate::store::play($crate::store::Bucket::of_versitygw(), super::$story); })*
        }
    };
}

mod figures;

on_both_servers! {
    objects_are_written_read_in_ranges_and_described,
    files_are_streamed_from_their_range,
    uploads_are_made_of_parts_and_copies_or_given_up,
    conditions_protect_what_others_wrote,
    every_key_survives_writing_listing_copying_and_deleting,
    copies_keep_or_replace_metadata,
    a_replaced_key_works_at_once_and_a_wrong_one_is_denied,
}

fn play<Played: Future<Output = ()>>(bucket: Bucket, story: impl FnOnce(Bucket) -> Played) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(story(bucket));
}

impl Bucket {
    fn of_our_own() -> Bucket {
        let scratch = folder::scratch();
        let server = Store::start(scratch.path(), Ipv4Addr::LOCALHOST, "lake");
        Bucket::of(server, scratch)
    }

    fn of_versitygw() -> Bucket {
        let scratch = folder::scratch();
        let server = versitygw::start(scratch.path(), "lake");
        Bucket::of(server, scratch)
    }

    fn of(server: Store, scratch: tempfile::TempDir) -> Bucket {
        let credential = Credential::live(LiveCredential::new(key(&server.secret)));
        let s3 = Arc::new(S3Store::new(options(&server, &server.bucket, credential)).unwrap());
        Bucket {
            s3,
            server,
            _scratch: scratch,
        }
    }
}

fn options(server: &Store, bucket: &str, credential: Credential) -> S3Options {
    S3Options {
        endpoint: Some(server.endpoint.clone()),
        region: "us-east-1".to_owned(),
        bucket: bucket.to_owned(),
        path_style: true,
        credential,
        rules: AddressRules::anything(),
        extra_ca_file: None,
        deadlines: Deadlines::default(),
        jitter_seed: 1,
    }
}

fn key(secret: &str) -> AccessKey {
    AccessKey {
        id: store::ACCESS_KEY_ID.to_owned(),
        secret: Zeroizing::new(secret.to_owned()),
        session_token: None,
    }
}

fn some_bytes(length: usize) -> Bytes {
    (0..length)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

async fn put(store: &S3Store, key: &Key, bytes: Bytes) -> ETag {
    store
        .put(
            key,
            UploadBody::Bytes(bytes),
            &BTreeMap::new(),
            WriteCondition::None,
        )
        .await
        .unwrap()
}

async fn read(store: &S3Store, key: &Key, range: Option<Range<u64>>) -> Bytes {
    let answer = store.get(key, range, None).await.unwrap();
    answer
        .body
        .try_collect::<Vec<Bytes>>()
        .await
        .unwrap()
        .concat()
        .into()
}

async fn all_keys(store: &S3Store, prefix: &str, delimited: bool, keys_max: u16) -> Vec<String> {
    let mut found = Vec::new();
    let mut continuation = None;
    loop {
        let request = ListRequest {
            prefix: prefix.to_owned(),
            delimited,
            start_after: None,
            continuation,
            keys_max,
        };
        let page = store.list(request).await.unwrap();
        let objects = page.objects.iter().map(|(key, _)| key);
        found.extend(objects.chain(&page.prefixes).map(|key| key.as_str().to_owned()));
        continuation = page.next;
        if continuation.is_none() {
            found.sort();
            return found;
        }
    }
}

async fn remove_all(store: &S3Store, prefix: &str) {
    let keys: Vec<Key> = all_keys(store, prefix, false, 1000)
        .await
        .into_iter()
        .map(Key::new)
        .collect();
    for outcome in store.delete(&keys).await.unwrap() {
        outcome.unwrap();
    }
}

/// Metadata of a person's own, and a header of S3's: a store always tells some content type.
fn carried(name: &str, value: &str) -> BTreeMap<String, String> {
    let header = (standard::CONTENT_TYPE.to_owned(), "text/csv".to_owned());
    BTreeMap::from([(name.to_owned(), value.to_owned()), header])
}

async fn objects_are_written_read_in_ranges_and_described(bucket: Bucket) {
    let store = &*bucket.s3;
    let key = Key::new("contract/object");
    let bytes = some_bytes(300_000);
    let metadata = carried("mooring-commit", "42");
    let etag = store
        .put(
            &key,
            UploadBody::Bytes(bytes.clone()),
            &metadata,
            WriteCondition::None,
        )
        .await
        .unwrap();
    let info = store.head(&key).await.unwrap();
    assert_eq!(
        (info.size, &info.etag, &info.metadata),
        (300_000, &etag, &metadata)
    );
    assert!(info.modified > SystemTime::UNIX_EPOCH);
    assert_eq!(read(store, &key, None).await, bytes);
    assert_eq!(
        read(store, &key, Some(100_000..299_999)).await,
        bytes.slice(100_000..299_999)
    );
    assert_eq!(read(store, &key, Some(5..5)).await, Bytes::new());
    let ranged = store.get(&key, Some(0..1), Some(&etag)).await.unwrap();
    assert_eq!(ranged.info.size, 300_000);
    let other = ETag("\"0123456789abcdef0123456789abcdef\"".to_owned());
    let stale = store.get(&key, Some(0..1), Some(&other)).await;
    assert!(matches!(stale, Err(StoreError::PreconditionFailed)));
    assert!(matches!(
        store.get(&Key::new("contract/absent"), None, None).await,
        Err(StoreError::NotFound)
    ));
    assert!(matches!(
        store.head(&Key::new("contract/absent")).await,
        Err(StoreError::NotFound)
    ));
    put(store, &Key::new("contract/empty"), Bytes::new()).await;
    assert_eq!(read(store, &Key::new("contract/empty"), None).await, Bytes::new());
    remove_all(store, "contract/").await;
}

async fn files_are_streamed_from_their_range(bucket: Bucket) {
    let store = &*bucket.s3;
    let bytes = some_bytes(5_000_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let file = Arc::new(file);
    for range in [0..0, 7..8, 0..65_537, 1..4_999_999] {
        let key = Key::new("files/streamed");
        let body = UploadBody::File {
            file: Arc::clone(&file),
            range: range.clone(),
        };
        store
            .put(&key, body, &BTreeMap::new(), WriteCondition::None)
            .await
            .unwrap();
        let expected = bytes.slice(range.start as usize..range.end as usize);
        assert_eq!(read(store, &key, None).await, expected, "{range:?}");
    }
    remove_all(store, "files/").await;
}

async fn uploads_are_made_of_parts_and_copies_or_given_up(bucket: Bucket) {
    let store = &*bucket.s3;
    let (source, key) = (Key::new("parts/source +%é"), Key::new("parts/target"));
    let bytes = some_bytes(12 * 1024 * 1024);
    let etag = put(store, &source, bytes.clone()).await;
    let metadata = carried("name", "value");
    let upload = store.create_upload(&key, &metadata).await.unwrap();
    let five = 5 * 1024 * 1024;
    let first = store
        .copy_part(&key, &upload, 1, &source, 0..five, &etag)
        .await
        .unwrap();
    let body = UploadBody::Bytes(bytes.slice(five as usize..));
    let second = store.upload_part(&key, &upload, 2, body).await.unwrap();
    let etag = store
        .complete_upload(&key, &upload, &[first, second], WriteCondition::None)
        .await
        .unwrap();
    let info = store.head(&key).await.unwrap();
    assert_eq!(
        (info.size, info.etag, info.metadata),
        (bytes.len() as u64, etag, metadata)
    );
    assert_eq!(read(store, &key, None).await, bytes);
    let given_up = store.create_upload(&key, &BTreeMap::new()).await.unwrap();
    store.abort_upload(&key, &given_up).await.unwrap();
    store.abort_upload(&key, &given_up).await.unwrap();
    remove_all(store, "parts/").await;
}

async fn conditions_protect_what_others_wrote(bucket: Bucket) {
    let store = &*bucket.s3;
    let key = Key::new("conditions/object");
    remove_all(store, "conditions/").await;
    let none = BTreeMap::new();
    let write = |condition| store.put(&key, UploadBody::Bytes("x".into()), &none, condition);
    let stale = ETag("\"0123456789abcdef0123456789abcdef\"".to_owned());
    let first = write(WriteCondition::Absent).await.unwrap();
    assert!(matches!(
        write(WriteCondition::Absent).await,
        Err(StoreError::PreconditionFailed)
    ));
    assert!(matches!(
        write(WriteCondition::Matches(stale.clone())).await,
        Err(StoreError::PreconditionFailed)
    ));
    write(WriteCondition::Matches(first.clone())).await.unwrap();
    let upload = store.create_upload(&key, &none).await.unwrap();
    let part = store
        .upload_part(&key, &upload, 1, UploadBody::Bytes("y".into()))
        .await
        .unwrap();
    let parts = [part];
    let lost = store
        .complete_upload(&key, &upload, &parts, WriteCondition::Absent)
        .await;
    assert!(matches!(lost, Err(StoreError::PreconditionFailed)), "{lost:?}");
    store
        .complete_upload(&key, &upload, &parts, WriteCondition::Matches(first))
        .await
        .unwrap();
    let copy = Key::new("conditions/copy");
    let refused = store.copy(&key, &copy, Some(&stale), None).await;
    assert!(
        matches!(refused, Err(StoreError::PreconditionFailed)),
        "{refused:?}"
    );
    remove_all(store, "conditions/").await;
}

async fn every_key_survives_writing_listing_copying_and_deleting(bucket: Bucket) {
    let store = &*bucket.s3;
    remove_all(store, "keys/").await;
    let names = [
        "space in name",
        "plus+plus",
        "percent%20",
        "100%",
        "amp&er",
        "é日本😀",
        "quote\"'",
        "a=b?c#d",
        "semi;colon",
        "star*",
        "tilde~",
        "br[ack]{et}",
        "less<more>",
        "back\\slash",
        "dollar$@!",
        "-dash",
        "tab\tnew\nline\rreturn",
        "del\u{7f}",
        "c1\u{85}",
    ];
    let mut keys: Vec<String> = names.iter().map(|name| format!("keys/{name}")).collect();
    keys.extend(
        names
            .iter()
            .take(8)
            .map(|name| format!("keys/dir {name}/leaf {name}")),
    );
    keys.sort();
    for key in &keys {
        put(store, &Key::new(key), Bytes::from(key.clone())).await;
    }
    for keys_max in [1000, 3] {
        assert_eq!(
            all_keys(store, "keys/", false, keys_max).await,
            keys,
            "pages of {keys_max}"
        );
    }
    let folders = all_keys(store, "keys/", true, 3).await;
    assert!(folders.contains(&"keys/dir plus+plus/".to_owned()), "{folders:?}");
    for key in &keys {
        let (key, copy) = (
            Key::new(key),
            Key::new(format!("keys/copy of {}", key.replace('/', "_"))),
        );
        assert_eq!(read(store, &key, None).await, key.as_str());
        store.copy(&key, &copy, None, None).await.unwrap();
        assert_eq!(read(store, &copy, None).await, key.as_str());
    }
    let request = ListRequest {
        prefix: "keys/".to_owned(),
        delimited: false,
        start_after: Some(keys[4].clone()),
        continuation: None,
        keys_max: 1000,
    };
    let after = store.list(request).await.unwrap().objects;
    let after: Vec<&str> = after
        .iter()
        .map(|(key, _)| key.as_str())
        .filter(|k| !k.contains("copy of"))
        .collect();
    assert_eq!(after, keys[5..]);
    remove_all(store, "keys/").await;
    assert_eq!(all_keys(store, "keys/", false, 1000).await, Vec::<String>::new());
}

#[test]
fn control_characters_survive_listing_and_deleting_where_the_server_encodes_listings() {
    play(Bucket::of_our_own(), control_characters_survive);
}

async fn control_characters_survive(bucket: Bucket) {
    let store = &*bucket.s3;
    let keys = put_control_characters(store).await;
    assert_eq!(all_keys(store, "controls/", false, 7).await, keys);
    remove_all(store, "controls/").await;
    assert_eq!(all_keys(store, "controls/", false, 7).await, Vec::<String>::new());
}

#[test]
fn versitygw_keeps_control_characters_and_lists_something_else() {
    play(Bucket::of_versitygw(), control_characters_are_listed_as_others);
}

/// versitygw 1.8.0 does not know encoding-type=url, and puts the replacement character where XML cannot carry one: such
/// objects can be used by their names, but nobody can learn the names from a listing.
async fn control_characters_are_listed_as_others(bucket: Bucket) {
    let store = &*bucket.s3;
    let keys = put_control_characters(store).await;
    for key in &keys {
        assert_eq!(read(store, &Key::new(key), None).await, Bytes::new(), "{key:?}");
    }
    let listed = all_keys(store, "controls/", false, 1000).await;
    assert_eq!(listed.len(), keys.len());
    let wrong: Vec<&String> = listed.iter().filter(|key| !keys.contains(key)).collect();
    assert!(
        !wrong.is_empty(),
        "versitygw has learned to encode: play the story above on it"
    );
    assert!(wrong.iter().all(|key| **key == "controls/\u{fffd}x"), "{wrong:?}");
    let keys: Vec<Key> = keys.into_iter().map(Key::new).collect();
    for outcome in store.delete(&keys).await.unwrap() {
        outcome.unwrap();
    }
    assert_eq!(all_keys(store, "controls/", false, 7).await, Vec::<String>::new());
}

async fn put_control_characters(store: &S3Store) -> Vec<String> {
    let keys: Vec<String> = (1..32)
        .map(|code| format!("controls/{}x", char::from(code)))
        .collect();
    for key in &keys {
        put(store, &Key::new(key), Bytes::new()).await;
    }
    keys
}

async fn copies_keep_or_replace_metadata(bucket: Bucket) {
    let store = &*bucket.s3;
    let (source, target) = (Key::new("copies/a"), Key::new("copies/b"));
    let old = carried("mode", "0644");
    let new = carried("mode", "0600");
    store
        .put(&source, UploadBody::Bytes("x".into()), &old, WriteCondition::None)
        .await
        .unwrap();
    store.copy(&source, &target, None, None).await.unwrap();
    assert_eq!(store.head(&target).await.unwrap().metadata, old);
    store.copy(&source, &target, None, Some(&new)).await.unwrap();
    assert_eq!(store.head(&target).await.unwrap().metadata, new);
    remove_all(store, "copies/").await;
}

async fn a_replaced_key_works_at_once_and_a_wrong_one_is_denied(bucket: Bucket) {
    let live = LiveCredential::new(key("wrong"));
    let credential = Credential::live(Arc::clone(&live));
    let store = S3Store::new(options(&bucket.server, &bucket.server.bucket, credential)).unwrap();
    let request = ListRequest {
        prefix: String::new(),
        delimited: true,
        start_after: None,
        continuation: None,
        keys_max: 1,
    };
    let denied = store.list(request.clone()).await;
    assert!(matches!(denied, Err(StoreError::Denied { .. })), "{denied:?}");
    live.replace(key(&bucket.server.secret));
    store.list(request.clone()).await.unwrap();
    let elsewhere = options(&bucket.server, "no-such-bucket-here", Credential::live(live));
    let absent = S3Store::new(elsewhere).unwrap().list(request).await;
    assert!(matches!(absent, Err(StoreError::NoSuchBucket)), "{absent:?}");
}
