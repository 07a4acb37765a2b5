//! Writing an object part by part, so that nothing is left behind when it is given up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::{MAX_PARTS, MIN_PART_BYTES, ObjectStore, Part, PutOptions, PutResult, UploadId};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};

/// The number of parts after which they grow.
const EQUAL_PARTS: u32 = 5000;

/// How long an upload that is given up is waited for when it is only being created.
const CREATION_GRACE: Duration = Duration::from_secs(2);

/// The size of part `number`, from 1: 5 MiB, and from part 5,001 on 1 MiB more for each
/// 500, so that 10,000 parts hold 75 GiB and the largest has 15 MiB.
pub fn part_bytes(number: u32) -> usize {
    const MIB: usize = 1024 * 1024;
    let grown = if number > EQUAL_PARTS {
        (number - EQUAL_PARTS - 1) / 500 + 1
    } else {
        0
    };
    MIN_PART_BYTES + grown as usize * MIB
}

/// An object under way: whole when it is small, else a multipart upload that is given up
/// unless it is completed.
pub struct MultipartWriter {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    key: ObjectKey,
    options: OnceLock<PutOptions>,
    id: OnceCell<UploadId>,
    // The request for the id. It is a task of its own: were it dropped with the part that
    // waits for it, the store would have an upload that nobody can give up.
    creation: tokio::sync::Mutex<Option<Creation>>,
    parts: Mutex<Vec<Part>>,
    requests: AtomicU64,
}

impl std::fmt::Debug for MultipartWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("bucket", &self.bucket)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

type Creation = JoinHandle<Result<UploadId>>;

impl MultipartWriter {
    /// Nothing is written before the first part.
    pub fn new(store: Arc<dyn ObjectStore>, bucket: BucketName, key: ObjectKey) -> Self {
        Self {
            store,
            bucket,
            key,
            options: OnceLock::new(),
            id: OnceCell::new(),
            creation: tokio::sync::Mutex::default(),
            parts: Mutex::new(Vec::new()),
            requests: AtomicU64::new(0),
        }
    }

    /// Metadata, precondition and encryption; to be said before the first part, once.
    #[must_use]
    pub fn with_options(self, options: PutOptions) -> Self {
        self.set_options(options);
        self
    }

    /// The same, by reference. Later calls change nothing.
    pub fn set_options(&self, options: PutOptions) {
        let _ = self.options.set(options);
    }

    fn options(&self) -> &PutOptions {
        self.options.get_or_init(PutOptions::default)
    }

    /// Creates the upload before its first part; its id, by which others can give it up.
    pub async fn begin(&self) -> Result<UploadId> {
        self.id(1).await.cloned()
    }

    /// Sends one part, numbered from 1. All but the last have at least
    /// [`MIN_PART_BYTES`]; they may be sent in any order and at once.
    pub async fn part(&self, number: u32, bytes: Bytes) -> Result<()> {
        let id = self.id(number).await?;
        self.count();
        let part = self
            .store
            .upload_part(&self.bucket, &self.key, id, number, bytes)
            .await?;
        self.lock().push(part);
        Ok(())
    }

    /// Makes a part of a range of another object, of 5 GiB at most, without reading it.
    pub async fn copy(
        &self,
        number: u32,
        source: (&BucketName, &ObjectKey, Option<&str>),
        range: std::ops::Range<u64>,
    ) -> Result<()> {
        let id = self.id(number).await?;
        self.count();
        let part = self
            .store
            .upload_part_copy(&self.bucket, &self.key, id, number, source, range)
            .await?;
        self.lock().push(part);
        Ok(())
    }

    async fn id(&self, number: u32) -> Result<&UploadId> {
        if number > MAX_PARTS {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!(
                    "`{}` is larger than an upload of {MAX_PARTS} parts",
                    self.key
                ),
            ));
        }
        self.id.get_or_try_init(|| self.create()).await
    }

    /// Sends what is left, as part `last` where there are parts, and makes the object
    /// visible. To be called once.
    pub async fn complete(&self, last: u32, rest: Bytes) -> Result<PutResult> {
        let options = self.options();
        if self.id.get().is_none() {
            self.count();
            return self.store.put(&self.bucket, &self.key, rest, options).await;
        }
        if !rest.is_empty() {
            self.part(last, rest).await?;
        }
        let id = self.id.get().expect("because it was there just now");
        let mut parts = self.lock().clone();
        parts.sort_unstable_by_key(|part| part.number);
        self.count();
        self.store
            .complete_upload(&self.bucket, &self.key, id, &parts, &options.precondition)
            .await
    }

    /// How many requests were made.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Nothing is left to give up: to be called when it was completed.
    pub fn disarm(&mut self) {
        self.id.take();
    }

    /// Gives the upload up. What fails here is only logged: the bucket's lifecycle rule
    /// for incomplete uploads removes what is left.
    pub async fn abort(&mut self) {
        let place = self.place();
        if let Some(id) = self.id.take() {
            place.abort(&id).await;
        } else if let Some(creation) = self.creation.get_mut().take() {
            // It goes on behind our back when it takes longer.
            let abort = place.abort_created(creation);
            let _ =
                tokio::time::timeout(CREATION_GRACE, tokio::spawn(abort.in_current_span())).await;
        }
    }

    /// Creates the upload, once, however often this is begun and dropped.
    async fn create(&self) -> Result<UploadId> {
        let mut creation = self.creation.lock().await;
        let task = creation.get_or_insert_with(|| {
            self.count();
            let (place, options) = (self.place(), self.options().clone());
            let create = async move {
                let UploadTarget { store, bucket, key } = place;
                store.create_upload(&bucket, &key, &options).await
            };
            tokio::spawn(create.in_current_span())
        });
        let created = task.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "creating the upload failed").with_source(error))
        });
        *creation = None;
        created
    }

    fn place(&self) -> UploadTarget {
        UploadTarget {
            store: Arc::clone(&self.store),
            bucket: self.bucket.clone(),
            key: self.key.clone(),
        }
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an upload goes, for what outlives it.
struct UploadTarget {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    key: ObjectKey,
}

impl UploadTarget {
    async fn abort(&self, id: &UploadId) {
        if let Err(error) = self.store.abort_upload(&self.bucket, &self.key, id).await {
            tracing::warn!(
                bucket.name = %self.bucket,
                object.key = %self.key,
                upload.id = %id.0,
                error = %error.report(),
                "the multipart upload could not be given up"
            );
        }
    }

    /// Waits for the id of an upload and gives it up.
    async fn abort_created(self, creation: Creation) {
        if let Ok(Ok(id)) = creation.await {
            self.abort(&id).await;
        }
    }
}

impl Drop for MultipartWriter {
    /// The caller went away: gives the upload up as long as there is a runtime to do it.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let place = self.place();
        if let Some(id) = self.id.take() {
            runtime.spawn(async move { place.abort(&id).await });
        } else if let Some(creation) = self.creation.get_mut().take() {
            runtime.spawn(place.abort_created(creation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_hold_more_than_fifty_gigabytes() {
        let total: u64 = (1..=MAX_PARTS).map(|part| part_bytes(part) as u64).sum();
        assert_eq!(total, 77_500 * 1024 * 1024);
        assert!((1..=MAX_PARTS).all(|part| part_bytes(part) >= MIN_PART_BYTES));
        assert_eq!(part_bytes(EQUAL_PARTS), MIN_PART_BYTES);
        assert_eq!(part_bytes(MAX_PARTS), 15 * 1024 * 1024);
    }
}
