//! Where an archive goes, part by part.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
use crate::storage::{MAX_PARTS, MIN_PART_BYTES, ObjectStore, Part, PutOptions, UploadId, Written};

/// The number of parts after which they grow.
const EQUAL_PARTS: u32 = 5000;

/// How long an upload that is given up is waited for when it is only being created.
const CREATION_GRACE: Duration = Duration::from_secs(2);

/// Takes the parts of an archive.
#[async_trait]
pub trait PartSink: Send + Sync {
    /// How large part `number` (from 1) is, unless it is the last.
    fn part_bytes(&self, number: u32) -> usize {
        part_bytes(number)
    }

    /// How many parts may be on their way at once, besides the one that is being filled.
    fn parts_at_once(&self) -> usize {
        2
    }

    /// Learns how many files and symbolic links the archive will hold, before the first
    /// part.
    fn planned(&self, files: u64) {
        let _ = files;
    }

    /// Takes one part. Parts are begun in order; with more than one at once they may end
    /// in any.
    async fn part(&self, number: u32, bytes: Bytes) -> Result<()>;
}

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

/// Writes an archive to a file, a pipe or memory.
#[derive(Debug)]
pub struct WriteSink<W>(Mutex<W>);

impl<W: Write + Send> WriteSink<W> {
    /// A sink that writes to `to`.
    pub fn new(to: W) -> Self {
        Self(Mutex::new(to))
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<W: Write + Send> PartSink for WriteSink<W> {
    fn part_bytes(&self, _number: u32) -> usize {
        256 * 1024
    }

    fn parts_at_once(&self) -> usize {
        1
    }

    async fn part(&self, _number: u32, bytes: Bytes) -> Result<()> {
        let mut to = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        to.write_all(&bytes).map_err(|error| {
            Error::new(ErrorKind::Transport, "the archive cannot be written").with_source(error)
        })
    }
}

/// Where an object is written, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The bucket.
    pub bucket: BucketName,
    /// The key.
    pub key: ObjectKey,
    /// Metadata, precondition and encryption.
    pub options: PutOptions,
    /// The user metadata that gets the number of files; none when `None`.
    pub files_metadata: Option<String>,
}

/// Writes an archive as one object: whole when it is small, else as a multipart upload
/// that is given up unless it is completed.
pub(super) struct Upload {
    store: Arc<dyn ObjectStore>,
    target: Target,
    options: OnceLock<PutOptions>,
    id: OnceCell<UploadId>,
    // The request for the id. It is a task of its own: were it dropped with the part that
    // waits for it, the store would have an upload that nobody can give up.
    creation: tokio::sync::Mutex<Option<Creation>>,
    parts: Mutex<Vec<Part>>,
    requests: AtomicU64,
}

type Creation = JoinHandle<Result<UploadId>>;

impl Upload {
    pub(super) fn new(store: Arc<dyn ObjectStore>, target: Target) -> Self {
        Self {
            store,
            target,
            options: OnceLock::new(),
            id: OnceCell::new(),
            creation: tokio::sync::Mutex::default(),
            parts: Mutex::new(Vec::new()),
            requests: AtomicU64::new(0),
        }
    }

    /// Sends what is left and makes the object visible.
    pub(super) async fn complete(&self, last: u32, rest: Bytes) -> Result<Written> {
        let Target { bucket, key, .. } = &self.target;
        let options = self.options();
        if self.id.get().is_none() {
            self.count();
            return self.store.put(bucket, key, rest, options).await;
        }
        if !rest.is_empty() {
            self.part(last, rest).await?;
        }
        let id = self.id.get().expect("because it was there just now");
        let mut parts = self.lock().clone();
        parts.sort_unstable_by_key(|part| part.number);
        self.count();
        let written = self
            .store
            .complete_upload(bucket, key, id, &parts, &options.precondition)
            .await?;
        Ok(written)
    }

    /// The target's options with what the plan told.
    fn options(&self) -> &PutOptions {
        self.options.get().unwrap_or(&self.target.options)
    }

    /// How many requests were made.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Nothing is left to give up.
    pub(super) fn forget(&mut self) {
        self.id.take();
    }

    /// Gives the upload up. What fails here is only logged: the bucket's lifecycle rule
    /// for incomplete uploads removes what is left.
    pub(super) async fn abort(&mut self) {
        if let Some(id) = self.id.take() {
            abort(&*self.store, &self.target, &id).await;
        } else if let Some(creation) = self.creation.get_mut().take() {
            let abort = abort_created(Arc::clone(&self.store), self.target.clone(), creation);
            // It goes on behind our back when it takes longer.
            let _ = tokio::time::timeout(CREATION_GRACE, tokio::spawn(abort)).await;
        }
    }

    /// Creates the upload, once, however often this is begun and dropped.
    async fn create(&self) -> Result<UploadId> {
        let mut creation = self.creation.lock().await;
        let task = creation.get_or_insert_with(|| {
            self.count();
            let (store, options) = (Arc::clone(&self.store), self.options().clone());
            let Target { bucket, key, .. } = self.target.clone();
            tokio::spawn(async move { store.create_upload(&bucket, &key, &options).await })
        });
        let created = task.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "creating the upload failed").with_source(error))
        });
        *creation = None;
        created
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn abort(store: &dyn ObjectStore, target: &Target, id: &UploadId) {
    let Target { bucket, key, .. } = target;
    if let Err(error) = store.abort_upload(bucket, key, id).await {
        tracing::warn!(
            bucket.name = %bucket,
            object.key = %key,
            upload.id = %id.0,
            error = %error.report(),
            "the multipart upload could not be given up"
        );
    }
}

/// Waits for the id of an upload and gives it up.
async fn abort_created(store: Arc<dyn ObjectStore>, target: Target, creation: Creation) {
    if let Ok(Ok(id)) = creation.await {
        abort(&*store, &target, &id).await;
    }
}

#[async_trait]
impl PartSink for Upload {
    fn planned(&self, files: u64) {
        if let Some(name) = &self.target.files_metadata {
            let mut options = self.target.options.clone();
            options
                .metadata
                .user
                .insert(name.clone(), files.to_string());
            // One archive, one plan: there is nothing in it yet.
            let _ = self.options.set(options);
        }
    }

    async fn part(&self, number: u32, bytes: Bytes) -> Result<()> {
        let Target { bucket, key, .. } = &self.target;
        if number > MAX_PARTS {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                format!("the archive `{key}` is larger than an upload of {MAX_PARTS} parts"),
            ));
        }
        let id = self.id.get_or_try_init(|| self.create()).await?;
        self.count();
        let part = self
            .store
            .upload_part(bucket, key, id, number, bytes)
            .await?;
        self.lock().push(part);
        Ok(())
    }
}

impl Drop for Upload {
    /// The caller went away: gives the upload up as long as there is a runtime to do it.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, target) = (Arc::clone(&self.store), self.target.clone());
        if let Some(id) = self.id.take() {
            runtime.spawn(async move { abort(&*store, &target, &id).await });
        } else if let Some(creation) = self.creation.get_mut().take() {
            runtime.spawn(abort_created(store, target, creation));
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
