//! Second pass over a pack: resolves deltas whose bases were not in memory.

use bytes::Bytes;

use super::cache::{Cache, EXTERNAL, Key};
use super::content::{EntryLookup as _, EntryReader, missing_base, read_base};
use super::delta_graph::DeltaGraph;
use super::index::Entry;
use super::inflate::Inflater;
use super::unresolved::{BaseRef, UnresolvedPack};
use super::workers::{Finished, Job, JobContent, Workers};
use super::{Bases, Completed, Index, PackBytes, PackObject, Visitor, complete, delta as deltas};
use crate::error::{Error, ErrorKind, Result};
use crate::object::{ObjectHasher, ObjectKind, id_of};
use crate::{ObjectId, corrupt};

/// The most deltas that other threads resolve at a time: few, so that a base is used while it is
/// cached.
const MAX_JOBS: usize = 128;

/// Deltas after which other tasks get their turn, because this one computes a lot and rarely
/// waits.
const DELTAS_PER_TURN: u32 = 64;

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
        let contents = EntryReader {
            hash: self.hash,
            limits: self.limits,
            bytes,
            bases,
            cache: &mut cache,
            prefix: 0,
            reserved: 0,
            inflater: Inflater::new(),
        };
        let workers = self.workers.take();
        let mut resolver = Resolver {
            table: DeltaGraph::new(self),
            contents,
            workers,
            visitor,
        };
        let roots = resolver.table.roots();
        resolver.descend(roots).await?;
        resolver.descend_from_externals().await?;
        let Resolver { table, .. } = resolver;
        for pending in &table.received.pending {
            if !table.is_resolved(pending.entry) {
                return Err(unresolved(table.received.base_of(pending)));
            }
        }
        table.check_circles()?;
        drop(cache);
        finish(table, bytes, bases).await
    }
}

fn unresolved(base: BaseRef) -> Error {
    match base {
        BaseRef::Id(id) => missing_base(id),
        BaseRef::Entry(_) => corrupt("the base of a delta is a delta without a base"),
    }
}

/// The resolution of a pack's deltas.
struct Resolver<'a> {
    table: DeltaGraph,
    contents: EntryReader<'a>,
    workers: Option<Workers>,
    visitor: &'a mut dyn Visitor,
}

/// A delta in memory, with its base.
struct LoadedDelta {
    kind: ObjectKind,
    base: Bytes,
    delta: Vec<u8>,
    /// The size of the result in bytes.
    size: u64,
}

impl LoadedDelta {
    fn held_bytes(&self) -> u64 {
        self.base.len() as u64 + self.delta.len() as u64
    }
}

impl Resolver<'_> {
    /// Resolves the deltas whose bases are outside of the pack.
    async fn descend_from_externals(&mut self) -> Result<()> {
        for at in 0..self.table.received.pending.len() {
            let pending = self.table.received.pending[at];
            let BaseRef::Id(id) = self.table.received.base_of(&pending) else {
                continue;
            };
            if self.table.is_resolved(pending.entry) || self.is_known(id) {
                continue;
            }
            let contents = &mut self.contents;
            let Some((kind, content)) = read_base(contents.hash, contents.bases, id).await? else {
                continue;
            };
            contents.evict_for(content.len() as u64)?;
            let key = EXTERNAL + self.table.externals.len() as u64;
            self.table.externals.push(id);
            contents.cache.insert(key, kind, content);
            self.descend(vec![key]).await?;
        }
        Ok(())
    }

    fn is_known(&self, id: ObjectId) -> bool {
        self.table.by_id(id).is_some()
    }

    /// Resolves all deltas above `roots`, depth first, so that each base is used while it is
    /// cached.
    async fn descend(&mut self, roots: Vec<Key>) -> Result<()> {
        let mut roots = roots.into_iter();
        let mut stack = Vec::new();
        let mut steps = 0_u32;
        loop {
            if self.jobs() >= MAX_JOBS {
                self.advance(&mut stack)?;
            }
            if let Some((entry, base)) = stack.pop() {
                // A delta whose result is its own base is not its own child.
                if !self.table.is_resolved(entry) && !self.is_in_progress(entry) {
                    self.step(entry, base, &mut stack).await?;
                }
            } else if let Some(root) = roots.next() {
                self.table.push_children(root, &mut stack);
            } else if self.jobs() > 0 {
                self.advance(&mut stack)?;
            } else {
                return Ok(());
            }
            steps += 1;
            if steps.is_multiple_of(DELTAS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn jobs(&self) -> usize {
        self.workers.as_ref().map_or(0, Workers::len)
    }

    fn is_in_progress(&self, entry: u32) -> bool {
        let workers = self.workers.as_ref();
        workers.is_some_and(|workers| workers.has(entry))
    }

    /// Does a job, or waits for one, and records those that are finished.
    fn advance(&mut self, stack: &mut Vec<(u32, Key)>) -> Result<()> {
        let Some(workers) = &mut self.workers else {
            return Ok(());
        };
        workers.advance();
        let finished = workers.collect();
        self.contents.reserved = workers.held_bytes();
        for done in finished {
            let Finished {
                entry,
                kind,
                result,
            } = done;
            let (id, content) = result?;
            let size = content.len() as u64;
            self.record(entry, (kind, id, size), Some(content), stack)?;
        }
        Ok(())
    }

    fn finish_jobs(&mut self, stack: &mut Vec<(u32, Key)>) -> Result<()> {
        while self.jobs() > 0 {
            self.advance(stack)?;
        }
        Ok(())
    }

    /// Records a resolved delta, and pushes the deltas above it onto the stack.
    fn record(
        &mut self,
        entry: u32,
        (kind, id, size): (ObjectKind, ObjectId, u64),
        content: Option<Bytes>,
        stack: &mut Vec<(u32, Key)>,
    ) -> Result<()> {
        self.visitor.object(PackObject {
            id,
            kind,
            size,
            content: content.as_deref(),
        })?;
        self.table.received.resolved(entry, kind, id);
        if let Some(content) = content {
            self.contents.cache.insert(entry.into(), kind, content);
        }
        self.table.push_children(Key::from(entry), stack);
        Ok(())
    }

    /// Reads a delta and its base. Finishes all jobs first if they take the memory for that.
    async fn load(
        &mut self,
        entry: u32,
        base: Key,
        stack: &mut Vec<(u32, Key)>,
    ) -> Result<LoadedDelta> {
        match self.try_load(entry, base).await {
            Err(error) if error.kind() == ErrorKind::FileTooLarge && self.jobs() > 0 => {
                self.finish_jobs(stack)?;
                self.try_load(entry, base).await
            }
            result => result,
        }
    }

    async fn try_load(&mut self, entry: u32, base: Key) -> Result<LoadedDelta> {
        let (table, contents) = (&self.table, &mut self.contents);
        let (kind, base) = contents.content(table, base).await?;
        let delta = contents.delta(table, entry, base.len() as u64).await?;
        let (_, size, _) = deltas::sizes(&delta)?;
        contents.limits.check_object(size)?;
        Ok(LoadedDelta {
            kind,
            base,
            delta,
            size,
        })
    }

    /// Resolves a delta, or submits it to another thread.
    async fn step(&mut self, entry: u32, base: Key, stack: &mut Vec<(u32, Key)>) -> Result<()> {
        let loaded = self.load(entry, base, stack).await?;
        let received = &mut self.table.received;
        received.add_expanded_bytes(loaded.size, received.size)?;
        let is_base = self
            .table
            .children_of(BaseRef::Entry(entry))
            .next()
            .is_some();
        let hold = loaded.kind != ObjectKind::Blob
            || loaded.size <= (self.contents.limits.memory / 8) as u64
            || is_base;
        let bytes = loaded.held_bytes().saturating_add(loaded.size);
        let cost = Workers::cost(bytes);
        let admits = |workers: &Workers| hold && workers.admits(cost);
        if self.workers.as_ref().is_some_and(admits) {
            while self
                .workers
                .as_ref()
                .is_some_and(|workers| !workers.has_room(cost))
            {
                self.advance(stack)?;
            }
            // The jobs take a quarter of the memory, and the cache has less than the rest.
            self.contents.evict_for(bytes)?;
            let LoadedDelta {
                kind,
                base,
                delta,
                size,
            } = loaded;
            if let Some(workers) = &mut self.workers {
                let content = JobContent::Delta { base, delta, size };
                workers.submit(
                    Job {
                        entry,
                        kind,
                        content,
                    },
                    cost,
                );
                self.contents.reserved = workers.held_bytes();
            }
            return Ok(());
        }
        self.finish_jobs(stack)?;
        let (id, content) = self.apply(&loaded, hold)?;
        let (kind, size) = (loaded.kind, loaded.size);
        drop(loaded);
        self.record(entry, (kind, id, size), content, stack)
    }

    /// Applies a delta; returns the content if it is to be held.
    fn apply(&mut self, loaded: &LoadedDelta, hold: bool) -> Result<(ObjectId, Option<Bytes>)> {
        let LoadedDelta {
            kind,
            base,
            delta,
            size,
        } = loaded;
        let (contents, in_use) = (&mut self.contents, loaded.held_bytes());
        let hash = contents.hash;
        if hold {
            contents.evict_for(in_use.saturating_add(*size))?;
            let room = usize::try_from(*size).expect("because there is room for it");
            let mut content = Vec::with_capacity(room);
            deltas::apply(base, delta, |piece| content.extend_from_slice(piece))?;
            Ok((id_of(hash, *kind, &content)?, Some(content.into())))
        } else {
            contents.evict_for(in_use)?;
            let mut hasher = ObjectHasher::new(hash, *kind, *size);
            deltas::apply(base, delta, |piece| hasher.update(piece))?;
            Ok((hasher.finish()?, None))
        }
    }
}

async fn finish(table: DeltaGraph, bytes: &dyn PackBytes, bases: &dyn Bases) -> Result<Resolved> {
    let DeltaGraph {
        mut received,
        externals,
        ..
    } = table;
    received.pending = Vec::new();
    // An external base that is in the pack as well needs no second copy.
    let added: Vec<ObjectId> = match &received.by_id {
        Some(ids) => externals
            .into_iter()
            .filter(|id| !ids.contains(*id))
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
