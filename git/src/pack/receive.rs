//! First pass over a pack: reads its bytes as they arrive.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;

use super::cache::{Cache, Key};
use super::index::Entry;
use super::inflate::Inflater;
use super::{
    EntryHeader, EntryKind, FileHasher, PACK_HEADER_BYTES, PackLimits, PackObject, SIGNATURE,
    Visitor, delta as deltas,
};
use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectHasher, ObjectKind, id_of};
use crate::{HashKind, ObjectId, corrupt};

/// The largest blob in bytes that [`UnresolvedPack::small_blobs_pending`] counts.
pub const SMALL_BLOB: u64 = 1024;

/// Verifies a pack as it arrives, and computes the ids of its objects.
///
/// Does no I/O. [`push`](Self::push) every byte, then [`finish`](Self::finish).
pub struct PackIndexer {
    hash: HashKind,
    limits: PackLimits,
    state: State,
    // Bytes of an incomplete header or trailer.
    small: Vec<u8>,
    file: FileHasher,
    crc: crc32fast::Hasher,
    inflater: Inflater,
    received: UnresolvedPack,
    // Objects that have not arrived.
    left: u32,
}

enum State {
    Header,
    Entry,
    Data(Work),
    Trailer,
    Done,
}

/// The work for the content of the entry that is arriving.
enum Work {
    /// An undeltified object; `held` unless it is a large blob.
    Whole {
        kind: ObjectKind,
        size: u64,
        hasher: ObjectHasher,
        held: Option<Vec<u8>>,
    },
    /// A delta whose base is in memory.
    Delta {
        kind: ObjectKind,
        base: Bytes,
        reference: BaseRef,
        delta: Vec<u8>,
    },
    /// A delta for the second pass, and its first bytes.
    Later(BaseRef, Vec<u8>),
}

/// The base of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BaseRef {
    /// An earlier entry.
    Entry(u32),
    /// An object in this pack or outside of it.
    Id(ObjectId),
}

/// A pack that has arrived with a valid trailer, whose deltas may be unresolved.
pub struct UnresolvedPack {
    pub(super) hash: HashKind,
    pub(super) limits: PackLimits,
    /// In the order of the pack.
    pub(super) entries: Vec<Entry>,
    /// Unresolved entries, in the order of the pack.
    pub(super) pending: Vec<(u32, BaseRef)>,
    /// Unresolved entries of at most [`SMALL_BLOB`] bytes, in the order of the pack.
    small: Vec<u32>,
    pub(super) cache: Cache,
    pub(super) by_id: Option<ById>,
    pub(super) size: u64,
    pub(super) trailer: ObjectId,
    pub(super) made: u64,
}

impl std::fmt::Debug for UnresolvedPack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnresolvedPack")
            .field("objects", &self.entries.len())
            .field("pending", &self.pending.len())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl UnresolvedPack {
    /// Returns the number of objects in the pack.
    pub fn objects(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of deltas that [`resolve`](Self::resolve) has to resolve.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Returns how many unresolved deltas may be blobs of at most [`SMALL_BLOB`] bytes. No
    /// visitor has received those yet.
    pub fn small_blobs_pending(&self) -> usize {
        let small = self.small.iter();
        small.filter(|entry| self.may_be_blob(**entry)).count()
    }

    fn may_be_blob(&self, entry: u32) -> bool {
        let mut at = entry;
        loop {
            if let Some(kind) = self.entries[at as usize].kind {
                return kind == ObjectKind::Blob;
            }
            let found = self.pending.binary_search_by_key(&at, |(entry, _)| *entry);
            // A base by distance is before its delta, so this ends.
            match found.map(|found| self.pending[found].1) {
                Ok(BaseRef::Entry(base)) => at = base,
                Ok(BaseRef::Id(id)) => {
                    let base = self.by_id.as_ref().and_then(|ids| ids.get(&id));
                    let kind = base.and_then(|base| self.entries[*base as usize].kind);
                    return kind.is_none_or(|kind| kind == ObjectKind::Blob);
                }
                Err(_) => return true,
            }
        }
    }

    /// Returns the length of the pack in bytes, trailer included.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Returns the trailer, which is the id of the pack.
    pub fn pack_id(&self) -> ObjectId {
        self.trailer
    }

    pub(super) fn at_offset(&self, offset: u64) -> Option<u32> {
        let at = self
            .entries
            .binary_search_by_key(&offset, |entry| entry.offset)
            .ok()?;
        u32::try_from(at).ok()
    }

    /// Returns the entries of resolved objects by id.
    pub(super) fn ids(&mut self) -> &mut ById {
        self.by_id.get_or_insert_with(|| {
            let known = self.entries.iter().enumerate();
            known
                .filter(|(_, entry)| entry.kind.is_some())
                .map(|(at, entry)| (entry.id, number(at)))
                .collect()
        })
    }

    /// Records the type and id of a resolved entry.
    pub(super) fn resolved(&mut self, entry: u32, kind: ObjectKind, id: ObjectId) {
        let known = &mut self.entries[entry as usize];
        known.kind = Some(kind);
        known.id = id;
        if let Some(ids) = &mut self.by_id {
            ids.entry(id).or_insert(entry);
        }
    }

    /// Counts the expanded bytes, as a guard against delta bombs.
    pub(super) fn add_expanded_bytes(&mut self, bytes: u64, position: u64) -> Result<()> {
        self.made = self.made.saturating_add(bytes);
        let allowed = position
            .saturating_mul(self.limits.expansion)
            .saturating_add(1 << 30);
        if self.made <= allowed {
            return Ok(());
        }
        Err(corrupt(format!(
            "the deltas of a pack make more than {allowed} bytes"
        )))
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("because a pack has at most 2^32 objects")
}

impl PackIndexer {
    /// Creates an indexer for one pack.
    pub fn new(hash: HashKind, limits: PackLimits) -> Self {
        Self {
            hash,
            limits,
            state: State::Header,
            small: Vec::new(),
            file: FileHasher::new(hash),
            crc: crc32fast::Hasher::new(),
            inflater: Inflater::new(),
            received: UnresolvedPack {
                hash,
                limits,
                entries: Vec::new(),
                pending: Vec::new(),
                small: Vec::new(),
                cache: Cache::new(limits.memory / 8 * 3),
                by_id: None,
                size: 0,
                trailer: ObjectId::null(hash),
                made: 0,
            },
            left: 0,
        }
    }

    /// Returns the number of bytes that have arrived.
    pub fn position(&self) -> u64 {
        self.received.size
    }

    /// Returns whether the trailer has arrived.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Reads `bytes`, and passes each object that they complete to `visitor`.
    ///
    /// # Errors
    /// `Corrupt` for bytes that contradict the format or follow the trailer; `FileTooLarge`
    /// beyond the limits; and errors of `visitor`. The indexer must not be used after an error.
    pub fn push(&mut self, bytes: &[u8], visitor: &mut dyn Visitor) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = match &mut self.state {
                State::Header => self.header(rest)?,
                State::Entry => self.entry(rest)?,
                State::Data(work) => {
                    let (used, ended) = self.inflater.push(rest, |piece| match work {
                        Work::Whole { hasher, held, .. } => {
                            hasher.update(piece);
                            if let Some(held) = held {
                                held.extend_from_slice(piece);
                            }
                        }
                        Work::Delta { delta, .. } => delta.extend_from_slice(piece),
                        Work::Later(_, start) => {
                            let room = deltas::MAX_SIZES - start.len();
                            start.extend_from_slice(&piece[..piece.len().min(room)]);
                        }
                    })?;
                    self.file.update(&rest[..used]);
                    self.crc.update(&rest[..used]);
                    self.received.size += used as u64;
                    if ended {
                        self.entry_ended(visitor)?;
                    }
                    used
                }
                State::Trailer => self.trailer(rest)?,
                State::Done => return Err(corrupt("bytes follow the trailer of a pack")),
            };
            rest = &rest[used..];
        }
        Ok(())
    }

    /// Returns the pack after its last byte.
    ///
    /// # Errors
    /// `Corrupt` when the pack is cut off.
    pub fn finish(self) -> Result<UnresolvedPack> {
        if self.is_done() {
            Ok(self.received)
        } else {
            Err(corrupt(format!(
                "a pack ends after {} bytes, {} objects short",
                self.received.size, self.left
            )))
        }
    }

    /// Collects a field of `length` bytes; returns the bytes used of `rest`, and whether the
    /// field is complete.
    fn field(&mut self, rest: &[u8], length: usize) -> (usize, bool) {
        let used = rest.len().min(length - self.small.len());
        self.small.extend_from_slice(&rest[..used]);
        self.received.size += used as u64;
        (used, self.small.len() == length)
    }

    fn header(&mut self, rest: &[u8]) -> Result<usize> {
        let length = usize::try_from(PACK_HEADER_BYTES).expect("because 12 fits");
        let (used, whole) = self.field(rest, length);
        if whole {
            let count = self
                .small
                .strip_prefix(&SIGNATURE)
                .and_then(|count| count.first_chunk())
                .ok_or_else(|| corrupt("expected the header of a pack of version 2"))?;
            self.left = u32::from_be_bytes(*count);
            if self.left > self.limits.objects {
                return Err(Error::new(
                    ErrorKind::FileTooLarge,
                    format!(
                        "a pack has {} objects, and {} are allowed",
                        self.left, self.limits.objects
                    ),
                ));
            }
            self.file.update(&self.small);
            self.small.clear();
            self.next_entry();
        }
        Ok(used)
    }

    fn next_entry(&mut self) {
        self.state = if self.left == 0 {
            State::Trailer
        } else {
            State::Entry
        };
    }

    fn trailer(&mut self, rest: &[u8]) -> Result<usize> {
        let (used, whole) = self.field(rest, self.hash.len_in_bytes());
        if whole {
            let computed = std::mem::replace(&mut self.file, FileHasher::new(self.hash)).finish();
            if computed.as_slice() != self.small {
                return Err(corrupt("the trailer of a pack does not match its content"));
            }
            self.received.trailer = computed;
            self.state = State::Done;
        }
        Ok(used)
    }

    /// Reads the header of an entry.
    fn entry(&mut self, rest: &[u8]) -> Result<usize> {
        let before = self.small.len();
        let room = EntryHeader::MAX_BYTES - before;
        let (header, length) = if before == 0 {
            let Some(found) = EntryHeader::parse(self.hash, rest)? else {
                self.small.extend_from_slice(rest);
                return Ok(rest.len());
            };
            found
        } else {
            self.small.extend_from_slice(&rest[..rest.len().min(room)]);
            match EntryHeader::parse(self.hash, &self.small)? {
                Some(found) => found,
                None => return Ok(self.small.len() - before),
            }
        };
        let used = length - before;
        let bytes = if before == 0 { rest } else { &self.small };
        self.file.update(&bytes[..length]);
        self.crc.update(&bytes[..length]);
        self.small.clear();
        let offset = self.received.size;
        self.received.size += length as u64;
        let work = self.start(header, offset)?;
        self.received.entries.push(Entry {
            offset,
            crc: 0,
            kind: None,
            id: ObjectId::null(self.hash),
        });
        self.inflater.start(header.size);
        self.state = State::Data(work);
        Ok(used)
    }

    fn start(&mut self, header: EntryHeader, offset: u64) -> Result<Work> {
        let size = header.size;
        self.limits.check_object(size)?;
        let reference = match header.kind {
            EntryKind::Whole(kind) => {
                let hold = if kind == ObjectKind::Blob {
                    size <= (self.limits.memory / 8) as u64
                } else if size <= (self.limits.memory / 4) as u64 {
                    true
                } else {
                    return Err(self.limits.too_little_memory(size.saturating_mul(4)));
                };
                return Ok(Work::Whole {
                    kind,
                    size,
                    hasher: ObjectHasher::new(self.hash, kind, size),
                    held: hold.then(|| Vec::with_capacity(capacity(size))),
                });
            }
            EntryKind::OffsetDelta(distance) => offset
                .checked_sub(distance)
                .and_then(|base| self.received.at_offset(base))
                .map(BaseRef::Entry)
                .ok_or_else(|| corrupt("no entry starts at the position of a delta's base"))?,
            EntryKind::IdDelta(id) => {
                self.received.ids();
                BaseRef::Id(id)
            }
        };
        let key = match reference {
            BaseRef::Entry(entry) => Some(entry),
            BaseRef::Id(id) => self.received.ids().get(&id).copied(),
        };
        let base = if size <= (self.limits.memory / 8) as u64 {
            key.and_then(|key| self.received.cache.get(Key::from(key)))
        } else {
            None
        };
        Ok(match base {
            Some((kind, base)) => Work::Delta {
                kind,
                base,
                reference,
                delta: Vec::with_capacity(capacity(size)),
            },
            None => Work::Later(reference, Vec::with_capacity(deltas::MAX_SIZES)),
        })
    }

    fn entry_ended(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        let State::Data(work) = std::mem::replace(&mut self.state, State::Entry) else {
            return Ok(());
        };
        let entry = number(self.received.entries.len() - 1);
        let crc = std::mem::take(&mut self.crc).finalize();
        self.received.entries[entry as usize].crc = crc;
        self.left -= 1;
        match work {
            Work::Whole {
                kind,
                size,
                hasher,
                held,
            } => {
                let id = hasher.finish()?;
                self.visit(entry, kind, id, size, held, visitor)?;
            }
            Work::Delta {
                kind,
                base,
                reference,
                delta,
            } => {
                let (_, size, _) = deltas::sizes(&delta)?;
                self.limits.check_object(size)?;
                if size <= (self.limits.memory / 4) as u64 {
                    self.received.add_expanded_bytes(size, self.received.size)?;
                    let mut content = Vec::with_capacity(capacity(size));
                    deltas::apply(&base, &delta, |piece| content.extend_from_slice(piece))?;
                    let id = id_of(self.hash, kind, &content)?;
                    self.visit(entry, kind, id, size, Some(content), visitor)?;
                } else {
                    self.received.pending.push((entry, reference));
                }
            }
            Work::Later(reference, start) => {
                // A delta without sizes is reported when it is resolved.
                if deltas::sizes(&start).is_ok_and(|(_, size, _)| size <= SMALL_BLOB) {
                    self.received.small.push(entry);
                }
                self.received.pending.push((entry, reference));
            }
        }
        self.next_entry();
        Ok(())
    }

    fn visit(
        &mut self,
        entry: u32,
        kind: ObjectKind,
        id: ObjectId,
        size: u64,
        content: Option<Vec<u8>>,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        visitor.object(PackObject {
            id,
            kind,
            size,
            content: content.as_deref(),
        })?;
        self.received.resolved(entry, kind, id);
        if let Some(content) = content {
            let content = Bytes::from(content);
            self.received.cache.insert(Key::from(entry), kind, content);
        }
        Ok(())
    }
}

/// Returns the capacity reserved for content whose size is not verified yet.
fn capacity(size: u64) -> usize {
    usize::try_from(size.min(1 << 20)).expect("because it is at most 1 MiB")
}

/// Entries by id.
pub(super) type ById = HashMap<ObjectId, u32, BuildHasherDefault<IdHasher>>;

/// A hasher that uses the first bytes of an id, because an id is a hash already.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Discriminants and lengths are shorter than any id.
        if bytes.len() >= 20 {
            let first = bytes
                .first_chunk()
                .expect("because there are at least twenty bytes");
            self.0 = u64::from_le_bytes(*first);
        }
    }
}
