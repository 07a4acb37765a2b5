//! The deltas of a pack by their bases, while they are resolved.

use std::collections::HashSet;
use std::ops::Range;

use super::cache::{EXTERNAL, Key};
use super::content::EntryLookup;
use super::unresolved::{BaseRef, UnresolvedPack, number};
use crate::error::Result;
use crate::{ObjectId, corrupt};

/// The deltas of a pack by their bases.
pub(super) struct DeltaGraph {
    pub(super) received: UnresolvedPack,
    /// Positions in the list of unresolved entries, sorted by base.
    children: Vec<u32>,
    /// Objects outside of the pack that are bases.
    pub(super) externals: Vec<ObjectId>,
}

impl EntryLookup for DeltaGraph {
    fn range(&self, entry: u32) -> Result<Range<u64>> {
        let at = entry as usize;
        let start = self.received.entries[at].offset;
        let end = match self.received.entries.get(at + 1) {
            Some(next) => next.offset,
            None => self.received.size - self.received.hash.len_in_bytes() as u64,
        };
        Ok(start..end)
    }

    fn at_offset(&self, offset: u64) -> Option<u32> {
        self.received.at_offset(offset)
    }

    fn by_id(&self, id: ObjectId) -> Option<Key> {
        let ids = self.received.by_id.as_ref()?;
        ids.get(id).copied().map(Key::from).or_else(|| {
            let at = self.externals.iter().position(|other| *other == id)?;
            Some(EXTERNAL + at as u64)
        })
    }

    fn external(&self, key: Key) -> Option<ObjectId> {
        let at = usize::try_from(key.checked_sub(EXTERNAL)?).ok()?;
        self.externals.get(at).copied()
    }
}

impl DeltaGraph {
    pub(super) fn new(received: UnresolvedPack) -> Self {
        let mut children: Vec<u32> = (0..number(received.pending.len())).collect();
        children.sort_unstable_by_key(|at| {
            let pending = &received.pending[*at as usize];
            (received.base_of(pending), pending.entry)
        });
        Self {
            received,
            children,
            externals: Vec::new(),
        }
    }

    fn base_at(&self, position: u32) -> BaseRef {
        let pending = &self.received.pending[position as usize];
        self.received.base_of(pending)
    }

    /// Returns the deltas of a base, in the order of the pack.
    pub(super) fn children_of(&self, base: BaseRef) -> impl DoubleEndedIterator<Item = u32> {
        let start = self.children.partition_point(|at| self.base_at(*at) < base);
        let from = &self.children[start..];
        let length = from.partition_point(|at| self.base_at(*at) == base);
        let positions = from[..length].iter();
        positions.map(|at| self.received.pending[*at as usize].entry)
    }

    /// Pushes all deltas with the base `key` onto the stack, the first one on top.
    pub(super) fn push_children(&self, key: Key, stack: &mut Vec<(u32, Key)>) {
        let id = match u32::try_from(key) {
            Ok(entry) => {
                let by_entry = self.children_of(BaseRef::Entry(entry));
                stack.extend(by_entry.rev().map(|child| (child, key)));
                self.received.entries[entry as usize].id
            }
            Err(_) => self.externals[external_number(key)],
        };
        let by_id = self.children_of(BaseRef::Id(id));
        stack.extend(by_id.rev().map(|child| (child, key)));
    }

    pub(super) fn is_resolved(&self, entry: u32) -> bool {
        self.received.entries[entry as usize].kind.is_some()
    }

    /// Returns resolved objects with pending deltas.
    pub(super) fn roots(&self) -> Vec<Key> {
        let mut roots = Vec::new();
        let mut last = None;
        for at in &self.children {
            let base = self.base_at(*at);
            if last.replace(base) == Some(base) {
                continue;
            }
            roots.extend(match base {
                BaseRef::Entry(entry) => self.is_resolved(entry).then(|| Key::from(entry)),
                BaseRef::Id(id) => self.by_id(id),
            });
        }
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    /// Refuses circles of deltas through an external base. An external base that is in the pack
    /// as well is not added to the pack, so a delta chain from that base to itself would have no
    /// undeltified object.
    pub(super) fn check_circles(&self) -> Result<()> {
        let Some(ids) = &self.received.by_id else {
            return Ok(());
        };
        // Each entry is visited once, however many chains contain it.
        let mut sound = HashSet::new();
        for id in &self.externals {
            let mut next = ids.get(*id).copied();
            let mut path = HashSet::new();
            while let Some(entry) = next.filter(|entry| !sound.contains(entry)) {
                if !path.insert(entry) {
                    return Err(corrupt(format!(
                        "the deltas of a pack build {id} out of itself"
                    )));
                }
                // An entry that is not pending was resolved without an external base.
                next = match self.received.pending_base(entry) {
                    None => None,
                    Some(BaseRef::Entry(base)) => Some(base),
                    Some(BaseRef::Id(base)) => ids.get(base).copied(),
                };
            }
            sound.extend(path);
        }
        Ok(())
    }
}

fn external_number(key: Key) -> usize {
    usize::try_from(key - EXTERNAL).expect("because keys are made from positions in the list")
}
