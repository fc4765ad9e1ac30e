//! A server with one bucket, and a client of it.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use mooring_test_s3::{Options, Server, StorageOptions, client};
use tempfile::TempDir;

pub(crate) const ACCESS_KEY: &str = "AKIATEST";
pub(crate) const SECRET_KEY: &str = "not a real secret";
pub(crate) const BUCKET: &str = "bucket";

pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) client: Client,
    /// Where the files are, for storage in files.
    pub(crate) dir: Option<TempDir>,
}

/// One world in memory and one in files.
pub(crate) async fn worlds() -> Vec<World> {
    let dir = tempfile::tempdir().unwrap();
    let files = Options {
        storage: StorageOptions::Files(dir.path().to_owned()),
        ..options()
    };
    let mut files = World::start(files).await;
    files.dir = Some(dir);
    vec![World::start(options()).await, files]
}

/// In memory, with small parts allowed.
pub(crate) fn options() -> Options {
    Options {
        part_bytes_min: 10,
        ..Options::new(ACCESS_KEY, SECRET_KEY).bucket(BUCKET)
    }
}

impl World {
    pub(crate) async fn start(options: Options) -> Self {
        let server = Server::start(options).await.unwrap();
        let client = client::client(&server.endpoint(), ACCESS_KEY, SECRET_KEY);
        Self {
            server,
            client,
            dir: None,
        }
    }

    /// The same client with the SDK's own default of checksums: always.
    pub(crate) fn checking_client(&self) -> Client {
        let config = client::config(&self.server.endpoint(), ACCESS_KEY, SECRET_KEY)
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenSupported);
        Client::from_conf(config.build())
    }

    /// Stores an object and tells its ETag.
    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> String {
        let body = ByteStream::from(bytes.into());
        let answer = self
            .client
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(body)
            .send()
            .await
            .unwrap();
        answer.e_tag.unwrap()
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        let answer = self
            .client
            .get_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .unwrap();
        answer.body.collect().await.unwrap().to_vec()
    }
}

/// Status and S3 code of a refusal; the code is empty where the protocol has no body for it.
pub(crate) fn refusal<E: ProvideErrorMetadata + std::fmt::Debug>(error: &SdkError<E>) -> (u16, &str) {
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    (status, error.code().unwrap_or_default())
}

pub(crate) fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}
