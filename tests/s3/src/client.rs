//! A plain SDK client of such a server: what a test uses to look at a bucket as any S3 program would. Plain HTTP
//! only, path style, and checksums only where S3 demands them.

use aws_credential_types::Credentials;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, retry::RetryConfig,
};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// A client with this key, in `us-east-1`, that tries everything once.
pub fn client(endpoint: &str, access_key: &str, secret_key: &str) -> aws_sdk_s3::Client {
    aws_sdk_s3::Client::from_conf(config(endpoint, access_key, secret_key).build())
}

/// A URL with which anybody may read an object for an hour, whatever range of it.
pub async fn shared_url(
    client: &aws_sdk_s3::Client,
    bucket: &str,
    key: &str,
) -> Result<String, aws_sdk_s3::Error> {
    const LIFE: std::time::Duration = std::time::Duration::from_secs(3600);
    let config = PresigningConfig::expires_in(LIFE).expect("an hour is less than a week");
    let request = client
        .get_object()
        .bucket(bucket)
        .key(key)
        .presigned(config)
        .await?;
    Ok(request.uri().to_owned())
}

/// The configuration behind [`client`], to change before use.
pub fn config(endpoint: &str, access_key: &str, secret_key: &str) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::from_keys(access_key, secret_key, None))
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .http_client(Plain::new())
}

/// The SDK's way out: hyper's pool over plain TCP.
#[derive(Debug, Clone)]
struct Plain {
    client: Client<Tcp, SdkBody>,
}

impl Plain {
    fn new() -> Self {
        let mut tcp = Tcp::new();
        tcp.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .build(tcp),
        }
    }
}

impl HttpClient for Plain {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Plain {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.client.clone();
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            let answer = client
                .request(request)
                .await
                .map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
