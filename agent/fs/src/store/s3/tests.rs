//! The contract of [`super::S3Store`] against a real server. Ignored without one:
//!
//! ```text
//! MOORING_TEST_S3_ENDPOINT=http://127.0.0.1:7070 MOORING_TEST_S3_BUCKET=bucket \
//! AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… [MOORING_TEST_S3_CA=ca.pem] \
//! cargo test -p mooring-fs -- --ignored
//! ```

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use zeroize::Zeroizing;

use super::*;
use crate::credentials::{AccessKey, Credential, LiveCredential};
use crate::store::address::AddressRules;

const NEEDS_A_SERVER: &str = "set MOORING_TEST_S3_ENDPOINT and the others";

fn variable(name: &str) -> String {
    std::env::var(name).expect(NEEDS_A_SERVER)
}

fn key_of_environment() -> AccessKey {
    AccessKey {
        id: variable("AWS_ACCESS_KEY_ID"),
        secret: Zeroizing::new(variable("AWS_SECRET_ACCESS_KEY")),
        session_token: None,
    }
}

fn options(endpoint: String, bucket: String, credential: Credential) -> S3Options {
    S3Options {
        endpoint: Some(endpoint),
        region: "us-east-1".to_owned(),
        bucket,
        path_style: true,
        credential,
        rules: AddressRules::anything(),
        extra_ca_file: std::env::var_os("MOORING_TEST_S3_CA").map(PathBuf::from),
        deadlines: Deadlines::default(),
        jitter_seed: 1,
    }
}

/// The bucket that the environment names.
pub(crate) fn store() -> S3Store {
    let credential = Credential::live(LiveCredential::new(key_of_environment()));
    let bucket = variable("MOORING_TEST_S3_BUCKET");
    S3Store::new(options(variable("MOORING_TEST_S3_ENDPOINT"), bucket, credential)).unwrap()
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

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn objects_are_written_read_in_ranges_and_described() {
    let store = store();
    let key = Key::new("contract/object");
    let bytes = some_bytes(300_000);
    let metadata = BTreeMap::from([("mooring-commit".to_owned(), "42".to_owned())]);
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
    assert_eq!(read(&store, &key, None).await, bytes);
    assert_eq!(
        read(&store, &key, Some(100_000..299_999)).await,
        bytes.slice(100_000..299_999)
    );
    assert_eq!(read(&store, &key, Some(5..5)).await, Bytes::new());
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
    put(&store, &Key::new("contract/empty"), Bytes::new()).await;
    assert_eq!(
        read(&store, &Key::new("contract/empty"), None).await,
        Bytes::new()
    );
    remove_all(&store, "contract/").await;
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn files_are_streamed_from_their_range() {
    let store = store();
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
        assert_eq!(read(&store, &key, None).await, expected, "{range:?}");
    }
    remove_all(&store, "files/").await;
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn uploads_are_made_of_parts_and_copies_or_given_up() {
    let store = store();
    let (source, key) = (Key::new("parts/source +%é"), Key::new("parts/target"));
    let bytes = some_bytes(12 * 1024 * 1024);
    let etag = put(&store, &source, bytes.clone()).await;
    let metadata = BTreeMap::from([("name".to_owned(), "value".to_owned())]);
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
    assert_eq!(read(&store, &key, None).await, bytes);
    let given_up = store.create_upload(&key, &BTreeMap::new()).await.unwrap();
    store.abort_upload(&key, &given_up).await.unwrap();
    store.abort_upload(&key, &given_up).await.unwrap();
    remove_all(&store, "parts/").await;
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn conditions_protect_what_others_wrote() {
    let store = store();
    let key = Key::new("conditions/object");
    remove_all(&store, "conditions/").await;
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
    remove_all(&store, "conditions/").await;
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn every_key_survives_writing_listing_copying_and_deleting() {
    let store = store();
    remove_all(&store, "keys/").await;
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
        put(&store, &Key::new(key), Bytes::from(key.clone())).await;
    }
    for keys_max in [1000, 3] {
        assert_eq!(
            all_keys(&store, "keys/", false, keys_max).await,
            keys,
            "pages of {keys_max}"
        );
    }
    let folders = all_keys(&store, "keys/", true, 3).await;
    assert!(folders.contains(&"keys/dir plus+plus/".to_owned()), "{folders:?}");
    for key in &keys {
        let (key, copy) = (
            Key::new(key),
            Key::new(format!("keys/copy of {}", key.replace('/', "_"))),
        );
        assert_eq!(read(&store, &key, None).await, key.as_str());
        store.copy(&key, &copy, None, None).await.unwrap();
        assert_eq!(read(&store, &copy, None).await, key.as_str());
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
    remove_all(&store, "keys/").await;
    assert_eq!(all_keys(&store, "keys/", false, 1000).await, Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs an S3 server that encodes listings (versitygw does not)"]
async fn control_characters_survive_listing_and_deleting() {
    let store = store();
    remove_all(&store, "controls/").await;
    let keys: Vec<String> = (1..32)
        .map(|code| format!("controls/{}x", char::from(code)))
        .collect();
    for key in &keys {
        put(&store, &Key::new(key), Bytes::new()).await;
    }
    assert_eq!(all_keys(&store, "controls/", false, 7).await, keys);
    remove_all(&store, "controls/").await;
    assert_eq!(
        all_keys(&store, "controls/", false, 7).await,
        Vec::<String>::new()
    );
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn copies_keep_or_replace_metadata() {
    let store = store();
    let (source, target) = (Key::new("copies/a"), Key::new("copies/b"));
    let old = BTreeMap::from([("mode".to_owned(), "0644".to_owned())]);
    let new = BTreeMap::from([("mode".to_owned(), "0600".to_owned())]);
    store
        .put(&source, UploadBody::Bytes("x".into()), &old, WriteCondition::None)
        .await
        .unwrap();
    store.copy(&source, &target, None, None).await.unwrap();
    assert_eq!(store.head(&target).await.unwrap().metadata, old);
    store.copy(&source, &target, None, Some(&new)).await.unwrap();
    assert_eq!(store.head(&target).await.unwrap().metadata, new);
    remove_all(&store, "copies/").await;
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn a_replaced_key_works_at_once_and_a_wrong_one_is_denied() {
    let wrong = AccessKey {
        secret: Zeroizing::new("wrong".to_owned()),
        ..key_of_environment()
    };
    let live = LiveCredential::new(wrong);
    let (endpoint, bucket) = (
        variable("MOORING_TEST_S3_ENDPOINT"),
        variable("MOORING_TEST_S3_BUCKET"),
    );
    let store = S3Store::new(options(
        endpoint.clone(),
        bucket,
        Credential::live(Arc::clone(&live)),
    ))
    .unwrap();
    let request = ListRequest {
        prefix: String::new(),
        delimited: true,
        start_after: None,
        continuation: None,
        keys_max: 1,
    };
    let denied = store.list(request.clone()).await;
    assert!(matches!(denied, Err(StoreError::Denied { .. })), "{denied:?}");
    live.replace(key_of_environment());
    store.list(request.clone()).await.unwrap();
    let elsewhere = S3Store::new(options(
        endpoint,
        "no-such-bucket-here".to_owned(),
        Credential::live(live),
    ));
    let absent = elsewhere.unwrap().list(request).await;
    assert!(matches!(absent, Err(StoreError::NoSuchBucket)), "{absent:?}");
}

#[tokio::test]
#[ignore = "needs an S3 server"]
async fn the_key_of_the_environment_signs() {
    let http = HttpOptions {
        rules: AddressRules::anything(),
        extra_ca_file: None,
        deadlines: Deadlines::default(),
    };
    let environment = Credential::from_environment(None, PooledClient::new(http).unwrap()).await;
    let (endpoint, bucket) = (
        variable("MOORING_TEST_S3_ENDPOINT"),
        variable("MOORING_TEST_S3_BUCKET"),
    );
    let store = S3Store::new(options(endpoint, bucket, environment.credential)).unwrap();
    let absent = store.head(&Key::new("absent")).await;
    assert!(matches!(absent, Err(StoreError::NotFound)), "{absent:?}");
}

#[tokio::test]
#[ignore = "needs an S3 server; prints figures"]
async fn figures_of_transfers() {
    let store = Arc::new(store());
    let part = 8 * 1024 * 1024;
    let bytes = some_bytes(part);
    let started = Instant::now();
    for number in 0..16 {
        put(&store, &Key::new(format!("figures/{number}")), bytes.clone()).await;
    }
    eprintln!(
        "put 8 MiB, one at a time: {:.0} MB/s",
        (16 * part) as f64 / 1e6 / started.elapsed().as_secs_f64()
    );
    for in_flight in [1, 8] {
        let started = Instant::now();
        let total: usize = stream::iter(0..64)
            .map(|number| {
                let store = Arc::clone(&store);
                async move {
                    let key = Key::new(format!("figures/{}", number % 16));
                    let mut body = store.get(&key, None, None).await.unwrap().body;
                    let mut length = 0;
                    while let Some(chunk) = body.try_next().await.unwrap() {
                        length += chunk.len();
                    }
                    length
                }
            })
            .buffer_unordered(in_flight)
            .fold(0, |sum, length| async move { sum + length })
            .await;
        let rate = total as f64 / 1e6 / started.elapsed().as_secs_f64();
        eprintln!("get 8 MiB, {in_flight} in flight: {rate:.0} MB/s");
    }
    remove_all(&store, "figures/").await;
}

#[tokio::test]
async fn a_forbidden_address_is_refused_at_once_and_a_silent_server_within_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let key = AccessKey {
        id: "id".to_owned(),
        secret: Zeroizing::new("secret".to_owned()),
        session_token: None,
    };
    let credential = Credential::live(LiveCredential::new(key));
    let guarded = S3Options {
        rules: AddressRules::guarded(true, Vec::new()),
        ..options(endpoint.clone(), "bucket".to_owned(), credential.clone())
    };
    let refused = S3Store::new(guarded).unwrap().head(&Key::new("k")).await;
    assert!(
        matches!(&refused, Err(StoreError::Refused { code }) if code.contains("127.0.0.1")),
        "{refused:?}"
    );
    let impatient = S3Options {
        deadlines: Deadlines {
            first_byte: Duration::from_millis(50),
            small_operation: Duration::from_millis(300),
            ..Deadlines::default()
        },
        ..options(endpoint, "bucket".to_owned(), credential)
    };
    let silent = S3Store::new(impatient).unwrap().head(&Key::new("k")).await;
    assert!(matches!(silent, Err(StoreError::DeadlineExceeded)), "{silent:?}");
}

#[tokio::test]
async fn a_dead_endpoint_and_missing_credentials_say_so() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let options = options(endpoint, "bucket".to_owned(), Credential::anonymous());
    let refused = S3Store::new(options).unwrap().head(&Key::new("k")).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable { reason }) if reason.contains("cannot connect")),
        "{refused:?}"
    );
}
