//! Our values ↔ the SDK's plain ones: conditions, metadata, lengths, tags. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::SystemTime;

use aws_smithy_types::DateTime;

use super::soon;
use crate::store::retry::Failure;
use crate::store::{ETag, ObjectInfo, WriteCondition};

pub(super) fn conditions(condition: &WriteCondition) -> (Option<String>, Option<String>) {
    match condition {
        WriteCondition::None => (None, None),
        WriteCondition::Absent => (None, Some("*".to_owned())),
        WriteCondition::Matches(etag) => (Some(etag.0.clone()), None),
    }
}

pub(super) fn sdk_metadata(metadata: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect())
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
    fn content_ranges_are_parsed() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, 100)));
        assert_eq!(content_range("bytes 0-9/*"), None);
        assert_eq!(content_range("bytes */100"), None);
    }
}
