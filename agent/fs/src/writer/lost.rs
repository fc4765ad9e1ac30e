//! What lost a race: it is kept beside the object, whole where its bytes are still to be had, else in parts.
//!
//! Where it builds on bytes of a version that is gone, what was written here is kept as `….parts`, the
//! pieces one after the other, with their places in `….ranges`: lines of offset and length.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use time::OffsetDateTime;
use time::macros::format_description;

use super::staging::{Edit, METADATA_COMMIT, Staging};
use super::uploader::upload;
use super::{Outcome, Writer};
use crate::error::FsError;
use crate::namespace::inode::Metadata;
use crate::namespace::names::{KEY_BYTES_MAX, NAME_BYTES_MAX};
use crate::store::{Key, ObjectInfo, UploadBody, WriteCondition};

/// Pieces are moved in steps of this size.
const STEP_BYTES: usize = 1 << 20;

impl Writer {
    /// Keeps an edit beside the object that won. From the moment it begins, the edit accepts no changes; when it fails,
    /// the next attempt writes the same copy.
    pub(super) async fn save_beside(
        &self,
        key: &Key,
        edit: &Edit,
        mut metadata: Metadata,
        now: SystemTime,
        remote: Option<ObjectInfo>,
    ) -> Result<Outcome, FsError> {
        let at = edit.freeze(now);
        // Or a successor would make a second copy, under a name of its own.
        edit.write_down();
        let version = edit.version();
        metadata.insert(METADATA_COMMIT.to_owned(), edit.mark(version.generation));
        let named = |tail| conflict_key(key, at, &edit.id().to_string(), tail);
        let whole = named("");
        let uploaded = upload(
            (&*self.store, &self.transfers, &self.staging().recorder),
            (key, &whole),
            edit,
            &version,
            &metadata,
            WriteCondition::None,
        );
        let copy = match uploaded.await {
            Ok(_) => Some(whole),
            // Only its size was changed.
            Err(FsError::Changed) if edit.staged().is_empty() => None,
            Err(FsError::Changed) => {
                let parts = named(".parts");
                self.save_parts(edit, (&parts, &named(".ranges")), &metadata)
                    .await?;
                Some(parts)
            }
            Err(error) => return Err(error),
        };
        edit.kept_as(copy.clone());
        if let Some(copy) = &copy {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                key = key.as_str(),
                copy = copy.as_str(),
                "somebody else changed an object while it was written here; our version is kept beside it"
            );
        }
        Ok(Outcome::Lost { copy, remote })
    }

    async fn save_parts(
        &self,
        edit: &Edit,
        (parts, ranges): (&Key, &Key),
        metadata: &Metadata,
    ) -> Result<(), FsError> {
        let staging = Staging::without_successor(self.staging().folder.clone());
        let packed = Edit::new_file(&staging, edit.id(), Instant::now())?;
        let mut places = String::new();
        for range in edit.staged() {
            let _ = writeln!(places, "{} {}", range.start, range.end - range.start);
            for from in range.clone().step_by(STEP_BYTES) {
                let len = (range.end - from).min(STEP_BYTES as u64) as usize;
                packed.write(None, &edit.read_staged(from, len)?)?;
                tokio::task::yield_now().await;
            }
        }
        let body = UploadBody::Bytes(places.into());
        self.store
            .put(ranges, body, metadata, WriteCondition::None)
            .await?;
        let version = packed.version();
        upload(
            (&*self.store, &self.transfers, &self.staging().recorder),
            (parts, parts),
            &packed,
            &version,
            metadata,
            WriteCondition::None,
        )
        .await?;
        Ok(())
    }
}

/// `name.mooring-conflict-20260102T030405Z-1a2b3c4d`, the name cut so that both limits hold; so deep that
/// there is no room for it, the copy goes to the next folder above that has some.
pub(super) fn conflict_key(key: &Key, at: SystemTime, id: &str, tail: &str) -> Key {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = OffsetDateTime::from(at).format(&format).unwrap_or_default();
    let id: String = id.chars().take(8).collect();
    let suffix = format!(".mooring-conflict-{time}-{id}{tail}");
    let (mut folder, name) = match key.as_str().rfind('/') {
        Some(slash) => key.as_str().split_at(slash + 1),
        None => ("", key.as_str()),
    };
    while folder.len() + suffix.len() >= KEY_BYTES_MAX {
        let above = folder
            .trim_end_matches('/')
            .rfind('/')
            .map_or(0, |slash| slash + 1);
        folder = &folder[..above];
    }
    let room = (NAME_BYTES_MAX - suffix.len()).min(KEY_BYTES_MAX - suffix.len() - folder.len());
    let mut cut = name.len().min(room);
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    Key::new(format!("{folder}{}{suffix}", &name[..cut]))
}
