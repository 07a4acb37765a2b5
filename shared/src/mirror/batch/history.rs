//! The commit graph of a source, cached over attempts.

use std::collections::{HashMap, HashSet};

use crate::git::ObjectId;
use crate::remote::{CommitGraph, Snapshot};

/// Commit graph of a source, for one snapshot of its refs.
pub(super) struct SourceHistory {
    snapshot: Snapshot,
    graph: CommitGraph,
}

impl SourceHistory {
    pub(super) fn new(snapshot: &Snapshot, graph: CommitGraph) -> Self {
        Self {
            snapshot: snapshot.clone(),
            graph,
        }
    }

    pub(super) fn graph(&self) -> &CommitGraph {
        &self.graph
    }

    /// Returns true if `snapshot` is the one that the graph was read with.
    pub(super) fn matches_snapshot(&self, snapshot: &Snapshot) -> bool {
        self.snapshot == *snapshot
    }

    /// Returns true if each of `wants` is in the graph or in `haves`.
    pub(super) fn covers(&self, wants: &[ObjectId], haves: &[ObjectId]) -> bool {
        let is_covered = |id: &ObjectId| self.graph.contains_key(id) || haves.contains(id);
        wants.iter().all(is_covered)
    }

    /// Returns true if the graph has all ancestors of `starts`.
    pub(super) fn is_complete(&self, starts: &[ObjectId]) -> bool {
        let has = |id: &ObjectId| self.graph.contains_key(id);
        starts.iter().all(has) && self.graph.values().all(|parents| parents.iter().all(has))
    }

    /// Returns the commits that are reachable from `wants` and not from `haves`.
    pub(super) fn missing(&self, wants: &[ObjectId], haves: &[ObjectId]) -> HashSet<ObjectId> {
        let tags = self.snapshot.refs.values();
        let tags: HashMap<_, _> = tags.filter_map(|tag| Some((tag.id, tag.peeled?))).collect();
        let peeled = haves.iter().map(|have| *tags.get(have).unwrap_or(have));
        let boundary = self.ancestors(peeled, &HashSet::new());
        self.ancestors(wants.iter().copied(), &boundary)
    }

    /// Returns `starts` and their ancestors in the graph, up to `boundary` exclusively.
    fn ancestors(
        &self,
        starts: impl Iterator<Item = ObjectId>,
        boundary: &HashSet<ObjectId>,
    ) -> HashSet<ObjectId> {
        let mut found = HashSet::new();
        let mut stack: Vec<ObjectId> = starts.collect();
        while let Some(id) = stack.pop() {
            if boundary.contains(&id) || found.contains(&id) {
                continue;
            }
            if let Some(parents) = self.graph.get(&id) {
                found.insert(id);
                stack.extend(parents.iter().copied());
            }
        }
        found
    }
}
