//! Branches for which update was invoked although no event named them.
//!
//! Several branches may be pushed at once to a repository without triggers. The event of the
//! first one makes the triggers of all, and update is invoked for all. For the others no event
//! is known yet, so that update takes them for older than the stack if their commits are. When
//! their own events arrive, update is invoked once more, as for a new branch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use branchline_core::name::{BranchName, RepositoryName};

/// Maximum number of names of all repositories; beyond that repositories are forgotten.
const MAX_NAMES: usize = 20_000;

/// The branches of each repository that was reconciled in this execution environment.
#[derive(Debug, Default)]
pub(crate) struct FoundBranches(Mutex<BTreeMap<RepositoryName, BTreeSet<BranchName>>>);

impl FoundBranches {
    /// Returns those of the `named` branches for which update may have been invoked without an
    /// event: all of a repository that was not reconciled in this environment.
    pub(crate) fn to_repeat(
        &self,
        repository: &RepositoryName,
        named: &BTreeSet<BranchName>,
    ) -> Vec<BranchName> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = known.get(repository) else {
            return named.iter().cloned().collect();
        };
        named.intersection(found).cloned().collect()
    }

    /// Records the branches for which update was invoked: with an event (`named`) and without
    /// one (`found`). Branches that are not `covered` are forgotten.
    pub(crate) fn record(
        &self,
        repository: &RepositoryName,
        covered: &BTreeSet<BranchName>,
        named: &BTreeSet<BranchName>,
        found: impl Iterator<Item = BranchName>,
    ) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let branches = known.entry(repository.clone()).or_default();
        branches.extend(found);
        branches.retain(|branch| covered.contains(branch) && !named.contains(branch));
        if known.values().map(BTreeSet::len).sum::<usize>() > MAX_NAMES {
            known.remove(repository);
        }
    }
}
