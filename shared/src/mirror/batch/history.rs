//! What is known of a source's history.

use std::collections::{HashMap, HashSet};

use crate::git::ObjectId;
use crate::remote::{CommitGraph, Snapshot};

/// Commits of a source as its refs were at one time.
pub(super) struct SourceHistory {
    // What the source held then.
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

    /// Whether this is still what the source holds.
    pub(super) fn matches_snapshot(&self, snapshot: &Snapshot) -> bool {
        self.snapshot == *snapshot
    }

    /// Whether `wants` are known, or are had.
    pub(super) fn covers(&self, wants: &[ObjectId], haves: &[ObjectId]) -> bool {
        let known = |id: &ObjectId| self.graph.contains_key(id) || haves.contains(id);
        wants.iter().all(known)
    }

    /// Whether nothing is missing of what `starts` lead to.
    pub(super) fn is_complete(&self, starts: &[ObjectId]) -> bool {
        let known = |id: &ObjectId| self.graph.contains_key(id);
        starts.iter().all(known) && self.graph.values().all(|parents| parents.iter().all(known))
    }

    /// The commits that `wants` lead to and `haves` do not.
    pub(super) fn missing(&self, wants: &[ObjectId], haves: &[ObjectId]) -> HashSet<ObjectId> {
        let tags = self.snapshot.refs.values();
        let tags: HashMap<_, _> = tags.filter_map(|tag| Some((tag.id, tag.peeled?))).collect();
        let peeled = haves.iter().map(|have| *tags.get(have).unwrap_or(have));
        let had = self.ancestors(peeled, &HashSet::new());
        self.ancestors(wants.iter().copied(), &had)
    }

    /// What `starts` lead to, as far as it is known, short of `boundary`.
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
