//! Listings, versions 1 and 2.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use s3s::dto::*;

use super::{Backend, Dialect};
use crate::error::Error;
use crate::index::{Page, PageRequest, Position};
use crate::object;

/// S3's limit of keys and common prefixes on a page.
const PAGE_ENTRIES_MAX: usize = 1000;

impl Backend {
    pub(super) fn objects_list_v2(
        &self,
        input: ListObjectsV2Input,
        dialect: Dialect,
    ) -> Result<ListObjectsV2Output, Error> {
        let from = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => decode_token(token)?,
            (None, Some(key)) if !dialect.ignore_start_after => Position::After(key.clone()),
            (None, _) => Position::Start,
        };
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let max_keys = max_keys(input.max_keys)?;
        let page = self.page(
            &input.bucket,
            input.prefix.as_deref(),
            input.delimiter.as_deref(),
            from,
            max_keys,
        )?;
        let owner = input.fetch_owner.unwrap_or(false);
        Ok(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encoding.apply(input.prefix.unwrap_or_default())),
            delimiter: input.delimiter.map(|delimiter| encoding.apply(delimiter)),
            start_after: input.start_after.map(|key| encoding.apply(key)),
            encoding_type: input.encoding_type,
            continuation_token: input.continuation_token,
            max_keys: Some(max_keys as i32),
            key_count: Some((page.objects.len() + page.common_prefixes.len()) as i32),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(encode_token),
            contents: Some(
                page.objects
                    .into_iter()
                    .map(|entry| listed(entry, encoding, owner))
                    .collect(),
            ),
            common_prefixes: Some(common_prefixes(page.common_prefixes, encoding)),
            ..Default::default()
        })
    }

    pub(super) fn objects_list(
        &self,
        input: ListObjectsInput,
        dialect: Dialect,
    ) -> Result<ListObjectsOutput, Error> {
        let from = match &input.marker {
            Some(key) if !dialect.ignore_start_after => Position::After(key.clone()),
            _ => Position::Start,
        };
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let max_keys = max_keys(input.max_keys)?;
        let page = self.page(
            &input.bucket,
            input.prefix.as_deref(),
            input.delimiter.as_deref(),
            from,
            max_keys,
        )?;
        // S3 tells it only with a delimiter; the many who want it always do no harm with the last key.
        let next_marker = page.next.as_ref().and_then(|next| match next {
            Position::Start => None,
            Position::After(key) | Position::AfterPrefix(key) => Some(encoding.apply(key.clone())),
        });
        Ok(ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(encoding.apply(input.prefix.unwrap_or_default())),
            marker: Some(encoding.apply(input.marker.unwrap_or_default())),
            delimiter: input.delimiter.map(|delimiter| encoding.apply(delimiter)),
            encoding_type: input.encoding_type,
            max_keys: Some(max_keys as i32),
            is_truncated: Some(page.next.is_some()),
            next_marker,
            contents: Some(
                page.objects
                    .into_iter()
                    .map(|entry| listed(entry, encoding, true))
                    .collect(),
            ),
            common_prefixes: Some(common_prefixes(page.common_prefixes, encoding)),
            ..Default::default()
        })
    }

    fn page(
        &self,
        bucket: &str,
        prefix: Option<&str>,
        delimiter: Option<&str>,
        from: Position,
        max_keys: usize,
    ) -> Result<Page, Error> {
        let request = PageRequest {
            prefix: prefix.unwrap_or_default(),
            delimiter: delimiter.unwrap_or_default(),
            from,
            entries_max: max_keys.min(self.shape.page_entries_max()).min(PAGE_ENTRIES_MAX),
        };
        self.store.page(bucket, &request)
    }
}

fn listed((key, object): (String, Arc<object::Object>), encoding: Encoding, owner: bool) -> Object {
    Object {
        key: Some(encoding.apply(key)),
        size: Some(object.content.length() as i64),
        e_tag: Some(ETag::Strong(object.facts.etag.clone())),
        last_modified: Some(object.facts.modified.into()),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        owner: owner.then(|| Owner {
            id: Some("mooring".to_owned()),
            display_name: Some("mooring".to_owned()),
        }),
        ..Default::default()
    }
}

fn common_prefixes(prefixes: Vec<String>, encoding: Encoding) -> CommonPrefixList {
    let prefixes = prefixes.into_iter();
    prefixes
        .map(|prefix| CommonPrefix {
            prefix: Some(encoding.apply(prefix)),
        })
        .collect()
}

fn max_keys(asked: Option<i32>) -> Result<usize, Error> {
    usize::try_from(asked.unwrap_or(PAGE_ENTRIES_MAX as i32))
        .map_err(|_| Error::InvalidArgument("max-keys must not be negative".to_owned()))
}

/// How names are written in an answer. XML 1.0 cannot hold every character that a key may have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    pub(super) fn of(asked: Option<&EncodingType>) -> Result<Self, Error> {
        match asked.map(EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(other) => Err(Error::InvalidArgument(format!(
                "encoding-type must be \"url\", not {other:?}"
            ))),
        }
    }

    pub(super) fn apply(self, name: String) -> String {
        match self {
            Self::Plain => name,
            Self::Url => {
                let mut encoded = String::with_capacity(name.len());
                for byte in name.bytes() {
                    match byte {
                        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                            encoded.push(char::from(byte));
                        }
                        // A space as %20, which also those clients read who take «+» for a plus sign.
                        other => encoded.push_str(&format!("%{other:02X}")),
                    }
                }
                encoded
            }
        }
    }
}

/// A token is opaque to clients; ours is the place where the next page begins.
fn encode_token(position: &Position) -> String {
    let text = match position {
        Position::Start => "s".to_owned(),
        Position::After(key) => format!("k{key}"),
        Position::AfterPrefix(prefix) => format!("p{prefix}"),
    };
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

fn decode_token(token: &str) -> Result<Position, Error> {
    let wrong = || Error::InvalidArgument("the continuation token is not one of this server".to_owned());
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    match (text.get(..1), text.get(1..)) {
        (Some("s"), _) => Ok(Position::Start),
        (Some("k"), Some(key)) => Ok(Position::After(key.to_owned())),
        (Some("p"), Some(prefix)) => Ok(Position::AfterPrefix(prefix.to_owned())),
        _ => Err(wrong()),
    }
}
