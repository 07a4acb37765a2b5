//! The first step: a pack's bytes as they arrive.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;

use super::cache::{Cache, Key};
use super::index::Entry;
use super::inflate::Inflater;
use super::{
    EntryHeader, EntryKind, FileHasher, HEADER, PackLimits, PackObject, Visitor, delta as deltas,
};
use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectHasher, ObjectKind, id_of};
use crate::{HashKind, ObjectId, corrupt};

/// Blobs up to this size are "small": who looks for those learns how many were not shown.
pub const SMALL_BLOB: u64 = 1024;

/// The most bytes in which a delta tells its two sizes.
const DELTA_SIZES: usize = 20;

/// Takes in a pack as it arrives: verifies it, and computes the ids of its objects.
///
/// It does no I/O. [`push`](Self::push) every byte, then [`finish`](Self::finish).
pub struct PackIndexer {
    hash: HashKind,
    limits: PackLimits,
    state: State,
    // Bytes of a header or trailer that is not yet whole.
    small: Vec<u8>,
    file: FileHasher,
    crc: crc32fast::Hasher,
    inflater: Inflater,
    received: UnresolvedPack,
    // Objects that are still to come.
    left: u32,
}

enum State {
    Header,
    Entry,
    Data(Work),
    Trailer,
    Done,
}

/// What is done with the content of the entry that is arriving.
enum Work {
    /// A whole object; `held` only where someone may want it.
    Whole {
        kind: ObjectKind,
        size: u64,
        hasher: ObjectHasher,
        held: Option<Vec<u8>>,
    },
    /// A delta whose base is at hand.
    Delta {
        kind: ObjectKind,
        base: Bytes,
        reference: BaseRef,
        delta: Vec<u8>,
    },
    /// A delta for the second step, and its first bytes.
    Later(BaseRef, Vec<u8>),
}

/// What a delta stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BaseRef {
    /// An earlier entry.
    Entry(u32),
    /// An object, in this pack or elsewhere.
    Id(ObjectId),
}

/// A pack that has arrived whole and unharmed, with deltas that may be left to resolve.
pub struct UnresolvedPack {
    pub(super) hash: HashKind,
    pub(super) limits: PackLimits,
    /// In the order of the pack.
    pub(super) entries: Vec<Entry>,
    /// Entries that are not resolved, in the order of the pack.
    pub(super) pending: Vec<(u32, BaseRef)>,
    /// Those of them that make something small, in the order of the pack.
    small: Vec<u32>,
    pub(super) cache: Cache,
    pub(super) by_id: Option<ById>,
    pub(super) size: u64,
    pub(super) trailer: ObjectId,
    pub(super) made: u64,
}

impl std::fmt::Debug for UnresolvedPack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("objects", &self.entries.len())
            .field("pending", &self.pending.len())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl UnresolvedPack {
    /// How many objects the pack has.
    pub fn objects(&self) -> usize {
        self.entries.len()
    }

    /// How many of them are deltas that [`resolve`](Self::resolve) has still to do.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many of these may be blobs of at most [`SMALL_BLOB`] bytes, which no visitor
    /// has seen yet.
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
            // Bases by distance lie before what stands on them, so this ends.
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

    /// The pack's length in bytes, its trailer included.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// The trailer, by which the pack is called.
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

    /// Makes sure that objects can be found by id.
    pub(super) fn ids(&mut self) -> &mut ById {
        self.by_id.get_or_insert_with(|| {
            let known = self.entries.iter().enumerate();
            known
                .filter(|(_, entry)| entry.kind.is_some())
                .map(|(at, entry)| (entry.id, number(at)))
                .collect()
        })
    }

    /// Notes what an entry turned out to be.
    pub(super) fn resolved(&mut self, entry: u32, kind: ObjectKind, id: ObjectId) {
        let known = &mut self.entries[entry as usize];
        known.kind = Some(kind);
        known.id = id;
        if let Some(ids) = &mut self.by_id {
            ids.entry(id).or_insert(entry);
        }
    }

    /// Counts what deltas have made, against bombs.
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
    /// A receiver that has seen nothing.
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

    /// How many bytes were taken in.
    pub fn position(&self) -> u64 {
        self.received.size
    }

    /// Whether the trailer has arrived.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes in what has arrived, showing each object that it completes to `visitor`.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no pack, or follow its end; `FileTooLarge` beyond the
    /// limits; and the visitor's own. The receiver is of no use afterwards.
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
                            let room = DELTA_SIZES - start.len();
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

    /// Ends the pack.
    ///
    /// # Errors
    /// `Corrupt` when it is cut off.
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

    /// Collects a field of a known length; `None` until it is whole.
    fn field(&mut self, rest: &[u8], length: usize) -> (usize, bool) {
        let used = rest.len().min(length - self.small.len());
        self.small.extend_from_slice(&rest[..used]);
        self.received.size += used as u64;
        (used, self.small.len() == length)
    }

    fn header(&mut self, rest: &[u8]) -> Result<usize> {
        let length = usize::try_from(HEADER).expect("because it is 12");
        let (used, whole) = self.field(rest, length);
        if whole {
            let count = self
                .small
                .strip_prefix(b"PACK\0\0\0\x02")
                .and_then(|count| count.first_chunk())
                .ok_or_else(|| corrupt("a pack does not start as one of version 2"))?;
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
                return Err(corrupt("the trailer of a pack does not fit its content"));
            }
            self.received.trailer = computed;
            self.state = State::Done;
        }
        Ok(used)
    }

    /// Reads the header of an entry.
    fn entry(&mut self, rest: &[u8]) -> Result<usize> {
        let before = self.small.len();
        let room = EntryHeader::MAX - before;
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
                .ok_or_else(|| corrupt("no entry starts where a delta's base should"))?,
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
            None => Work::Later(reference, Vec::with_capacity(DELTA_SIZES)),
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
                // One that does not tell is found to be broken when it is resolved.
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

/// What is set aside for content of a size that is only claimed.
fn capacity(size: u64) -> usize {
    usize::try_from(size.min(1 << 20)).expect("because it is at most 1 MiB")
}

/// Entries by id.
pub(super) type ById = HashMap<ObjectId, u32, BuildHasherDefault<IdHasher>>;

/// Ids are hashes already: their first bytes serve.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Discriminants and lengths are shorter than any id.
        if bytes.len() >= 20 {
            let first = bytes.first_chunk().expect("because there are twenty");
            self.0 = u64::from_le_bytes(*first);
        }
    }
}
