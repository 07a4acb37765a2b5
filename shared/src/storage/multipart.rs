//! Writes an object part by part, and aborts the upload when the writer is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::{
    CopySource, MAX_PARTS, MIN_PART_BYTES, MultipartUpload, ObjectStore, Part, PutOptions,
    PutResult, UploadId, UploadStart,
};
use crate::background;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};

/// Number of parts of [`MIN_PART_BYTES`] before parts grow.
const EQUAL_PARTS: u32 = 5000;

/// Maximum wait of [`MultipartWriter::abort`] for an upload that is still being created.
const CREATION_GRACE: Duration = Duration::from_secs(2);

/// Returns the size of part `number`, from 1: 5 MiB, and from part 5,001 on 1 MiB more for
/// each 500 parts, so that 10,000 parts hold 75 GiB and the largest has 15 MiB.
pub fn part_bytes(number: u32) -> usize {
    const MIB: usize = 1024 * 1024;
    let grown = if number > EQUAL_PARTS {
        (number - EQUAL_PARTS - 1) / 500 + 1
    } else {
        0
    };
    MIN_PART_BYTES + grown as usize * MIB
}

/// Writes one object: whole when it is small, else as a multipart upload, which is aborted
/// unless it is completed.
pub struct MultipartWriter {
    store: Arc<dyn ObjectStore>,
    bucket: BucketName,
    key: ObjectKey,
    options: OnceLock<PutOptions>,
    upload: OnceCell<Upload>,
    // The request that creates the upload. It is a separate task because, were it dropped
    // with the part that waits for it, nothing would know the upload's id to abort it.
    creation: tokio::sync::Mutex<Option<Creation>>,
    parts: Mutex<Vec<Part>>,
    requests: AtomicU64,
}

impl std::fmt::Debug for MultipartWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MultipartWriter")
            .field("bucket", &self.bucket)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

type Upload = Arc<dyn MultipartUpload>;
type Creation = JoinHandle<Result<Upload>>;

impl MultipartWriter {
    /// Makes a writer; nothing is requested before the first part.
    pub fn new(store: Arc<dyn ObjectStore>, bucket: BucketName, key: ObjectKey) -> Self {
        Self {
            store,
            bucket,
            key,
            options: OnceLock::new(),
            upload: OnceCell::new(),
            creation: tokio::sync::Mutex::default(),
            parts: Mutex::new(Vec::new()),
            requests: AtomicU64::new(0),
        }
    }

    /// Sets metadata, precondition and encryption; call once, before the first part.
    #[must_use]
    pub fn with_options(self, options: PutOptions) -> Self {
        self.set_options(options);
        self
    }

    /// Like [`with_options`](Self::with_options), by reference. Only the first call has an
    /// effect.
    pub fn set_options(&self, options: PutOptions) {
        let _ = self.options.set(options);
    }

    fn options(&self) -> &PutOptions {
        self.options.get_or_init(PutOptions::default)
    }

    /// Creates the upload before its first part; returns its id, by which other processes
    /// can abort it.
    pub async fn begin(&self) -> Result<UploadId> {
        Ok(self.upload(1).await?.id())
    }

    /// Sends part `number`, from 1. All parts but the last have at least
    /// [`MIN_PART_BYTES`]; they may be sent in any order and concurrently.
    pub async fn part(&self, number: u32, bytes: Bytes) -> Result<()> {
        let upload = self.upload(number).await?;
        self.count_request();
        let part = upload.part(number, bytes).await?;
        self.lock_parts().push(part);
        Ok(())
    }

    /// Copies a range of another object, at most 5 GiB, into part `number` without reading
    /// it.
    pub async fn copy(
        &self,
        number: u32,
        source: CopySource<'_>,
        range: std::ops::Range<u64>,
    ) -> Result<()> {
        let upload = self.upload(number).await?;
        self.count_request();
        let part = upload.part_copy(number, source, range).await?;
        self.lock_parts().push(part);
        Ok(())
    }

    /// Returns the upload that part `number` belongs to, created on the first call.
    async fn upload(&self, number: u32) -> Result<&Upload> {
        if number > MAX_PARTS {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!(
                    "`{}` is larger than an upload of {MAX_PARTS} parts",
                    self.key
                ),
            ));
        }
        self.upload.get_or_try_init(|| self.create()).await
    }

    /// Sends `rest`, as part `last` if parts were sent, and makes the object visible. To be
    /// called once.
    pub async fn complete(&self, last: u32, rest: Bytes) -> Result<PutResult> {
        let options = self.options();
        let Some(upload) = self.upload.get() else {
            self.count_request();
            return self.store.put(&self.bucket, &self.key, rest, options).await;
        };
        if !rest.is_empty() {
            self.part(last, rest).await?;
        }
        let mut parts = self.lock_parts().clone();
        parts.sort_unstable_by_key(|part| part.number);
        self.count_request();
        upload.complete(&parts, &options.precondition).await
    }

    /// Returns the number of requests made so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Disarms the abort on drop; call after completion.
    pub fn disarm(&mut self) {
        self.upload.take();
    }

    /// Aborts the upload. A failure is only logged, because the bucket's lifecycle rule
    /// removes incomplete uploads.
    pub async fn abort(&mut self) {
        if let Some(upload) = self.upload.take() {
            abort(&self.bucket, &self.key, &upload).await;
        } else if let Some(creation) = self.creation.get_mut().take() {
            // The task finishes the abort when that takes longer than the grace period.
            let abort = abort_created(self.bucket.clone(), self.key.clone(), creation);
            let _ = tokio::time::timeout(CREATION_GRACE, background::complete(abort)).await;
        }
    }

    /// Creates the upload, once, also when calls of this are dropped and repeated.
    async fn create(&self) -> Result<Upload> {
        let mut creation = self.creation.lock().await;
        let task = creation.get_or_insert_with(|| {
            self.count_request();
            let (bucket, key) = (self.bucket.clone(), self.key.clone());
            let (store, options) = (Arc::clone(&self.store), self.options().clone());
            let create = async move {
                let start = UploadStart::New(&options);
                store.open_upload(&bucket, &key, start).await.map(Arc::from)
            };
            tokio::spawn(create.in_current_span())
        });
        let created = task.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "creating the upload failed").with_source(error))
        });
        *creation = None;
        created
    }

    fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn lock_parts(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn abort(bucket: &BucketName, key: &ObjectKey, upload: &Upload) {
    if let Err(error) = upload.abort().await {
        tracing::warn!(
            bucket.name = %bucket,
            object.key = %key,
            upload.id = %upload.id().0,
            error = %error.report(),
            "the multipart upload could not be aborted"
        );
    }
}

/// Waits until the upload is created, and aborts it.
async fn abort_created(bucket: BucketName, key: ObjectKey, creation: Creation) {
    if let Ok(Ok(upload)) = creation.await {
        abort(&bucket, &key, &upload).await;
    }
}

impl Drop for MultipartWriter {
    /// Aborts the upload where there is a runtime to do it.
    fn drop(&mut self) {
        let (bucket, key) = (self.bucket.clone(), self.key.clone());
        if let Some(upload) = self.upload.take() {
            background::spawn(async move { abort(&bucket, &key, &upload).await });
        } else if let Some(creation) = self.creation.get_mut().take() {
            background::spawn(abort_created(bucket, key, creation));
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
