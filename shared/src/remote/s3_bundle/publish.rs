//! Moving one ref: what is done in which order, so that whatever happens what was
//! acknowledged is there.
//!
//! # The protocol
//! 1. Get the ref's lock ([`super::lock`]).
//! 2. List the ref's folder. Its bundles must be those that were there when the remote was
//!    opened; else another push came first, and the answer is `Conflict`.
//! 3. Begin a multipart upload of the new bundle, and send its parts, while the lock is
//!    renewed. Its metadata say which ids it replaces, and which push it is of. What lost
//!    the ref and is to be kept is not among them. A bundle that parts were copied from
//!    must still be the one that was read.
//! 4. Rewrite the lock, naming the upload. This fails unless the lock is ours.
//! 5. Complete the upload: the new bundle is listed. Both are listed now; readers take the
//!    one that replaces the other.
//! 6. Rewrite the lock and list the folder once more. When the lock is still ours and no
//!    strange bundle is there, the ref has moved.
//! 7. Delete the bundles that were replaced, each if it still is the one that was seen,
//!    write the archive where one is kept ([`super::archive`]), and release the lock. Only now
//!    is the push acknowledged. When the archive alone fails, the push fails and says that
//!    the ref has moved.
//!
//! A push whose lock turned out to be lost in 6, or whose completion got no answer, is
//! **settled**: it aborts its upload, gets the lock as anybody does, and lists. Its bundle
//! is gone: it lost. Its bundle stands alone, or beside what it replaces: it has won. It
//! stands beside another one: it takes itself away and has lost. It cannot get the lock:
//! it answers `Conflict` and leaves what is there to the next push. Without the lock it
//! deletes nothing. When the upload cannot be aborted, the lock is not let go of: it grows
//! old, and whoever takes it over aborts the upload first.
//!
//! # What holds
//! Among clients of this kind at most one of the pushes from one state of a ref succeeds,
//! however long any request is on its way: whoever takes a lock over aborts the upload
//! that the former owner named in it, so that this one's completion comes before the new
//! owner's listing or never.
//!
//! # What remains open, with the Python client on the same ref
//! Its last step is a plain write without any condition, and cannot be aborted.
//! - When it is slower than the lock's lifetime and one of ours takes its lock over, both
//!   publish and both say so. The same happens when it loses its lock to a second Python
//!   client, which deletes the lock of others when it is done.
//! - When it takes an old lock for left behind, and this lock is taken over by one of ours
//!   between its look and its deletion, it deletes ours. We notice in 4 or 6, unless all
//!   of our steps from 6 on come before its deletion, when it is the second case again.
//!
//! Neither loses a commit: both bundles stay. One that descends from the other stands for
//! both. Else the newest is the ref, and the other one is listed, and at the next push
//! moved, under the ref's name with `__` and the first digits of its id.
//!
//! A deletion that was sent in 7 and arrives only when the ref has been moved away and
//! back to the same bundle, byte for byte, would delete that one: S3 knows an object by
//! its `ETag` alone.

use std::sync::Arc;

use async_trait::async_trait;
use bstr::{BString, ByteSlice};

use super::archive::{self, ArchiveAction};
use super::compose::LockCheck;
use super::delete::{move_to_conflict_ref, remove};
use super::expected_ref::{ExpectedRef, locked, stale_ref_error};
use super::keys::{BundleFile, RefFolder};
use super::lock::Lock;
use super::{BundleLocation, PUSH, REPLACES};
use crate::error::{Error, ErrorKind, Result};
use crate::git::ObjectId;
use crate::pack_cache::PackExtension;
use crate::storage::multipart::MultipartWriter;
use crate::storage::{ObjectMetadata, ObjectStoreExt as _, Precondition, PutOptions, UploadId};

/// How many bundles a new one can say that it replaces: so many ids of 64 digits go into
/// the 2 KB of user metadata that S3 allows, beside what else is there.
pub(super) const MOST_REPLACED: usize = 16;

/// The bytes of a bundle, to be sent as parts of an upload.
#[async_trait]
pub(super) trait BundleBody: Send + Sync {
    /// Sends all parts. Asks `check` now and then whether it is worth going on.
    async fn send(&self, upload: &MultipartWriter, check: LockCheck<'_>) -> Result<BodySent>;
}

/// What was sent of a bundle.
#[derive(Default)]
pub(super) struct BodySent {
    /// How many bytes were sent.
    pub(super) bytes: u64,
    /// The bundle's pack, to be kept on this machine's disk when the bundle is published.
    pub(super) addition: Option<PackExtension>,
    /// The bundle that this one is made of.
    pub(super) base: Option<BundleFile>,
}

/// What a publication left.
pub(super) struct Published {
    pub(super) file: BundleFile,
    pub(super) sent_bytes: u64,
    /// Its pack, to be kept on this machine's disk.
    pub(super) addition: Option<PackExtension>,
    /// What became of the archive. The ref has moved whatever it says.
    pub(super) archived: Result<()>,
}

/// Whether a push has moved the ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RaceResult {
    Won,
    Lost,
}

/// Publishes `body` as the bundle of `id`, in place of all that was seen.
///
/// `strays` are those among what was seen that hold something of their own: they are
/// moved to folders of their own.
///
/// # Errors
/// `Conflict` when another push came first, or may have.
pub(super) async fn publish(
    place: &Arc<BundleLocation>,
    seen: &ExpectedRef,
    strays: &[BundleFile],
    id: ObjectId,
    body: &dyn BundleBody,
    zip: &ArchiveAction,
) -> Result<Published> {
    let (lock, folder) = locked(place, seen).await?;
    let mut publication = match Publication::new(place, lock, seen, strays, id) {
        Ok(publication) => publication,
        Err((lock, error)) => {
            lock.release().await;
            return Err(error);
        }
    };
    let mut result = publication.run(seen, strays, body).await;
    if let Ok(published) = &mut result {
        let name = seen.name.as_bstr();
        published.archived =
            archive::apply_after_move(place, name, id, zip, folder.zip.as_ref()).await;
    }
    publication.finish().await;
    result
}

/// A bundle under way, and the lock under which it is.
struct Publication {
    place: Arc<BundleLocation>,
    file: BundleFile,
    name: BString,
    token: String,
    // Gone when it was released, or when what is left is to be undone elsewhere.
    lock: Option<Lock>,
    upload: Option<MultipartWriter>,
    // Once the lock names it.
    announced: Option<UploadId>,
}

impl Publication {
    fn new(
        place: &Arc<BundleLocation>,
        lock: Lock,
        seen: &ExpectedRef,
        strays: &[BundleFile],
        id: ObjectId,
    ) -> Result<Self, (Lock, Error)> {
        let key = match place.bundle_key(seen.name.as_bstr(), id) {
            Ok(key) => key,
            Err(error) => return Err((lock, error)),
        };
        let token = format!("{:032x}", rand::random::<u128>());
        let replaced = seen.files.iter().filter(|file| !strays.contains(file));
        let replaced: Vec<_> = replaced
            .take(MOST_REPLACED)
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
            kms_key_id: place.options.kms_key_id.clone(),
        };
        let store = Arc::clone(&place.store);
        let upload =
            MultipartWriter::new(store, place.bucket.clone(), key.clone()).with_options(options);
        Ok(Self {
            place: Arc::clone(place),
            file: BundleFile {
                key,
                id,
                etag: crate::storage::ETag::unknown(),
                size_bytes: 0,
                last_modified: 0,
            },
            name: seen.name.clone(),
            token,
            lock: Some(lock),
            upload: Some(upload),
            announced: None,
        })
    }

    async fn run(
        &mut self,
        seen: &ExpectedRef,
        strays: &[BundleFile],
        body: &dyn BundleBody,
    ) -> Result<Published> {
        let BodySent {
            bytes,
            addition,
            base,
        } = self.upload(body).await?;
        let verdict = match self.complete().await {
            Ok(()) => self.read_ref(seen).await,
            Err(error) => Err(error),
        };
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) => self.resolve_unknown_outcome(seen, error).await?,
        };
        if verdict == RaceResult::Lost {
            return Err(stale_ref_error(self.name.as_bstr()));
        }
        self.delete_replaced(seen, strays).await;
        Ok(Published {
            file: self.file.clone(),
            sent_bytes: bytes,
            addition: addition.map(|addition| PackExtension {
                replaces_base: base.is_some_and(|base| seen.files.contains(&base)),
                ..addition
            }),
            archived: Ok(()),
        })
    }

    fn lock(&self) -> Result<&Lock> {
        self.lock
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a push goes on without its lock"))
    }

    async fn upload(&mut self, body: &dyn BundleBody) -> Result<BodySent> {
        let (Some(upload), Some(lock)) = (&self.upload, &self.lock) else {
            return Err(Error::new(ErrorKind::Internal, "a push was run twice"));
        };
        let id = upload.begin().await?;
        let sent = body.send(upload, &|| lock.ensure_held()).await?;
        self.announced = Some(id.clone());
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
                // Aborted by whoever took the lock over; or completed by a first try of the
                // request whose answer was lost.
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

    /// Looks, after it was published, whether it won.
    async fn read_ref(&mut self, seen: &ExpectedRef) -> Result<RaceResult> {
        let lock = self.lock()?;
        let folder = self.place.folder(self.name.as_bstr());
        let (owned, folder) = futures_util::future::join(lock.verify(), folder).await;
        owned?;
        let folder = folder?;
        if self.has_won(seen, &folder) {
            return Ok(RaceResult::Won);
        }
        if folder.bundles.iter().any(|file| self.is_own(file)) {
            self.lock()?.verify().await?;
            remove(&self.place, &self.file).await?;
        }
        Ok(RaceResult::Lost)
    }

    fn is_own(&self, file: &BundleFile) -> bool {
        file.key == self.file.key && file.etag == self.file.etag
    }

    /// Whether it stands alone, or beside what it replaces.
    fn has_won(&mut self, seen: &ExpectedRef, folder: &RefFolder) -> bool {
        let Some(own) = folder.bundles.iter().find(|file| self.is_own(file)) else {
            return false;
        };
        self.file = own.clone();
        let known = |file: &BundleFile| self.is_own(file) || seen.matches(file);
        folder.bundles.iter().all(known)
    }

    /// Finds out what became of a push whose lock, or whose answer, was lost.
    async fn resolve_unknown_outcome(
        &mut self,
        seen: &ExpectedRef,
        error: Error,
    ) -> Result<RaceResult> {
        if !matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Transport) {
            return Err(error);
        }
        tracing::info!(
            ref.name = %self.name,
            error = %error.report(),
            "finding out what became of a push"
        );
        if !self.give_up().await {
            // What was sent may still arrive: the lock names it, and stays.
            self.lock = None;
            return Err(error);
        }
        if let Some(lock) = self.lock.take() {
            lock.release().await;
        }
        let key = self.place.lock_key(self.name.as_bstr())?;
        self.lock = Some(Lock::acquire(&self.place, key).await?);
        let folder = self.place.folder(self.name.as_bstr()).await?;
        if self.file.etag.is_unknown() {
            self.find_own_bundle(&folder).await?;
        }
        if self.has_won(seen, &folder) {
            return Ok(RaceResult::Won);
        }
        if folder.bundles.iter().any(|file| self.is_own(file)) {
            self.lock()?.verify().await?;
            remove(&self.place, &self.file).await?;
        }
        Ok(RaceResult::Lost)
    }

    /// Finds the bundle of a push whose completion got no answer.
    async fn find_own_bundle(&mut self, folder: &RefFolder) -> Result<()> {
        let Some(file) = folder.bundles.iter().find(|f| f.key == self.file.key) else {
            return Ok(());
        };
        let place = &self.place;
        let head = place.store.head(&place.bucket, &file.key).await?;
        let own = head.filter(|head| head.metadata.user.get(PUSH) == Some(&self.token));
        if let Some(head) = own {
            self.file.etag = head.etag;
        }
        Ok(())
    }

    /// Removes what was replaced. The push has succeeded, whatever happens here: what is
    /// left is told from the ref by the metadata, and removed by the next push.
    async fn delete_replaced(&mut self, seen: &ExpectedRef, strays: &[BundleFile]) {
        let clean = async {
            for stray in strays {
                move_to_conflict_ref(&self.place, self.name.as_bstr(), stray).await?;
            }
            for file in seen.files.iter().filter(|file| file.key != self.file.key) {
                remove(&self.place, file).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = clean.await {
            tracing::warn!(
                ref.name = %self.name,
                error = %error.report(),
                "a bundle that was replaced could not be removed"
            );
        }
    }

    /// Gives up what is left: first the upload, then the lock.
    async fn finish(mut self) {
        let given_up = self.give_up().await;
        if let Some(lock) = self.lock.take().filter(|_| given_up) {
            lock.release().await;
        }
    }

    /// Gives the upload up; whether nothing can come of it any more.
    async fn give_up(&mut self) -> bool {
        let Some(upload) = &mut self.upload else {
            return true;
        };
        let announced = self.announced.as_ref();
        let given_up = give_up(&self.place, &self.file, upload, announced).await;
        // Only now: whoever drops this meanwhile has to do it again, before the lock goes.
        self.upload = None;
        self.announced = None;
        given_up
    }
}

impl Drop for Publication {
    /// The caller went away: the upload must be given up before the lock is.
    fn drop(&mut self) {
        let (upload, announced) = (self.upload.take(), self.announced.take());
        let (place, file) = (Arc::clone(&self.place), self.file.clone());
        if let Some(lock) = self.lock.take() {
            lock.release_later(async move {
                match upload {
                    Some(mut upload) => {
                        give_up(&place, &file, &mut upload, announced.as_ref()).await
                    }
                    None => true,
                }
            });
        }
    }
}

/// Gives an upload up; whether nothing can come of it any more. It may only matter when
/// the lock names it: its completion was not sent before.
async fn give_up(
    place: &BundleLocation,
    file: &BundleFile,
    upload: &mut MultipartWriter,
    announced: Option<&UploadId>,
) -> bool {
    let Some(id) = announced else {
        upload.abort().await;
        return true;
    };
    let aborted = place.store.abort_upload(&place.bucket, &file.key, id);
    match aborted.await {
        Ok(()) => {
            upload.disarm();
            true
        }
        Err(error) => {
            tracing::warn!(
                object.key = %file.key,
                error = %error.report(),
                "an upload could not be given up: its lock is left to grow old"
            );
            upload.disarm();
            false
        }
    }
}
