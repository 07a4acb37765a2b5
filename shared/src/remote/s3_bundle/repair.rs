//! Leftovers of interrupted pushes: refs with several bundles, and locks of killed clients.

use std::sync::Arc;

use bstr::{BStr, BString};

use super::bundle_reader::OpenBundle;
use super::competing::ResolvedRef;
use super::delete;
use super::lock::Lock;
use super::options::BundleLocation;
use crate::error::Result;

/// Deletes all bundles of a ref but the one that the ref names. Orphans are moved to their
/// conflict names. Returns `false` if there are no others, or if the bundle may need them.
///
/// # Errors
/// `Conflict` when another client pushes to the ref meanwhile.
pub(super) async fn repair(
    location: &Arc<BundleLocation>,
    name: &BString,
    found: &mut ResolvedRef,
) -> Result<bool> {
    if found.expected.name != *name || found.expected.files.len() < 2 {
        return Ok(false);
    }
    if !OpenBundle::open(location, &found.file).await?.is_full() {
        // The next push makes it full, and then deletes the others.
        tracing::info!(ref.name = %name, "an incremental bundle may need the others");
        return Ok(false);
    }
    delete::repair(location, &found.expected, &found.file, &found.orphans)
        .await
        .map_err(|error| error.context(format!("repairing `{name}`")))?;
    found.expected.files = vec![found.file.clone()];
    found.orphans.clear();
    Ok(true)
}

/// Takes the lock of a ref over, which also aborts the upload of its owner, and releases it.
///
/// # Errors
/// `Conflict` when another client holds the lock.
pub(super) async fn release_abandoned_lock(
    location: &Arc<BundleLocation>,
    name: &BStr,
) -> Result<()> {
    let lock = Lock::acquire(location, location.lock_key(name)?).await?;
    lock.release().await;
    Ok(())
}
