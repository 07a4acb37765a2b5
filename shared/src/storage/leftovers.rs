//! Temporary objects that killed runs left in a bucket.

use super::{ObjectStore, ObjectStoreExt as _, Precondition};
use crate::error::Result;
use crate::name::{BucketName, ObjectKey};

/// Age in seconds from which a temporary object belongs to no run: longer than any run takes.
pub const MIN_LEFTOVER_AGE_SECONDS: i64 = 24 * 60 * 60;

/// Deletes the objects whose keys start with `prefix` and that were written before
/// `written_before`, in seconds since the epoch; returns their number. A bucket with versions keeps
/// none of them.
///
/// # Errors
/// The first failure.
pub async fn delete_leftovers(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    prefix: &str,
    written_before: i64,
) -> Result<u64> {
    let mut deleted = 0;
    let mut next = None;
    loop {
        let page = store.list(bucket, prefix, None, next.as_deref()).await?;
        let leftovers = page.objects.into_iter();
        for found in leftovers.filter(|found| found.last_modified < written_before) {
            delete(store, bucket, &found.key).await?;
            deleted += 1;
        }
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if deleted > 0 {
        tracing::info!(
            bucket.name = %bucket,
            object.prefix = prefix,
            objects = deleted,
            "deleted temporary objects of runs that did not finish"
        );
    }
    Ok(deleted)
}

async fn delete(store: &dyn ObjectStore, bucket: &BucketName, key: &ObjectKey) -> Result<()> {
    let head = store.head(bucket, key).await?;
    match head.and_then(|head| head.version_id) {
        Some(version) => store.delete_version(bucket, key, &version).await,
        None => store.delete(bucket, key, &Precondition::None).await,
    }
}
