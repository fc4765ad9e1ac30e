//! `mooring-fs recover`: brings to the store what mounts could not upload before they ended, from the notes beside their
//! staging files.
//!
//! It overwrites nothing that was changed meanwhile: then ours is kept beside it, as a mount would. It may be days later,
//! so it looks for itself first, and does not leave that to the store's conditions, which some stores ignore. A file and its
//! note go when the store has the bytes; whatever fails stays as it is, and can be tried again. What a worker still holds is
//! that one's business.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock;
use crate::mount::{MountError, environment_defaults, explain, no_connection, runtime, with_causes};
use crate::namespace::inode::Metadata;
use crate::options::RecoverOptions;
use crate::store::address::AddressRules;
use crate::store::s3::{S3Options, S3Store};
use crate::store::{Deadlines, Key, ObjectStore, StoreError};
use crate::unsaved::{self, Note, Place};
use crate::writer::staging::{Edit, Staging, lock};
use crate::writer::{Outcome, Writer};

/// How a file fared.
enum Fate {
    /// The object is what the file was.
    Uploaded,
    /// Somebody else's version stays.
    KeptBeside(Option<Key>),
    /// Its bytes are not here any more.
    Gone,
}

/// Uploads everything that is noted below a folder, and says what becomes of each file. Fails if some of it is
/// still not in the store.
pub fn recover(options: &RecoverOptions, out: &mut impl Write) -> Result<(), MountError> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        let reason = format!("{} cannot be read: {error}", path.display());
        MountError::new(reason, "name the cache folder of a mount, or a folder above it")
    };
    let found = unsaved::find(&options.folder).map_err(|error| unreadable(&options.folder, &error))?;
    if found.notes.is_empty() && found.unknown.is_empty() {
        let _ = writeln!(
            out,
            "nothing below {} waits to be uploaded",
            options.folder.display()
        );
        return Ok(());
    }
    let runtime = runtime()?;
    let mut stores = HashMap::new();
    let mut folders = HashMap::new();
    let mut failed = 0;
    for path in &found.notes {
        let done = Note::read(path)
            .map_err(|error| unreadable(path, &error))
            .and_then(|note| {
                if !options.dry_run {
                    hold(path.parent().unwrap_or(Path::new("/")), &mut folders)?;
                }
                runtime.block_on(recover_one(options, path, &note, &mut stores))
            });
        let _ = match done {
            Ok(said) => writeln!(out, "{said}"),
            Err(error) => {
                failed += 1;
                writeln!(out, "{}: {error}", path.display())
            }
        };
    }
    for path in &found.unknown {
        failed += 1;
        let _ = writeln!(
            out,
            "{}: what was written to a file, without a note of what it was to become\n  \
             the log of its mount has its name; bring it to the store by hand, and remove it here",
            path.display()
        );
    }
    for folder in folders.keys().filter(|_| !options.dry_run) {
        // Unless something is left in it.
        let _ = std::fs::remove_dir(folder);
    }
    if failed == 0 || options.dry_run {
        return Ok(());
    }
    Err(MountError::new(
        format!(
            "{failed} of {} files are not in the store yet; they stay where they are",
            found.notes.len() + found.unknown.len()
        ),
        "see to the reasons above, then run the same command again",
    ))
}

/// Folders of staging files that are ours now.
type Folders = HashMap<PathBuf, File>;

/// Takes a folder of staging files, unless a worker goes on with them.
fn hold(folder: &Path, folders: &mut Folders) -> Result<(), MountError> {
    if folders.contains_key(folder) {
        return Ok(());
    }
    match lock::try_lock(folder) {
        Ok(Some(held)) => {
            folders.insert(folder.to_owned(), held);
            Ok(())
        }
        Ok(None) => Err(MountError::new(
            "its mount is still there and uploads it by itself",
            "wait until it has ended",
        )),
        Err(error) => Err(MountError::new(
            format!("{} cannot be locked: {error}", folder.display()),
            "see to the reason, then run the same command again",
        )),
    }
}

type Stores = HashMap<String, Arc<dyn ObjectStore>>;

async fn recover_one(
    options: &RecoverOptions,
    path: &Path,
    note: &Note,
    stores: &mut Stores,
) -> Result<String, MountError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let what = format!("{}/{}", note.place.bucket, note.key);
    let Some(data) = data_of(folder, note) else {
        if !options.dry_run {
            remove(path)?;
        }
        return Ok(format!("{what}: {}", Fate::Gone));
    };
    if options.dry_run {
        let since = OffsetDateTime::from(note.noted())
            .format(&Rfc3339)
            .unwrap_or_default();
        return Ok(format!(
            "{what}: {} bytes wait since {since} in {}",
            note.edit.size,
            data.display()
        ));
    }
    let name = serde_json::to_string(&note.place).unwrap_or_default();
    let store = match stores.get(&name) {
        Some(store) => Arc::clone(store),
        None => {
            let store: Arc<dyn ObjectStore> = Arc::new(store_of(options, &note.place).await?);
            stores.entry(name).or_insert(store).clone()
        }
    };
    let fate = upload(store, folder, &data, note, clock::wall()).await?;
    remove(&data)?;
    remove(path)?;
    Ok(format!("{what}: {fate}"))
}

async fn upload(
    store: Arc<dyn ObjectStore>,
    folder: &Path,
    data: &Path,
    note: &Note,
    now: SystemTime,
) -> Result<Fate, MountError> {
    let again = "see to the reason, then run the same command again";
    let edit = Edit::kept(data, &note.edit)
        .map_err(|error| MountError::new(format!("{}: {error}", data.display()), again))?;
    let failure = |error: &dyn std::error::Error| {
        MountError::new(
            format!("{} cannot be uploaded: {}", note.key, with_causes(error)),
            again,
        )
    };
    let key = Key::new(note.key.clone());
    let below = match store.head(&key).await {
        Ok(there) => match edit.made(&there.metadata) {
            // The mount had uploaded it after all.
            Some(generation) if generation >= note.edit.generation => return Ok(Fate::Uploaded),
            Some(_) => there.metadata,
            None if note.edit.base.as_ref() == Some(&there.etag.0) => there.metadata,
            None => {
                edit.freeze(now);
                Metadata::new()
            }
        },
        Err(StoreError::NotFound) => Metadata::new(),
        Err(error) => {
            let told = explain(&error, &note.place.bucket);
            let reason = format!("{} cannot be uploaded: {}", note.key, told.reason);
            return Err(MountError::new(
                reason,
                format!("{}, then run the same command again", told.remedy),
            ));
        }
    };
    let writer = Writer::new(store, Staging::without_successor(folder.to_owned()));
    let _turn = edit.turn.lock().await;
    let outcome = writer
        .commit(&key, &edit, note.carries.over(below), now)
        .await
        .map_err(|error| failure(&error))?;
    Ok(match outcome {
        Outcome::Stored { .. } => Fate::Uploaded,
        Outcome::Lost { copy, remote: _ } => Fate::KeptBeside(copy),
    })
}

/// The staging file: by whichever name the mount's end left it.
fn data_of(folder: &Path, note: &Note) -> Option<PathBuf> {
    [
        unsaved::kept_path(folder, note.id()),
        folder.join(note.id().to_string()),
    ]
    .into_iter()
    .find(|path| path.is_file())
}

fn remove(path: &Path) -> Result<(), MountError> {
    std::fs::remove_file(path).map_err(|error| {
        MountError::new(
            format!(
                "{} is in the store, but cannot be removed: {error}",
                path.display()
            ),
            "remove it by hand",
        )
    })
}

async fn store_of(options: &RecoverOptions, place: &Place) -> Result<S3Store, MountError> {
    let rules = AddressRules::anything();
    let deadlines = Deadlines::default();
    let found = environment_defaults(
        options.profile.as_deref(),
        options.ca_file.clone(),
        &rules,
        deadlines,
    )
    .await?;
    S3Store::new(S3Options {
        endpoint: place.endpoint.clone(),
        region: place.region.clone(),
        bucket: place.bucket.clone(),
        path_style: place.path_style,
        credential: found.credential,
        rules,
        extra_ca_file: options.ca_file.clone(),
        deadlines,
        jitter_seed: u64::from(std::process::id()),
    })
    .map_err(|error| no_connection(&error))
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fate::Uploaded => f.write_str("uploaded"),
            Fate::KeptBeside(Some(copy)) => {
                write!(
                    f,
                    "somebody else has changed it meanwhile; ours is kept as {}",
                    copy.as_str()
                )
            }
            Fate::KeptBeside(None) => f.write_str(
                "somebody else has changed it meanwhile, and only its size was changed here; theirs stays",
            ),
            Fate::Gone => f.write_str(
                "its staging file is gone: the mount has uploaded it after all, or somebody has removed it",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
