//! Objects read from a pack that lies somewhere, by its index.

use std::ops::Range;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress};

use super::cache::{Cache, EXTERNAL, Key};
use super::content::{EntryLookup, EntryReader};
use super::inflate::Inflater;
use super::{EntryHeader, EntryKind, HEADER, Index, NoBases, PackBytes, PackLimits, delta};
use crate::error::Result;
use crate::object::{ObjectKind, id_of};
use crate::{ObjectId, corrupt};

/// Where the entries of a pack lie, by its index.
///
/// Memory: the index, and four bytes for each object.
pub struct PackLayout {
    index: Index,
    size: u64,
    // Positions in the index, in the order of the pack.
    order: Vec<u32>,
}

impl std::fmt::Debug for PackLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layout")
            .field("index", &self.index)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl EntryLookup for PackLayout {
    fn range(&self, entry: u32) -> Result<Range<u64>> {
        let at = entry as usize;
        let start = self.index.offset(self.order[at] as usize);
        let end = match self.order.get(at + 1) {
            Some(next) => self.index.offset(*next as usize),
            None => self
                .size
                .saturating_sub(self.index.hash().len_in_bytes() as u64),
        };
        if start < end && start >= HEADER && end <= self.size {
            Ok(start..end)
        } else {
            Err(corrupt("the index of a pack does not fit the pack"))
        }
    }

    fn at_offset(&self, offset: u64) -> Option<u32> {
        let at = self
            .order
            .binary_search_by_key(&offset, |position| self.index.offset(*position as usize))
            .ok()?;
        u32::try_from(at).ok()
    }

    fn by_id(&self, id: ObjectId) -> Option<Key> {
        self.find(id).map(Key::from)
    }

    fn external(&self, _key: Key) -> Option<ObjectId> {
        None
    }
}

/// How the object of an entry is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryEncoding {
    /// Whole.
    Whole {
        /// What it is.
        kind: ObjectKind,
        /// Its size.
        size: u64,
        /// Where its zlib stream lies.
        zlib: Range<u64>,
    },
    /// As its difference to another one.
    Delta {
        /// Its size.
        size: u64,
    },
}

impl EntryEncoding {
    /// The size of the object.
    pub fn size(&self) -> u64 {
        match self {
            Self::Whole { size, .. } | Self::Delta { size } => *size,
        }
    }
}

/// How much of an entry tells how it is stored: its header, and the two sizes of a delta.
const STORED: u64 = EntryHeader::MAX as u64 + 256;

/// Content of objects that may be wanted again as bases, of one pack or of several.
#[derive(Debug)]
pub struct ContentCache(Cache);

impl ContentCache {
    /// Remembers up to that many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Cache::new(bytes))
    }
}

impl PackLayout {
    /// A pack of `size` bytes.
    ///
    /// # Errors
    /// `Corrupt` when the index has more objects than a pack can have.
    pub fn new(index: Index, size: u64) -> Result<Self> {
        let count = u32::try_from(index.len())
            .map_err(|_| corrupt("an index has more objects than a pack can have"))?;
        let mut order: Vec<u32> = (0..count).collect();
        order.sort_unstable_by_key(|position| index.offset(*position as usize));
        Ok(Self { index, size, order })
    }

    /// The pack's index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The pack's length in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// How many entries the pack has. They are numbered in the order in which they lie.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether the pack has no entries.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The entry of an object.
    pub fn find(&self, id: ObjectId) -> Option<u32> {
        let offset = self.index.offset(self.index.find(id)?);
        self.at_offset(offset)
    }

    /// The entry that starts there.
    pub fn entry_at(&self, offset: u64) -> Option<u32> {
        self.at_offset(offset)
    }

    /// The id of an entry's object; the entry is below [`len`](Self::len).
    pub fn id(&self, entry: u32) -> ObjectId {
        self.index.id(self.order[entry as usize] as usize)
    }

    /// The CRC-32 of an entry, header included; the entry is below [`len`](Self::len).
    pub fn crc(&self, entry: u32) -> u32 {
        self.index.crc(self.order[entry as usize] as usize)
    }

    /// Where the bytes of an entry lie, header included; the entry is below
    /// [`len`](Self::len).
    ///
    /// # Errors
    /// `Corrupt` when the index does not fit the pack.
    pub fn range(&self, entry: u32) -> Result<Range<u64>> {
        EntryLookup::range(self, entry)
    }

    /// How an entry's object is stored, read off its start.
    ///
    /// # Errors
    /// `Corrupt` when the entry is broken there.
    pub async fn stored(&self, bytes: &dyn PackBytes, entry: u32) -> Result<EntryEncoding> {
        let range = self.range(entry)?;
        let end = range.end.min(range.start.saturating_add(STORED));
        let start = bytes.read_range(range.start..end).await?;
        let (header, length) = EntryHeader::parse(self.index.hash(), &start)?
            .ok_or_else(|| corrupt("an entry of a pack is cut off"))?;
        if let EntryKind::Whole(kind) = header.kind {
            return Ok(EntryEncoding::Whole {
                kind,
                size: header.size,
                zlib: range.start + length as u64..range.end,
            });
        }
        let mut sizes = Vec::with_capacity(delta::MAX_SIZES);
        Decompress::new(true)
            .decompress_vec(&start[length..], &mut sizes, FlushDecompress::None)
            .map_err(|error| corrupt("a zlib stream is broken").with_source(error))?;
        let (_, size, _) = delta::sizes(&sizes)?;
        Ok(EntryEncoding::Delta { size })
    }

    /// Reads the object of an entry whole and verifies it. `number` tells this pack from
    /// the others that share `cache`.
    pub async fn read(
        &self,
        bytes: &dyn PackBytes,
        entry: u32,
        limits: PackLimits,
        cache: &mut ContentCache,
        number: u32,
    ) -> Result<(ObjectKind, Bytes)> {
        let mut contents = EntryReader {
            hash: self.index.hash(),
            limits,
            bytes,
            bases: &NoBases,
            cache: &mut cache.0,
            prefix: Key::from(number) * 2 * EXTERNAL,
            inflater: Inflater::new(),
        };
        let (kind, content) = contents.content(self, Key::from(entry)).await?;
        let id = self.id(entry);
        if id_of(self.index.hash(), kind, &content)? != id {
            return Err(corrupt(format!("the content of {id} is another")));
        }
        Ok((kind, content))
    }
}

/// A pack that lies somewhere, with its index.
#[derive(Debug)]
pub struct Pack {
    layout: PackLayout,
    limits: PackLimits,
    cache: ContentCache,
}

impl Pack {
    /// A pack of `size` bytes.
    ///
    /// # Errors
    /// `Corrupt` when the index has more objects than a pack can have.
    pub fn new(index: Index, size: u64, limits: PackLimits) -> Result<Self> {
        Ok(Self {
            layout: PackLayout::new(index, size)?,
            limits,
            cache: ContentCache::new(limits.memory / 2),
        })
    }

    /// The pack's index.
    pub fn index(&self) -> &Index {
        self.layout.index()
    }

    /// Reads an object whole and verifies it; `None` when it is not in this pack.
    pub async fn read(
        &mut self,
        bytes: &dyn PackBytes,
        id: ObjectId,
    ) -> Result<Option<(ObjectKind, Bytes)>> {
        let Some(entry) = self.layout.find(id) else {
            return Ok(None);
        };
        let (layout, cache) = (&self.layout, &mut self.cache);
        let found = layout.read(bytes, entry, self.limits, cache, 0).await?;
        Ok(Some(found))
    }

    /// Where the entry of an object lies, for ranges that are copied as they are.
    pub fn entry_range(&self, id: ObjectId) -> Result<Option<Range<u64>>> {
        let entry = self.layout.find(id);
        entry.map(|entry| self.layout.range(entry)).transpose()
    }
}

/// Remembers the last blocks that were read, so that a distant pack is read in few
/// large ranges.
pub struct Blocks<P> {
    inner: P,
    size: u64,
    block: u64,
    count: usize,
    // The latest one last.
    held: Mutex<Vec<(u64, Bytes)>>,
}

impl<P> Blocks<P> {
    /// Reads `inner`, `size` bytes long, in blocks of `block` bytes, holding `count`.
    pub fn new(inner: P, size: u64, block: u64, count: usize) -> Self {
        Self {
            inner,
            size,
            block: block.max(1),
            count: count.max(1),
            held: Mutex::new(Vec::new()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Bytes)>> {
        self.held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn remembered(&self, number: u64) -> Option<Bytes> {
        let mut held = self.lock();
        let at = held.iter().position(|(other, _)| *other == number)?;
        let found = held.remove(at);
        let bytes = found.1.clone();
        held.push(found);
        Some(bytes)
    }
}

#[async_trait]
impl<P: PackBytes> PackBytes for Blocks<P> {
    async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        if range.end > self.size || range.start > range.end {
            return Err(corrupt(format!("a pack has no range {range:?}")));
        }
        let mut out = BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / self.block;
            let start = number * self.block;
            let end = self.size.min(start.saturating_add(self.block));
            let block = if let Some(block) = self.remembered(number) {
                block
            } else {
                let block = self.inner.read_range(start..end).await?;
                if block.len() as u64 != end - start {
                    return Err(corrupt("a range of a pack was read short"));
                }
                let mut held = self.lock();
                if held.len() >= self.count {
                    held.remove(0);
                }
                held.push((number, block.clone()));
                block
            };
            let within = |position: u64| {
                usize::try_from(position - start).expect("because it lies in a block held")
            };
            let until = range.end.min(end);
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
