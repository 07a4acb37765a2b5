//! Second pass over a pack: resolves deltas whose bases were not in memory.

use std::collections::HashSet;
use std::ops::Range;

use super::cache::{EXTERNAL, Key};
use super::content::{EntryLookup, EntryReader, missing_base, read_base};
use super::index::Entry;
use super::inflate::Inflater;
use super::receive::{BaseRef, UnresolvedPack};
use super::{
    Bases, Cache, Completed, Index, PackBytes, PackObject, Visitor, complete, delta as deltas,
};
use crate::error::{Error, Result};
use crate::object::{ObjectHasher, ObjectKind, id_of};
use crate::{ObjectId, corrupt};

/// A pack whose objects are all verified.
#[derive(Debug)]
pub struct Resolved {
    /// The index of the pack, or of the completed pack when it was thin.
    pub index: Index,
    /// The type of each object, in the order of the index.
    pub kinds: Vec<ObjectKind>,
    /// The parts that complete a thin pack; `None` for a pack that is not thin.
    pub completed: Option<Completed>,
}

/// The deltas of a pack while they are resolved.
struct DeltaGraph {
    received: UnresolvedPack,
    // Deltas by their bases, sorted.
    children: Vec<(BaseRef, u32)>,
    externals: Vec<ObjectId>,
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
        ids.get(&id).copied().map(Key::from).or_else(|| {
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
    fn children_of(&self, reference: BaseRef) -> &[(BaseRef, u32)] {
        let start = self.children.partition_point(|(base, _)| *base < reference);
        let length = self.children[start..].partition_point(|(base, _)| *base == reference);
        &self.children[start..start + length]
    }

    /// Pushes all deltas with the base `key` onto the stack, the first one on top.
    fn push_children(&self, key: Key, stack: &mut Vec<(u32, Key)>) {
        let id = match u32::try_from(key) {
            Ok(entry) => {
                let by_entry = self.children_of(BaseRef::Entry(entry));
                stack.extend(by_entry.iter().rev().map(|(_, child)| (*child, key)));
                self.received.entries[entry as usize].id
            }
            Err(_) => self.externals[external_number(key)],
        };
        let by_id = self.children_of(BaseRef::Id(id));
        stack.extend(by_id.iter().rev().map(|(_, child)| (*child, key)));
    }

    fn is_resolved(&self, entry: u32) -> bool {
        self.received.entries[entry as usize].kind.is_some()
    }

    /// Returns resolved objects with pending deltas.
    fn roots(&self) -> Vec<Key> {
        let mut roots: Vec<Key> = self
            .children
            .iter()
            .filter_map(|(base, _)| match base {
                BaseRef::Entry(entry) => self.is_resolved(*entry).then(|| Key::from(*entry)),
                BaseRef::Id(id) => self.by_id(*id),
            })
            .collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }
}

fn external_number(key: Key) -> usize {
    usize::try_from(key - EXTERNAL).expect("because keys are made from positions in the list")
}

impl UnresolvedPack {
    /// Resolves the remaining deltas, and builds the index.
    ///
    /// `bytes` are the bytes of the stored pack; `bases` has the bases of a thin pack, with
    /// which it is completed.
    ///
    /// # Errors
    /// `Corrupt` for deltas that are broken, form a circle, or have no base, and for an object
    /// that occurs twice; `FileTooLarge` beyond the limits.
    pub async fn resolve(
        mut self,
        bytes: &dyn PackBytes,
        bases: &dyn Bases,
        visitor: &mut dyn Visitor,
    ) -> Result<Resolved> {
        let mut cache = std::mem::replace(&mut self.cache, Cache::new(0));
        let mut contents = EntryReader {
            hash: self.hash,
            limits: self.limits,
            bytes,
            bases,
            cache: &mut cache,
            prefix: 0,
            inflater: Inflater::new(),
        };
        let mut children: Vec<_> = self.pending.iter().map(|(at, base)| (*base, *at)).collect();
        children.sort_unstable();
        let mut table = DeltaGraph {
            received: self,
            children,
            externals: Vec::new(),
        };
        for root in table.roots() {
            descend(&mut table, &mut contents, root, visitor).await?;
        }
        let pending = std::mem::take(&mut table.received.pending);
        for (entry, base) in &pending {
            let BaseRef::Id(id) = *base else { continue };
            if table.is_resolved(*entry) || table.by_id(id).is_some() {
                continue;
            }
            let Some((kind, content)) = read_base(contents.hash, bases, id).await? else {
                continue;
            };
            contents.evict_for(content.len() as u64)?;
            let key = EXTERNAL + table.externals.len() as u64;
            table.externals.push(id);
            contents.cache.insert(key, kind, content);
            descend(&mut table, &mut contents, key, visitor).await?;
        }
        for (entry, base) in &pending {
            if !table.is_resolved(*entry) {
                return Err(unresolved(*base));
            }
        }
        check_circles(&table, &pending)?;
        drop(cache);
        finish(table, bytes, bases).await
    }
}

/// Refuses circles of deltas through an external base. An external base that is in the pack
/// as well is not added to the pack, so a delta chain from that base to itself would have no
/// undeltified object.
fn check_circles(table: &DeltaGraph, pending: &[(u32, BaseRef)]) -> Result<()> {
    let Some(ids) = &table.received.by_id else {
        return Ok(());
    };
    // Each entry is visited once, however many chains contain it.
    let mut sound = HashSet::new();
    for id in &table.externals {
        let mut next = ids.get(id).copied();
        let mut path = HashSet::new();
        while let Some(entry) = next.filter(|entry| !sound.contains(entry)) {
            if !path.insert(entry) {
                return Err(corrupt(format!(
                    "the deltas of a pack build {id} out of itself"
                )));
            }
            // An entry that is not pending was resolved without an external base.
            next = match pending.binary_search_by_key(&entry, |(at, _)| *at) {
                Err(_) => None,
                Ok(at) => match pending[at].1 {
                    BaseRef::Entry(base) => Some(base),
                    BaseRef::Id(base) => ids.get(&base).copied(),
                },
            };
        }
        sound.extend(path);
    }
    Ok(())
}

fn unresolved(base: BaseRef) -> Error {
    match base {
        BaseRef::Id(id) => missing_base(id),
        BaseRef::Entry(_) => corrupt("the base of a delta is a delta without a base"),
    }
}

/// Resolves all deltas above an object, depth first, so that each base is used while it is
/// cached.
async fn descend(
    table: &mut DeltaGraph,
    contents: &mut EntryReader<'_>,
    root: Key,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let mut stack = Vec::new();
    table.push_children(root, &mut stack);
    let mut steps = 0_u32;
    while let Some((entry, base)) = stack.pop() {
        // A delta whose result is its own base is not its own child.
        if table.is_resolved(entry) {
            continue;
        }
        step(table, contents, entry, base, visitor).await?;
        table.push_children(Key::from(entry), &mut stack);
        steps += 1;
        if steps.is_multiple_of(64) {
            // Other tasks get their turn, because this one computes a lot and rarely waits.
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn step(
    table: &mut DeltaGraph,
    contents: &mut EntryReader<'_>,
    entry: u32,
    base: Key,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let (kind, base) = contents.content(table, base).await?;
    let delta = contents.delta(table, entry, base.len() as u64).await?;
    let (_, size, _) = deltas::sizes(&delta)?;
    contents.limits.check_object(size)?;
    let received = &mut table.received;
    received.add_expanded_bytes(size, received.size)?;
    let hash = received.hash;
    let hold = kind != ObjectKind::Blob
        || size <= (contents.limits.memory / 8) as u64
        || !table.children_of(BaseRef::Entry(entry)).is_empty();
    let in_use = base.len() as u64 + delta.len() as u64;
    let (id, content) = if hold {
        contents.evict_for(in_use.saturating_add(size))?;
        let room = usize::try_from(size).expect("because there is room for it");
        let mut content = Vec::with_capacity(room);
        deltas::apply(&base, &delta, |piece| content.extend_from_slice(piece))?;
        (id_of(hash, kind, &content)?, Some(content))
    } else {
        contents.evict_for(in_use)?;
        let mut hasher = ObjectHasher::new(hash, kind, size);
        deltas::apply(&base, &delta, |piece| hasher.update(piece))?;
        (hasher.finish()?, None)
    };
    drop((base, delta));
    visitor.object(PackObject {
        id,
        kind,
        size,
        content: content.as_deref(),
    })?;
    table.received.resolved(entry, kind, id);
    if let Some(content) = content {
        contents.cache.insert(entry.into(), kind, content.into());
    }
    Ok(())
}

async fn finish(table: DeltaGraph, bytes: &dyn PackBytes, bases: &dyn Bases) -> Result<Resolved> {
    let DeltaGraph {
        mut received,
        externals,
        ..
    } = table;
    // An external base that is in the pack as well needs no second copy.
    let added: Vec<ObjectId> = match &received.by_id {
        Some(ids) => externals
            .into_iter()
            .filter(|id| !ids.contains_key(id))
            .collect(),
        None => Vec::new(),
    };
    received.by_id = None;
    let completed = if added.is_empty() {
        None
    } else {
        Some(complete::complete(&mut received, &added, bytes, bases).await?)
    };
    let mut entries = received.entries;
    entries.sort_unstable_by_key(|entry| entry.id);
    if let Some(twice) = entries.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(corrupt(format!(
            "a pack contains object {} twice",
            twice[0].id
        )));
    }
    let index = Index::build(received.hash, &entries, received.trailer);
    let kinds = entries.iter().map(kind_of).collect();
    Ok(Resolved {
        index,
        kinds,
        completed,
    })
}

fn kind_of(entry: &Entry) -> ObjectKind {
    entry
        .kind
        .expect("because unresolved entries were refused before")
}
