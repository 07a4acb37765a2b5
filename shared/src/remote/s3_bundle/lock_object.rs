//! The object of a lock: its content, and the requests that read, write and delete it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::options::BundleLocation;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectKey;
use crate::storage::{ETag, ObjectStoreExt as _, Precondition, PutOptions, UploadId};

/// Maximum number of attempts to delete a lock whose rewrites arrive late.
const MAX_DELETIONS: usize = 4;
/// Maximum length of a lock that is read: a key and an upload id have at most 1,024 bytes
/// each.
const MAX_LOCK_BYTES: u64 = 16 * 1024;

/// Content of the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LockContent {
    pub(super) owner: String,
    #[serde(default)]
    pub(super) renewed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<UploadName>,
}

/// A multipart upload that publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UploadName {
    pub(super) key: String,
    pub(super) id: String,
}

/// Deletes the lock of an owner, of which this entity tag is known. A failure is only logged.
///
/// A rewrite that was cancelled may be executed nevertheless: before the deletion, so that the
/// lock has another entity tag, or after it, so that the rewrite fails.
pub(super) async fn delete(
    location: &BundleLocation,
    key: &ObjectKey,
    owner: &str,
    mut etag: ETag,
) {
    for _ in 0..MAX_DELETIONS {
        let condition = Precondition::Matches(etag);
        let deleted = location
            .store
            .delete(&location.bucket, key, &condition)
            .await;
        let error = match deleted {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::Conflict => error,
            Err(error) => return not_released(location, key, error),
        };
        etag = match read(location, key).await {
            Ok(Some(found)) if found.parsed().is_some_and(|body| body.owner == owner) => found.etag,
            Ok(None) => return,
            Ok(Some(_)) => return not_released(location, key, error),
            Err(error) => return not_released(location, key, error),
        };
    }
    let message = "the lock changed at each attempt to delete it";
    not_released(location, key, Error::new(ErrorKind::Conflict, message));
}

fn not_released(location: &BundleLocation, key: &ObjectKey, error: Error) {
    tracing::warn!(
        object.key = %key,
        error = %error.report(),
        "the lock could not be released"
    );
    location.note_kept_lock(error);
}

/// A lock as it was read.
pub(super) struct StoredLock {
    pub(super) etag: ETag,
    pub(super) last_modified: i64,
    body: Bytes,
}

impl StoredLock {
    pub(super) fn parsed(&self) -> Option<LockContent> {
        serde_json::from_slice(&self.body).ok()
    }

    pub(super) fn is(&self, body: &LockContent) -> bool {
        self.parsed().is_some_and(|found| found == *body)
    }

    /// Returns the upload by which the owner may be about to publish, if it is of a bundle in
    /// the folder of the lock.
    pub(super) fn upload(&self, lock: &ObjectKey) -> Option<(ObjectKey, UploadId)> {
        let upload = self.parsed()?.upload?;
        let (folder, _) = lock.as_str().rsplit_once('/')?;
        let last = upload.key.strip_prefix(folder)?.strip_prefix('/')?;
        let is_bundle = last.ends_with(".bundle") && !last.contains('/');
        let key = ObjectKey::new(&upload.key).ok()?;
        (is_bundle && !upload.id.is_empty()).then_some((key, UploadId(upload.id)))
    }
}

/// Reads the lock. The returned `ETag` is at most as new as the content.
pub(super) async fn read(location: &BundleLocation, key: &ObjectKey) -> Result<Option<StoredLock>> {
    let Some(head) = location.store.head(&location.bucket, key).await? else {
        return Ok(None);
    };
    let body = if (1..=MAX_LOCK_BYTES).contains(&head.size_bytes) {
        match location.store.get(&location.bucket, key, None, None).await {
            Ok(body) => body,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    } else {
        Bytes::new()
    };
    Ok(Some(StoredLock {
        etag: head.etag,
        last_modified: head.last_modified,
        body,
    }))
}

pub(super) async fn write(
    location: &BundleLocation,
    key: &ObjectKey,
    body: &LockContent,
    precondition: Precondition,
) -> Result<ETag> {
    let bytes = serde_json::to_vec(body).expect("because it is plain text and numbers");
    let options = PutOptions {
        precondition,
        kms_key_id: location.options.kms_key_id.clone(),
        ..PutOptions::default()
    };
    let written = location
        .store
        .put(&location.bucket, key, bytes.into(), &options)
        .await?;
    Ok(written.etag)
}
