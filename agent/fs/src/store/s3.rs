//! The store on real S3, with the AWS SDK. The only file that knows the SDK's client.
//!
//! The SDK builds, signs and parses; retries, deadlines and connections are ours: its own retries are
//! off (they cannot replay a file, and know no deadline over all attempts), its stalled-stream protection
//! is off (it counts totals), checksums are sent only where S3 demands them, since many stores break on
//! the SDK's default, and it never sees a redirect followed. Bodies are sent unsigned above 64 KiB:
//! hashing them costs three times the CPU of sending them.

mod body;
mod convert;
mod delete;
mod failure;
mod key;
mod list;
mod metadata;
mod options;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_s3::config::{
    AppName, BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::types;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_types::retry::{ReconnectMode, RetryConfig};
use aws_smithy_types::timeout::TimeoutConfig;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};

use self::body::{request_body, response_body, signs, verified_body};
use self::convert::{
    conditions, content_range, etag, expires, length, object_info, sdk_metadata, standard_headers,
};
use self::failure::failure;
use self::metadata::{put_carrying, upload_carrying};
pub use self::options::S3Options;
use self::text::url_encoded;
use super::breaker::{Breaker, Timing};
use super::http::{HttpOptions, HttpSetupError, PooledClient, ServerClock};
use super::retry::{Again, Failure, Jitter, retried};
use super::{
    Deadlines, ETag, GetResponse, Key, ListPage, ListRequest, ObjectInfo, ObjectStore, PartDone, StoreError,
    UploadBody, VERIFIED_BYTES_MAX, WriteCondition,
};
use crate::credentials::{LiveCredential, Source};

/// One bucket of an S3 store.
#[derive(Debug)]
pub struct S3Store {
    client: aws_sdk_s3::Client,
    /// The same with more patience, for copies and completions. Shares the connections.
    patient: aws_sdk_s3::Client,
    clock: ServerClock,
    bucket: String,
    deadlines: Deadlines,
    jitter: Jitter,
    breaker: Breaker,
    /// The key, if it may be replaced while requests run.
    live: Option<Arc<LiveCredential>>,
    /// DeleteObjects was refused once; do not ask again.
    batch_delete_missing: AtomicBool,
}

impl S3Store {
    /// Makes the client; connects to nothing yet.
    pub fn new(options: S3Options) -> Result<S3Store, HttpSetupError> {
        let S3Options {
            endpoint,
            region,
            bucket,
            path_style,
            credential,
            rules,
            extra_ca_file,
            deadlines,
            jitter_seed,
        } = options;
        let http = PooledClient::new(HttpOptions {
            rules,
            extra_ca_file,
            deadlines,
        })?;
        let clock = http.clock();
        let breaker = Breaker::new(Timing::default(), http.pulse(), http.probe());
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .sleep_impl(TokioSleep::new())
            .region(Region::new(region))
            .force_path_style(path_style)
            .disable_s3_express_session_auth(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // Broken connections leave the pool by themselves; the SDK would look for them in its own and complain.
            .retry_config(RetryConfig::disabled().with_reconnect_mode(ReconnectMode::ReuseAllConnections))
            .timeout_config(patience(deadlines.first_byte))
            .app_name(AppName::new("mooring-fs").expect("a literal of allowed characters"));
        config.set_endpoint_url(endpoint);
        let live = match &credential.0 {
            Source::Live(live) => Some(Arc::clone(live)),
            Source::Anonymous | Source::Environment(_) => None,
        };
        config = match credential.0 {
            Source::Anonymous => config.allow_no_auth(),
            Source::Environment(provider) => config.credentials_provider(provider),
            Source::Live(live) => config
                .credentials_provider(live as Arc<dyn ProvideCredentials>)
                .identity_cache(IdentityCache::no_cache()),
        };
        let config = config.build();
        let patient = config
            .to_builder()
            .timeout_config(patience(deadlines.server_work))
            .build();
        Ok(S3Store {
            client: aws_sdk_s3::Client::from_conf(config),
            patient: aws_sdk_s3::Client::from_conf(patient),
            clock,
            bucket,
            deadlines,
            jitter: Jitter::new(jitter_seed),
            breaker,
            live,
            batch_delete_missing: AtomicBool::new(false),
        })
    }

    /// Retries within the deadline of small operations.
    async fn small<T, Run>(&self, attempt: impl Fn() -> Run) -> Result<T, StoreError>
    where
        Run: Future<Output = Result<T, Failure>>,
    {
        let deadline = Some(self.deadlines.small_operation);
        self.with_key(|| self.breaker.watch(deadline, retried(&self.jitter, &attempt)))
            .await
    }

    /// Retries without a total deadline: each attempt has those of progress.
    async fn large<T, Run>(&self, attempt: impl Fn() -> Run) -> Result<T, StoreError>
    where
        Run: Future<Output = Result<T, Failure>>,
    {
        self.with_key(|| self.breaker.watch(None, retried(&self.jitter, &attempt)))
            .await
    }

    async fn head_once(
        &self,
        key: &Key,
    ) -> Result<aws_sdk_s3::operation::head_object::HeadObjectOutput, Failure> {
        self.client
            .head_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .send()
            .await
            .map_err(failure)
    }

    async fn get_once(
        &self,
        key: &Key,
        range: Option<&Range<u64>>,
        if_match: Option<&ETag>,
    ) -> Result<GetResponse, Failure> {
        let call = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end.saturating_sub(1))))
            .set_if_match(if_match.map(|etag| etag.0.clone()))
            // Stores keep checksums of whole objects only; those that keep none answer as ever.
            .set_checksum_mode(range.is_none().then_some(types::ChecksumMode::Enabled));
        let answer = call.send().await.map_err(|error| match error.raw_response() {
            // The range was cut to the size of the version asked for, so that version is gone.
            Some(raw) if raw.status().as_u16() == 416 && if_match.is_some() => {
                never(StoreError::PreconditionFailed)
            }
            _ => failure(error),
        })?;
        let length = length(answer.content_length());
        let size = match (range, answer.content_range()) {
            (None, _) => length,
            (Some(range), Some(answered)) => {
                let (bytes, size) = content_range(answered).ok_or_else(|| {
                    never(StoreError::Refused {
                        code: "malformed Content-Range".to_owned(),
                    })
                })?;
                if bytes != *range || length != range.end - range.start {
                    // Shorter than the version asked for: another version from a store without If-Match.
                    return Err(never(StoreError::PreconditionFailed));
                }
                size
            }
            (Some(_), None) => return Err(never(StoreError::Unsupported)),
        };
        let info = object_info(size, answer.e_tag(), answer.last_modified(), answer.metadata());
        // Some stores ignore If-Match; versions must not be mixed all the same.
        if if_match.is_some_and(|expected| *expected != info.etag) {
            return Err(never(StoreError::PreconditionFailed));
        }
        Ok(GetResponse {
            info,
            body: match range {
                None if length <= VERIFIED_BYTES_MAX => {
                    verified_body(answer.body, length, self.deadlines.stall)
                }
                _ => response_body(answer.body, length, self.deadlines.stall),
            },
        })
    }

    async fn put_once(
        &self,
        key: &Key,
        body: &UploadBody,
        metadata: &BTreeMap<String, String>,
        condition: &WriteCondition,
    ) -> Result<ETag, Failure> {
        let (if_match, if_none_match) = conditions(condition);
        let call = self.client.put_object().bucket(&self.bucket).key(key.as_str());
        let call = put_carrying(call, metadata)
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .content_length(body.len() as i64)
            .body(request_body(body))
            .customize();
        let call = if signs(body) {
            call
        } else {
            call.disable_payload_signing()
        };
        let answer = call.send().await.map_err(failure)?;
        etag(answer.e_tag())
    }

    async fn create_upload_once(
        &self,
        key: &Key,
        metadata: &BTreeMap<String, String>,
    ) -> Result<String, Failure> {
        let call = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key.as_str());
        let answer = upload_carrying(call, metadata).send().await.map_err(failure)?;
        answer
            .upload_id()
            .map(str::to_owned)
            .ok_or_else(|| soon("an upload without an id"))
    }

    async fn upload_part_once(
        &self,
        key: &Key,
        upload: &str,
        number: u16,
        body: &UploadBody,
    ) -> Result<PartDone, Failure> {
        let call = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(key.as_str())
            .upload_id(upload)
            .part_number(i32::from(number))
            .content_length(body.len() as i64)
            .body(request_body(body))
            .customize();
        let call = if signs(body) {
            call
        } else {
            call.disable_payload_signing()
        };
        let answer = call.send().await.map_err(failure)?;
        Ok(PartDone {
            number,
            etag: etag(answer.e_tag())?,
        })
    }

    async fn copy_once(
        &self,
        source: &Key,
        target: &Key,
        if_match: Option<&ETag>,
        metadata: Option<&BTreeMap<String, String>>,
    ) -> Result<ETag, Failure> {
        let mut call = self
            .patient
            .copy_object()
            .bucket(&self.bucket)
            .key(target.as_str())
            .copy_source(self.copy_source(source))
            .set_copy_source_if_match(if_match.map(|etag| etag.0.clone()));
        if let Some(metadata) = metadata {
            // REPLACE drops what is not named again, so name what other tools have set.
            let head = self.head_once(source).await?;
            call = call
                .metadata_directive(types::MetadataDirective::Replace)
                .set_metadata(sdk_metadata(metadata))
                .set_content_type(head.content_type().map(str::to_owned))
                .set_content_encoding(head.content_encoding().map(str::to_owned))
                .set_content_language(head.content_language().map(str::to_owned))
                .set_content_disposition(head.content_disposition().map(str::to_owned))
                .set_cache_control(head.cache_control().map(str::to_owned))
                .set_expires(expires(&standard_headers(&head).collect()));
        }
        let answer = call.send().await.map_err(failure)?;
        etag(answer.copy_object_result().and_then(|result| result.e_tag()))
    }

    async fn delete_batch_once(&self, keys: &[&Key]) -> Result<Vec<Result<(), StoreError>>, Failure> {
        let identifiers = keys.iter().map(|key| {
            types::ObjectIdentifier::builder()
                .key(key.as_str())
                .build()
                .expect("the key is given")
        });
        let batch = types::Delete::builder()
            .set_objects(Some(identifiers.collect()))
            .quiet(true)
            .build();
        let batch = batch.expect("the objects are given");
        let call = self.client.delete_objects().bucket(&self.bucket).delete(batch);
        let answer = call.send().await.map_err(failure)?;
        let refused: HashMap<&str, StoreError> = answer
            .errors()
            .iter()
            .filter_map(|error| Some((error.key()?, failure::of_batch_entry(error.code()))))
            .collect();
        Ok(keys
            .iter()
            .map(|key| {
                refused
                    .get(key.as_str())
                    .map_or(Ok(()), |error| Err(error.clone()))
            })
            .collect())
    }

    async fn delete_single(&self, key: &Key) -> Result<(), StoreError> {
        let attempt = || async {
            let call = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
            call.send().await.map(drop).map_err(failure)
        };
        match self.small(attempt).await {
            Err(StoreError::NotFound) => Ok(()),
            outcome => outcome,
        }
    }

    fn copy_source(&self, key: &Key) -> String {
        format!("{}/{}", url_encoded(&self.bucket), url_encoded(key.as_str()))
    }
}

impl ObjectStore for S3Store {
    fn clock(&self) -> Option<(SystemTime, Instant)> {
        self.clock.last()
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        Box::pin(async move {
            let head = self.small(|| self.head_once(key)).await?;
            let mut info = object_info(
                length(head.content_length()),
                head.e_tag(),
                head.last_modified(),
                head.metadata(),
            );
            info.metadata.extend(standard_headers(&head));
            if head.tag_count().is_some_and(|count| count > 0) {
                info.metadata.extend(self.tagging(key).await);
            }
            Ok(info)
        })
    }

    fn get<'a>(
        &'a self,
        key: &'a Key,
        range: Option<Range<u64>>,
        if_match: Option<&'a ETag>,
    ) -> BoxFuture<'a, Result<GetResponse, StoreError>> {
        Box::pin(async move {
            if range.as_ref().is_some_and(Range::is_empty) {
                let info = self.head(key).await?;
                return match if_match {
                    Some(expected) if *expected != info.etag => Err(StoreError::PreconditionFailed),
                    Some(_) | None => Ok(GetResponse {
                        info,
                        body: stream::empty().boxed(),
                    }),
                };
            }
            self.small(|| self.get_once(key, range.as_ref(), if_match)).await
        })
    }

    fn list<'a>(&'a self, request: ListRequest) -> BoxFuture<'a, Result<ListPage, StoreError>> {
        Box::pin(async move { self.small(|| self.list_once(&request)).await })
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        body: UploadBody,
        metadata: &'a BTreeMap<String, String>,
        condition: WriteCondition,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        Box::pin(async move {
            let (body, condition) = (&body, &condition);
            self.keeping_tags(key, metadata, |metadata| async move {
                self.large(|| self.put_once(key, body, &metadata, condition))
                    .await
            })
            .await
        })
    }

    fn create_upload<'a>(
        &'a self,
        key: &'a Key,
        metadata: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async move {
            self.keeping_tags(key, metadata, |metadata| async move {
                self.small(|| self.create_upload_once(key, &metadata)).await
            })
            .await
        })
    }

    fn upload_part<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        number: u16,
        body: UploadBody,
    ) -> BoxFuture<'a, Result<PartDone, StoreError>> {
        Box::pin(async move {
            self.large(|| self.upload_part_once(key, upload, number, &body))
                .await
        })
    }

    fn copy_part<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        number: u16,
        source: &'a Key,
        range: Range<u64>,
        if_match: &'a ETag,
    ) -> BoxFuture<'a, Result<PartDone, StoreError>> {
        let bytes = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let attempt = move || {
            let call = self
                .patient
                .upload_part_copy()
                .bucket(&self.bucket)
                .key(key.as_str())
                .upload_id(upload)
                .part_number(i32::from(number))
                .copy_source(self.copy_source(source))
                .copy_source_range(&bytes)
                .copy_source_if_match(&if_match.0);
            async move {
                let answer = call.send().await.map_err(failure)?;
                let etag = etag(answer.copy_part_result().and_then(|result| result.e_tag()))?;
                Ok(PartDone { number, etag })
            }
        };
        Box::pin(async move { self.large(attempt).await })
    }

    fn complete_upload<'a>(
        &'a self,
        key: &'a Key,
        upload: &'a str,
        parts: &'a [PartDone],
        condition: WriteCondition,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        let parts = parts.iter().map(|PartDone { number, etag }| {
            types::CompletedPart::builder()
                .part_number(i32::from(*number))
                .e_tag(&etag.0)
                .build()
        });
        let parts = types::CompletedMultipartUpload::builder()
            .set_parts(Some(parts.collect()))
            .build();
        let (if_match, if_none_match) = conditions(&condition);
        let attempt = move || {
            let call = self
                .patient
                .complete_multipart_upload()
                .bucket(&self.bucket)
                .key(key.as_str())
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .set_if_match(if_match.clone())
                .set_if_none_match(if_none_match.clone());
            async move {
                let answer = call.send().await.map_err(failure)?;
                etag(answer.e_tag())
            }
        };
        Box::pin(async move { self.large(attempt).await })
    }

    fn abort_upload<'a>(&'a self, key: &'a Key, upload: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        let attempt = move || async move {
            let call = self
                .client
                .abort_multipart_upload()
                .bucket(&self.bucket)
                .key(key.as_str());
            call.upload_id(upload).send().await.map(drop).map_err(failure)
        };
        Box::pin(async move {
            match self.small(attempt).await {
                Err(StoreError::NotFound) => Ok(()),
                outcome => outcome,
            }
        })
    }

    fn copy<'a>(
        &'a self,
        source: &'a Key,
        target: &'a Key,
        if_match: Option<&'a ETag>,
        metadata: Option<&'a BTreeMap<String, String>>,
    ) -> BoxFuture<'a, Result<ETag, StoreError>> {
        Box::pin(async move {
            self.large(|| self.copy_once(source, target, if_match, metadata))
                .await
        })
    }

    fn delete<'a>(
        &'a self,
        keys: &'a [Key],
    ) -> BoxFuture<'a, Result<Vec<Result<(), StoreError>>, StoreError>> {
        Box::pin(self.delete_all(keys))
    }
}

fn patience(first_byte: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().read_timeout(first_byte).build()
}

fn never(error: StoreError) -> Failure {
    Failure {
        error,
        again: Again::Never,
    }
}

fn soon(reason: &str) -> Failure {
    Failure {
        error: StoreError::Unavailable {
            reason: reason.to_owned(),
        },
        again: Again::Soon,
    }
}
