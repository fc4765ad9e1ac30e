//! One page of a listing, with keys that XML cannot carry.

use aws_sdk_s3::types;

use super::convert::{length, object_info};
use super::failure::failure;
use super::text::url_decoded;
use super::{S3Store, never};
use crate::store::retry::Failure;
use crate::store::{Key, ListPage, ListRequest, StoreError};

impl S3Store {
    /// Asks for one page of keys, once.
    pub(super) async fn list_once(&self, request: &ListRequest) -> Result<ListPage, Failure> {
        let ListRequest {
            prefix,
            delimited,
            start_after,
            continuation,
            keys_max,
        } = request;
        let call = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .set_prefix((!prefix.is_empty()).then(|| prefix.clone()))
            .set_delimiter(delimited.then(|| "/".to_owned()))
            .set_start_after(start_after.clone())
            .set_continuation_token(continuation.clone())
            .max_keys(i32::from(*keys_max))
            // XML cannot carry every key; without this a control character breaks the whole page.
            .encoding_type(types::EncodingType::Url);
        let answer = call.send().await.map_err(failure)?;
        let encoded = answer.encoding_type() == Some(&types::EncodingType::Url);
        let decoded = |text: &str| {
            if encoded {
                url_decoded(text)
            } else {
                Some(text.to_owned())
            }
        };
        let mut page = ListPage::default();
        for object in answer.contents() {
            let Some(key) = object.key().and_then(decoded) else {
                tracing::warn!(
                    key = object.key(),
                    "a key in the bucket is no UTF-8 and cannot be shown"
                );
                continue;
            };
            let info = object_info(
                length(object.size()),
                object.e_tag(),
                object.last_modified(),
                None,
            );
            page.objects.push((Key::new(key), info));
        }
        for folder in answer.common_prefixes() {
            page.prefixes
                .extend(folder.prefix().and_then(decoded).map(Key::new));
        }
        page.next = answer.next_continuation_token().map(str::to_owned);
        match (answer.is_truncated(), &page.next) {
            // Taking the page for the last would hide files.
            (Some(true), None) => Err(never(StoreError::Refused {
                code: "a page without a token".to_owned(),
            })),
            (Some(false), Some(_)) => Ok(ListPage { next: None, ..page }),
            (Some(true), Some(_)) | (Some(false), None) | (None, _) => Ok(page),
        }
    }
}
