//! A pack that must be read again: held in memory while it is small, else lying in S3.

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
use crate::storage::{ObjectStore, Precondition, PutOptions, VersionId};

/// How many parts are on their way at once.
const PARTS_AT_ONCE: usize = 3;
/// How much of an object in S3 is read at once.
const BLOCK: u64 = 1 << 20;
/// How many blocks are remembered.
const BLOCKS: usize = 16;

/// Where a pack goes that is too large for memory.
#[derive(Clone)]
pub struct SpoolConfig {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The bucket.
    pub bucket: BucketName,
    /// The key: it is this pack's alone.
    pub key: ObjectKey,
    /// How it is written.
    pub options: PutOptions,
}

/// A pack under way. When it is dropped before its end, nothing is left.
pub struct SpoolWriter {
    place: SpoolConfig,
    memory: usize,
    held: BytesMut,
    upload: Option<Arc<MultipartWriter>>,
    parts: u32,
    under_way: FuturesUnordered<tokio::task::JoinHandle<Result<()>>>,
    size: u64,
}

impl std::fmt::Debug for SpoolWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpoolWriter")
            .field("key", &self.place.key)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl SpoolWriter {
    /// Holds up to `memory` bytes, and sends what is more to `place`.
    pub fn new(place: SpoolConfig, memory: usize) -> Self {
        Self {
            place,
            memory,
            held: BytesMut::new(),
            upload: None,
            parts: 0,
            under_way: FuturesUnordered::new(),
            size: 0,
        }
    }

    /// Takes the next bytes.
    pub async fn push(&mut self, bytes: Bytes) -> Result<()> {
        self.size += bytes.len() as u64;
        self.held.extend_from_slice(&bytes);
        if self.upload.is_none() && self.held.len() > self.memory.max(part_bytes(1)) {
            let place = &self.place;
            let upload = MultipartWriter::new(
                Arc::clone(&place.store),
                place.bucket.clone(),
                place.key.clone(),
            );
            self.upload = Some(Arc::new(upload.with_options(place.options.clone())));
        }
        while self.upload.is_some() && self.held.len() > part_bytes(self.parts + 1) {
            self.send_part().await?;
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<()> {
        while self.under_way.len() >= PARTS_AT_ONCE {
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

    /// Ends it: from now on it can be read.
    pub async fn finish(mut self) -> Result<Spool> {
        let rest = self.held.split().freeze();
        let size = self.size;
        let Some(upload) = self.upload.take() else {
            return Ok(Spool {
                size,
                lies: Storage::Memory(rest),
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
            place: self.place.clone(),
            version: written.version_id,
            is_removed: AtomicBool::new(false),
        });
        let blocks = Blocks::new(S3Ranges(Arc::clone(&stored)), size, BLOCK, BLOCKS);
        Ok(Spool {
            size,
            lies: Storage::Store(stored, Box::new(blocks)),
        })
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        // Else their tasks would keep the upload alive until they end by themselves.
        for part in &self.under_way {
            part.abort();
        }
    }
}

/// A pack that can be read again, by any range.
pub struct Spool {
    size: u64,
    lies: Storage,
}

/// An object that holds a pack. It goes with the last one who reads it, also where that
/// one is stopped.
struct SpoolObject {
    place: SpoolConfig,
    version: VersionId,
    is_removed: AtomicBool,
}

impl Drop for SpoolObject {
    fn drop(&mut self) {
        if !self.is_removed.load(Ordering::Relaxed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (place, version) = (self.place.clone(), self.version.clone());
            let removal = async move { remove(&place, &version).await };
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
    /// Its length.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// All of it, when it is held in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.lies {
            Storage::Memory(bytes) => Some(bytes),
            Storage::Store(..) => None,
        }
    }

    /// The object that holds it, when it is not in memory.
    pub fn place(&self) -> Option<&SpoolConfig> {
        match &self.lies {
            Storage::Memory(_) => None,
            Storage::Store(stored, _) => Some(&stored.place),
        }
    }

    /// Reads a range past the blocks that are remembered: for what is read in order, once.
    pub async fn read_through(&self, range: Range<u64>) -> Result<Bytes> {
        match &self.lies {
            Storage::Memory(bytes) => Ok(bytes.read_range(range).await?),
            Storage::Store(stored, _) => stored.read(range).await,
        }
    }

    /// Removes the object, if there is one, without a trace where the bucket keeps
    /// versions. What fails is only logged.
    pub async fn remove(self) {
        if let Some(removal) = self.detached_remove() {
            removal.await;
        }
    }

    /// [`remove`](Self::remove), for who cannot wait; `None` when there is no object.
    pub(crate) fn detached_remove(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        match &self.lies {
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
        // The key is this pack's alone, and reading versions needs a permission of its own.
        store.get(bucket, key, None, Some(range)).await
    }

    async fn remove(&self) {
        if !self.is_removed.swap(true, Ordering::Relaxed) {
            remove(&self.place, &self.version).await;
        }
    }
}

async fn remove(place: &SpoolConfig, version: &VersionId) {
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
        match &self.lies {
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
