//! Conditional reads and writes, decided on values alone: what a request demands of the object that is there.

use s3s::dto::{ETagCondition, Timestamp};
use time::OffsetDateTime;

use crate::error::Error;
use crate::object::{Facts, Object};

/// What a GET, a HEAD or the source of a copy must fulfil.
#[derive(Debug, Default)]
pub(crate) struct ReadConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<Timestamp>,
    pub(crate) if_unmodified_since: Option<Timestamp>,
}

impl ReadConditions {
    /// RFC 9110 §13.2.2: an ETag condition silences the date of its kind.
    pub(crate) fn check(&self, facts: &Facts) -> Result<(), Error> {
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !matches(condition, facts) => {
                return Err(Error::PreconditionFailed("If-Match"));
            }
            (None, Some(since)) if facts.modified > date(since) => {
                return Err(Error::PreconditionFailed("If-Unmodified-Since"));
            }
            _ => {}
        }
        let unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) => matches(condition, facts),
            (None, Some(since)) => facts.modified <= date(since),
            (None, None) => false,
        };
        if unchanged {
            Err(Error::NotModified {
                etag: facts.etag.clone(),
            })
        } else {
            Ok(())
        }
    }

    /// A copy's source has nothing to be «not modified» for: every failed condition is a 412.
    pub(crate) fn check_copy_source(&self, facts: &Facts) -> Result<(), Error> {
        self.check(facts).map_err(|error| match error {
            Error::NotModified { .. } => Error::PreconditionFailed("x-amz-copy-source-if-none-match"),
            other => other,
        })
    }
}

/// What a PUT, a completed upload or a DELETE demands of the object it would replace.
#[derive(Debug, Default)]
pub(crate) struct WriteConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_match_size: Option<i64>,
    pub(crate) if_match_modified: Option<Timestamp>,
}

impl WriteConditions {
    /// Judged under the bucket's write lock, so that check and change are one step.
    pub(crate) fn check(&self, key: &str, current: Option<&Object>) -> Result<(), Error> {
        let Self {
            if_match,
            if_none_match,
            if_match_size,
            if_match_modified,
        } = self;
        match (if_none_match, current) {
            (Some(ETagCondition::ETag(_)), _) => {
                return Err(Error::NotImplemented("a write takes no If-None-Match but *"));
            }
            (Some(ETagCondition::Any), Some(_)) => return Err(Error::PreconditionFailed("If-None-Match")),
            (Some(ETagCondition::Any), None) | (None, _) => {}
        }
        let Some(object) = current else {
            // S3 answers 404 rather than 412 when there is nothing to match.
            let demands = if_match.is_some() || if_match_size.is_some() || if_match_modified.is_some();
            return if demands {
                Err(Error::NoSuchKey(key.to_owned()))
            } else {
                Ok(())
            };
        };
        if let Some(condition) = if_match
            && !matches(condition, &object.facts)
        {
            return Err(Error::PreconditionFailed("If-Match"));
        }
        if let Some(size) = if_match_size
            && u64::try_from(*size).ok() != Some(object.content.length())
        {
            return Err(Error::PreconditionFailed("x-amz-if-match-size"));
        }
        if let Some(time) = if_match_modified
            && object.facts.modified != date(time)
        {
            return Err(Error::PreconditionFailed("x-amz-if-match-last-modified-time"));
        }
        Ok(())
    }
}

fn matches(condition: &ETagCondition, facts: &Facts) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == facts.etag,
    }
}

fn date(timestamp: &Timestamp) -> OffsetDateTime {
    timestamp.clone().into()
}
