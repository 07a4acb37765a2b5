//! A pack whose deltas may be unresolved, as it arrived.

use super::PackLimits;
use super::cache::Cache;
use super::id_map::IdMap;
use super::index::Entry;
use super::workers::Workers;
use crate::error::Result;
use crate::object::ObjectKind;
use crate::{HashKind, ObjectId, corrupt};

/// The largest blob in bytes that [`UnresolvedPack::small_blobs_pending`] counts.
pub const SMALL_BLOB: u64 = 1024;

/// The most entries that are reserved because a pack's header announces them.
const MAX_RESERVED_ENTRIES: usize = 1 << 16;

/// The base of a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BaseRef {
    /// An earlier entry.
    Entry(u32),
    /// An object in this pack or outside of it.
    Id(ObjectId),
}

/// An unresolved entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingDelta {
    pub(super) entry: u32,
    base: PendingBase,
}

/// The base of a [`PendingDelta`] in few bytes, because there may be one for each object.
#[derive(Debug, Clone, Copy)]
enum PendingBase {
    Entry(u32),
    /// The position of the base's id in [`UnresolvedPack::base_ids`].
    Id(u32),
}

/// A pack that has arrived with a valid trailer, whose deltas may be unresolved.
pub struct UnresolvedPack {
    pub(super) hash: HashKind,
    pub(super) limits: PackLimits,
    /// In the order of the pack.
    pub(super) entries: Vec<Entry>,
    /// Unresolved entries, in the order of the pack.
    pub(super) pending: Vec<PendingDelta>,
    /// Ids of bases of unresolved entries.
    base_ids: Vec<ObjectId>,
    /// Unresolved entries of at most [`SMALL_BLOB`] bytes, in the order of the pack.
    small: Vec<u32>,
    pub(super) cache: Cache,
    pub(super) by_id: Option<IdMap<u32>>,
    pub(super) size: u64,
    pub(super) trailer: ObjectId,
    pub(super) made: u64,
    /// Threads beside the reader; `None` if the reader does all.
    pub(super) workers: Option<Workers>,
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
    pub(super) fn new(hash: HashKind, limits: PackLimits) -> Self {
        Self {
            hash,
            limits,
            entries: Vec::new(),
            pending: Vec::new(),
            base_ids: Vec::new(),
            small: Vec::new(),
            cache: Cache::new(limits.memory / 8 * 3),
            by_id: None,
            size: 0,
            trailer: ObjectId::null(hash),
            made: 0,
            workers: None,
        }
    }

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
            // A base by distance is before its delta, so this ends.
            match self.pending_base(at) {
                Some(BaseRef::Entry(base)) => at = base,
                Some(BaseRef::Id(id)) => {
                    let base = self.by_id.as_ref().and_then(|ids| ids.get(id));
                    let kind = base.and_then(|base| self.entries[*base as usize].kind);
                    return kind.is_none_or(|kind| kind == ObjectKind::Blob);
                }
                None => return true,
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

    /// Reserves memory for as many of `objects` entries as cost little, because a header may
    /// announce more than follow.
    pub(super) fn reserve(&mut self, objects: u32) {
        let objects = usize::try_from(objects).unwrap_or(usize::MAX);
        self.entries
            .reserve_exact(objects.min(MAX_RESERVED_ENTRIES));
    }

    /// Adds an entry that starts at `offset`.
    pub(super) fn add_entry(&mut self, offset: u64) {
        push_slowly_grown(
            &mut self.entries,
            Entry {
                offset,
                crc: 0,
                kind: None,
                id: ObjectId::null(self.hash),
            },
        );
    }

    /// Leaves the last entry, a delta that makes `size` bytes, unresolved.
    pub(super) fn add_pending(&mut self, entry: u32, base: BaseRef, size: Option<u64>) {
        if size.is_some_and(|size| size <= SMALL_BLOB) {
            push_slowly_grown(&mut self.small, entry);
        }
        let base = match base {
            BaseRef::Entry(base) => PendingBase::Entry(base),
            BaseRef::Id(id) => {
                push_slowly_grown(&mut self.base_ids, id);
                PendingBase::Id(number(self.base_ids.len() - 1))
            }
        };
        push_slowly_grown(&mut self.pending, PendingDelta { entry, base });
    }

    /// Returns the base of an unresolved entry.
    pub(super) fn base_of(&self, pending: &PendingDelta) -> BaseRef {
        match pending.base {
            PendingBase::Entry(base) => BaseRef::Entry(base),
            PendingBase::Id(at) => BaseRef::Id(self.base_ids[at as usize]),
        }
    }

    /// Returns the base of an entry that was not resolved as it arrived.
    pub(super) fn pending_base(&self, entry: u32) -> Option<BaseRef> {
        let pending = &self.pending;
        let at = pending
            .binary_search_by_key(&entry, |pending| pending.entry)
            .ok()?;
        Some(self.base_of(&pending[at]))
    }

    pub(super) fn at_offset(&self, offset: u64) -> Option<u32> {
        let at = self
            .entries
            .binary_search_by_key(&offset, |entry| entry.offset)
            .ok()?;
        u32::try_from(at).ok()
    }

    /// Returns the entries of resolved objects by id.
    pub(super) fn ids(&mut self) -> &mut IdMap<u32> {
        self.by_id.get_or_insert_with(|| {
            let mut ids = IdMap::new(self.hash);
            let known = self.entries.iter().enumerate();
            for (at, entry) in known.filter(|(_, entry)| entry.kind.is_some()) {
                ids.or_insert(entry.id, number(at));
            }
            ids
        })
    }

    /// Records the type and id of a resolved entry.
    pub(super) fn resolved(&mut self, entry: u32, kind: ObjectKind, id: ObjectId) {
        let known = &mut self.entries[entry as usize];
        known.kind = Some(kind);
        known.id = id;
        if let Some(ids) = &mut self.by_id {
            ids.or_insert(id, entry);
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

pub(super) fn number(at: usize) -> u32 {
    u32::try_from(at).expect("because a pack has at most 2^32 objects")
}

/// Pushes a value, and grows a full list by a quarter: a list of all objects that doubles would
/// waste as much memory as it uses.
fn push_slowly_grown<T>(list: &mut Vec<T>, value: T) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(64));
    }
    list.push(value);
}
