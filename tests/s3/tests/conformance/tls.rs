//! HTTPS with a given certificate.

use std::sync::Arc;

use mooring_test_s3::{Options, Server, TlsOptions};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::world::options;

#[tokio::test]
async fn the_server_speaks_https_with_a_given_certificate() {
    // An error means that another test of this process was first.
    let _ = ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = TlsOptions {
        certificate: dir.path().join("crt"),
        key: dir.path().join("key"),
    };
    std::fs::write(&tls.certificate, cert.pem()).unwrap();
    std::fs::write(&tls.key, signing_key.serialize_pem()).unwrap();
    let server = Server::start(Options {
        tls: Some(tls),
        ..options()
    })
    .await
    .unwrap();
    assert!(server.endpoint().starts_with("https://127.0.0.1:"));

    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), tcp)
        .await
        .unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn a_missing_certificate_is_named() {
    let tls = TlsOptions {
        certificate: "no-such-file".into(),
        key: "no-such-key".into(),
    };
    let error = Server::start(Options {
        tls: Some(tls),
        ..options()
    })
    .await
    .err()
    .unwrap();
    assert!(error.to_string().contains("no-such-file"), "{error}");
}
