//! The S3 operations that this server knows, each handed to the file of its noun. What is not here is answered with
//! NotImplemented by s3s.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use crate::digest::Etags;
use crate::shaping::Shape;
use crate::store::Store;

mod buckets;
mod listing;
mod objects;
mod uploads;

/// The server as s3s sees it.
pub(crate) struct Backend {
    pub(crate) store: Arc<Store>,
    pub(crate) shape: Arc<Shape>,
    pub(crate) region: String,
    /// Smallest part but the last; S3's is 5 MiB.
    pub(crate) part_bytes_min: u64,
    pub(crate) etags: Etags,
}

/// How this one request is to be misunderstood, as some S3 servers misunderstand every request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dialect {
    pub(crate) ignore_start_after: bool,
    pub(crate) ignore_conditionals: bool,
    pub(crate) forget_completed: bool,
}

impl Dialect {
    fn of<T>(request: &S3Request<T>) -> Self {
        request.extensions.get().copied().unwrap_or_default()
    }
}

type Answer<T> = S3Result<S3Response<T>>;

fn answer<T>(result: Result<T, crate::error::Error>) -> Answer<T> {
    Ok(S3Response::new(result?))
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        answer(Ok(self.buckets_list()))
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        answer(self.bucket_create(request.input))
    }

    async fn delete_bucket(&self, request: S3Request<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
        answer(self.bucket_delete(request.input))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        answer(self.bucket_head(request.input))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        answer(self.bucket_location(request.input))
    }

    async fn list_objects(&self, request: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        let dialect = Dialect::of(&request);
        answer(self.objects_list(request.input, dialect))
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        let dialect = Dialect::of(&request);
        answer(self.objects_list_v2(request.input, dialect))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let dialect = Dialect::of(&request);
        answer(self.object_get(request.input, dialect))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let dialect = Dialect::of(&request);
        answer(self.object_head(request.input, dialect))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        answer(self.object_put(request).await)
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        answer(self.object_copy(request))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let dialect = Dialect::of(&request);
        answer(self.object_delete(request.input, dialect))
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        let dialect = Dialect::of(&request);
        answer(self.objects_delete(request.input, dialect))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        answer(self.upload_create(request.input))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        answer(self.part_put(request).await)
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> Answer<UploadPartCopyOutput> {
        let dialect = Dialect::of(&request);
        answer(self.part_copy(request.input, dialect))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let dialect = Dialect::of(&request);
        answer(self.upload_complete(request.input, dialect))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        answer(self.upload_abort(request.input))
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        answer(self.parts_list(request.input))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        answer(self.uploads_list(request.input))
    }
}
