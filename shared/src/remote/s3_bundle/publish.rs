//! Moves one ref, in an order of steps that keeps each acknowledged push through any failure.
//!
//! # The protocol
//! 1. Acquire the ref's lock ([`super::lock`]).
//! 2. List the ref's folder. Its bundles must be those of the opening of the remote; otherwise
//!    another push was first, and the result is `Conflict`.
//! 3. Begin a multipart upload of the new bundle. Its metadata name the ids that it replaces,
//!    without those of orphans, and the push.
//! 4. Rewrite the lock, naming the upload, which fails unless the lock is ours; and send the parts
//!    meanwhile, while the lock is renewed. A bundle from which parts were copied must still be
//!    the bundle that was read. Copy orphans to their conflict names.
//! 5. Complete the upload. Now both bundles are listed; readers use the new one, because its
//!    metadata name the other.
//! 6. Delete the replaced bundles, each if it was not replaced since it was listed; and, at the
//!    same time, rewrite the lock and list the folder again. If the lock is still ours and the
//!    folder contains no unexpected bundle, the ref has moved.
//! 7. Write the archive if there is an archiver ([`super::archive`]), and release the lock. Only
//!    now is the push acknowledged. If only the archive fails, the push fails with an error that
//!    says that the ref has moved.
//!
//! Steps 5 and 6 are run to their end when the caller is cancelled, so that an interrupted push
//! leaves either the old or the new bundle. A killed one leaves both if it is killed between 5 and
//! the deletion in 6, which follows at once: the next push deletes the old one, also a push that
//! finds the ref up to date. An atomic push publishes all refs before it deletes their old
//! bundles.
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
//! A bundle that was not listed in 2 is never deleted, but for the own one. If the upload cannot
//! be aborted, the lock is not released: it expires, and the client that takes it over aborts the
//! upload first.
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
//! A deletion that was sent in 6 and arrives only after the ref was moved away and back to the
//! same bundle, byte for byte, would delete that bundle, because S3 identifies an object only
//! by its `ETag`.

use std::sync::Arc;

use bstr::ByteSlice as _;
use futures_util::future::join;

use super::archive::{self, ArchiveAction};
use super::compose::{BundleBody, UploadedBody};
use super::delete::remove;
use super::expected_ref::{ExpectedRef, lock_expected, stale_ref_error};
use super::keys::BundleFile;
use super::options::BundleLocation;
use super::publication::{Publication, RaceResult};
use crate::background;
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::pack_cache::PackExtension;
use crate::storage::ETag;

/// A bundle that was published.
pub(super) struct Published {
    pub(super) file: BundleFile,
    pub(super) sent_bytes: u64,
    /// The bundle's pack, for the pack cache.
    pub(super) extension: Option<PackExtension>,
    /// Result of writing the archive. The ref has moved even if it is an error.
    pub(super) archived: Result<()>,
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
    if let Err(error) = locked.upload(body).await {
        locked.cancel().await;
        return Err(error);
    }
    Ok(locked.replace().await?.finish(body, action).await)
}

/// Bundles that a new one replaces, once it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaced {
    Deleted,
    Kept,
}

/// A ref whose lock is held while its new bundle is published, one step after the other.
pub(super) struct LockedRef {
    publication: Publication,
    expected: ExpectedRef,
    orphans: Vec<BundleFile>,
    /// The archive of the ref, as it was listed under the lock.
    archive: Option<ETag>,
    id: ObjectId,
    sent: Option<UploadedBody>,
    is_published: bool,
    /// Whether the replaced bundles were deleted, as far as that is possible.
    has_deleted_replaced: bool,
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
                has_deleted_replaced: false,
            }),
            Err((lock, error)) => {
                lock.release().await;
                Err(error)
            }
        }
    }

    /// Sends the new bundle, which nobody sees yet, and copies orphans to their conflict names.
    pub(super) async fn upload(&mut self, body: &BundleBody) -> Result<()> {
        self.sent = Some(self.publication.upload(body).await?);
        self.publication.copy_orphans(&self.orphans).await;
        Ok(())
    }

    /// Makes the new bundle the ref's, and deletes the replaced ones. Runs to its end, also if
    /// this future is dropped.
    ///
    /// # Errors
    /// `Conflict` when another push was first, or may have been.
    async fn replace(mut self) -> Result<Self> {
        let replaced = background::complete(async move {
            match self.publish_and(Replaced::Deleted).await {
                Ok(()) => Ok(self),
                Err(error) => {
                    self.cancel().await;
                    Err(error)
                }
            }
        });
        replaced.await.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Internal,
                "publishing a bundle panicked",
            ))
        })
    }

    /// Makes the new bundle the ref's. The replaced ones remain.
    ///
    /// # Errors
    /// `Conflict` when another push was first, or may have been.
    pub(super) async fn publish(&mut self) -> Result<()> {
        self.publish_and(Replaced::Kept).await
    }

    async fn publish_and(&mut self, replaced: Replaced) -> Result<()> {
        let (publication, expected) = (&mut self.publication, &self.expected);
        let settled = match publication.complete().await {
            Ok(()) => {
                let completed = &*publication;
                let deletion = async {
                    if replaced == Replaced::Deleted {
                        completed.delete_replaced(expected).await;
                    }
                };
                let ((), folder) = join(deletion, completed.verify_and_list()).await;
                self.has_deleted_replaced = replaced == Replaced::Deleted;
                match folder {
                    Ok(folder) => publication.decide_race(expected, &folder).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        let result = match settled {
            Ok(result) => result,
            Err(error) => publication.resolve_unknown_outcome(expected, error).await?,
        };
        match result {
            RaceResult::Won => {
                self.is_published = true;
                Ok(())
            }
            RaceResult::Lost => Err(stale_ref_error(self.publication.name.as_bstr())),
        }
    }

    /// Deletes what the new bundle replaces, unless that was done.
    pub(super) async fn delete_replaced(&mut self) {
        if !self.has_deleted_replaced {
            self.publication.delete_replaced(&self.expected).await;
            self.has_deleted_replaced = true;
        }
    }

    /// Deletes what the new bundle replaces, writes the archive, and releases the lock.
    pub(super) async fn finish(mut self, body: &BundleBody, action: &ArchiveAction) -> Published {
        self.delete_replaced().await;
        let (expected, publication) = (&self.expected, &self.publication);
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
