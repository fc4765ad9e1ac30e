//! Operations on buckets.

use s3s::dto::*;

use super::Backend;
use crate::error::Error;

impl Backend {
    pub(super) fn buckets_list(&self) -> ListBucketsOutput {
        let buckets = self.store.buckets().into_iter().map(|(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(created.into()),
            bucket_region: Some(self.region.clone()),
        });
        ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..Default::default()
        }
    }

    pub(super) fn bucket_create(&self, input: CreateBucketInput) -> Result<CreateBucketOutput, Error> {
        self.store.create_bucket(&input.bucket)?;
        Ok(CreateBucketOutput {
            location: Some(format!("/{}", input.bucket)),
        })
    }

    pub(super) fn bucket_delete(&self, input: DeleteBucketInput) -> Result<DeleteBucketOutput, Error> {
        self.store.delete_bucket(&input.bucket)?;
        Ok(DeleteBucketOutput::default())
    }

    pub(super) fn bucket_head(&self, input: HeadBucketInput) -> Result<HeadBucketOutput, Error> {
        self.store.require_bucket(&input.bucket)?;
        Ok(HeadBucketOutput {
            bucket_region: Some(self.region.clone()),
            ..Default::default()
        })
    }

    pub(super) fn bucket_location(
        &self,
        input: GetBucketLocationInput,
    ) -> Result<GetBucketLocationOutput, Error> {
        self.store.require_bucket(&input.bucket)?;
        // The oldest region has no name in this answer.
        let named = (self.region != "us-east-1").then(|| BucketLocationConstraint::from(self.region.clone()));
        Ok(GetBucketLocationOutput {
            location_constraint: named,
        })
    }
}
