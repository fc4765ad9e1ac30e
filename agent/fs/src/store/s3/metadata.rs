//! What an object carries beside its bytes, from HEAD to the next PUT: user metadata, S3's own headers, tags.
//!
//! S3 replaces objects whole, so whatever a write does not name again is gone.

use std::collections::BTreeMap;

use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;

use super::S3Store;
use super::convert::{expires, sdk_metadata};
use super::failure::failure;
use super::text::url_encoded;
use crate::store::{Key, StoreError, standard};

/// The two requests that give an object its metadata have the same methods, and no trait for them.
macro_rules! carrying {
    ($(#[$comment:meta])* $name:ident, $builder:ty) => {
        $(#[$comment])*
        pub(super) fn $name(call: $builder, metadata: &BTreeMap<String, String>) -> $builder {
            let header = |name| metadata.get(name).cloned();
            call.set_metadata(sdk_metadata(metadata))
                .set_content_type(header(standard::CONTENT_TYPE))
                .set_content_encoding(header(standard::CONTENT_ENCODING))
                .set_content_language(header(standard::CONTENT_LANGUAGE))
                .set_content_disposition(header(standard::CONTENT_DISPOSITION))
                .set_cache_control(header(standard::CACHE_CONTROL))
                .set_expires(expires(metadata))
                .set_tagging(header(standard::TAGGING))
        }
    };
}

carrying!(
    /// A PUT of an object with this metadata.
    put_carrying,
    PutObjectFluentBuilder
);
carrying!(
    /// The beginning of an upload of an object with this metadata.
    upload_carrying,
    CreateMultipartUploadFluentBuilder
);

impl S3Store {
    /// The tags of an object that has some, for its metadata. A key that may not read them cannot keep them.
    pub(super) async fn tagging(&self, key: &Key) -> Option<(String, String)> {
        let attempt = || async {
            let call = self.client.get_object_tagging().bucket(&self.bucket);
            call.key(key.as_str()).send().await.map_err(failure)
        };
        match self.small(attempt).await {
            Ok(answer) => {
                let tags: Vec<String> = answer
                    .tag_set()
                    .iter()
                    .map(|tag| format!("{}={}", query_encoded(tag.key()), query_encoded(tag.value())))
                    .collect();
                (!tags.is_empty()).then(|| (standard::TAGGING.to_owned(), tags.join("&")))
            }
            Err(error) => {
                tracing::debug!(key = key.as_str(), %error, "the tags of an object cannot be read");
                None
            }
        }
    }

    /// Writes with the object's tags, or without if it is them that the key may not write: better an object without tags
    /// than a file that nobody can save.
    pub(super) async fn keeping_tags<T, Run>(
        &self,
        key: &Key,
        metadata: &BTreeMap<String, String>,
        write: impl Fn(BTreeMap<String, String>) -> Run,
    ) -> Result<T, StoreError>
    where
        Run: Future<Output = Result<T, StoreError>>,
    {
        let refused = match write(metadata.clone()).await {
            Err(StoreError::Denied { code }) if metadata.contains_key(standard::TAGGING) => {
                StoreError::Denied { code }
            }
            outcome => return outcome,
        };
        let mut untagged = metadata.clone();
        untagged.remove(standard::TAGGING);
        let written = write(untagged).await.map_err(|_| refused)?;
        tracing::warn!(
            key = key.as_str(),
            "an object has lost its tags: the access key may not write tags (s3:PutObjectTagging)"
        );
        Ok(written)
    }
}

/// For a query string: a slash is encoded, too.
fn query_encoded(text: &str) -> String {
    url_encoded(text).replace('/', "%2F")
}
