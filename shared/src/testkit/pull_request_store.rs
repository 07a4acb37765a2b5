//! Pull requests in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::codecommit::PullRequestTarget;
use crate::name::{BranchName, PullRequestId, RepositoryName};

/// Pull requests of an account by their ids.
#[derive(Debug, Default)]
pub(super) struct MemoryPullRequests(Mutex<BTreeMap<PullRequestId, MemoryPullRequest>>);

/// Pull request in memory.
#[derive(Debug)]
pub(super) struct MemoryPullRequest {
    pub(super) repository: RepositoryName,
    pub(super) source: BranchName,
    pub(super) destination: BranchName,
    /// Commits at the time when it was closed.
    pub(super) closed: Option<PullRequestTarget>,
}

impl MemoryPullRequests {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<PullRequestId, MemoryPullRequest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
