//! Many deletes at once: batches where the store and the keys allow them, else one by one.

use std::sync::atomic::Ordering;

use futures::{FutureExt, StreamExt, stream};

use super::S3Store;
use super::text::fits_xml;
use crate::store::{Key, StoreError};

/// Single deletes in flight where a batch is impossible: a batch's worth in a few seconds on S3.
const SINGLE_DELETES_MAX: usize = 16;

impl S3Store {
    /// One batch for what a batch can name, single requests for the rest, results by position.
    pub(super) async fn delete_all(&self, keys: &[Key]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let mut results: Vec<Option<Result<(), StoreError>>> = vec![None; keys.len()];
        let batch: Vec<usize> = (0..keys.len())
            .filter(|at| fits_xml(keys[*at].as_str()))
            .collect();
        // A batch of one is no cheaper than a single delete, and fewer stores know it.
        if batch.len() > 1 && !self.batch_delete_missing.load(Ordering::Relaxed) {
            let named: Vec<&Key> = batch.iter().map(|at| &keys[*at]).collect();
            match self.small(|| self.delete_batch_once(&named)).await {
                Ok(outcomes) => {
                    for (at, outcome) in batch.into_iter().zip(outcomes) {
                        results[at] = Some(outcome);
                    }
                }
                // Stores without the call, or with another idea of its checksum.
                Err(StoreError::Unsupported | StoreError::Refused { .. }) => {
                    tracing::info!("the store refuses DeleteObjects, deleting one by one from now on");
                    self.batch_delete_missing.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        let missing: Vec<usize> = (0..keys.len()).filter(|at| results[*at].is_none()).collect();
        let mut singles = stream::iter(missing)
            .map(|at| self.delete_single(&keys[at]).map(move |outcome| (at, outcome)))
            .buffer_unordered(SINGLE_DELETES_MAX);
        while let Some((at, outcome)) = singles.next().await {
            results[at] = Some(outcome);
        }
        Ok(results
            .into_iter()
            .map(|outcome| outcome.unwrap_or(Ok(())))
            .collect())
    }
}
