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
const MAX_SHARED_BLOCKS: usize = 16 * 1024;
/// The smallest read of [`BlockCache::shared`].
const MIN_SHARED_READ_BYTES: u64 = 16 * 1024;
/// The first reads of a pack, and the blocks that are held.
const SHARED_BLOCK_BYTES: u64 = 64 * 1024;
/// Reads of a pack after which the next ones have twice the size: few objects cost few bytes, and
/// many objects few reads.
const READS_OF_A_SIZE: u64 = 4;

/// Blocks of one or several packs; the least recently used are evicted first.
pub(crate) struct BlockCache {
    block_bytes: u64,
    // The most blocks of one read, a power of two.
    max_read_blocks: u64,
    max_bytes: usize,
    held: Mutex<HeldBlocks>,
}

struct HeldBlocks {
    bytes: usize,
    // By the number of the pack, and the number of the block in the pack.
    blocks: LruCache<(u32, u64), Bytes>,
}

impl BlockCache {
    /// Creates a cache for several packs of at most `max_bytes` bytes, or one read, in
    /// reads of at most `max_read_bytes` bytes.
    pub(crate) fn shared(max_bytes: usize, max_read_bytes: u64) -> Self {
        // Commits, trees, blobs and bases are in different places, and each needs a read.
        let max_read_bytes = max_read_bytes.min(max_bytes as u64 / 8);
        let max_read_bytes = max_read_bytes.max(MIN_SHARED_READ_BYTES);
        let block_bytes = max_read_bytes.min(SHARED_BLOCK_BYTES);
        let blocks = max_read_bytes / block_bytes;
        let max_blocks = max_bytes / usize::try_from(block_bytes).unwrap_or(usize::MAX);
        let max_blocks = max_blocks.clamp(1, MAX_SHARED_BLOCKS);
        Self::new(block_bytes, 1 << blocks.ilog2(), max_blocks, max_bytes)
    }

    fn new(block_bytes: u64, max_read_blocks: u64, max_blocks: usize, max_bytes: usize) -> Self {
        let max_blocks = NonZeroUsize::new(max_blocks).unwrap_or(NonZeroUsize::MIN);
        Self {
            block_bytes,
            max_read_blocks,
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

    /// Returns the blocks to read with the block `number`: those of `range` next to it that are
    /// not held.
    fn missing_around(&self, pack: u32, number: u64, range: Range<u64>) -> Range<u64> {
        let held = self.lock();
        let is_missing = |at: &u64| !held.blocks.contains(&(pack, *at));
        let before = (range.start..number).rev().take_while(is_missing);
        let after = (number + 1..range.end).take_while(is_missing);
        number - before.count() as u64..number + 1 + after.count() as u64
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
    progress: Mutex<ReadProgress>,
}

/// Reads of a pack until now.
#[derive(Debug, Clone, Copy, Default)]
struct ReadProgress {
    reads: u64,
    // The number of blocks of the last read, and the block after it.
    blocks: u64,
    next: u64,
}

impl<P> Blocks<P> {
    /// Reads `inner`, which has `size_bytes` bytes, in blocks of `block_bytes` bytes, of
    /// which the last `max_blocks` used ones are held.
    pub fn new(inner: P, size_bytes: u64, block_bytes: u64, max_blocks: usize) -> Self {
        let cache = BlockCache::new(block_bytes.max(1), 1, max_blocks, usize::MAX);
        Self::cached_in(Arc::new(cache), 0, inner, size_bytes)
    }

    /// Reads `inner` through `cache`, in which the pack has the number `pack`.
    pub(crate) fn cached_in(cache: Arc<BlockCache>, pack: u32, inner: P, size_bytes: u64) -> Self {
        Self {
            inner,
            size_bytes,
            pack,
            cache,
            progress: Mutex::default(),
        }
    }

    /// Returns the blocks to read for the block `number`, and counts the read. Reads grow with
    /// their number, and where one follows another.
    fn blocks_to_read(&self, number: u64) -> Range<u64> {
        let max = self.cache.max_read_blocks;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let doublings = (progress.reads / READS_OF_A_SIZE).min(u64::from(max.ilog2()));
        let mut count = 1 << doublings;
        if progress.reads > 0 && progress.next == number {
            count = count.max(2 * progress.blocks).min(max);
        }
        let start = number - number % count;
        let end = (start + count).min(self.size_bytes.div_ceil(self.cache.block_bytes));
        let blocks = self.cache.missing_around(self.pack, number, start..end);
        *progress = ReadProgress {
            reads: progress.reads + 1,
            blocks: count,
            next: blocks.end,
        };
        blocks
    }
}

impl<P: PackBytes> Blocks<P> {
    async fn block(&self, number: u64) -> Result<Bytes> {
        if let Some(bytes) = self.cache.get((self.pack, number)) {
            return Ok(bytes);
        }
        let block_bytes = self.cache.block_bytes;
        let blocks = self.blocks_to_read(number);
        let start = blocks.start * block_bytes;
        let end = self.size_bytes.min(blocks.end.saturating_mul(block_bytes));
        let bytes = self.inner.read_range(start..end).await?;
        if bytes.len() as u64 != end - start {
            return Err(corrupt("a range of a pack was read short"));
        }
        if blocks.end - blocks.start == 1 {
            self.cache.insert((self.pack, number), bytes.clone());
            return Ok(bytes);
        }
        let mut found = Bytes::new();
        let length = usize::try_from(block_bytes).unwrap_or(usize::MAX);
        for (at, block) in blocks.zip(bytes.chunks(length)) {
            // Copied, because a block that is evicted is to free its memory.
            let block = Bytes::copy_from_slice(block);
            if at == number {
                found = block.clone();
            }
            self.cache.insert((self.pack, at), block);
        }
        Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of which each is its position, and the ranges that were read.
    struct Recorded {
        size: u64,
        reads: Mutex<Vec<Range<u64>>>,
    }

    #[async_trait]
    impl PackBytes for &Recorded {
        async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
            assert!(
                range.start < range.end && range.end <= self.size,
                "{range:?}"
            );
            self.reads.lock().unwrap().push(range.clone());
            Ok(range.map(|at| at.to_le_bytes()[0]).collect())
        }
    }

    impl Recorded {
        fn new(size: u64) -> Self {
            Self {
                size,
                reads: Mutex::default(),
            }
        }

        fn bytes(&self) -> u64 {
            let reads = self.reads.lock().unwrap();
            reads.iter().map(|read| read.end - read.start).sum()
        }

        fn count(&self) -> usize {
            self.reads.lock().unwrap().len()
        }
    }

    async fn check(blocks: &Blocks<&Recorded>, range: Range<u64>) {
        let read = blocks.read_range(range.clone()).await.unwrap();
        let expected: Vec<u8> = range.map(|at| at.to_le_bytes()[0]).collect();
        assert_eq!(read, expected);
    }

    fn shared(inner: &Recorded) -> Blocks<&Recorded> {
        let cache = Arc::new(BlockCache::shared(32 << 20, 2 << 20));
        Blocks::cached_in(cache, 3, inner, inner.size)
    }

    #[tokio::test]
    async fn few_objects_cost_few_bytes() {
        let inner = Recorded::new(60_000_123);
        let blocks = shared(&inner);
        for at in [59_999_000, 5, 30_000_000, 7] {
            check(&blocks, at..at + 100).await;
        }
        assert_eq!(inner.count(), 3, "a block is read once");
        assert!(inner.bytes() <= 3 * SHARED_BLOCK_BYTES);
    }

    #[tokio::test]
    async fn a_pack_that_is_read_in_order_costs_few_reads_and_no_byte_twice() {
        let inner = Recorded::new(16_000_123);
        let blocks = shared(&inner);
        let mut at = 0;
        while at < inner.size {
            let end = inner.size.min(at + 30_000);
            check(&blocks, at..end).await;
            at = end;
        }
        assert_eq!(inner.bytes(), inner.size);
        assert!(inner.count() < 20, "{} reads", inner.count());
    }

    #[tokio::test]
    async fn many_objects_cost_few_reads_and_no_byte_twice() {
        let inner = Recorded::new(16_000_123);
        let blocks = shared(&inner);
        for step in 0..2_000_u64 {
            let at = step * 7_919_777 % (inner.size - 200);
            check(&blocks, at..at + 200).await;
        }
        assert!(inner.bytes() <= inner.size, "what is held is not read");
        assert!(inner.count() < 60, "{} reads", inner.count());
    }

    #[tokio::test]
    async fn a_cache_of_any_size_returns_what_is_stored() {
        for (max_bytes, max_read) in [(1, 1), (100_000, 1 << 20), (1 << 20, 100_000)] {
            let inner = Recorded::new(300_001);
            let cache = Arc::new(BlockCache::shared(max_bytes, max_read));
            let blocks = Blocks::cached_in(cache, 0, &inner, inner.size);
            for step in 0..200_u64 {
                let at = step * 79_199 % (inner.size - 2_000);
                check(&blocks, at..at + 2_000).await;
            }
            check(&blocks, 0..inner.size).await;
            assert!(blocks.read_range(0..inner.size + 1).await.is_err());
        }
    }
}
