//! Objects read from a pack that lies somewhere, by its index.

use std::ops::Range;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::cache::{Cache, Key};
use super::content::{Contents, Directory};
use super::inflate::Inflater;
use super::{Index, Limits, NoBases, PackBytes};
use crate::error::Result;
use crate::git::object::{ObjectKind, id_of};
use crate::git::{ObjectId, corrupt};

/// A pack that lies somewhere, with its index.
pub struct Pack {
    index: Index,
    size: u64,
    limits: Limits,
    // Positions in the index, in the order of the pack.
    order: Vec<u32>,
    cache: Cache,
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack")
            .field("index", &self.index)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Directory for (&Index, u64, &[u32]) {
    fn range(&self, entry: u32) -> Result<Range<u64>> {
        let (index, size, order) = self;
        let at = entry as usize;
        let start = index.offset(order[at] as usize);
        let end = match order.get(at + 1) {
            Some(next) => index.offset(*next as usize),
            None => size.saturating_sub(index.hash().len_in_bytes() as u64),
        };
        if start < end {
            Ok(start..end)
        } else {
            Err(corrupt("the index of a pack does not fit the pack"))
        }
    }

    fn at_offset(&self, offset: u64) -> Option<u32> {
        let (index, _, order) = self;
        let at = order
            .binary_search_by_key(&offset, |position| index.offset(*position as usize))
            .ok()?;
        u32::try_from(at).ok()
    }

    fn by_id(&self, id: ObjectId) -> Option<Key> {
        let offset = self.0.offset(self.0.find(id)?);
        self.at_offset(offset).map(Key::from)
    }

    fn external(&self, _key: Key) -> Option<ObjectId> {
        None
    }
}

impl Pack {
    /// A pack of `size` bytes.
    ///
    /// # Errors
    /// `Corrupt` when the index has two objects in one place.
    pub fn new(index: Index, size: u64, limits: Limits) -> Result<Self> {
        let count = u32::try_from(index.len())
            .map_err(|_| corrupt("an index has more objects than a pack can have"))?;
        let mut order: Vec<u32> = (0..count).collect();
        order.sort_unstable_by_key(|position| index.offset(*position as usize));
        Ok(Self {
            index,
            size,
            limits,
            order,
            cache: Cache::new(limits.memory / 2),
        })
    }

    /// The pack's index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Reads an object whole and verifies it; `None` when it is not in this pack.
    pub async fn read(
        &mut self,
        bytes: &dyn PackBytes,
        id: ObjectId,
    ) -> Result<Option<(ObjectKind, Bytes)>> {
        let directory = (&self.index, self.size, self.order.as_slice());
        let Some(key) = directory.by_id(id) else {
            return Ok(None);
        };
        let mut contents = Contents {
            hash: self.index.hash(),
            limits: self.limits,
            bytes,
            bases: &NoBases,
            cache: std::mem::replace(&mut self.cache, Cache::new(0)),
            inflater: Inflater::new(),
        };
        let found = contents.content(&directory, key).await;
        self.cache = contents.cache;
        let (kind, content) = found?;
        if id_of(self.index.hash(), kind, &content)? != id {
            return Err(corrupt(format!("the content of {id} is another")));
        }
        Ok(Some((kind, content)))
    }

    /// Where the entry of an object lies, for ranges that are copied as they are.
    pub fn entry_range(&self, id: ObjectId) -> Result<Option<Range<u64>>> {
        let directory = (&self.index, self.size, self.order.as_slice());
        let offset = self.index.find(id).map(|at| self.index.offset(at));
        let entry = offset.and_then(|offset| directory.at_offset(offset));
        entry.map(|entry| directory.range(entry)).transpose()
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

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Bytes)>> {
        self.held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn remembered(&self, number: u64) -> Option<Bytes> {
        let mut held = self.held();
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
                let mut held = self.held();
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
