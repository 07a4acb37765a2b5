//! Where an archive goes, part by part.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ObjectKey};
pub use crate::storage::multipart::part_bytes;
use crate::storage::{ObjectStore, PutOptions, PutResult, multipart};

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
    fn set_file_count(&self, files: u64) {
        let _ = files;
    }

    /// Takes one part. Parts are begun in order; with more than one at once they may end
    /// in any.
    async fn part(&self, number: u32, bytes: Bytes) -> Result<()>;
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
pub struct ArchiveDestination {
    /// The bucket.
    pub bucket: BucketName,
    /// The key.
    pub key: ObjectKey,
    /// Metadata, precondition and encryption.
    pub options: PutOptions,
    /// The user metadata that gets the number of files; none when `None`.
    pub files_metadata: Option<String>,
}

/// Writes an archive as one object.
pub(super) struct ArchiveUpload {
    target: ArchiveDestination,
    inner: multipart::MultipartWriter,
}

impl ArchiveUpload {
    pub(super) fn new(store: Arc<dyn ObjectStore>, target: ArchiveDestination) -> Self {
        let inner =
            multipart::MultipartWriter::new(store, target.bucket.clone(), target.key.clone());
        Self { target, inner }
    }

    /// Sends what is left and makes the object visible.
    pub(super) async fn complete(&self, last: u32, rest: Bytes) -> Result<PutResult> {
        // Where nothing was planned, nothing is told.
        self.inner.set_options(self.target.options.clone());
        self.inner.complete(last, rest).await
    }

    /// How many requests were made.
    pub(super) fn requests(&self) -> u64 {
        self.inner.requests()
    }

    /// Nothing is left to give up.
    pub(super) fn forget(&mut self) {
        self.inner.disarm();
    }

    /// Gives the upload up.
    pub(super) async fn abort(&mut self) {
        self.inner.abort().await;
    }
}

#[async_trait]
impl PartSink for ArchiveUpload {
    fn set_file_count(&self, files: u64) {
        let mut options = self.target.options.clone();
        if let Some(name) = &self.target.files_metadata {
            let user = &mut options.metadata.user;
            user.insert(name.clone(), files.to_string());
        }
        self.inner.set_options(options);
    }

    async fn part(&self, number: u32, bytes: Bytes) -> Result<()> {
        self.inner.set_options(self.target.options.clone());
        self.inner.part(number, bytes).await
    }
}
