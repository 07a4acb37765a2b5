//! Taking bundles away: deleted refs, and what pushes have left that ended half way.
//!
//! All of it happens under the lock of the ref, and only to what was seen: what anybody
//! wrote since stays.

use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};

use super::BundleLocation;
use super::archive;
use super::expected_ref::{ExpectedRef, locked, stale_ref_error};
use super::keys::BundleFile;
use super::lock::Lock;
use crate::error::{ErrorKind, Result};
use crate::git::ObjectId;
use crate::storage::multipart::MultipartWriter;
use crate::storage::{ObjectStoreExt as _, Precondition, PutOptions};

/// Deletes a ref: all bundles that were seen, and the archive. The one that counts goes
/// last, so that no older one comes back when this ends half way.
pub(super) async fn delete(
    place: &Arc<BundleLocation>,
    seen: &ExpectedRef,
    winner: &BundleFile,
    strays: &[BundleFile],
) -> Result<()> {
    let (lock, folder) = locked(place, seen).await?;
    let deletion = async {
        let name = seen.name.as_bstr();
        for stray in strays {
            move_to_conflict_ref(place, name, stray).await?;
        }
        lock.verify().await?;
        if let Some(etag) = folder.zip {
            archive::delete(place, name, &Precondition::Matches(etag)).await?;
        }
        for file in seen.files.iter().filter(|file| *file != winner) {
            remove(place, file).await?;
        }
        remove(place, winner).await
    };
    let result = deletion.await;
    lock.release().await;
    result
}

/// Deletes a bundle that lost its ref, under the lock of that ref.
///
/// # Errors
/// `Conflict` when it is not there any more: another push has moved it.
pub(super) async fn delete_orphan(place: &Arc<BundleLocation>, seen: &ExpectedRef) -> Result<()> {
    let name = seen.name.as_bstr();
    let lock = Lock::acquire(place, place.lock_key(name)?).await?;
    let deletion = async {
        let folder = place.folder(name).await?;
        lock.verify().await?;
        for file in &seen.files {
            if !folder.bundles.iter().any(|other| other == file) {
                return Err(stale_ref_error(name));
            }
            remove(place, file).await?;
        }
        Ok(())
    };
    let result = deletion.await;
    lock.release().await;
    result
}

/// Removes what is left of pushes that ended half way.
pub(super) async fn repair(
    place: &Arc<BundleLocation>,
    seen: &ExpectedRef,
    winner: &BundleFile,
    strays: &[BundleFile],
) -> Result<()> {
    let (lock, _) = locked(place, seen).await?;
    let repair = async {
        for stray in strays {
            move_to_conflict_ref(place, seen.name.as_bstr(), stray).await?;
        }
        lock.verify().await?;
        for file in seen.files.iter().filter(|file| *file != winner) {
            remove(place, file).await?;
        }
        Ok(())
    };
    let result = repair.await;
    lock.release().await;
    result
}

/// Deletes a bundle, if it still is the one that was seen.
pub(super) async fn remove(place: &BundleLocation, file: &BundleFile) -> Result<()> {
    let condition = Precondition::Matches(file.etag.clone());
    match place
        .store
        .delete(&place.bucket, &file.key, &condition)
        .await
    {
        // Someone else has deleted it, or has written it anew.
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => Ok(()),
        result => result,
    }
}

/// The name under which a bundle that lost the ref is kept.
pub(super) fn conflict_name(name: &BStr, id: ObjectId) -> BString {
    format!("{name}__{}", id.to_hex_with_len(7)).into()
}

/// The name under which it is kept where the shorter one is another ref's.
pub(super) fn unique_conflict_name(name: &BStr, id: ObjectId) -> BString {
    format!("{name}__{id}").into()
}

/// Copies a bundle to a folder of its own. The original is still there.
pub(super) async fn move_to_conflict_ref(
    place: &Arc<BundleLocation>,
    name: &BStr,
    file: &BundleFile,
) -> Result<()> {
    /// The longest range that one part may be copied from.
    const MOST: u64 = 5 << 30;
    let short = conflict_name(name, file.id);
    let there = place.folder(short.as_bstr()).await?.bundles;
    if there.iter().any(|other| other.id == file.id) {
        return Ok(());
    }
    let apart = if there.is_empty() {
        short
    } else {
        unique_conflict_name(name, file.id)
    };
    let key = place.bundle_key(apart.as_bstr(), file.id)?;
    tracing::info!(ref.name = %name, kept.name = %apart, "keeping a bundle that lost the ref");
    let options = PutOptions {
        kms_key_id: place.options.kms_key_id.clone(),
        ..PutOptions::default()
    };
    let store = Arc::clone(&place.store);
    let mut upload = MultipartWriter::new(store, place.bucket.clone(), key).with_options(options);
    let mut number = 0;
    let mut at = 0;
    while at < file.size_bytes {
        number += 1;
        let end = file.size_bytes.min(at + MOST);
        let source = (&place.bucket, &file.key, None);
        upload.copy(number, source, at..end).await?;
        at = end;
    }
    upload.complete(number + 1, bytes::Bytes::new()).await?;
    upload.disarm();
    Ok(())
}
