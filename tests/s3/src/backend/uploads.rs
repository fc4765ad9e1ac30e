//! Operations on uploads in parts.

use std::collections::BTreeSet;

use s3s::S3Request;
use s3s::dto::*;

use super::listing::Encoding;
use super::objects::{COPY_BYTES_MAX, source_of, stored_encoding, trailer_of};
use super::{Backend, Dialect};
use crate::clock;
use crate::conditions::{ReadConditions, WriteConditions};
use crate::digest::{self, Expected};
use crate::error::Error;
use crate::multipart::{NamedPart, PART_NUMBERS};
use crate::object::{self, Attributes, Checksums, Facts};

/// S3's limit of parts and of uploads on a page.
const PAGE_ENTRIES_MAX: i32 = 1000;

impl Backend {
    pub(super) fn upload_create(
        &self,
        input: CreateMultipartUploadInput,
    ) -> Result<CreateMultipartUploadOutput, Error> {
        let attributes = Attributes {
            content_type: input.content_type,
            content_encoding: stored_encoding(input.content_encoding),
            content_language: input.content_language,
            content_disposition: input.content_disposition,
            cache_control: input.cache_control,
            metadata: input.metadata.into_iter().flatten().collect(),
        };
        let id = self.store.create_upload(&input.bucket, &input.key, attributes)?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        })
    }

    pub(super) async fn part_put(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> Result<UploadPartOutput, Error> {
        let trailer = trailer_of(&request);
        let input = request.input;
        check_number(input.part_number)?;
        self.store
            .uploads
            .lock()
            .get(&input.bucket, &input.key, &input.upload_id)?;
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
        let part = object::Object {
            content: received.content,
            facts: part_facts(received.etag, received.checksums),
        };
        let part = self.store.put_part(
            &input.bucket,
            &input.key,
            &input.upload_id,
            input.part_number,
            part,
        )?;
        let checksums = part.facts.checksums.clone();
        Ok(UploadPartOutput {
            e_tag: Some(ETag::Strong(part.facts.etag.clone())),
            checksum_crc32: checksums.crc32,
            checksum_crc32c: checksums.crc32c,
            checksum_crc64nvme: checksums.crc64nvme,
            checksum_sha1: checksums.sha1,
            checksum_sha256: checksums.sha256,
            ..Default::default()
        })
    }

    /// Shares the source's bytes. The part's ETag stands for source and range; the bytes are not read for an MD5.
    pub(super) fn part_copy(
        &self,
        input: UploadPartCopyInput,
        dialect: Dialect,
    ) -> Result<UploadPartCopyOutput, Error> {
        check_number(input.part_number)?;
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
        let total = source.content.length();
        let range = match input.copy_source_range.as_deref().map(Range::parse) {
            None => 0..total,
            Some(Ok(Range::Int {
                first,
                last: Some(last),
            })) if last < total => first..last + 1,
            Some(Ok(Range::Int { last: Some(_), .. })) => {
                return Err(Error::InvalidArgument(format!(
                    "the range is not valid for a source object of {total} bytes"
                )));
            }
            Some(Ok(Range::Int { last: None, .. } | Range::Suffix { .. }) | Err(_)) => {
                return Err(Error::InvalidArgument(
                    "x-amz-copy-source-range must be bytes=<first>-<last>".to_owned(),
                ));
            }
        };
        if range.end - range.start > COPY_BYTES_MAX {
            return Err(Error::InvalidRequest("one part copies at most 5 GiB"));
        }
        let etag = if range == (0..total) && !source.facts.etag.contains('-') {
            source.facts.etag.clone()
        } else {
            digest::name(&format!("{} {range:?}", source.facts.etag))
        };
        let part = object::Object {
            content: source.content.slice(range),
            facts: part_facts(etag, Checksums::default()),
        };
        let part = self.store.put_part(
            &input.bucket,
            &input.key,
            &input.upload_id,
            input.part_number,
            part,
        )?;
        Ok(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                e_tag: Some(ETag::Strong(part.facts.etag.clone())),
                last_modified: Some(part.facts.modified.into()),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    pub(super) fn upload_complete(
        &self,
        input: CompleteMultipartUploadInput,
        dialect: Dialect,
    ) -> Result<CompleteMultipartUploadOutput, Error> {
        let mut named = Vec::new();
        for part in input
            .multipart_upload
            .and_then(|upload| upload.parts)
            .into_iter()
            .flatten()
        {
            let (Some(number), Some(etag)) = (part.part_number, part.e_tag) else {
                return Err(Error::MalformedXml("every part needs PartNumber and ETag"));
            };
            named.push(NamedPart {
                number,
                etag: etag.into_value(),
            });
        }
        if named.is_empty() {
            return Err(Error::MalformedXml(
                "an upload is completed from at least one part",
            ));
        }
        let conditions = WriteConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            ..WriteConditions::default()
        };
        if dialect.forget_completed {
            self.store.uploads.lock().forget_completed();
        }
        let etag = self.store.complete_upload(
            &input.bucket,
            &input.key,
            &input.upload_id,
            &named,
            self.part_bytes_min,
            &dialect.heed(conditions),
        )?;
        Ok(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        })
    }

    pub(super) fn upload_abort(
        &self,
        input: AbortMultipartUploadInput,
    ) -> Result<AbortMultipartUploadOutput, Error> {
        self.store
            .abort_upload(&input.bucket, &input.key, &input.upload_id)?;
        Ok(AbortMultipartUploadOutput::default())
    }

    pub(super) fn parts_list(&self, input: ListPartsInput) -> Result<ListPartsOutput, Error> {
        let uploads = self.store.uploads.lock();
        let upload = uploads.get(&input.bucket, &input.key, &input.upload_id)?;
        let entries_max = input
            .max_parts
            .unwrap_or(PAGE_ENTRIES_MAX)
            .clamp(0, PAGE_ENTRIES_MAX);
        let marker = input.part_number_marker.unwrap_or(0);
        let mut rest = upload.parts.range(marker.saturating_add(1)..);
        let parts: Vec<Part> = rest
            .by_ref()
            .take(entries_max as usize)
            .map(|(&number, part)| Part {
                part_number: Some(number),
                e_tag: Some(ETag::Strong(part.facts.etag.clone())),
                size: Some(part.content.length() as i64),
                last_modified: Some(part.facts.modified.into()),
                checksum_crc32: part.facts.checksums.crc32.clone(),
                checksum_crc32c: part.facts.checksums.crc32c.clone(),
                checksum_crc64nvme: part.facts.checksums.crc64nvme.clone(),
                checksum_sha1: part.facts.checksums.sha1.clone(),
                checksum_sha256: part.facts.checksums.sha256.clone(),
            })
            .collect();
        let truncated = rest.next().is_some();
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: Some(entries_max),
            part_number_marker: Some(marker),
            next_part_number_marker: truncated
                .then(|| parts.last().and_then(|part| part.part_number))
                .flatten(),
            is_truncated: Some(truncated),
            parts: Some(parts),
            ..Default::default()
        })
    }

    pub(super) fn uploads_list(
        &self,
        input: ListMultipartUploadsInput,
    ) -> Result<ListMultipartUploadsOutput, Error> {
        let uploads = self.store.uploads.lock();
        self.store.require_bucket(&input.bucket)?;
        let encoding = Encoding::of(input.encoding_type.as_ref())?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().unwrap_or_default();
        let entries_max = input
            .max_uploads
            .unwrap_or(PAGE_ENTRIES_MAX)
            .clamp(0, PAGE_ENTRIES_MAX) as usize;
        let marker = (
            input.key_marker.clone().unwrap_or_default(),
            // Without an upload's name the marker passes all uploads of its key.
            input
                .upload_id_marker
                .clone()
                .unwrap_or_else(|| '\u{10FFFF}'.to_string()),
        );

        let mut listed: Vec<(&str, &str, &crate::multipart::Upload)> = uploads
            .in_bucket(&input.bucket)
            .filter(|(id, upload)| {
                upload.key.starts_with(&prefix)
                    && (input.key_marker.is_none() || (&*upload.key, *id) > (&*marker.0, &*marker.1))
            })
            .map(|(id, upload)| (&*upload.key, id, upload))
            .collect();
        listed.sort_unstable_by_key(|(key, id, _)| (*key, *id));

        let (mut page, mut rolled_up, mut last) = (Vec::new(), BTreeSet::new(), None);
        let mut truncated = false;
        for (key, id, upload) in listed {
            let rest = &key[prefix.len()..];
            let common = rest.find(&delimiter).filter(|_| !delimiter.is_empty());
            let common = common.map(|at| key[..prefix.len() + at + delimiter.len()].to_owned());
            if common.as_ref().is_some_and(|common| rolled_up.contains(common)) {
                last = Some((key, id));
                continue;
            }
            if page.len() + rolled_up.len() == entries_max {
                truncated = true;
                break;
            }
            last = Some((key, id));
            match common {
                Some(common) => {
                    rolled_up.insert(common);
                }
                None => page.push(MultipartUpload {
                    key: Some(encoding.apply(key.to_owned())),
                    upload_id: Some(id.to_owned()),
                    initiated: Some(upload.initiated.into()),
                    storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                    ..Default::default()
                }),
            }
        }
        let next = last.filter(|_| truncated);
        Ok(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix.map(|it| encoding.apply(it)),
            delimiter: input.delimiter.map(|it| encoding.apply(it)),
            key_marker: input.key_marker.map(|it| encoding.apply(it)),
            upload_id_marker: input.upload_id_marker,
            encoding_type: input.encoding_type,
            max_uploads: Some(entries_max as i32),
            is_truncated: Some(truncated),
            next_key_marker: next.map(|(key, _)| encoding.apply(key.to_owned())),
            next_upload_id_marker: next.map(|(_, id)| id.to_owned()),
            uploads: Some(page),
            common_prefixes: Some(
                rolled_up
                    .into_iter()
                    .map(|it| CommonPrefix {
                        prefix: Some(encoding.apply(it)),
                    })
                    .collect(),
            ),
            ..Default::default()
        })
    }
}

fn check_number(number: i32) -> Result<(), Error> {
    if PART_NUMBERS.contains(&number) {
        Ok(())
    } else {
        Err(Error::InvalidArgument(format!(
            "part numbers are 1 to 10000, not {number}"
        )))
    }
}

fn part_facts(etag: String, checksums: Checksums) -> Facts {
    Facts {
        etag,
        modified: clock::now(),
        attributes: Attributes::default(),
        checksums,
        parts: Vec::new(),
    }
}
