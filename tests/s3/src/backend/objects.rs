//! Operations on objects: read, write, copy, delete.

use std::ops;
use std::sync::Arc;

use s3s::S3Request;
use s3s::dto::*;

use super::{Backend, Dialect};
use crate::clock;
use crate::conditions::{ReadConditions, WriteConditions};
use crate::digest::{self, Expected};
use crate::error::Error;
use crate::object::{self, Attributes, Checksums, Facts};

/// Most that one CopyObject or UploadPartCopy moves, and one DeleteObjects names.
pub(super) const COPY_BYTES_MAX: u64 = 5 << 30;
const DELETE_KEYS_MAX: usize = 1000;
/// What an object has that was stored without one, as on AWS. s3fs tells folders from files by it.
const CONTENT_TYPE: &str = "binary/octet-stream";

impl Backend {
    pub(super) fn object_get(
        &self,
        input: GetObjectInput,
        dialect: Dialect,
    ) -> Result<GetObjectOutput, Error> {
        let object = self.store.get(&input.bucket, &input.key)?;
        if !dialect.ignore_conditionals {
            let conditions = ReadConditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            };
            conditions.check(&object.facts)?;
        }
        let view = View::of(
            &object,
            input.range,
            input.part_number,
            input.checksum_mode.is_some(),
        )?;
        let attributes = object.facts.attributes.clone();
        Ok(GetObjectOutput {
            body: Some(object.content.slice(view.range).stream()),
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(view.length),
            content_range: view.content_range,
            parts_count: view.parts_count,
            e_tag: Some(ETag::Strong(object.facts.etag.clone())),
            last_modified: Some(object.facts.modified.into()),
            content_type: input
                .response_content_type
                .or(attributes.content_type)
                .or_else(|| Some(CONTENT_TYPE.to_owned())),
            content_encoding: input.response_content_encoding.or(attributes.content_encoding),
            content_language: input.response_content_language.or(attributes.content_language),
            content_disposition: input
                .response_content_disposition
                .or(attributes.content_disposition),
            cache_control: input.response_cache_control.or(attributes.cache_control),
            metadata: to_metadata(attributes.metadata),
            checksum_crc32: view.checksums.crc32,
            checksum_crc32c: view.checksums.crc32c,
            checksum_crc64nvme: view.checksums.crc64nvme,
            checksum_sha1: view.checksums.sha1,
            checksum_sha256: view.checksums.sha256,
            ..Default::default()
        })
    }

    pub(super) fn object_head(
        &self,
        input: HeadObjectInput,
        dialect: Dialect,
    ) -> Result<HeadObjectOutput, Error> {
        let object = self.store.get(&input.bucket, &input.key)?;
        if !dialect.ignore_conditionals {
            let conditions = ReadConditions {
                if_match: input.if_match,
                if_none_match: input.if_none_match,
                if_modified_since: input.if_modified_since,
                if_unmodified_since: input.if_unmodified_since,
            };
            conditions.check(&object.facts)?;
        }
        let view = View::of(
            &object,
            input.range,
            input.part_number,
            input.checksum_mode.is_some(),
        )?;
        let attributes = object.facts.attributes.clone();
        Ok(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(view.length),
            content_range: view.content_range,
            parts_count: view.parts_count,
            e_tag: Some(ETag::Strong(object.facts.etag.clone())),
            last_modified: Some(object.facts.modified.into()),
            content_type: attributes.content_type.or_else(|| Some(CONTENT_TYPE.to_owned())),
            content_encoding: attributes.content_encoding,
            content_language: attributes.content_language,
            content_disposition: attributes.content_disposition,
            cache_control: attributes.cache_control,
            metadata: to_metadata(attributes.metadata),
            checksum_crc32: view.checksums.crc32,
            checksum_crc32c: view.checksums.crc32c,
            checksum_crc64nvme: view.checksums.crc64nvme,
            checksum_sha1: view.checksums.sha1,
            checksum_sha256: view.checksums.sha256,
            ..Default::default()
        })
    }

    pub(super) async fn object_put(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> Result<PutObjectOutput, Error> {
        let dialect = Dialect::of(&request);
        let trailer = trailer_of(&request);
        let input = request.input;
        // Before the body: a missing bucket is known without receiving gigabytes.
        self.store.require_bucket(&input.bucket)?;
        let expected = Expected {
            length: input.content_length,
            md5: input.content_md5,
            checksums: Checksums {
                crc32: input.checksum_crc32,
                crc32c: input.checksum_crc32c,
                crc64nvme: input.checksum_crc64nvme,
                sha1: input.checksum_sha1,
                sha256: input.checksum_sha256,
            },
            trailer,
        };
        let received = digest::receive(&self.store.storage, self.etags, input.body, expected).await?;
        let facts = Facts {
            etag: received.etag,
            modified: clock::now(),
            attributes: Attributes {
                content_type: input.content_type,
                content_encoding: stored_encoding(input.content_encoding),
                content_language: input.content_language,
                content_disposition: input.content_disposition,
                cache_control: input.cache_control,
                metadata: input.metadata.into_iter().flatten().collect(),
            },
            checksums: received.checksums,
            parts: Vec::new(),
        };
        let conditions = WriteConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            ..WriteConditions::default()
        };
        let object = object::Object {
            content: received.content,
            facts,
        };
        let object = self
            .store
            .put(&input.bucket, &input.key, object, &dialect.heed(conditions))?;
        let checksums = object.facts.checksums.clone();
        Ok(PutObjectOutput {
            e_tag: Some(ETag::Strong(object.facts.etag.clone())),
            checksum_crc32: checksums.crc32,
            checksum_crc32c: checksums.crc32c,
            checksum_crc64nvme: checksums.crc64nvme,
            checksum_sha1: checksums.sha1,
            checksum_sha256: checksums.sha256,
            ..Default::default()
        })
    }

    /// Shares the source's bytes and keeps its ETag, where S3 would make a new one of an object uploaded in parts.
    pub(super) fn object_copy(&self, request: S3Request<CopyObjectInput>) -> Result<CopyObjectOutput, Error> {
        let dialect = Dialect::of(&request);
        let conditions = WriteConditions {
            if_match: condition_header(&request.headers, &http::header::IF_MATCH)?,
            if_none_match: condition_header(&request.headers, &http::header::IF_NONE_MATCH)?,
            ..WriteConditions::default()
        };
        let input = request.input;
        let (bucket, key) = source_of(&input.copy_source)?;
        let source = self.store.get(bucket, key)?;
        if !dialect.ignore_conditionals {
            let conditions = ReadConditions {
                if_match: input.copy_source_if_match,
                if_none_match: input.copy_source_if_none_match,
                if_modified_since: input.copy_source_if_modified_since,
                if_unmodified_since: input.copy_source_if_unmodified_since,
            };
            conditions.check_copy_source(&source.facts)?;
        }
        if source.content.length() > COPY_BYTES_MAX {
            return Err(Error::InvalidRequest(
                "the source is larger than 5 GiB: copy it in parts",
            ));
        }
        let replace = input
            .metadata_directive
            .is_some_and(|it| it.as_str() == MetadataDirective::REPLACE);
        if !replace && (bucket, key) == (input.bucket.as_str(), input.key.as_str()) {
            return Err(Error::InvalidRequest(
                "an object is copied onto itself only to change its metadata: set x-amz-metadata-directive to REPLACE",
            ));
        }
        let mut facts = source.facts.clone();
        facts.modified = clock::now();
        facts.parts = Vec::new();
        if replace {
            facts.attributes = Attributes {
                content_type: input.content_type,
                content_encoding: input.content_encoding,
                content_language: input.content_language,
                content_disposition: input.content_disposition,
                cache_control: input.cache_control,
                metadata: input.metadata.into_iter().flatten().collect(),
            };
        }
        let object = object::Object {
            content: source.content.clone(),
            facts,
        };
        let object = self
            .store
            .put(&input.bucket, &input.key, object, &dialect.heed(conditions))?;
        Ok(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(ETag::Strong(object.facts.etag.clone())),
                last_modified: Some(object.facts.modified.into()),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    pub(super) fn object_delete(
        &self,
        input: DeleteObjectInput,
        dialect: Dialect,
    ) -> Result<DeleteObjectOutput, Error> {
        let conditions = WriteConditions {
            if_match: input.if_match,
            if_none_match: None,
            if_match_size: input.if_match_size,
            if_match_modified: input.if_match_last_modified_time,
        };
        self.store
            .delete(&input.bucket, &input.key, &dialect.heed(conditions))?;
        Ok(DeleteObjectOutput::default())
    }

    pub(super) fn objects_delete(
        &self,
        input: DeleteObjectsInput,
        dialect: Dialect,
    ) -> Result<DeleteObjectsOutput, Error> {
        self.store.require_bucket(&input.bucket)?;
        let Delete { objects, quiet } = input.delete;
        if objects.is_empty() || objects.len() > DELETE_KEYS_MAX {
            return Err(Error::MalformedXml("one request deletes 1 to 1000 keys"));
        }
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for named in objects {
            let conditions = WriteConditions {
                if_match: named.e_tag.map(ETagCondition::ETag),
                if_none_match: None,
                if_match_size: named.size,
                if_match_modified: named.last_modified_time,
            };
            match self
                .store
                .delete(&input.bucket, &named.key, &dialect.heed(conditions))
            {
                Ok(()) => deleted.push(DeletedObject {
                    key: Some(named.key),
                    ..Default::default()
                }),
                Err(error) => {
                    let error = s3s::S3Error::from(error);
                    errors.push(s3s::dto::Error {
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(str::to_owned),
                        key: Some(named.key),
                        version_id: None,
                    });
                }
            }
        }
        let deleted = (!quiet.unwrap_or(false)).then_some(deleted);
        Ok(DeleteObjectsOutput {
            deleted,
            errors: Some(errors),
            ..Default::default()
        })
    }
}

impl Dialect {
    pub(super) fn heed(self, conditions: WriteConditions) -> WriteConditions {
        if self.ignore_conditionals {
            WriteConditions::default()
        } else {
            conditions
        }
    }
}

/// What of an object one request sees.
struct View {
    range: ops::Range<u64>,
    length: i64,
    content_range: Option<String>,
    parts_count: Option<i32>,
    checksums: Checksums,
}

impl View {
    fn of(
        object: &Arc<object::Object>,
        range: Option<Range>,
        part: Option<i32>,
        checksums: bool,
    ) -> Result<Self, Error> {
        let total = object.content.length();
        let parts = &object.facts.parts;
        let range = match (range, part) {
            (Some(range), None) => Some(range.check(total).map_err(|_| Error::InvalidRange(total))?),
            (None, Some(number)) => Some(part_range(parts, total, number)?),
            (None, None) => None,
            (Some(_), Some(_)) => {
                return Err(Error::InvalidRequest(
                    "a range and a part number exclude each other",
                ));
            }
        };
        // A checksum is of the whole, so a range must not carry it: the client would verify the wrong bytes.
        let checksums = if checksums && range.is_none() {
            object.facts.checksums.clone()
        } else {
            Checksums::default()
        };
        let seen = range.clone().unwrap_or(0..total);
        Ok(Self {
            length: (seen.end - seen.start) as i64,
            // An empty part has no last byte to name.
            content_range: range
                .filter(|range| !range.is_empty())
                .map(|range| format!("bytes {}-{}/{total}", range.start, range.end - 1)),
            parts_count: part.filter(|_| !parts.is_empty()).map(|_| parts.len() as i32),
            range: seen,
            checksums,
        })
    }
}

fn part_range(parts: &[u64], total: u64, number: i32) -> Result<ops::Range<u64>, Error> {
    if parts.is_empty() && number == 1 {
        return Ok(0..total);
    }
    let at = usize::try_from(number - 1).map_err(|_| Error::InvalidPartNumber(number))?;
    let length = parts.get(at).ok_or(Error::InvalidPartNumber(number))?;
    let start = parts[..at].iter().sum();
    Ok(start..start + length)
}

/// The object that a copy reads.
pub(super) fn source_of(source: &CopySource) -> Result<(&str, &str), Error> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id: None,
        } => Ok((bucket, key)),
        CopySource::Bucket {
            version_id: Some(_), ..
        }
        | CopySource::AccessPoint { .. }
        | CopySource::Outpost { .. } => Err(Error::InvalidArgument(
            "a copy's source must be <bucket>/<key>, without a version".to_owned(),
        )),
    }
}

/// The checksum headers that follow an aws-chunked body.
pub(super) fn trailer_of<T>(request: &S3Request<T>) -> Option<(String, s3s::TrailingHeaders)> {
    let names = request.headers.get("x-amz-trailer")?.to_str().ok()?.to_owned();
    Some((names, request.trailing_headers.clone()?))
}

/// `aws-chunked` tells how the body travelled; it is no property of the object.
pub(super) fn stored_encoding(encoding: Option<String>) -> Option<String> {
    let encoding = encoding?;
    let kept: Vec<&str> = encoding
        .split(',')
        .map(str::trim)
        .filter(|name| *name != "aws-chunked")
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn to_metadata(metadata: std::collections::BTreeMap<String, String>) -> Option<Metadata> {
    (!metadata.is_empty()).then(|| metadata.into_iter().collect())
}

/// The conditions of a copy's target, which s3s does not know yet.
fn condition_header(
    headers: &http::HeaderMap,
    name: &http::HeaderName,
) -> Result<Option<ETagCondition>, Error> {
    let value = headers
        .get(name)
        .map(|value| ETagCondition::parse_http_header(value.as_bytes()));
    value
        .transpose()
        .map_err(|error| Error::InvalidArgument(format!("{name}: {error}")))
}
