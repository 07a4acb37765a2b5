//! Pull requests.

use crate::name::{CommitId, PullRequestId, RefName, RepositoryName};

/// Answer of `GetPullRequest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// Id, unique in the account and region.
    pub id: PullRequestId,
    /// Whether it is neither merged nor closed.
    pub is_open: bool,
    /// Merges that are requested; one in practice.
    pub targets: Vec<PullRequestTarget>,
}

/// Branches of a pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequestTarget {
    /// Repository of both branches.
    pub repository: RepositoryName,
    /// Branch with the changes.
    pub source: RefName,
    /// Branch that the changes are merged into.
    pub destination: RefName,
    /// Tip of the source; of a closed pull request, at the time when it was closed.
    pub source_commit: CommitId,
    /// Tip of the destination.
    pub destination_commit: CommitId,
    /// Best common ancestor of both.
    pub merge_base: Option<CommitId>,
    /// Whether it was merged.
    pub is_merged: bool,
}

impl PullRequest {
    /// Returns the branches in `repository`.
    pub fn target_in(&self, repository: &RepositoryName) -> Option<&PullRequestTarget> {
        let mut targets = self.targets.iter();
        targets.find(|target| target.repository == *repository)
    }
}
