//! Leftovers of interrupted pushes: refs with several bundles.

use std::sync::Arc;

use bstr::BString;

use super::bundle_reader::OpenBundle;
use super::competing::Ref;
use super::delete;
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
    found: &mut Ref,
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
