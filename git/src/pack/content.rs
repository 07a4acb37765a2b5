//! Content of a pack's objects, read back from storage.

use std::ops::Range;

use bytes::Bytes;

use super::cache::{Cache, EXTERNAL, Key};
use super::inflate::Inflater;
use super::{Bases, EntryHeader, EntryKind, MAX_CHAIN, PackBytes, PackLimits, delta};
use crate::error::Result;
use crate::object::{ObjectKind, id_of};
use crate::{HashKind, ObjectId, corrupt};

/// Bytes of an entry that are read at a time.
const READ_CHUNK_BYTES: u64 = 256 * 1024;

/// Positions and ids of the entries of a pack.
pub(super) trait EntryLookup: Sync {
    /// Returns the range of an entry, header included.
    fn range(&self, entry: u32) -> Result<Range<u64>>;
    /// Returns the entry that starts at `offset`.
    fn at_offset(&self, offset: u64) -> Option<u32>;
    /// Returns the key of an object in the pack, or of a known one outside of it.
    fn by_id(&self, id: ObjectId) -> Option<Key>;
    /// Returns the id of an object outside of the pack.
    fn external(&self, key: Key) -> Option<ObjectId>;
}

/// Reads content, and caches bases within the memory limit.
pub(super) struct EntryReader<'a> {
    pub(super) hash: HashKind,
    pub(super) limits: PackLimits,
    pub(super) bytes: &'a dyn PackBytes,
    pub(super) bases: &'a dyn Bases,
    pub(super) cache: &'a mut Cache,
    /// Added to the pack's keys, because several packs may share the cache.
    pub(super) prefix: Key,
    /// Bytes of the memory limit that others use.
    pub(super) reserved: usize,
    pub(super) inflater: Inflater,
}

/// An entry whose header was read.
struct OpenEntry {
    header: EntryHeader,
    range: Range<u64>,
    // Bytes of the entry after its header that were read with it.
    data: Bytes,
}

impl EntryReader<'_> {
    /// Evicts bases until `need` bytes are free.
    pub(super) fn evict_for(&mut self, need: u64) -> Result<()> {
        let free = usize::try_from(need)
            .ok()
            .and_then(|need| need.checked_add(self.reserved))
            .and_then(|need| self.limits.memory.checked_sub(need))
            .ok_or_else(|| self.limits.too_little_memory(need))?;
        self.cache.shrink(free);
        Ok(())
    }

    async fn open(&mut self, directory: &impl EntryLookup, entry: u32) -> Result<OpenEntry> {
        let mut range = directory.range(entry)?;
        let end = range.end.min(range.start.saturating_add(READ_CHUNK_BYTES));
        let first = self.bytes.read_range(range.start..end).await?;
        if first.len() as u64 != end - range.start {
            return Err(corrupt("a range of a pack was read short"));
        }
        let (header, length) = EntryHeader::parse(self.hash, &first)?
            .ok_or_else(|| corrupt("an entry of a pack is cut off"))?;
        range.start = end;
        Ok(OpenEntry {
            header,
            range,
            data: first.slice(length..),
        })
    }

    /// Inflates an entry in memory, while `held` further bytes are in use.
    async fn inflate(&mut self, opened: OpenEntry, held: u64) -> Result<Vec<u8>> {
        let size = opened.header.size;
        self.limits.check_object(size)?;
        self.evict_for(size.saturating_add(held))?;
        let mut out = Vec::with_capacity(
            usize::try_from(size).expect("because its size was checked against the memory limit"),
        );
        self.inflater.start(size);
        let mut data = opened.data;
        let mut range = opened.range;
        loop {
            let (used, ended) = self
                .inflater
                .push(&data, |piece| out.extend_from_slice(piece))?;
            if ended {
                if used == data.len() && range.is_empty() {
                    return Ok(out);
                }
                return Err(corrupt("bytes follow an entry of a pack"));
            }
            if range.is_empty() {
                return Err(corrupt("an entry of a pack is cut off"));
            }
            let end = range.end.min(range.start.saturating_add(READ_CHUNK_BYTES));
            data = self.bytes.read_range(range.start..end).await?;
            if data.is_empty() {
                return Err(corrupt("a range of a pack was read short"));
            }
            range.start = end;
        }
    }

    /// Reads the delta of an entry, while `held` further bytes are in use.
    pub(super) async fn delta(
        &mut self,
        directory: &impl EntryLookup,
        entry: u32,
        held: u64,
    ) -> Result<Vec<u8>> {
        let opened = self.open(directory, entry).await?;
        if matches!(opened.header.kind, EntryKind::Whole(_)) {
            return Err(corrupt("a pack changed while it was read"));
        }
        self.inflate(opened, held).await
    }

    /// Reads the content of an object.
    pub(super) async fn content(
        &mut self,
        directory: &impl EntryLookup,
        key: Key,
    ) -> Result<(ObjectKind, Bytes)> {
        let mut chain = Vec::new();
        let mut base = key;
        let (kind, mut content) = loop {
            if let Some(found) = self.cache.get(self.prefix + base) {
                break found;
            }
            if base >= EXTERNAL {
                break self.external(directory, base).await?;
            }
            let entry =
                u32::try_from(base).expect("because keys below EXTERNAL are numbers of entries");
            let opened = self.open(directory, entry).await?;
            let next = match opened.header.kind {
                EntryKind::Whole(kind) => {
                    let content = Bytes::from(self.inflate(opened, 0).await?);
                    self.cache.insert(self.prefix + base, kind, content.clone());
                    break (kind, content);
                }
                EntryKind::OffsetDelta(distance) => directory
                    .range(entry)?
                    .start
                    .checked_sub(distance)
                    .and_then(|offset| directory.at_offset(offset))
                    .map(Key::from),
                EntryKind::IdDelta(id) => directory.by_id(id),
            };
            chain.push(entry);
            base = next.ok_or_else(|| corrupt("the base of a delta is not in the pack"))?;
            if chain.len() > MAX_CHAIN {
                return Err(corrupt(format!(
                    "a chain of deltas has more than {MAX_CHAIN} entries, or is a circle"
                )));
            }
        };
        for entry in chain.into_iter().rev() {
            let delta = self.delta(directory, entry, content.len() as u64).await?;
            let (_, size, _) = delta::sizes(&delta)?;
            self.limits.check_object(size)?;
            self.evict_for((content.len() as u64 + delta.len() as u64).saturating_add(size))?;
            let mut out = Vec::with_capacity(
                usize::try_from(size)
                    .expect("because its size was checked against the memory limit"),
            );
            delta::apply(&content, &delta, |piece| out.extend_from_slice(piece))?;
            content = out.into();
            let key = self.prefix + Key::from(entry);
            self.cache.insert(key, kind, content.clone());
        }
        Ok((kind, content))
    }

    async fn external(
        &mut self,
        directory: &impl EntryLookup,
        key: Key,
    ) -> Result<(ObjectKind, Bytes)> {
        let id = directory
            .external(key)
            .expect("because the key was made for an object in the list");
        let found = read_base(self.hash, self.bases, id).await?;
        let (kind, content) = found.ok_or_else(|| missing_base(id))?;
        self.evict_for(content.len() as u64)?;
        self.cache.insert(self.prefix + key, kind, content.clone());
        Ok((kind, content))
    }
}

/// Reads a base outside of the pack, and verifies its id.
pub(super) async fn read_base(
    hash: HashKind,
    bases: &dyn Bases,
    id: ObjectId,
) -> Result<Option<(ObjectKind, Bytes)>> {
    let Some((kind, content)) = bases.base(id).await? else {
        return Ok(None);
    };
    if id_of(hash, kind, &content)? != id {
        return Err(corrupt(format!(
            "the content of object {id} does not match its id"
        )));
    }
    Ok(Some((kind, content)))
}

pub(super) fn missing_base(id: ObjectId) -> crate::error::Error {
    corrupt(format!("the base {id} of a delta is missing"))
}
