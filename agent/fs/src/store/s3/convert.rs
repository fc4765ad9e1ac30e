//! Our values ↔ the SDK's plain ones: conditions, metadata, lengths, tags. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::SystemTime;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use super::soon;
use crate::store::retry::Failure;
use crate::store::{ETag, ObjectInfo, WriteCondition, standard};

pub(super) fn conditions(condition: &WriteCondition) -> (Option<String>, Option<String>) {
    match condition {
        WriteCondition::None => (None, None),
        WriteCondition::Absent => (None, Some("*".to_owned())),
        WriteCondition::Matches(etag) => (Some(etag.0.clone()), None),
    }
}

/// The user's part of an object's metadata.
pub(super) fn sdk_metadata(metadata: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    let own: HashMap<String, String> = metadata
        .iter()
        .filter(|(name, _)| !name.starts_with(':'))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    (!own.is_empty()).then_some(own)
}

/// What a HEAD tells in headers of S3's own, for an object's metadata.
pub(super) fn standard_headers(head: &HeadObjectOutput) -> impl Iterator<Item = (String, String)> {
    let headers = [
        (standard::CONTENT_TYPE, head.content_type()),
        (standard::CONTENT_ENCODING, head.content_encoding()),
        (standard::CONTENT_LANGUAGE, head.content_language()),
        (standard::CONTENT_DISPOSITION, head.content_disposition()),
        (standard::CACHE_CONTROL, head.cache_control()),
        (standard::EXPIRES, head.expires_string()),
    ];
    headers
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
}

/// When an object expires, if that is a date.
pub(super) fn expires(metadata: &BTreeMap<String, String>) -> Option<DateTime> {
    let text = metadata.get(standard::EXPIRES)?;
    DateTime::from_str(text, Format::HttpDate).ok()
}

pub(super) fn object_info(
    size: u64,
    etag: Option<&str>,
    modified: Option<&DateTime>,
    metadata: Option<&HashMap<String, String>>,
) -> ObjectInfo {
    ObjectInfo {
        size,
        etag: ETag(etag.unwrap_or_default().to_owned()),
        modified: modified
            .and_then(|time| SystemTime::try_from(*time).ok())
            .unwrap_or(SystemTime::UNIX_EPOCH),
        metadata: metadata
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
    }
}

pub(super) fn length(bytes: Option<i64>) -> u64 {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

pub(super) fn etag(etag: Option<&str>) -> Result<ETag, Failure> {
    etag.map(|etag| ETag(etag.to_owned()))
        .ok_or_else(|| soon("an answer without an ETag"))
}

/// `bytes 0-9/100` → (0..10, 100).
pub(super) fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((
        first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?,
        size.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_s3s_own_are_kept_apart_from_the_users() {
        let head = HeadObjectOutput::builder()
            .content_type("text/csv")
            .cache_control("no-store")
            .build();
        let mut metadata: BTreeMap<String, String> = standard_headers(&head).collect();
        assert_eq!(sdk_metadata(&metadata), None);
        metadata.insert("color".to_owned(), "red".to_owned());
        assert_eq!(metadata.len(), 3);
        assert_eq!(metadata[standard::CONTENT_TYPE], "text/csv");
        let own = sdk_metadata(&metadata).unwrap();
        assert_eq!(own, HashMap::from([("color".to_owned(), "red".to_owned())]));
        metadata.insert(standard::EXPIRES.to_owned(), "0".to_owned());
        assert_eq!(expires(&metadata), None, "no date, as browsers take it");
    }

    #[test]
    fn content_ranges_are_parsed() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, 100)));
        assert_eq!(content_range("bytes 0-9/*"), None);
        assert_eq!(content_range("bytes */100"), None);
    }
}
