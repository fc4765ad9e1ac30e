//! What can go wrong in the store, and its one translation into S3's error codes.

use s3s::{S3Error, S3ErrorCode};

/// Why the store refused; each variant is one S3 error code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the bucket {0:?} does not exist")]
    NoSuchBucket(String),
    #[error("the bucket {0:?} exists already and is yours")]
    BucketExists(String),
    #[error("the bucket {0:?} still holds objects or uploads: delete them first")]
    BucketNotEmpty(String),
    #[error("the key {0:?} does not exist")]
    NoSuchKey(String),
    #[error("the upload {0:?} does not exist; it may have been completed or aborted")]
    NoSuchUpload(String),
    #[error("part {0} was not found, or its ETag is another one")]
    InvalidPart(i32),
    #[error("the parts are not in ascending order at part {0}")]
    InvalidPartOrder(i32),
    #[error("part {number} has {length} bytes; every part but the last needs {minimum}")]
    EntityTooSmall { number: i32, length: u64, minimum: u64 },
    #[error("the range is outside of the object's {0} bytes")]
    InvalidRange(u64),
    #[error("the precondition {0} does not hold")]
    PreconditionFailed(&'static str),
    #[error("not modified")]
    NotModified { etag: String },
    #[error("the body does not match the {0} that was sent with it")]
    BadDigest(&'static str),
    #[error("the body ended before its declared length")]
    IncompleteBody(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    InvalidRequest(&'static str),
    #[error("{0}")]
    NotImplemented(&'static str),
    #[error("the object has no part {0}")]
    InvalidPartNumber(i32),
    #[error("{0}")]
    MalformedXml(&'static str),
    #[error("the server's storage failed")]
    Storage(#[from] std::io::Error),
}

impl From<Error> for S3Error {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
            Error::BucketExists(_) => S3ErrorCode::BucketAlreadyOwnedByYou,
            Error::BucketNotEmpty(_) => S3ErrorCode::BucketNotEmpty,
            Error::NoSuchKey(_) => S3ErrorCode::NoSuchKey,
            Error::NoSuchUpload(_) => S3ErrorCode::NoSuchUpload,
            Error::InvalidPart(_) => S3ErrorCode::InvalidPart,
            Error::InvalidPartOrder(_) => S3ErrorCode::InvalidPartOrder,
            Error::EntityTooSmall { .. } => S3ErrorCode::EntityTooSmall,
            Error::InvalidRange(_) => S3ErrorCode::InvalidRange,
            Error::PreconditionFailed(_) => S3ErrorCode::PreconditionFailed,
            Error::NotModified { .. } => S3ErrorCode::NotModified,
            Error::BadDigest(_) => S3ErrorCode::BadDigest,
            Error::IncompleteBody(_) => S3ErrorCode::IncompleteBody,
            Error::InvalidArgument(_) => S3ErrorCode::InvalidArgument,
            Error::InvalidRequest(_) => S3ErrorCode::InvalidRequest,
            Error::NotImplemented(_) => S3ErrorCode::NotImplemented,
            Error::InvalidPartNumber(_) => S3ErrorCode::Custom("InvalidPartNumber".into()),
            Error::MalformedXml(_) => S3ErrorCode::MalformedXML,
            Error::Storage(_) => S3ErrorCode::InternalError,
        };
        let mut answer = S3Error::with_message(code, error.to_string());
        if let Error::NotModified { etag } = &error
            && let Ok(value) = http::HeaderValue::try_from(format!("\"{etag}\""))
        {
            // A 304 carries the ETag, so that a cache knows which of its copies is meant.
            answer.set_headers(http::HeaderMap::from_iter([(http::header::ETAG, value)]));
        }
        if let Error::InvalidPartNumber(_) = &error {
            answer.set_status_code(http::StatusCode::RANGE_NOT_SATISFIABLE);
        }
        answer.set_source(Box::new(error));
        answer
    }
}
