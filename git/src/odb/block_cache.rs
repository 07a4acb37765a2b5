//! Blocks of packs that were read lately, for all packs of a database together.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::corrupt;
use crate::error::Result;
use crate::pack::PackBytes;

/// How many blocks are remembered at most, whatever their size.
const MAX_BLOCKS: usize = 256;
/// The smallest block.
const MIN_BLOCK: u64 = 16 * 1024;

/// What is remembered.
pub(super) struct BlockCache {
    block: u64,
    capacity: usize,
    held: Mutex<Vec<Block>>,
}

/// A block of a pack: the pack's number, the block's, and its bytes.
struct Block {
    pack: u32,
    number: u64,
    bytes: Bytes,
}

impl BlockCache {
    pub(super) fn new(capacity: usize, block: u64) -> Self {
        Self {
            // Commits, trees, blobs and bases lie in different places.
            block: block.min(capacity as u64 / 8).max(MIN_BLOCK),
            capacity,
            held: Mutex::new(Vec::new()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Block>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, pack: u32, number: u64) -> Option<Bytes> {
        let mut held = self.lock();
        let at = held
            .iter()
            .rposition(|block| block.pack == pack && block.number == number)?;
        let found = held.remove(at);
        let bytes = found.bytes.clone();
        held.push(found);
        Some(bytes)
    }

    fn remember(&self, block: Block) {
        let mut held = self.lock();
        held.push(block);
        let mut sum: usize = held.iter().map(|block| block.bytes.len()).sum();
        let mut gone = 0;
        while gone + 1 < held.len() && (sum > self.capacity || held.len() - gone > MAX_BLOCKS) {
            sum -= held[gone].bytes.len();
            gone += 1;
        }
        held.drain(..gone);
    }
}

/// A pack that is read in blocks.
pub(super) struct CachedBlocks {
    pool: Arc<BlockCache>,
    pack: u32,
    size: u64,
    inner: Arc<dyn PackBytes>,
}

impl CachedBlocks {
    pub(super) fn new(
        pool: Arc<BlockCache>,
        pack: u32,
        size: u64,
        inner: Arc<dyn PackBytes>,
    ) -> Self {
        Self {
            pool,
            pack,
            size,
            inner,
        }
    }

    async fn block(&self, number: u64) -> Result<Bytes> {
        if let Some(bytes) = self.pool.remembered(self.pack, number) {
            return Ok(bytes);
        }
        let start = number * self.pool.block;
        let end = self.size.min(start.saturating_add(self.pool.block));
        let bytes = self.inner.read_range(start..end).await?;
        if bytes.len() as u64 != end - start {
            return Err(corrupt("a range of a pack was read short"));
        }
        self.pool.remember(Block {
            pack: self.pack,
            number,
            bytes: bytes.clone(),
        });
        Ok(bytes)
    }
}

#[async_trait]
impl PackBytes for CachedBlocks {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        if range.end > self.size || range.start > range.end {
            return Err(corrupt(format!("a pack has no range {range:?}")));
        }
        let mut out = BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / self.pool.block;
            let start = number * self.pool.block;
            let block = self.block(number).await?;
            let until = range.end.min(start + block.len() as u64);
            let within = |position: u64| {
                usize::try_from(position - start).expect("because it lies in a block held")
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
