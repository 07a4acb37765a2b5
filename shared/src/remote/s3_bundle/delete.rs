//! Deletes bundles: of deleted refs, and leftovers of interrupted pushes.
//!
//! Everything happens under the lock of the ref, and only to bundles that were listed when the
//! remote was opened; bundles written since then stay.

use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice};

use super::archive;
use super::expected_ref::{ExpectedRef, lock_expected, stale_ref_error};
use super::keys::{BundleFile, RefFolder, conflict_name, unique_conflict_name};
use super::lock::Lock;
use super::options::BundleLocation;
use crate::error::{ErrorKind, Result};
use crate::storage::multipart::MultipartWriter;
use crate::storage::{ObjectStoreExt as _, Precondition, PutOptions};

/// Maximum length of the range that S3 copies as one part.
const MAX_COPY_BYTES: u64 = 5 << 30;

/// Deletes a ref: all expected bundles, and the archive. `current`, which the ref names, is
/// deleted last, so that an older bundle does not become the ref when this is interrupted.
pub(super) async fn delete(
    location: &Arc<BundleLocation>,
    expected: &ExpectedRef,
    current: &BundleFile,
    orphans: &[BundleFile],
) -> Result<()> {
    let (lock, folder) = lock_expected(location, expected).await?;
    let deleted = delete_locked(location, expected, current, orphans, (&lock, folder)).await;
    lock.release().await;
    deleted
}

/// Deletes a ref whose lock is held, as [`delete`] does.
pub(super) async fn delete_locked(
    location: &Arc<BundleLocation>,
    expected: &ExpectedRef,
    current: &BundleFile,
    orphans: &[BundleFile],
    (lock, folder): (&Lock, RefFolder),
) -> Result<()> {
    let name = expected.name.as_bstr();
    for orphan in orphans {
        copy_to_conflict_ref(location, name, orphan).await?;
    }
    lock.verify().await?;
    if let Some(etag) = folder.archive {
        archive::delete(location, name, &Precondition::Matches(etag)).await?;
    }
    for file in expected.files.iter().filter(|file| *file != current) {
        remove(location, file).await?;
    }
    remove(location, current).await
}

/// Deletes an orphaned bundle, under the lock of the ref whose folder contains it.
///
/// # Errors
/// `Conflict` when the bundle is missing, because another push moved it.
pub(super) async fn delete_orphan(
    location: &Arc<BundleLocation>,
    expected: &ExpectedRef,
) -> Result<()> {
    let name = expected.name.as_bstr();
    let lock = Lock::acquire(location, location.lock_key(name)?).await?;
    let deletion = async {
        let folder = location.folder(name).await?;
        lock.verify().await?;
        for file in &expected.files {
            if !folder.bundles.contains(file) {
                return Err(stale_ref_error(name));
            }
            remove(location, file).await?;
        }
        Ok(())
    };
    let result = deletion.await;
    lock.release().await;
    result
}

/// Deletes leftovers of interrupted pushes: all expected bundles but `winner`. The `orphans`
/// among them are moved to their conflict names.
pub(super) async fn repair(
    location: &Arc<BundleLocation>,
    expected: &ExpectedRef,
    winner: &BundleFile,
    orphans: &[BundleFile],
) -> Result<()> {
    let (lock, _) = lock_expected(location, expected).await?;
    let repair = async {
        for orphan in orphans {
            copy_to_conflict_ref(location, expected.name.as_bstr(), orphan).await?;
        }
        lock.verify().await?;
        for file in expected.files.iter().filter(|file| *file != winner) {
            remove(location, file).await?;
        }
        Ok(())
    };
    let result = repair.await;
    lock.release().await;
    result
}

/// Deletes a bundle if it was not replaced since it was listed.
pub(super) async fn remove(location: &BundleLocation, file: &BundleFile) -> Result<()> {
    let condition = Precondition::Matches(file.etag.clone());
    match location
        .store
        .delete(&location.bucket, &file.key, &condition)
        .await
    {
        // Someone else deleted or replaced it.
        Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => Ok(()),
        result => result,
    }
}

/// Copies an orphaned bundle to its conflict name, which is returned. The original remains.
pub(super) async fn copy_to_conflict_ref(
    location: &Arc<BundleLocation>,
    name: &BStr,
    file: &BundleFile,
) -> Result<BString> {
    let short = conflict_name(name, file.id);
    let existing = location.folder(short.as_bstr()).await?.bundles;
    if existing.iter().any(|found| found.id == file.id) {
        return Ok(short);
    }
    let conflict = if existing.is_empty() {
        short
    } else {
        unique_conflict_name(name, file.id)
    };
    tracing::info!(ref.name = %name, kept.name = %conflict, "keeping a bundle that lost the ref");
    copy_bundle(location, file, conflict.as_bstr()).await?;
    Ok(conflict)
}

/// Copies a bundle into the folder of another ref. The original remains.
pub(super) async fn copy_bundle(
    location: &Arc<BundleLocation>,
    file: &BundleFile,
    name: &BStr,
) -> Result<()> {
    let key = location.bundle_key(name, file.id)?;
    let options = PutOptions {
        kms_key_id: location.options.kms_key_id.clone(),
        ..PutOptions::default()
    };
    let store = Arc::clone(&location.store);
    let mut upload =
        MultipartWriter::new(store, location.bucket.clone(), key).with_options(options);
    let mut number = 0;
    let mut at = 0;
    while at < file.size_bytes {
        number += 1;
        let end = file.size_bytes.min(at + MAX_COPY_BYTES);
        let source = (&location.bucket, &file.key, None);
        upload.copy(number, source, at..end).await?;
        at = end;
    }
    upload.complete(number + 1, bytes::Bytes::new()).await?;
    upload.disarm();
    Ok(())
}
