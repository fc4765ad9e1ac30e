//! Receives a body: stores it, makes its ETag, and verifies whatever digest the client sent with it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt as _;
use md5::{Digest as _, Md5};
use s3s::TrailingHeaders;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream as _;

use crate::clock;
use crate::error::Error;
use crate::object::Checksums;
use crate::storage::{Content, Storage};

/// What an object's ETag is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Etags {
    /// MD5 of the bytes, as S3 does without KMS encryption; costs 1.5 CPU seconds per GB.
    #[default]
    Md5,
    /// A name that is never given twice, as S3 does with KMS encryption; costs nothing, which benches want.
    Opaque,
}

/// What the client said of the body before sending it.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) length: Option<i64>,
    /// `Content-MD5`, in base64.
    pub(crate) md5: Option<String>,
    pub(crate) checksums: Checksums,
    /// Names of the checksum headers that will follow the body, and where they will appear.
    pub(crate) trailer: Option<(String, TrailingHeaders)>,
}

/// A body that was received whole and found to be what it should.
pub(crate) struct Received {
    pub(crate) content: Content,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) checksums: Checksums,
}

/// Stores a body. Nothing refers to it yet: on an error it is gone.
pub(crate) async fn receive(
    storage: &Storage,
    etags: Etags,
    body: Option<StreamingBlob>,
    expected: Expected,
) -> Result<Received, Error> {
    let announced = expected.length.and_then(|length| u64::try_from(length).ok());
    let known = announced.or_else(|| {
        body.as_ref()?
            .remaining_length()
            .exact()
            .map(|length| length as u64)
    });
    let mut writer = storage.writer(known);
    let mut md5 = (etags == Etags::Md5 || expected.md5.is_some()).then(Md5::new);
    let mut hasher = hasher(&expected);
    if let Some(mut body) = body {
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(Error::IncompleteBody)?;
            if let Some(md5) = &mut md5 {
                md5.update(&bytes);
            }
            hasher.update(&bytes);
            writer.write(bytes).await?;
        }
    }
    let content = writer.finish().await?;
    let md5: Option<[u8; 16]> = md5.map(|md5| md5.finalize().into());
    let checksums = from_dto(hasher.finalize());
    verify(&expected, md5.as_ref(), &checksums)?;
    let etag = match (etags, md5) {
        (Etags::Md5, Some(md5)) => hex::encode(md5),
        (Etags::Md5, None) | (Etags::Opaque, _) => clock::unique(),
    };
    Ok(Received {
        content,
        etag,
        checksums,
    })
}

/// The ETag of an object that was uploaded in parts: the MD5 of the parts' MD5s, and their number.
pub(crate) fn multipart_etag<'a>(etags: impl ExactSizeIterator<Item = &'a str>) -> String {
    let parts = etags.len();
    let mut md5 = Md5::new();
    for etag in etags {
        match hex::decode(etag) {
            Ok(digest) => md5.update(digest),
            // A part copied whole from an object that was itself uploaded in parts has no MD5 of its own.
            Err(_) => md5.update(etag),
        }
    }
    format!("{}-{parts}", hex::encode(md5.finalize()))
}

/// An ETag of the usual form for bytes that are not read: the MD5 of what identifies them.
pub(crate) fn name(identity: &str) -> String {
    hex::encode(Md5::digest(identity))
}

fn hasher(expected: &Expected) -> ChecksumHasher {
    let Checksums {
        crc32,
        crc32c,
        crc64nvme,
        sha1,
        sha256,
    } = &expected.checksums;
    let trailer = expected.trailer.as_ref().map_or("", |(names, _)| names);
    let wanted = |value: &Option<String>, header: &str| {
        value.is_some()
            || trailer
                .split(',')
                .any(|name| name.trim().eq_ignore_ascii_case(header))
    };
    ChecksumHasher {
        crc32: wanted(crc32, CRC32).then(s3s::crypto::Crc32::new),
        crc32c: wanted(crc32c, CRC32C).then(s3s::crypto::Crc32c::new),
        crc64nvme: wanted(crc64nvme, CRC64NVME).then(s3s::crypto::Crc64Nvme::new),
        sha1: wanted(sha1, SHA1).then(s3s::crypto::Sha1::new),
        sha256: wanted(sha256, SHA256).then(s3s::crypto::Sha256::new),
    }
}

fn verify(expected: &Expected, md5: Option<&[u8; 16]>, computed: &Checksums) -> Result<(), Error> {
    if let Some(sent) = &expected.md5
        && md5.is_none_or(|md5| *sent != BASE64_STANDARD.encode(md5))
    {
        return Err(Error::BadDigest("Content-MD5"));
    }
    let trailers = expected
        .trailer
        .as_ref()
        .and_then(|(_, trailers)| trailers.take());
    let trailer = |name: &str| Some(trailers.as_ref()?.get(name)?.to_str().ok()?.to_owned());
    let Checksums {
        crc32,
        crc32c,
        crc64nvme,
        sha1,
        sha256,
    } = &expected.checksums;
    for (header, name, sent, computed) in [
        (CRC32, "CRC32", crc32, &computed.crc32),
        (CRC32C, "CRC32C", crc32c, &computed.crc32c),
        (CRC64NVME, "CRC64NVME", crc64nvme, &computed.crc64nvme),
        (SHA1, "SHA1", sha1, &computed.sha1),
        (SHA256, "SHA256", sha256, &computed.sha256),
    ] {
        let sent = sent.clone().or_else(|| trailer(header));
        if sent.is_some() && sent != *computed {
            return Err(Error::BadDigest(name));
        }
    }
    Ok(())
}

fn from_dto(checksum: s3s::dto::Checksum) -> Checksums {
    Checksums {
        crc32: checksum.checksum_crc32,
        crc32c: checksum.checksum_crc32c,
        crc64nvme: checksum.checksum_crc64nvme,
        sha1: checksum.checksum_sha1,
        sha256: checksum.checksum_sha256,
    }
}

const CRC32: &str = "x-amz-checksum-crc32";
const CRC32C: &str = "x-amz-checksum-crc32c";
const CRC64NVME: &str = "x-amz-checksum-crc64nvme";
const SHA1: &str = "x-amz-checksum-sha1";
const SHA256: &str = "x-amz-checksum-sha256";
