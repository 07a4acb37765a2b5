//! A new bundle of a ref on its way into the ref's folder, under the ref's lock.

use std::sync::Arc;

use bstr::{BString, ByteSlice as _};
use futures_util::future::{join, try_join};

use super::compose::{BundleBody, UploadedBody};
use super::delete::{copy_to_conflict_ref, remove};
use super::expected_ref::ExpectedRef;
use super::keys::{BundleFile, RefFolder};
use super::lock::Lock;
use super::options::{BundleLocation, PUSH, REPLACES};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::storage::multipart::MultipartWriter;
use crate::storage::{
    ETag, ObjectMetadata, ObjectStoreExt as _, Precondition, PutOptions, UploadId,
};

/// Maximum number of bundles that a new one can name in `branchline-replaces`: 16 ids of 64
/// digits fit into the 2 KB of user metadata that S3 allows, alongside the other entries.
pub(super) const MAX_REPLACED: usize = 16;

/// Whether a push moved the ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RaceResult {
    Won,
    Lost,
}

/// A bundle that is being published, and the lock of its ref.
pub(super) struct Publication {
    pub(super) location: Arc<BundleLocation>,
    pub(super) file: BundleFile,
    pub(super) name: BString,
    token: String,
    // `None` when it was released, or must expire because it names a pending upload.
    lock: Option<Lock>,
    upload: Option<MultipartWriter>,
    // Set before the lock may name the upload.
    recorded: Option<UploadId>,
    /// Whether an orphan has no copy, so that nothing may be deleted.
    keeps_replaced: bool,
}

impl Publication {
    pub(super) fn new(
        location: &Arc<BundleLocation>,
        lock: Lock,
        expected: &ExpectedRef,
        orphans: &[BundleFile],
        id: ObjectId,
    ) -> Result<Self, (Lock, Error)> {
        let key = match location.bundle_key(expected.name.as_bstr(), id) {
            Ok(key) => key,
            Err(error) => return Err((lock, error)),
        };
        let token = format!("{:032x}", rand::random::<u128>());
        let replaced = expected.files.iter().filter(|file| !orphans.contains(file));
        let replaced: Vec<_> = replaced
            .take(MAX_REPLACED)
            .map(|file| file.id.to_string())
            .collect();
        let mut metadata = ObjectMetadata::default();
        metadata.user.insert(PUSH.to_owned(), token.clone());
        if !replaced.is_empty() {
            let replaced = replaced.join(",");
            metadata.user.insert(REPLACES.to_owned(), replaced);
        }
        let options = PutOptions {
            metadata,
            precondition: Precondition::None,
            kms_key_id: location.options.kms_key_id.clone(),
        };
        let store = Arc::clone(&location.store);
        let upload =
            MultipartWriter::new(store, location.bucket.clone(), key.clone()).with_options(options);
        Ok(Self {
            location: Arc::clone(location),
            file: BundleFile {
                key,
                id,
                etag: ETag::unknown(),
                size_bytes: 0,
                last_modified: 0,
            },
            name: expected.name.clone(),
            token,
            lock: Some(lock),
            upload: Some(upload),
            recorded: None,
            keeps_replaced: false,
        })
    }

    pub(super) fn lock(&self) -> Result<&Lock> {
        self.lock
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a push continued without its lock"))
    }

    /// Begins the upload, names it in the lock, and sends the parts meanwhile.
    ///
    /// # Errors
    /// `Conflict` when the lock is lost.
    pub(super) async fn upload(&mut self, body: &BundleBody) -> Result<UploadedBody> {
        let (Some(upload), Some(lock)) = (&self.upload, &self.lock) else {
            return Err(Error::new(ErrorKind::Internal, "a push was run twice"));
        };
        let id = upload.begin().await?;
        self.recorded = Some(id.clone());
        let check = || lock.ensure_held();
        let recording = lock.record_upload(&self.file.key, &id);
        let sent = try_join(recording, body.send(upload, &check)).await;
        match sent {
            Ok(((), sent)) => Ok(sent),
            // A client that takes the lock over aborts the upload.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                lock.verify().await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn complete(&mut self) -> Result<()> {
        let Some(upload) = &mut self.upload else {
            return Err(Error::new(ErrorKind::Internal, "a push was run twice"));
        };
        let written = match upload.complete(0, bytes::Bytes::new()).await {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Aborted by the client that took the lock over; or completed by an earlier
                // attempt of the request whose answer was lost.
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "another client has taken this push's lock over",
                )
                .with_source(error)
                .with_hint("fetch, and push again"));
            }
            Err(error) => return Err(error),
        };
        upload.disarm();
        self.upload = None;
        self.file.etag = written.etag;
        Ok(())
    }

    /// Verifies the lock after the upload was completed, and lists the folder.
    pub(super) async fn verify_and_list(&self) -> Result<RefFolder> {
        let lock = self.lock()?;
        let folder = self.location.folder(self.name.as_bstr());
        let (owned, folder) = join(lock.verify(), folder).await;
        owned?;
        folder
    }

    /// Decides by the folder whether the push won: the own bundle is there, and otherwise only
    /// expected ones. Deletes the own bundle if the push lost.
    pub(super) async fn decide_race(
        &mut self,
        expected: &ExpectedRef,
        folder: &RefFolder,
    ) -> Result<RaceResult> {
        let Some(own) = folder.bundles.iter().find(|file| self.is_own(file)) else {
            return Ok(RaceResult::Lost);
        };
        self.file = own.clone();
        let known = |file: &BundleFile| self.is_own(file) || expected.matches(file);
        if folder.bundles.iter().all(known) {
            return Ok(RaceResult::Won);
        }
        self.lock()?.verify().await?;
        remove(&self.location, &self.file).await?;
        Ok(RaceResult::Lost)
    }

    fn is_own(&self, file: &BundleFile) -> bool {
        file.key == self.file.key && file.etag == self.file.etag
    }

    /// Determines the result of a push whose lock, or whose answer, was lost.
    pub(super) async fn resolve_unknown_outcome(
        &mut self,
        expected: &ExpectedRef,
        error: Error,
    ) -> Result<RaceResult> {
        if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Transport) {
            return Err(error);
        }
        tracing::info!(
            ref.name = %self.name,
            error = %error.report(),
            "resolving the unknown outcome of a push"
        );
        if !self.abort().await {
            // The completion may still arrive, so the lock, which names the upload, remains.
            self.expire_lock();
            return Err(error);
        }
        if let Some(lock) = self.lock.take() {
            lock.release().await;
        }
        let key = self.location.lock_key(self.name.as_bstr())?;
        self.lock = Some(Lock::acquire(&self.location, key).await?);
        let folder = self.location.folder(self.name.as_bstr()).await?;
        if self.file.etag.is_unknown() {
            self.find_own_bundle(&folder).await?;
        }
        self.decide_race(expected, &folder).await
    }

    /// Finds the own bundle when the completion got no answer.
    async fn find_own_bundle(&mut self, folder: &RefFolder) -> Result<()> {
        let Some(file) = folder.bundles.iter().find(|f| f.key == self.file.key) else {
            return Ok(());
        };
        let location = &self.location;
        let head = location.store.head(&location.bucket, &file.key).await?;
        let own = head.filter(|head| head.metadata.user.get(PUSH) == Some(&self.token));
        if let Some(head) = own {
            self.file.etag = head.etag;
        }
        Ok(())
    }

    /// Copies orphans to their conflict names. After a failure, which is only logged, all bundles
    /// of the ref are kept until the next push.
    pub(super) async fn copy_orphans(&mut self, orphans: &[BundleFile]) {
        let copies = async {
            for orphan in orphans {
                copy_to_conflict_ref(&self.location, self.name.as_bstr(), orphan).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = copies.await {
            self.keeps_replaced = true;
            tracing::warn!(
                ref.name = %self.name,
                error = %error.report(),
                "a bundle that lost the ref could not be copied"
            );
        }
    }

    /// Deletes the replaced bundles. Failures are only logged, because the push has succeeded: the
    /// metadata distinguish leftovers from the ref, and the next push deletes them.
    pub(super) async fn delete_replaced(&self, expected: &ExpectedRef) {
        if self.keeps_replaced {
            return;
        }
        let replaced = expected.files.iter();
        for file in replaced.filter(|file| file.key != self.file.key) {
            if let Err(error) = remove(&self.location, file).await {
                tracing::warn!(
                    ref.name = %self.name,
                    error = %error.report(),
                    "a replaced bundle could not be deleted"
                );
                return;
            }
        }
    }

    /// Aborts the upload if it is pending, then releases the lock.
    pub(super) async fn finish(mut self) {
        if !self.abort().await {
            self.expire_lock();
        } else if let Some(lock) = self.lock.take() {
            lock.release().await;
        }
    }

    fn expire_lock(&mut self) {
        if let Some(lock) = self.lock.take() {
            lock.expire();
        }
    }

    /// Aborts the upload; returns false if it may still be completed.
    async fn abort(&mut self) -> bool {
        let Some(upload) = &mut self.upload else {
            return true;
        };
        let recorded = self.recorded.as_ref();
        let is_aborted = abort(&self.location, &self.file, upload, recorded).await;
        // Only now, because `drop` must abort it if this future is dropped meanwhile.
        self.upload = None;
        self.recorded = None;
        is_aborted
    }
}

impl Drop for Publication {
    /// Aborts the upload, then releases the lock, because the caller was cancelled.
    fn drop(&mut self) {
        let (upload, recorded) = (self.upload.take(), self.recorded.take());
        let (location, file) = (Arc::clone(&self.location), self.file.clone());
        if let Some(lock) = self.lock.take() {
            lock.release_later(async move {
                match upload {
                    Some(mut upload) => {
                        abort(&location, &file, &mut upload, recorded.as_ref()).await
                    }
                    None => true,
                }
            });
        }
    }
}

/// Aborts an upload; returns false if it may still be completed. That is possible only when
/// the lock names it (`recorded`), because its completion was not sent before.
async fn abort(
    location: &BundleLocation,
    file: &BundleFile,
    upload: &mut MultipartWriter,
    recorded: Option<&UploadId>,
) -> bool {
    let Some(id) = recorded else {
        upload.abort().await;
        return true;
    };
    let aborted = location.store.abort_upload(&location.bucket, &file.key, id);
    match aborted.await {
        Ok(()) => {
            upload.disarm();
            true
        }
        Err(error) => {
            tracing::warn!(
                object.key = %file.key,
                error = %error.report(),
                "an upload could not be aborted: its lock remains until it expires"
            );
            upload.disarm();
            false
        }
    }
}
