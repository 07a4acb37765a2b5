//! The archive beside a bundle, for CodePipeline.
//!
//! It is written under the ref's lock, after the ref has moved. So it may be missing or of
//! an older commit, when a push failed in between or came by a client that keeps none:
//! [`is_current`] tells by one HEAD, and whoever mirrors next writes it anew.
//!
//! Each write names the `ETag` of the archive that was there when the lock was got: a
//! client that lost its lock meanwhile does not put an older archive over a newer one.

use std::sync::Arc;

use bstr::BStr;

use super::expected_ref::{ExpectedRef, locked};
use super::{ARCHIVED, BundleLocation, CommitArchive};
use crate::error::{ErrorKind, Result};
use crate::git::{ObjectId, escaped_excerpt};
use crate::pipeline::REVISION_SUMMARY;
use crate::storage::multipart::MultipartWriter;
use crate::storage::{
    ETag, ObjectMetadata, ObjectStoreExt as _, Precondition, PutOptions, encode_rfc2047,
};

/// The longest summary, in bytes: S3 allows 2 KB of user metadata in all.
const MAX_SUMMARY: usize = 1024;

/// What becomes of the archive of a ref that moves.
pub(super) enum ArchiveAction {
    /// It is left as it is: none is kept.
    Leave,
    /// What the ref names has no archive.
    Remove,
    /// It is written.
    Write(Box<dyn CommitArchive>),
}

/// Does that for a ref that has just moved to `id`, under its lock; `there` is the archive
/// that was found with the lock.
///
/// # Errors
/// They say that the ref has moved all the same.
pub(super) async fn apply_after_move(
    place: &BundleLocation,
    name: &BStr,
    id: ObjectId,
    zip: &ArchiveAction,
    there: Option<&ETag>,
) -> Result<()> {
    let settled = put(place, name, id, zip, there).await;
    settled.map_err(|error| {
        let name = escaped_excerpt(name);
        error.context(format!(
            "`{name}` was moved to {id}, and its archive could not be written; the next push to \
             it does that, or the same mirror again"
        ))
    })
}

/// Does that for a ref that is not to be moved.
///
/// # Errors
/// `Conflict` when the ref is pushed to meanwhile.
pub(super) async fn refresh(
    place: &Arc<BundleLocation>,
    seen: &ExpectedRef,
    id: ObjectId,
    zip: &ArchiveAction,
) -> Result<()> {
    let (lock, folder) = locked(place, seen).await?;
    let lock = lock.released_when_dropped();
    let renewed = put(place, seen.name.as_ref(), id, zip, folder.zip.as_ref()).await;
    lock.release().await;
    renewed
}

async fn put(
    place: &BundleLocation,
    name: &BStr,
    id: ObjectId,
    zip: &ArchiveAction,
    there: Option<&ETag>,
) -> Result<()> {
    let condition = there.map_or(Precondition::Absent, |etag| {
        Precondition::Matches(etag.clone())
    });
    match (zip, there) {
        (ArchiveAction::Leave, _) | (ArchiveAction::Remove, None) => Ok(()),
        (ArchiveAction::Remove, Some(_)) => delete(place, name, &condition).await,
        (ArchiveAction::Write(archive), _) => write(place, name, id, &**archive, condition).await,
    }
}

/// Whether the archive of a ref is of what the ref names.
pub(super) async fn is_current(place: &BundleLocation, name: &BStr, id: ObjectId) -> Result<bool> {
    let key = place.zip_key(name)?;
    let Some(head) = place.store.head(&place.bucket, &key).await? else {
        return Ok(false);
    };
    Ok(match head.metadata.user.get(ARCHIVED) {
        Some(archived) => {
            ObjectId::from_hex(archived.as_bytes()).is_ok_and(|archived| archived == id)
        }
        // The Python client says it in the name for browsers alone.
        None => head.metadata.content_disposition == Some(disposition(id)),
    })
}

/// Deletes the archive of a ref.
pub(super) async fn delete(
    place: &BundleLocation,
    name: &BStr,
    condition: &Precondition,
) -> Result<()> {
    let key = place.zip_key(name)?;
    place.store.delete(&place.bucket, &key, condition).await
}

async fn write(
    place: &BundleLocation,
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
        encode_rfc2047(archive.summary(), MAX_SUMMARY),
    );
    user.insert(ARCHIVED.to_owned(), id.to_string());
    let options = PutOptions {
        metadata,
        precondition,
        kms_key_id: place.options.kms_key_id.clone(),
    };
    let key = place.zip_key(name)?;
    let mut upload = MultipartWriter::new(Arc::clone(&place.store), place.bucket.clone(), key)
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
            // Someone else may have written the same one.
            if error.kind() == ErrorKind::Conflict && is_current(place, name, id).await? {
                return Ok(());
            }
            Err(error)
        }
    }
}

/// What a browser calls the archive.
fn disposition(id: ObjectId) -> String {
    format!("attachment; filename=repo-{}.zip", id.to_hex_with_len(8))
}
