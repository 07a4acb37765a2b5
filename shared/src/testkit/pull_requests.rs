//! Tags and pull requests of [`MemoryCodeCommit`].

use super::codecommit::MemoryCodeCommit;
use super::pull_request_store::MemoryPullRequest;
use crate::codecommit::{PullRequest, PullRequestTarget};
use crate::error::Result;
use crate::name::{BranchName, CommitId, PullRequestId, RepositoryName, TagName};

fn branch_name(name: &str) -> BranchName {
    BranchName::new(name).expect("because tests name branches legally")
}

impl MemoryCodeCommit {
    /// Creates or moves a tag.
    pub fn set_tag(&self, repository: &RepositoryName, tag: &str, commit: CommitId) {
        let tag = TagName::new(tag).expect("because tests name tags legally");
        let mut repositories = self.lock();
        let repository = repositories.entry(repository.clone()).or_default();
        repository.tags.insert(tag, commit);
    }

    /// Deletes a tag.
    pub fn delete_tag(&self, repository: &RepositoryName, tag: &str) {
        if let Some(repository) = self.lock().get_mut(repository) {
            repository.tags.retain(|name, _| name.as_str() != tag);
        }
    }

    /// Opens a pull request from the branch `source` into the branch `destination`.
    pub fn open_pull_request(
        &self,
        repository: &RepositoryName,
        source: &str,
        destination: &str,
    ) -> PullRequestId {
        let mut pulls = self.pull_requests.lock();
        let id = (pulls.len() + 1).to_string();
        let id = PullRequestId::new(&id).expect("because it is a number");
        let pull = MemoryPullRequest {
            repository: repository.clone(),
            source: branch_name(source),
            destination: branch_name(destination),
            closed: None,
        };
        pulls.insert(id.clone(), pull);
        id
    }

    /// Closes a pull request, or records that it was merged.
    pub fn close_pull_request(&self, id: &PullRequestId, is_merged: bool) {
        let Some(pull) = self.pull_request(id) else {
            return;
        };
        let target = pull.targets.into_iter().next();
        if let Some(pull) = self.pull_requests.lock().get_mut(id) {
            pull.closed = target.map(|target| PullRequestTarget {
                is_merged,
                ..target
            });
        }
    }

    /// Lists the tags of a repository with their commits, as git does.
    pub async fn list_tags(&self, repository: &RepositoryName) -> Result<Vec<(TagName, CommitId)>> {
        let _call = self.traffic().enter("list_tags").await?;
        let repositories = self.lock();
        let tags = repositories.get(repository).into_iter();
        let tags = tags.flat_map(|repository| &repository.tags);
        Ok(tags.map(|(name, commit)| (name.clone(), *commit)).collect())
    }

    /// Returns the ids of the open pull requests of a repository without a logged call.
    pub(super) fn open_pull_requests(&self, repository: &RepositoryName) -> Vec<PullRequestId> {
        let pulls = self.pull_requests.lock();
        let open = pulls
            .iter()
            .filter(|(_, pull)| pull.repository == *repository && pull.closed.is_none());
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Describes a pull request without a logged call.
    pub(super) fn pull_request(&self, id: &PullRequestId) -> Option<PullRequest> {
        let pulls = self.pull_requests.lock();
        let pull = pulls.get(id)?;
        let target = match &pull.closed {
            Some(target) => Some(target.clone()),
            None => self.open_target(pull),
        };
        Some(PullRequest {
            id: id.clone(),
            is_open: pull.closed.is_none(),
            targets: target.into_iter().collect(),
        })
    }

    fn open_target(&self, pull: &MemoryPullRequest) -> Option<PullRequestTarget> {
        let repositories = self.lock();
        let repository = repositories.get(&pull.repository)?;
        let source_commit = *repository.branches.get(&pull.source)?;
        let destination_commit = *repository.branches.get(&pull.destination)?;
        Some(PullRequestTarget {
            repository: pull.repository.clone(),
            source: pull.source.to_ref(),
            destination: pull.destination.to_ref(),
            source_commit,
            destination_commit,
            merge_base: repository.merge_base(source_commit, destination_commit),
            is_merged: false,
        })
    }
}
