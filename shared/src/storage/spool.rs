//! A pack that is read more than once: in memory while it is small, else in S3.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tracing::Instrument as _;

use crate::error::{Error, ErrorKind, Result};
use crate::git::pack::{Blocks, PackBytes};
use crate::name::{BucketName, ObjectKey};
use crate::storage::multipart::{MultipartWriter, part_bytes};
use crate::storage::{ObjectStore, ObjectStoreExt as _, Precondition, PutOptions, VersionId};

/// Maximum number of parts that are sent concurrently.
const CONCURRENT_PARTS: usize = 3;
/// Bytes of an object in S3 that are read by one request.
const BLOCK_BYTES: u64 = 1 << 20;
/// Maximum number of blocks in the cache.
const CACHED_BLOCKS: usize = 16;

/// Object that a pack is written to when it does not fit into memory.
#[derive(Clone)]
pub struct SpoolConfig {
    /// Store that has the bucket.
    pub store: Arc<dyn ObjectStore>,
    /// Bucket of the object.
    pub bucket: BucketName,
    /// Key of the object; used for this pack only.
    pub key: ObjectKey,
    /// Metadata and encryption.
    pub options: PutOptions,
}

/// Receives a pack. Dropping the writer before [`finish`](Self::finish) removes all that
/// was written.
pub struct SpoolWriter {
    config: SpoolConfig,
    max_memory_bytes: usize,
    held: BytesMut,
    upload: Option<Arc<MultipartWriter>>,
    parts: u32,
    under_way: FuturesUnordered<tokio::task::JoinHandle<Result<()>>>,
    size: u64,
}

impl std::fmt::Debug for SpoolWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolWriter")
            .field("key", &self.config.key)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl SpoolWriter {
    /// Holds up to `max_memory_bytes` bytes in memory; a larger pack is written to `config`.
    pub fn new(config: SpoolConfig, max_memory_bytes: usize) -> Self {
        Self {
            config,
            max_memory_bytes,
            held: BytesMut::new(),
            upload: None,
            parts: 0,
            under_way: FuturesUnordered::new(),
            size: 0,
        }
    }

    /// Appends the next bytes.
    pub async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        self.held.extend_from_slice(&bytes);
        if self.upload.is_none() && self.held.len() > self.max_memory_bytes.max(part_bytes(1)) {
            let SpoolConfig {
                store,
                bucket,
                key,
                options,
            } = self.config.clone();
            let upload = MultipartWriter::new(store, bucket, key).with_options(options);
            self.upload = Some(Arc::new(upload));
        }
        while self.upload.is_some() && self.held.len() > part_bytes(self.parts + 1) {
            self.send_part().await?;
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<()> {
        while self.under_way.len() >= CONCURRENT_PARTS {
            self.part_done().await?;
        }
        let Some(upload) = &self.upload else {
            return Ok(());
        };
        self.parts += 1;
        let (upload, number) = (Arc::clone(upload), self.parts);
        let bytes = self.held.split_to(part_bytes(number)).freeze();
        let part = async move { upload.part(number, bytes).await };
        self.under_way.push(tokio::spawn(part.in_current_span()));
        Ok(())
    }

    async fn part_done(&mut self) -> Result<()> {
        match self.under_way.next().await {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(error)) => {
                let message = "sending a part of a pack failed";
                Err(Error::new(ErrorKind::Internal, message).with_source(error))
            }
        }
    }

    /// Completes the pack, which can be read from now on.
    pub async fn finish(mut self) -> Result<Spool> {
        let rest = self.held.split().freeze();
        let size = self.size;
        let Some(upload) = self.upload.take() else {
            return Ok(Spool {
                size,
                storage: Storage::Memory(rest),
            });
        };
        while !self.under_way.is_empty() {
            self.part_done().await?;
        }
        let mut upload = Arc::into_inner(upload).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a part of a pack is still under way")
        })?;
        let written = upload.complete(self.parts + 1, rest).await?;
        upload.disarm();
        let stored = Arc::new(SpoolObject {
            config: self.config.clone(),
            version: written.version_id,
            is_removed: AtomicBool::new(false),
        });
        let blocks = Blocks::new(
            S3Ranges(Arc::clone(&stored)),
            size,
            BLOCK_BYTES,
            CACHED_BLOCKS,
        );
        Ok(Spool {
            size,
            storage: Storage::Store(stored, Box::new(blocks)),
        })
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        // Otherwise the tasks would keep the upload alive until the parts are sent.
        for part in &self.under_way {
            part.abort();
        }
    }
}

/// A complete pack that is read by ranges.
pub struct Spool {
    size: u64,
    storage: Storage,
}

/// Object that holds a pack. Dropping the last reference deletes the object, so that a
/// cancelled reader leaves nothing behind.
struct SpoolObject {
    config: SpoolConfig,
    version: Option<VersionId>,
    is_removed: AtomicBool,
}

impl Drop for SpoolObject {
    fn drop(&mut self) {
        if !self.is_removed.load(Ordering::Relaxed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (config, version) = (self.config.clone(), self.version.clone());
            let removal = async move { remove(&config, version.as_deref()).await };
            runtime.spawn(removal.in_current_span());
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
    /// Returns the size of the pack.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Returns the whole pack if it is held in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.storage {
            Storage::Memory(bytes) => Some(bytes),
            Storage::Store(..) => None,
        }
    }

    /// Returns the object that holds the pack, if it is not in memory.
    pub fn place(&self) -> Option<&SpoolConfig> {
        match &self.storage {
            Storage::Memory(_) => None,
            Storage::Store(stored, _) => Some(&stored.config),
        }
    }

    /// Reads a range without using the block cache, for data that is read once and in order.
    pub async fn read_through(&self, range: Range<u64>) -> Result<Bytes> {
        match &self.storage {
            Storage::Memory(bytes) => bytes.read_range(range).await,
            Storage::Store(stored, _) => stored.read(range).await,
        }
    }

    /// Deletes the object that holds the pack, with its version where the bucket keeps
    /// versions. Failures are only logged.
    pub async fn remove(self) {
        if let Some(removal) = self.detached_remove() {
            removal.await;
        }
    }

    /// Like [`remove`](Self::remove), as a future that does not borrow the spool; `None` for
    /// a pack in memory.
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
        } = &self.config;
        // Without the version, because reading versions needs another permission, and the
        // key is used for this pack only.
        store.get(bucket, key, None, Some(range)).await
    }

    async fn remove(&self) {
        if !self.is_removed.swap(true, Ordering::Relaxed) {
            remove(&self.config, self.version.as_deref()).await;
        }
    }
}

async fn remove(config: &SpoolConfig, version: Option<&str>) {
    let SpoolConfig {
        store, bucket, key, ..
    } = config;
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
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        match &self.storage {
            Storage::Memory(bytes) => bytes.read_range(range).await,
            Storage::Store(_, blocks) => blocks.read_range(range).await,
        }
    }
}

struct S3Ranges(Arc<SpoolObject>);

#[async_trait]
impl PackBytes for S3Ranges {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        self.0.read(range).await
    }
}
