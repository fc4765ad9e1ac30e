//! Which S3 operation a request is, read from its line and headers alone: faults, latencies and counters must know
//! it before anything is parsed, and also for requests that are then refused.

use http::{HeaderMap, Method, Uri};
use serde::{Deserialize, Serialize};

/// An S3 operation, by its name in Amazon's reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Amazon's")]
pub enum Operation {
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CopyObject,
    CreateBucket,
    CreateMultipartUpload,
    DeleteBucket,
    DeleteObject,
    DeleteObjects,
    GetBucketLocation,
    GetObject,
    HeadBucket,
    HeadObject,
    ListBuckets,
    ListMultipartUploads,
    ListObjects,
    ListObjectsV2,
    ListParts,
    PutObject,
    UploadPart,
    UploadPartCopy,
    /// Anything else, which this server does not implement.
    Other,
}

/// Operations that take a similar time on a real S3; see [`crate::Latency`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Get,
    Put,
    List,
    Delete,
    Head,
}

impl Operation {
    pub(crate) fn class(self) -> Class {
        match self {
            Self::GetObject | Self::GetBucketLocation | Self::Other => Class::Get,
            Self::CompleteMultipartUpload
            | Self::CopyObject
            | Self::CreateBucket
            | Self::CreateMultipartUpload
            | Self::PutObject
            | Self::UploadPart
            | Self::UploadPartCopy => Class::Put,
            Self::ListBuckets
            | Self::ListMultipartUploads
            | Self::ListObjects
            | Self::ListObjectsV2
            | Self::ListParts => Class::List,
            Self::AbortMultipartUpload | Self::DeleteBucket | Self::DeleteObject | Self::DeleteObjects => {
                Class::Delete
            }
            Self::HeadBucket | Self::HeadObject => Class::Head,
        }
    }

    /// Whether it changes what is stored.
    pub(crate) fn writes(self) -> bool {
        matches!(self.class(), Class::Put | Class::Delete)
    }
}

/// What a request is about.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) operation: Operation,
    pub(crate) bucket: String,
    /// The object's key; of a listing the prefix. Empty when there is none.
    pub(crate) key: String,
}

impl Target {
    /// Reads a path-style request.
    pub(crate) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let path = uri.path().strip_prefix('/').unwrap_or(uri.path());
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = Query(uri.query().unwrap_or_default());
        let copies = headers.contains_key("x-amz-copy-source");
        let operation = match (bucket.is_empty(), key.is_empty()) {
            (true, _) => of_service(method),
            (false, true) => of_bucket(method, query),
            (false, false) => of_object(method, query, copies),
        };
        let key = if key.is_empty() {
            query.get("prefix").unwrap_or_default()
        } else {
            decode(key)
        };
        Self {
            operation,
            bucket: decode(bucket),
            key,
        }
    }
}

fn of_service(method: &Method) -> Operation {
    if method == Method::GET {
        Operation::ListBuckets
    } else {
        Operation::Other
    }
}

fn of_bucket(method: &Method, query: Query<'_>) -> Operation {
    match *method {
        Method::HEAD => Operation::HeadBucket,
        Method::PUT if query.has_subresource() => Operation::Other,
        Method::PUT => Operation::CreateBucket,
        Method::DELETE if query.has_subresource() => Operation::Other,
        Method::DELETE => Operation::DeleteBucket,
        Method::POST if query.has("delete") => Operation::DeleteObjects,
        Method::GET if query.has("location") => Operation::GetBucketLocation,
        Method::GET if query.has("uploads") => Operation::ListMultipartUploads,
        Method::GET if query.get("list-type").as_deref() == Some("2") => Operation::ListObjectsV2,
        Method::GET if !query.has_subresource() => Operation::ListObjects,
        _ => Operation::Other,
    }
}

fn of_object(method: &Method, query: Query<'_>, copies: bool) -> Operation {
    let upload = query.has("uploadId");
    match *method {
        Method::HEAD => Operation::HeadObject,
        Method::PUT if upload && copies => Operation::UploadPartCopy,
        Method::PUT if upload => Operation::UploadPart,
        Method::POST if upload => Operation::CompleteMultipartUpload,
        Method::DELETE if upload => Operation::AbortMultipartUpload,
        Method::GET if upload => Operation::ListParts,
        Method::POST if query.has("uploads") => Operation::CreateMultipartUpload,
        _ if query.has_subresource() => Operation::Other,
        Method::PUT if copies => Operation::CopyObject,
        Method::PUT => Operation::PutObject,
        Method::DELETE => Operation::DeleteObject,
        Method::GET => Operation::GetObject,
        _ => Operation::Other,
    }
}

#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn has(self, name: &str) -> bool {
        self.pairs().any(|(key, _)| key == name)
    }

    fn get(self, name: &str) -> Option<String> {
        self.pairs()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| decode(value))
    }

    /// Whether it is about a property, such as `?acl`, that this server does not keep.
    fn has_subresource(self) -> bool {
        const SUBRESOURCES: &[&str] = &[
            "accelerate",
            "acl",
            "analytics",
            "attributes",
            "cors",
            "encryption",
            "intelligent-tiering",
            "inventory",
            "legal-hold",
            "lifecycle",
            "logging",
            "metrics",
            "notification",
            "object-lock",
            "ownershipControls",
            "policy",
            "policyStatus",
            "publicAccessBlock",
            "replication",
            "requestPayment",
            "restore",
            "retention",
            "select",
            "tagging",
            "torrent",
            "versioning",
            "versions",
            "website",
        ];
        self.pairs().any(|(key, _)| SUBRESOURCES.contains(&key))
    }
}

/// Percent-decoding; what is no valid encoding stays as it is, since s3s will refuse it.
fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, tail @ ..]) = (*first, tail)
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            bytes.push((high * 16 + low) as u8);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, copy: bool, expected: (Operation, &str, &str)) {
        let (method, uri) = line.split_once(' ').unwrap();
        let mut headers = HeaderMap::new();
        if copy {
            headers.insert("x-amz-copy-source", "a/b".parse().unwrap());
        }
        let target = Target::of(&method.parse().unwrap(), &uri.parse().unwrap(), &headers);
        assert_eq!(
            (target.operation, &*target.bucket, &*target.key),
            expected,
            "{line}"
        );
    }

    #[test]
    fn requests_are_told_apart_by_method_path_and_query() {
        use Operation::*;
        check("GET /", false, (ListBuckets, "", ""));
        check(
            "GET /b?list-type=2&prefix=a%2Fb",
            false,
            (ListObjectsV2, "b", "a/b"),
        );
        check("GET /b/?prefix=x", false, (ListObjects, "b", "x"));
        check("GET /b?uploads", false, (ListMultipartUploads, "b", ""));
        check("GET /b?location", false, (GetBucketLocation, "b", ""));
        check("GET /b?acl", false, (Other, "b", ""));
        check("HEAD /b/", false, (HeadBucket, "b", ""));
        check("POST /b?delete", false, (DeleteObjects, "b", ""));
        check("GET /b/a%20b/c?x-id=GetObject", false, (GetObject, "b", "a b/c"));
        check("GET /b/k?uploadId=1", false, (ListParts, "b", "k"));
        check("PUT /b/k", false, (PutObject, "b", "k"));
        check("PUT /b/k", true, (CopyObject, "b", "k"));
        check("PUT /b/k?partNumber=1&uploadId=1", false, (UploadPart, "b", "k"));
        check(
            "PUT /b/k?partNumber=1&uploadId=1",
            true,
            (UploadPartCopy, "b", "k"),
        );
        check("POST /b/k?uploads", false, (CreateMultipartUpload, "b", "k"));
        check("POST /b/k?uploadId=1", false, (CompleteMultipartUpload, "b", "k"));
        check("DELETE /b/k?uploadId=1", false, (AbortMultipartUpload, "b", "k"));
        check("DELETE /b/k", false, (DeleteObject, "b", "k"));
    }
}
