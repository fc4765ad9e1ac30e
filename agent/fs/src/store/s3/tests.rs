//! What of [`super::S3Store`] needs no server; its contract with real ones is in the stories (`tests/it/store.rs`).

use std::net::TcpListener;

use zeroize::Zeroizing;

use super::*;
use crate::credentials::{AccessKey, Credential, LiveCredential};
use crate::store::address::AddressRules;

fn options(endpoint: String, bucket: String, credential: Credential) -> S3Options {
    S3Options {
        endpoint: Some(endpoint),
        region: "us-east-1".to_owned(),
        bucket,
        path_style: true,
        credential,
        rules: AddressRules::anything(),
        extra_ca_file: None,
        deadlines: Deadlines::default(),
        jitter_seed: 1,
    }
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
