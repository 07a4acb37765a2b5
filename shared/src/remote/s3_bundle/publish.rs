//! Moves one ref, in an order of steps that keeps each acknowledged push through any failure.
//!
//! # The protocol
//! 1. Acquire the ref's lock ([`super::lock`]).
//! 2. List the ref's folder. Its bundles must be those of the opening of the remote; otherwise
//!    another push was first, and the result is `Conflict`.
//! 3. Begin a multipart upload of the new bundle, and send its parts, while the lock is
//!    renewed. Its metadata name the ids that it replaces, without those of orphans, and the
//!    push. A bundle from which parts were copied must still be the bundle that was read.
//! 4. Rewrite the lock, naming the upload. This fails unless the lock is ours.
//! 5. Complete the upload. Now both bundles are listed; readers use the new one, because its
//!    metadata name the other.
//! 6. Rewrite the lock and list the folder again. If the lock is still ours and the folder
//!    contains no unexpected bundle, the ref has moved.
//! 7. Delete the replaced bundles, each if it was not replaced since it was listed, write the
//!    archive if there is an archiver ([`super::archive`]), and release the lock. Only now is
//!    the push acknowledged. If only the archive fails, the push fails with an error that says
//!    that the ref has moved.
//!
//! If the lock is lost in 6, or the completion got no answer, the outcome is unknown. The push
//! then aborts its upload, acquires the lock again, lists the folder, and finds one of these:
//!
//! | own bundle | result |
//! |---|---|
//! | is missing | lost |
//! | is alone, or with bundles that it replaces | won |
//! | is with an unexpected bundle | lost; the own bundle is deleted |
//! | unknown, because the lock could not be acquired | `Conflict`; the next push resolves it |
//!
//! Nothing is deleted without the lock. If the upload cannot be aborted, the lock is not
//! released: it expires, and the client that takes it over aborts the upload first.
//!
//! # Guarantee
//! Among clients of this kind at most one of the pushes from one state of a ref succeeds,
//! however late any request arrives: a client that takes a lock over aborts the upload that
//! the former owner named in it, so that its completion precedes the new owner's list or never
//! happens.
//!
//! # Remaining races with the Python client on the same ref
//! The Python client's last step is an unconditional write, which cannot be aborted.
//! - If it is slower than the lock's lifetime and a client of this kind takes its lock over,
//!   both publish and both report success. This also happens when it loses its lock to a
//!   second Python client, which deletes the locks of other clients when it is done.
//! - If it considers an old lock abandoned, and a client of this kind takes that lock over
//!   before the Python client deletes it, it deletes the new owner's lock. The new owner
//!   notices in 4 or 6, unless all its steps from 6 on precede the deletion, which is then the
//!   first case.
//!
//! Neither loses a commit, because both bundles remain. A bundle that descends from the other
//! supersedes it. Otherwise the newest is the ref, and the other one is listed, and at the
//! next push moved, under the ref's name with `__` and the first digits of its id.
//!
//! A deletion that was sent in 7 and arrives only after the ref was moved away and back to the
//! same bundle, byte for byte, would delete that bundle, because S3 identifies an object only
//! by its `ETag`.

use std::sync::Arc;

use bstr::{BString, ByteSlice};

use super::archive::{self, ArchiveAction};
use super::compose::{BodySent, BundleBody};
use super::delete::{copy_to_conflict_ref, remove};
use super::expected_ref::{ExpectedRef, lock_expected, stale_ref_error};
use super::keys::{BundleFile, RefFolder};
use super::lock::Lock;
use super::options::{BundleLocation, PUSH, REPLACES};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::pack_cache::PackExtension;
use crate::storage::multipart::MultipartWriter;
use crate::storage::{
    ETag, ObjectMetadata, ObjectStoreExt as _, Precondition, PutOptions, UploadId,
};

/// Maximum number of bundles that a new one can name in `branchline-replaces`: 16 ids of 64
/// digits fit into the 2 KB of user metadata that S3 allows, alongside the other entries.
pub(super) const MAX_REPLACED: usize = 16;

/// A bundle that was published.
pub(super) struct Published {
    pub(super) file: BundleFile,
    pub(super) sent_bytes: u64,
    /// The bundle's pack, for the pack cache.
    pub(super) extension: Option<PackExtension>,
    /// Result of writing the archive. The ref has moved even if it is an error.
    pub(super) archived: Result<()>,
}

/// Whether a push moved the ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RaceResult {
    Won,
    Lost,
}

/// Publishes `body` as the bundle of `id`, and deletes the expected bundles. The `orphans`
/// among them are moved to their conflict names.
///
/// # Errors
/// `Conflict` when another push was first, or may have been.
pub(super) async fn publish(
    location: &Arc<BundleLocation>,
    expected: ExpectedRef,
    orphans: Vec<BundleFile>,
    id: ObjectId,
    body: &BundleBody,
    action: &ArchiveAction,
) -> Result<Published> {
    let mut locked = LockedRef::lock(location, expected, orphans, id).await?;
    let published = match locked.upload(body).await {
        Ok(()) => locked.publish().await,
        Err(error) => Err(error),
    };
    match published {
        Ok(()) => Ok(locked.finish(body, action).await),
        Err(error) => {
            locked.cancel().await;
            Err(error)
        }
    }
}

/// A ref whose lock is held while its new bundle is published, one step after the other.
pub(super) struct LockedRef {
    publication: Publication,
    expected: ExpectedRef,
    orphans: Vec<BundleFile>,
    /// The archive of the ref, as it was listed under the lock.
    archive: Option<ETag>,
    id: ObjectId,
    sent: Option<BodySent>,
    is_published: bool,
}

impl LockedRef {
    /// Acquires the lock of a ref that is in the expected state.
    ///
    /// # Errors
    /// `Conflict` when another client holds the lock, or the state is not the expected one.
    pub(super) async fn lock(
        location: &Arc<BundleLocation>,
        expected: ExpectedRef,
        orphans: Vec<BundleFile>,
        id: ObjectId,
    ) -> Result<Self> {
        let (lock, folder) = lock_expected(location, &expected).await?;
        match Publication::new(location, lock, &expected, &orphans, id) {
            Ok(publication) => Ok(Self {
                publication,
                expected,
                orphans,
                archive: folder.archive,
                id,
                sent: None,
                is_published: false,
            }),
            Err((lock, error)) => {
                lock.release().await;
                Err(error)
            }
        }
    }

    /// Sends the new bundle, which nobody sees yet.
    pub(super) async fn upload(&mut self, body: &BundleBody) -> Result<()> {
        self.sent = Some(self.publication.upload(body).await?);
        Ok(())
    }

    /// Makes the new bundle the ref's. The expected ones remain.
    ///
    /// # Errors
    /// `Conflict` when another push was first, or may have been.
    pub(super) async fn publish(&mut self) -> Result<()> {
        let publication = &mut self.publication;
        let result = match publication.complete().await {
            Ok(()) => publication.list_and_settle_race(&self.expected).await,
            Err(error) => Err(error),
        };
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                let expected = &self.expected;
                publication.resolve_unknown_outcome(expected, error).await?
            }
        };
        match result {
            RaceResult::Won => {
                self.is_published = true;
                Ok(())
            }
            RaceResult::Lost => Err(stale_ref_error(self.publication.name.as_bstr())),
        }
    }

    /// Deletes what the new bundle replaces, writes the archive, and releases the lock.
    pub(super) async fn finish(mut self, body: &BundleBody, action: &ArchiveAction) -> Published {
        let (expected, publication) = (&self.expected, &mut self.publication);
        publication.delete_replaced(expected, &self.orphans).await;
        let (location, name) = (&publication.location, expected.name.as_bstr());
        let archived =
            archive::apply_after_move(location, name, self.id, action, self.archive.as_ref()).await;
        let (sent_bytes, extension) = match self.sent.take() {
            Some(sent) => (sent.bytes, sent.extension),
            None => (0, None),
        };
        let replaces_base = body
            .base_file()
            .is_some_and(|base| expected.files.contains(base));
        let published = Published {
            file: publication.file.clone(),
            sent_bytes,
            extension: extension.map(|extension| PackExtension {
                replaces_base,
                ..extension
            }),
            archived,
        };
        self.publication.finish().await;
        published
    }

    /// Takes the new bundle back, and releases the lock.
    ///
    /// # Errors
    /// The new bundle was published and may have remained.
    pub(super) async fn withdraw(self) -> Result<()> {
        let publication = &self.publication;
        let withdrawn = if self.is_published {
            match publication.lock() {
                Ok(lock) => match lock.verify().await {
                    Ok(()) => remove(&publication.location, &publication.file).await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            }
        } else {
            Ok(())
        };
        self.cancel().await;
        withdrawn
    }

    /// Aborts the upload if it is pending, and releases the lock.
    async fn cancel(self) {
        self.publication.finish().await;
    }
}

/// A bundle that is being published, and the lock of its ref.
struct Publication {
    location: Arc<BundleLocation>,
    file: BundleFile,
    name: BString,
    token: String,
    // `None` when it was released, or must expire because it names a pending upload.
    lock: Option<Lock>,
    upload: Option<MultipartWriter>,
    // Set once the lock names the upload.
    recorded: Option<UploadId>,
}

impl Publication {
    fn new(
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
        })
    }

    fn lock(&self) -> Result<&Lock> {
        self.lock
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a push continued without its lock"))
    }

    async fn upload(&mut self, body: &BundleBody) -> Result<BodySent> {
        let (Some(upload), Some(lock)) = (&self.upload, &self.lock) else {
            return Err(Error::new(ErrorKind::Internal, "a push was run twice"));
        };
        let id = upload.begin().await?;
        let sent = body.send(upload, &|| lock.ensure_held()).await?;
        self.recorded = Some(id.clone());
        lock.record_upload(&self.file.key, &id).await?;
        Ok(sent)
    }

    async fn complete(&mut self) -> Result<()> {
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

    /// Lists the folder after the upload was completed, and settles the race.
    async fn list_and_settle_race(&mut self, expected: &ExpectedRef) -> Result<RaceResult> {
        let lock = self.lock()?;
        let folder = self.location.folder(self.name.as_bstr());
        let (owned, folder) = futures_util::future::join(lock.verify(), folder).await;
        owned?;
        self.settle_race(expected, &folder?).await
    }

    /// Decides by the folder whether the push won: the own bundle is there, and otherwise only
    /// expected ones. Deletes the own bundle if the push lost.
    async fn settle_race(
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
    async fn resolve_unknown_outcome(
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
        self.settle_race(expected, &folder).await
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

    /// Deletes replaced bundles, and moves orphans. Failures are only logged, because the push
    /// has succeeded: the metadata distinguish leftovers from the ref, and the next push deletes
    /// them.
    async fn delete_replaced(&mut self, expected: &ExpectedRef, orphans: &[BundleFile]) {
        let deletion = async {
            for orphan in orphans {
                copy_to_conflict_ref(&self.location, self.name.as_bstr(), orphan).await?;
            }
            for file in expected
                .files
                .iter()
                .filter(|file| file.key != self.file.key)
            {
                remove(&self.location, file).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = deletion.await {
            tracing::warn!(
                ref.name = %self.name,
                error = %error.report(),
                "a replaced bundle could not be deleted"
            );
        }
    }

    /// Aborts the upload if it is pending, then releases the lock.
    async fn finish(mut self) {
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
