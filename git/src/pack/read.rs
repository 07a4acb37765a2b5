//! Objects of a stored pack, read through its index.

use std::ops::Range;

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress};

use super::cache::{Cache, EXTERNAL, Key};
use super::content::{EntryLookup, EntryReader};
use super::inflate::Inflater;
use super::{
    EntryHeader, EntryKind, Index, NoBases, PACK_HEADER_BYTES, PackBytes, PackLimits, delta,
};
use crate::error::Result;
use crate::object::{ObjectKind, id_of};
use crate::{ObjectId, corrupt};

/// Positions of the entries of a pack, from its index.
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
        f.debug_struct("PackLayout")
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
        if start < end && start >= PACK_HEADER_BYTES && end <= self.size {
            Ok(start..end)
        } else {
            Err(corrupt("the index of a pack does not match the pack"))
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

/// The form in which the object of an entry is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryEncoding {
    /// The object itself.
    Whole {
        /// The type of the object.
        kind: ObjectKind,
        /// The size of the object in bytes.
        size: u64,
        /// The range of its zlib stream in the pack.
        zlib: Range<u64>,
    },
    /// A delta.
    Delta {
        /// The size of the object in bytes.
        size: u64,
    },
}

impl EntryEncoding {
    /// Returns the size of the object in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Whole { size, .. } | Self::Delta { size } => *size,
        }
    }
}

/// The bytes of an entry that are read for its encoding: the header, and the deflated sizes at
/// the start of a delta.
const ENCODING_BYTES: u64 = EntryHeader::MAX_BYTES as u64 + 256;

/// Contents of objects of one or several packs that deltas may need as bases.
#[derive(Debug)]
pub struct ContentCache(Cache);

impl ContentCache {
    /// Creates a cache of at most `max_bytes` bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self(Cache::new(max_bytes))
    }
}

impl PackLayout {
    /// Creates the layout of a pack of `size` bytes.
    ///
    /// # Errors
    /// `Corrupt` when the index has more objects than a pack can have, or two at one offset.
    pub fn new(index: Index, size: u64) -> Result<Self> {
        let count = u32::try_from(index.len())
            .map_err(|_| corrupt("an index has more objects than a pack can have"))?;
        let mut order: Vec<u32> = (0..count).collect();
        order.sort_unstable_by_key(|position| index.offset(*position as usize));
        let offset = |position: u32| index.offset(position as usize);
        if let Some(pair) = order
            .windows(2)
            .find(|pair| offset(pair[0]) == offset(pair[1]))
        {
            let [first, second] = [pair[0], pair[1]].map(|position| index.id(position as usize));
            return Err(corrupt(format!(
                "the index has objects {first} and {second} at one offset"
            )));
        }
        Ok(Self { index, size, order })
    }

    /// Returns the index of the pack.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the length of the pack in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Returns the number of entries. Entries are numbered in the order of the pack.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Returns whether the pack has no entries.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns the entry of an object.
    pub fn find(&self, id: ObjectId) -> Option<u32> {
        let offset = self.index.offset(self.index.find(id)?);
        self.at_offset(offset)
    }

    /// Returns the entry that starts at `offset`.
    pub fn entry_at(&self, offset: u64) -> Option<u32> {
        self.at_offset(offset)
    }

    /// Returns the id of the object of `entry`, which is below [`len`](Self::len).
    pub fn id(&self, entry: u32) -> ObjectId {
        self.index.id(self.order[entry as usize] as usize)
    }

    /// Returns the CRC-32 of `entry`, header included; `entry` is below [`len`](Self::len).
    pub fn crc(&self, entry: u32) -> u32 {
        self.index.crc(self.order[entry as usize] as usize)
    }

    /// Returns the range of `entry` in the pack, header included; `entry` is below
    /// [`len`](Self::len).
    ///
    /// # Errors
    /// `Corrupt` when the index does not match the pack.
    pub fn range(&self, entry: u32) -> Result<Range<u64>> {
        EntryLookup::range(self, entry)
    }

    /// Reads the start of `entry` for the form in which its object is stored.
    ///
    /// # Errors
    /// `Corrupt` when the start of the entry is broken.
    pub async fn stored(&self, bytes: &dyn PackBytes, entry: u32) -> Result<EntryEncoding> {
        let range = self.range(entry)?;
        let end = range.end.min(range.start.saturating_add(ENCODING_BYTES));
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

    /// Reads the object of `entry` into memory and verifies its id. `number` identifies this
    /// pack among those that share `cache`.
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
            reserved: 0,
            inflater: Inflater::new(),
        };
        let (kind, content) = contents.content(self, Key::from(entry)).await?;
        let id = self.id(entry);
        if id_of(self.index.hash(), kind, &content)? != id {
            return Err(corrupt(format!(
                "the content of object {id} does not match its id"
            )));
        }
        Ok((kind, content))
    }
}

/// A stored pack with its index.
#[derive(Debug)]
pub struct Pack {
    layout: PackLayout,
    limits: PackLimits,
    cache: ContentCache,
}

impl Pack {
    /// Creates the layout of a pack of `size` bytes.
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

    /// Returns the index of the pack.
    pub fn index(&self) -> &Index {
        self.layout.index()
    }

    /// Reads an object into memory and verifies its id; `None` when it is not in this pack.
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

    /// Returns the range of the entry of an object, for entries that are copied unchanged.
    pub fn entry_range(&self, id: ObjectId) -> Result<Option<Range<u64>>> {
        let entry = self.layout.find(id);
        entry.map(|entry| self.layout.range(entry)).transpose()
    }
}
