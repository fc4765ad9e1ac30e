//! Uploads in parts while they are unfinished: the store keeps, and charges for, what nobody completes or gives up.
//!
//! Invariant: from before the first part until it is completed or given up, a successor is told of an upload.

use crate::error::FsError;
use crate::namespace::inode::Metadata;
use crate::store::{ETag, Key, ObjectStore, StoreError};
use crate::succession::Recorder;
use crate::succession::record::Record;

/// Begins an upload; answers its id.
pub(super) async fn begin(
    (store, recorder): (&dyn ObjectStore, &Recorder),
    key: &Key,
    metadata: &Metadata,
) -> Result<String, FsError> {
    let upload = store.create_upload(key, metadata).await?;
    recorder.note(&Record::UploadBegun(upload.clone(), key.as_str().to_owned()));
    // At once: nothing else may have to be written before it is done.
    recorder.write_down();
    Ok(upload)
}

/// Gives it up unless it was completed.
pub(super) async fn end(
    (store, recorder): (&dyn ObjectStore, &Recorder),
    key: &Key,
    upload: String,
    completed: Result<ETag, FsError>,
) -> Result<ETag, FsError> {
    if completed.is_err() {
        match store.abort_upload(key, &upload).await {
            Ok(()) | Err(StoreError::NotFound) => {}
            Err(error) => {
                // A successor tries again; else it is left to the bucket's own rule for unfinished uploads.
                tracing::debug!(key = key.as_str(), %error, "an unfinished upload stays behind");
                return completed;
            }
        }
    }
    recorder.note_in_passing(&Record::UploadOver(upload));
    completed
}
