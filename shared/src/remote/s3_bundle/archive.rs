//! Archives of refs for CodePipeline.
//!
//! An archive is written under the ref's lock, after the ref has moved. It may be missing or
//! outdated if a push failed in between or came from a client without archives; the next
//! mirroring detects that with one HEAD and rewrites it ([`refresh_outdated`]).
//!
//! Each write is conditional on the `ETag` of the archive that was listed under the lock, so
//! that a client that lost its lock meanwhile does not replace a newer archive by an older one.

use std::collections::HashSet;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};
use futures_util::StreamExt as _;

use super::catalog::BundleCatalog;
use super::competing::ResolvedRef;
use super::expected_ref::{ExpectedRef, lock_expected};
use super::options::{ARCHIVED, BundleLocation, CommitArchive};
use crate::error::{ErrorKind, Result};
use crate::git::odb::Database;
use crate::git::{ObjectId, escaped_excerpt};
use crate::pipeline::REVISION_SUMMARY;
use crate::storage::multipart::MultipartWriter;
use crate::storage::{
    ETag, ObjectMetadata, ObjectStoreExt as _, Precondition, PutOptions, encode_rfc2047,
};

/// Maximum length of a summary: S3 allows 2 KB of user metadata in total.
const MAX_SUMMARY_BYTES: usize = 1024;
/// Number of archives that are checked at once.
const CONCURRENT_CHECKS: usize = 16;

/// Change of a ref's archive.
pub(super) enum ArchiveAction {
    /// None, because the remote has no archives.
    Leave,
    /// Deletion, because the ref does not name a commit.
    Remove,
    Write(Box<dyn CommitArchive>),
}

/// Returns the change of the archive of a ref that is about to name `id`. The objects of `id`
/// are in `objects`, or else in a bundle of `catalog`.
pub(super) async fn action_for(
    catalog: &BundleCatalog,
    objects: &Arc<Database>,
    id: ObjectId,
) -> Result<ArchiveAction> {
    let Some(archiver) = &catalog.location().options.archiver else {
        return Ok(ArchiveAction::Leave);
    };
    let archive = if objects.contains(id).await? {
        archiver.open(objects, id).await?
    } else {
        // The new bundle is a copy of a bundle that was not read.
        let bundles = catalog.find(&[id]).await?;
        archiver
            .open(&catalog.database(None, &bundles)?, id)
            .await?
    };
    Ok(archive.map_or(ArchiveAction::Remove, ArchiveAction::Write))
}

/// Updates the archive of a ref that just moved to `id`, under its lock. `listed` is the
/// archive that was listed under the lock.
///
/// # Errors
/// Errors state that the ref has moved nevertheless.
pub(super) async fn apply_after_move(
    location: &BundleLocation,
    name: &BStr,
    id: ObjectId,
    action: &ArchiveAction,
    listed: Option<&ETag>,
) -> Result<()> {
    let applied = apply(location, name, id, action, listed).await;
    applied.map_err(|error| {
        let name = escaped_excerpt(name);
        error.context(format!(
            "`{name}` was moved to {id}, and its archive could not be written; the next push to \
             it does that, or the same mirror again"
        ))
    })
}

/// Writes missing or outdated archives of the refs in `names`, including those that other clients pushed. Sends one
/// HEAD for each listed archive, and no request for the refs in `written`. The bundle of a ref
/// that does not name a commit is read each time, because such a ref has no archive.
pub(super) async fn refresh_outdated(
    catalog: &BundleCatalog,
    refs: &[(BString, ResolvedRef)],
    names: &[BString],
    written: &HashSet<BString>,
) -> Result<()> {
    if catalog.location().options.archiver.is_none() {
        return Ok(());
    }
    let names: HashSet<&BString> = names.iter().collect();
    let mut checks = Vec::new();
    for (name, found) in refs {
        // An orphan has no folder of its own, and so no archive.
        let has_folder = found.expected.name == *name;
        if has_folder && names.contains(name) && !written.contains(name) {
            checks.push(find_outdated(catalog.location(), name, found));
        }
    }
    let checked: Vec<_> = futures_util::stream::iter(checks)
        .buffered(CONCURRENT_CHECKS)
        .collect()
        .await;
    let mut first = Ok(());
    for outdated in checked {
        let refreshed = match outdated {
            Ok(None) => continue,
            Ok(Some((name, found))) => refresh(catalog, name.as_bstr(), found).await,
            Err(error) => Err(error),
        };
        // The other archives are written even if one fails.
        if first.is_ok() {
            first = refreshed;
        }
    }
    first
}

/// Returns the ref if its archive is missing or outdated.
async fn find_outdated<'a>(
    location: &BundleLocation,
    name: &'a BString,
    found: &'a ResolvedRef,
) -> Result<Option<(&'a BString, &'a ResolvedRef)>> {
    let is_current =
        found.has_archive && is_current(location, name.as_bstr(), found.file.id).await?;
    Ok((!is_current).then_some((name, found)))
}

/// Updates the archive of a ref that does not move.
///
/// # Errors
/// `Conflict` when another client pushes to the ref meanwhile.
async fn refresh(catalog: &BundleCatalog, name: &BStr, found: &ResolvedRef) -> Result<()> {
    let id = found.file.id;
    let refresh = async {
        let bundles = catalog.find(&[id]).await?;
        let objects = catalog.database(None, &bundles)?;
        let action = action_for(catalog, &objects, id).await?;
        if matches!(action, ArchiveAction::Remove) && !found.has_archive {
            return Ok(());
        }
        apply_locked(catalog.location(), &found.expected, id, &action).await
    };
    refresh
        .await
        .map_err(|error| error.context(format!("the archive of `{}`", escaped_excerpt(name))))
}

async fn apply_locked(
    location: &Arc<BundleLocation>,
    expected: &ExpectedRef,
    id: ObjectId,
    action: &ArchiveAction,
) -> Result<()> {
    let (lock, folder) = lock_expected(location, expected).await?;
    let name = expected.name.as_ref();
    let applied = apply(location, name, id, action, folder.archive.as_ref()).await;
    lock.release().await;
    applied
}

async fn apply(
    location: &BundleLocation,
    name: &BStr,
    id: ObjectId,
    action: &ArchiveAction,
    listed: Option<&ETag>,
) -> Result<()> {
    let condition = listed.map_or(Precondition::Absent, |etag| {
        Precondition::Matches(etag.clone())
    });
    match (action, listed) {
        (ArchiveAction::Leave, _) | (ArchiveAction::Remove, None) => Ok(()),
        (ArchiveAction::Remove, Some(_)) => delete(location, name, &condition).await,
        (ArchiveAction::Write(archive), _) => {
            write(location, name, id, &**archive, condition).await
        }
    }
}

/// Whether the archive of a ref was made of `id`.
async fn is_current(location: &BundleLocation, name: &BStr, id: ObjectId) -> Result<bool> {
    let key = location.archive_key(name)?;
    let Some(head) = location.store.head(&location.bucket, &key).await? else {
        return Ok(false);
    };
    Ok(match head.metadata.user.get(ARCHIVED) {
        Some(archived) => {
            ObjectId::from_hex(archived.as_bytes()).is_ok_and(|archived| archived == id)
        }
        // The Python client writes the id only into the file name for browsers.
        None => head.metadata.content_disposition == Some(disposition(id)),
    })
}

/// Deletes the archive of a ref.
pub(super) async fn delete(
    location: &BundleLocation,
    name: &BStr,
    condition: &Precondition,
) -> Result<()> {
    let key = location.archive_key(name)?;
    location
        .store
        .delete(&location.bucket, &key, condition)
        .await
}

async fn write(
    location: &BundleLocation,
    name: &BStr,
    id: ObjectId,
    archive: &dyn CommitArchive,
    precondition: Precondition,
) -> Result<()> {
    let mut metadata = ObjectMetadata {
        content_disposition: Some(disposition(id)),
        ..ObjectMetadata::default()
    };
    let user = &mut metadata.user;
    user.insert(
        REVISION_SUMMARY.to_owned(),
        encode_rfc2047(archive.summary(), MAX_SUMMARY_BYTES),
    );
    user.insert(ARCHIVED.to_owned(), id.to_string());
    let options = PutOptions {
        metadata,
        precondition,
        kms_key_id: location.options.kms_key_id.clone(),
    };
    let key = location.archive_key(name)?;
    let mut upload =
        MultipartWriter::new(Arc::clone(&location.store), location.bucket.clone(), key)
            .with_options(options);
    let written = async {
        let (last, rest) = archive.send(&upload).await?;
        upload.complete(last, rest).await
    };
    match written.await {
        Ok(_) => {
            upload.disarm();
            tracing::info!(ref.name = %name, commit.id = %id, "wrote the archive of a ref");
            Ok(())
        }
        Err(error) => {
            upload.abort().await;
            // Another client may have written the same archive.
            if error.kind() == ErrorKind::Conflict && is_current(location, name, id).await? {
                return Ok(());
            }
            Err(error)
        }
    }
}

/// Returns the header that names the file in browsers.
fn disposition(id: ObjectId) -> String {
    format!("attachment; filename=repo-{}.zip", id.to_hex_with_len(8))
}
