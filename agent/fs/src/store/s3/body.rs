//! Bodies of requests and answers: files streamed up in chunks, answers streamed down with their length
//! and pace checked.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::failure::chain;
use crate::store::{StoreError, UploadBody};

/// Two of these are in memory per file that is sent: one on the wire, one being read.
const FILE_CHUNK_BYTES: u64 = 1024 * 1024;

/// Signing below this costs less than a request's other work, and guards small bodies over plain http.
const SIGNED_BODY_BYTES_MAX: u64 = 64 * 1024;

/// Is the body's hash part of the signature?
pub(super) fn signs(body: &UploadBody) -> bool {
    match body {
        UploadBody::Bytes(bytes) => bytes.len() as u64 <= SIGNED_BODY_BYTES_MAX,
        // Signing would read the file twice.
        UploadBody::File { .. } => false,
    }
}

/// The body of one attempt; made anew for each, so that a retry sends the same bytes.
pub(super) fn request_body(body: &UploadBody) -> ByteStream {
    match body {
        UploadBody::Bytes(bytes) => ByteStream::from(bytes.clone()),
        UploadBody::File { file, range } => ByteStream::new(SdkBody::from_body_1_x(FileBody::new(
            Arc::clone(file),
            range.clone(),
        ))),
    }
}

/// The chunks of an answer: exactly `length` bytes, each chunk within `stall` of the one before.
pub(super) fn response_body(
    body: ByteStream,
    length: u64,
    stall: Duration,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let chunks = stream::try_unfold((body, length), move |(mut body, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let interrupted = |reason| Err(StoreError::Interrupted { reason });
        match tokio::time::timeout(stall, body.next()).await {
            Err(_) => interrupted(format!("no byte within {stall:?}")),
            Ok(Some(Err(error))) => interrupted(chain(&error)),
            Ok(None) => interrupted(format!("{left} bytes are missing")),
            Ok(Some(Ok(chunk))) if chunk.len() as u64 > left => interrupted("too many bytes".to_owned()),
            Ok(Some(Ok(chunk))) => {
                let left = left - chunk.len() as u64;
                Ok(Some((chunk, (body, left))))
            }
        }
    });
    Box::pin(chunks)
}

/// The same in one piece, and only if the SDK finds nothing wrong with it: the checksum is compared behind the last byte.
pub(super) fn verified_body(
    mut body: ByteStream,
    length: u64,
    stall: Duration,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let whole = async move {
        let mut bytes = BytesMut::with_capacity(length as usize);
        let interrupted = |reason| Err(StoreError::Interrupted { reason });
        loop {
            match tokio::time::timeout(stall, body.next()).await {
                Err(_) => return interrupted(format!("no byte within {stall:?}")),
                Ok(Some(Err(error))) => return interrupted(chain(&error)),
                Ok(Some(Ok(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(None) if bytes.len() as u64 == length => return Ok(bytes.freeze()),
                Ok(None) => return interrupted(format!("{} bytes instead of {length}", bytes.len())),
            }
        }
    };
    Box::pin(stream::once(whole))
}

/// A range of a file as a request's body. Reads happen on the blocking pool, one chunk ahead of the wire.
struct FileBody {
    file: Arc<File>,
    unread: Range<u64>,
    unsent: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    fn new(file: Arc<File>, range: Range<u64>) -> FileBody {
        let unsent = range.end.saturating_sub(range.start);
        FileBody {
            file,
            unread: range,
            unsent,
            reading: None,
        }
    }

    fn read_on(&mut self) {
        if self.unread.is_empty() || self.reading.is_some() {
            return;
        }
        let (file, start) = (Arc::clone(&self.file), self.unread.start);
        let length = FILE_CHUNK_BYTES.min(self.unread.end - start);
        self.unread.start += length;
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; length as usize];
            // Fails if the file has been cut meanwhile: better no object than one with invented zeros.
            file.read_exact_at(&mut chunk, start)?;
            Ok(Bytes::from(chunk))
        }));
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.read_on();
        let Some(reading) = self.reading.as_mut() else {
            return Poll::Ready(None);
        };
        let outcome = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let chunk = outcome.map_err(io::Error::other).flatten()?;
        self.unsent -= chunk.len() as u64;
        self.read_on();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.unsent == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unsent)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::TryStreamExt;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_file_is_sent_from_its_range_only() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        file.write_all(&bytes).unwrap();
        let body = FileBody::new(Arc::new(file), 5..2_999_000);
        assert_eq!(body.size_hint().exact(), Some(2_998_995));
        assert_eq!(body.collect().await.unwrap().to_bytes(), &bytes[5..2_999_000]);
    }

    #[tokio::test]
    async fn a_file_that_shrank_fails_the_request() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"short").unwrap();
        assert!(FileBody::new(Arc::new(file), 0..6).collect().await.is_err());
    }

    #[tokio::test]
    async fn a_verified_answer_comes_whole_or_not_at_all() {
        let collect = |bytes: &'static [u8], length| {
            verified_body(ByteStream::from_static(bytes), length, Duration::from_secs(1))
                .try_collect::<Vec<Bytes>>()
        };
        assert_eq!(collect(b"abc", 3).await.unwrap(), [&b"abc"[..]]);
        for length in [2, 4] {
            assert!(matches!(
                collect(b"abc", length).await,
                Err(StoreError::Interrupted { .. })
            ));
        }
    }

    #[tokio::test]
    async fn an_answer_of_the_wrong_length_is_interrupted() {
        let collect = |bytes: &'static [u8], length| {
            response_body(ByteStream::from_static(bytes), length, Duration::from_secs(1))
                .try_collect::<Vec<Bytes>>()
        };
        assert_eq!(collect(b"abc", 3).await.unwrap().concat(), b"abc");
        assert!(matches!(
            collect(b"abc", 4).await,
            Err(StoreError::Interrupted { .. })
        ));
        assert!(matches!(
            collect(b"abcd", 3).await,
            Err(StoreError::Interrupted { .. })
        ));
    }
}
