//! A pack that is read more than once: in memory while it is small, else a temporary object in
//! S3.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tracing::Instrument as _;

use crate::background;
use crate::error::{Error, ErrorKind, Result};
use crate::git::pack::{Blocks, PackBytes};
use crate::name::{BucketName, ObjectKey};
use crate::storage::multipart::{MultipartWriter, part_bytes};
use crate::storage::{ObjectStore, ObjectStoreExt as _, Precondition, PutOptions, VersionId};

/// Maximum number of parts that are sent concurrently.
const CONCURRENT_PARTS: usize = 3;
/// Size of the ranges that are read of an object in S3, in bytes.
const BLOCK_BYTES: u64 = 1 << 20;
/// Maximum number of cached ranges.
const MAX_CACHED_BLOCKS: usize = 16;

/// The temporary object of a pack that is too large for memory.
#[derive(Clone)]
pub struct SpoolConfig {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The bucket.
    pub bucket: BucketName,
    /// The key, which no other pack may use.
    pub key: ObjectKey,
    /// Metadata, precondition and encryption.
    pub options: PutOptions,
}

/// Receives a pack. Dropping an unfinished writer removes what was sent.
pub struct SpoolWriter {
    place: Option<SpoolConfig>,
    max_memory_bytes: usize,
    buffer: BytesMut,
    upload: Option<Arc<MultipartWriter>>,
    parts: u32,
    sending: FuturesUnordered<tokio::task::JoinHandle<Result<()>>>,
    size: u64,
}

impl std::fmt::Debug for SpoolWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolWriter")
            .field("key", &self.place.as_ref().map(|place| &place.key))
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl SpoolWriter {
    /// Makes a writer that sends the pack to `place` once it exceeds `max_memory_bytes`; without
    /// a place, such a pack is refused.
    pub fn new(place: impl Into<Option<SpoolConfig>>, max_memory_bytes: usize) -> Self {
        Self {
            place: place.into(),
            max_memory_bytes,
            buffer: BytesMut::new(),
            upload: None,
            parts: 0,
            sending: FuturesUnordered::new(),
            size: 0,
        }
    }

    /// Returns what was received, if the pack is in memory until now and `more` bytes are too
    /// many for it.
    pub fn outgrown_by(&self, more: usize) -> Option<&[u8]> {
        let size = self.buffer.len() + more;
        let is_too_large = self.place.is_some() && size > self.max_bytes_in_memory();
        (self.upload.is_none() && is_too_large).then_some(&self.buffer[..])
    }

    fn max_bytes_in_memory(&self) -> usize {
        self.max_memory_bytes.max(part_bytes(1))
    }

    /// Receives the next bytes.
    ///
    /// # Errors
    /// `FileTooLarge` when the pack fits neither into memory nor elsewhere.
    pub async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(&bytes);
        if self.upload.is_none() && self.buffer.len() > self.max_bytes_in_memory() {
            let Some(place) = &self.place else {
                let limit = self.max_memory_bytes >> 20;
                let message = format!("a pack is larger than {limit} MiB");
                return Err(Error::new(ErrorKind::FileTooLarge, message));
            };
            let upload = MultipartWriter::new(
                Arc::clone(&place.store),
                place.bucket.clone(),
                place.key.clone(),
            );
            self.upload = Some(Arc::new(upload.with_options(place.options.clone())));
        }
        while self.upload.is_some() && self.buffer.len() > part_bytes(self.parts + 1) {
            self.send_part().await?;
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<()> {
        while self.sending.len() >= CONCURRENT_PARTS {
            self.part_done().await?;
        }
        let Some(upload) = &self.upload else {
            return Ok(());
        };
        self.parts += 1;
        let (upload, number) = (Arc::clone(upload), self.parts);
        let bytes = self.buffer.split_to(part_bytes(number)).freeze();
        let part = async move { upload.part(number, bytes).await };
        self.sending.push(tokio::spawn(part.in_current_span()));
        Ok(())
    }

    async fn part_done(&mut self) -> Result<()> {
        match self.sending.next().await {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(error)) => {
                let message = "sending a part of a pack failed";
                Err(Error::new(ErrorKind::Internal, message).with_source(error))
            }
        }
    }

    /// Ends the pack, which can be read from now on.
    pub async fn finish(mut self) -> Result<Spool> {
        let rest = self.buffer.split().freeze();
        let size = self.size;
        // An upload is started only with a place.
        let (Some(upload), Some(place)) = (self.upload.take(), self.place.clone()) else {
            return Ok(Spool {
                size,
                storage: Storage::Memory(rest),
            });
        };
        while !self.sending.is_empty() {
            self.part_done().await?;
        }
        let mut upload = Arc::into_inner(upload).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a part of a pack is still being sent")
        })?;
        let last = self.parts + 1;
        // A task, because an object whose completion is cancelled may be stored nevertheless.
        let stored = background::complete(async move {
            let written = upload.complete(last, rest).await?;
            upload.disarm();
            Ok(Arc::new(SpoolObject {
                place,
                version: written.version_id,
                is_removed: AtomicBool::new(false),
            }))
        });
        let stored = stored.await.unwrap_or_else(|| {
            let message = "storing a received pack panicked";
            Err(Error::new(ErrorKind::Internal, message))
        })?;
        let blocks = Blocks::new(
            S3Ranges(Arc::clone(&stored)),
            size,
            BLOCK_BYTES,
            MAX_CACHED_BLOCKS,
        );
        Ok(Spool {
            size,
            storage: Storage::Store(stored, Box::new(blocks)),
        })
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        // The tasks hold the upload, which is aborted when its last reference is dropped.
        for part in &self.sending {
            part.abort();
        }
    }
}

/// A complete pack, of which any range can be read.
pub struct Spool {
    size: u64,
    storage: Storage,
}

/// The S3 object of a spooled pack. Deleted when the last reader is dropped, also on
/// cancellation.
struct SpoolObject {
    place: SpoolConfig,
    version: Option<VersionId>,
    is_removed: AtomicBool,
}

impl Drop for SpoolObject {
    fn drop(&mut self) {
        if !self.is_removed.load(Ordering::Relaxed) {
            let (place, version) = (self.place.clone(), self.version.clone());
            background::spawn(async move { remove(&place, version.as_ref()).await });
        }
    }
}

enum Storage {
    Memory(Bytes),
    Store(Arc<SpoolObject>, Box<Blocks<S3Ranges>>),
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool")
            .field("size", &self.size)
            .field("key", &self.place().map(|place| &place.key))
            .finish_non_exhaustive()
    }
}

impl Spool {
    /// Returns the size of the pack in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Returns the whole pack when it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.storage {
            Storage::Memory(bytes) => Some(bytes),
            Storage::Store(..) => None,
        }
    }

    /// Returns the temporary object of a pack that is not in memory.
    pub fn place(&self) -> Option<&SpoolConfig> {
        match &self.storage {
            Storage::Memory(_) => None,
            Storage::Store(stored, _) => Some(&stored.place),
        }
    }

    /// Reads `range` without caching it, for content that is read once, in order.
    pub async fn read_through(&self, range: Range<u64>) -> Result<Bytes> {
        match &self.storage {
            Storage::Memory(bytes) => Ok(bytes.read_range(range).await?),
            Storage::Store(stored, _) => stored.read(range).await,
        }
    }

    /// Keeps the object, whose key was not a temporary one: it is not deleted with its last reader.
    pub fn keep(self) {
        if let Storage::Store(stored, _) = &self.storage {
            stored.is_removed.store(true, Ordering::Relaxed);
        }
    }

    /// Deletes the temporary object, if there is one, with its version in a versioned bucket. A
    /// failure is only logged.
    pub async fn remove(self) {
        if let Some(removal) = self.detached_remove() {
            removal.await;
        }
    }

    /// Like [`remove`](Self::remove), as a detached future for `Drop`; `None` without an object.
    pub(crate) fn detached_remove(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        match &self.storage {
            Storage::Memory(_) => None,
            Storage::Store(stored, _) => {
                let stored = Arc::clone(stored);
                Some(async move { stored.remove().await })
            }
        }
    }
}

impl SpoolObject {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let SpoolConfig {
            store, bucket, key, ..
        } = &self.place;
        // No version is named, because the key is unique and reading versions needs another
        // permission.
        store.get(bucket, key, None, Some(range)).await
    }

    async fn remove(&self) {
        if !self.is_removed.swap(true, Ordering::Relaxed) {
            remove(&self.place, self.version.as_ref()).await;
        }
    }
}

async fn remove(place: &SpoolConfig, version: Option<&VersionId>) {
    let SpoolConfig {
        store, bucket, key, ..
    } = place;
    let removed = match version {
        Some(version) => store.delete_version(bucket, key, version).await,
        None => store.delete(bucket, key, &Precondition::None).await,
    };
    if let Err(error) = removed {
        tracing::warn!(
            bucket.name = %bucket,
            object.key = %key,
            error = %error.report(),
            "a temporary object could not be removed"
        );
    }
}

#[async_trait]
impl PackBytes for Spool {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        match &self.storage {
            Storage::Memory(bytes) => bytes.read_range(range).await,
            Storage::Store(_, blocks) => blocks.read_range(range).await,
        }
    }
}

struct S3Ranges(Arc<SpoolObject>);

#[async_trait]
impl PackBytes for S3Ranges {
    async fn read_range(&self, range: Range<u64>) -> crate::git::Result<Bytes> {
        Ok(self.0.read(range).await?)
    }
}
