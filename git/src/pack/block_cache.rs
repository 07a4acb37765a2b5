//! Blocks of packs that were read recently, so that a remote pack is read in few large
//! ranges.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lru::LruCache;

use super::PackBytes;
use crate::corrupt;
use crate::error::Result;

/// The most blocks that [`BlockCache::shared`] holds, whatever their size.
const MAX_SHARED_BLOCKS: usize = 256;
/// The smallest block of [`BlockCache::shared`].
const MIN_SHARED_BLOCK_BYTES: u64 = 16 * 1024;

/// Blocks of one or several packs; the least recently used are evicted first.
pub(crate) struct BlockCache {
    block_bytes: u64,
    max_bytes: usize,
    held: Mutex<HeldBlocks>,
}

struct HeldBlocks {
    bytes: usize,
    // By the number of the pack, and the number of the block in the pack.
    blocks: LruCache<(u32, u64), Bytes>,
}

impl BlockCache {
    /// Creates a cache for several packs of at most `max_bytes` bytes, or one block, in
    /// blocks of at most `block_bytes` bytes.
    pub(crate) fn shared(max_bytes: usize, block_bytes: u64) -> Self {
        // Commits, trees, blobs and bases are in different places, and each needs a block.
        let block_bytes = block_bytes.min(max_bytes as u64 / 8);
        let block_bytes = block_bytes.max(MIN_SHARED_BLOCK_BYTES);
        Self::new(block_bytes, MAX_SHARED_BLOCKS, max_bytes)
    }

    fn new(block_bytes: u64, max_blocks: usize, max_bytes: usize) -> Self {
        let max_blocks = NonZeroUsize::new(max_blocks).unwrap_or(NonZeroUsize::MIN);
        Self {
            block_bytes,
            max_bytes,
            held: Mutex::new(HeldBlocks {
                bytes: 0,
                blocks: LruCache::new(max_blocks),
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HeldBlocks> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: (u32, u64)) -> Option<Bytes> {
        self.lock().blocks.get(&key).cloned()
    }

    fn insert(&self, key: (u32, u64), block: Bytes) {
        let mut held = self.lock();
        held.bytes += block.len();
        if let Some((_, evicted)) = held.blocks.push(key, block) {
            held.bytes -= evicted.len();
        }
        while held.bytes > self.max_bytes && held.blocks.len() > 1 {
            let Some((_, evicted)) = held.blocks.pop_lru() else {
                return;
            };
            held.bytes -= evicted.len();
        }
    }
}

/// A pack that is read in blocks.
pub struct Blocks<P> {
    inner: P,
    size_bytes: u64,
    // The number of the pack in the cache.
    pack: u32,
    cache: Arc<BlockCache>,
}

impl<P> Blocks<P> {
    /// Reads `inner`, which has `size_bytes` bytes, in blocks of `block_bytes` bytes, of
    /// which the last `max_blocks` used ones are held.
    pub fn new(inner: P, size_bytes: u64, block_bytes: u64, max_blocks: usize) -> Self {
        let cache = BlockCache::new(block_bytes.max(1), max_blocks, usize::MAX);
        Self::cached_in(Arc::new(cache), 0, inner, size_bytes)
    }

    /// Reads `inner` through `cache`, in which the pack has the number `pack`.
    pub(crate) fn cached_in(cache: Arc<BlockCache>, pack: u32, inner: P, size_bytes: u64) -> Self {
        Self {
            inner,
            size_bytes,
            pack,
            cache,
        }
    }
}

impl<P: PackBytes> Blocks<P> {
    async fn block(&self, number: u64) -> Result<Bytes> {
        let key = (self.pack, number);
        if let Some(bytes) = self.cache.get(key) {
            return Ok(bytes);
        }
        let start = number * self.cache.block_bytes;
        let end = self
            .size_bytes
            .min(start.saturating_add(self.cache.block_bytes));
        let bytes = self.inner.read_range(start..end).await?;
        if bytes.len() as u64 != end - start {
            return Err(corrupt("a range of a pack was read short"));
        }
        self.cache.insert(key, bytes.clone());
        Ok(bytes)
    }
}

#[async_trait]
impl<P: PackBytes> PackBytes for Blocks<P> {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        if range.end > self.size_bytes || range.start > range.end {
            return Err(corrupt(format!("a pack has no range {range:?}")));
        }
        let mut out = BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / self.cache.block_bytes;
            let start = number * self.cache.block_bytes;
            let block = self.block(number).await?;
            let until = range.end.min(start + block.len() as u64);
            let within = |position: u64| {
                usize::try_from(position - start).expect("because it is within a block in memory")
            };
            let piece = block.slice(within(at)..within(until));
            if until == range.end && out.is_empty() {
                return Ok(piece);
            }
            out.extend_from_slice(&piece);
            at = until;
        }
        Ok(out.freeze())
    }
}

#[async_trait]
impl PackBytes for Arc<dyn PackBytes> {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        (**self).read_range(range).await
    }
}
