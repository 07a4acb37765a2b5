//! [`CodeCommit`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and retried.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BlobAdmission, CodeCommit, Difference, Page, PullRequest, Repository, Trigger, TriggerSet,
};
use crate::error::Result;
use crate::git::object::{Commit, TreeListing};
use crate::name::{BlobId, BranchName, CommitId, PullRequestId, RepositoryName, TagName};
use crate::retry::{Permit, Retrying};

#[async_trait]
impl<C: CodeCommit> CodeCommit for Retrying<C> {
    async fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>> {
        self.policy.run(|| self.inner.list_repositories(next)).await
    }

    async fn get_repository(&self, repository: &RepositoryName) -> Result<Repository> {
        self.policy
            .run(|| self.inner.get_repository(repository))
            .await
    }

    // A retry after a lost answer fails with `Conflict`, which callers handle, because
    // another client may create the repository too.
    async fn create_repository(&self, repository: &RepositoryName) -> Result<Repository> {
        self.policy
            .run(|| self.inner.create_repository(repository))
            .await
    }

    async fn update_default_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<()> {
        self.policy
            .run(|| self.inner.update_default_branch(repository, branch))
            .await
    }

    async fn list_branches(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<String>> {
        self.policy
            .run(|| self.inner.list_branches(repository, next))
            .await
    }

    async fn get_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<CommitId> {
        self.policy
            .run(|| self.inner.get_branch(repository, branch))
            .await
    }

    async fn get_tag(&self, repository: &RepositoryName, tag: &TagName) -> Result<CommitId> {
        self.policy
            .run(|| self.inner.get_tag(repository, tag))
            .await
    }

    async fn get_commit(&self, repository: &RepositoryName, commit: CommitId) -> Result<Commit> {
        self.policy
            .run(|| self.inner.get_commit(repository, commit))
            .await
    }

    async fn get_commits(
        &self,
        repository: &RepositoryName,
        commits: &[CommitId],
    ) -> Result<Vec<Commit>> {
        self.policy
            .run(|| self.inner.get_commits(repository, commits))
            .await
    }

    async fn get_folder(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        path: &str,
    ) -> Result<TreeListing> {
        self.policy
            .run(|| self.inner.get_folder(repository, commit, path))
            .await
    }

    async fn get_blob(
        &self,
        repository: &RepositoryName,
        blob: BlobId,
        admission: &dyn BlobAdmission,
    ) -> Result<Bytes> {
        let admitted = AtomicBool::new(false);
        let admitted = &admitted;
        self.policy
            .run_with_permit(|permit| async move {
                let admission = ReleasingAdmission {
                    inner: admission,
                    permit: &permit,
                    admitted,
                };
                self.inner.get_blob(repository, blob, &admission).await
            })
            .await
    }

    async fn get_differences(
        &self,
        repository: &RepositoryName,
        before: CommitId,
        after: CommitId,
        next: Option<&str>,
    ) -> Result<Page<Difference>> {
        self.policy
            .run(|| self.inner.get_differences(repository, before, after, next))
            .await
    }

    async fn get_merge_base(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        branch: &BranchName,
    ) -> Result<Option<CommitId>> {
        self.policy
            .run(|| self.inner.get_merge_base(repository, commit, branch))
            .await
    }

    async fn get_pull_request(&self, id: &PullRequestId) -> Result<PullRequest> {
        self.policy.run(|| self.inner.get_pull_request(id)).await
    }

    async fn list_open_pull_requests(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<PullRequestId>> {
        self.policy
            .run(|| self.inner.list_open_pull_requests(repository, next))
            .await
    }

    async fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet> {
        self.policy
            .run(|| self.inner.get_triggers(repository))
            .await
    }

    // Not retried, because it replaces all triggers: the caller must re-read them first.
    async fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String> {
        self.policy
            .run_once(|| self.inner.put_triggers(repository, triggers))
            .await
    }
}

/// Releases the permit while an answer waits to be admitted.
///
/// Otherwise waiting answers could hold all permits, while the call whose end would admit
/// them cannot get one.
struct ReleasingAdmission<'a> {
    inner: &'a dyn BlobAdmission,
    permit: &'a Arc<Permit>,
    // Admitted once per call, because retries of a cut answer keep the admission.
    admitted: &'a AtomicBool,
}

#[async_trait]
impl BlobAdmission for ReleasingAdmission<'_> {
    async fn admit(&self, size_bytes: u64) {
        if self.admitted.load(Ordering::Acquire) {
            return;
        }
        let mut admit = pin!(self.inner.admit(size_bytes));
        if futures_util::poll!(&mut admit).is_pending() {
            self.permit.release();
            admit.await;
        }
        self.admitted.store(true, Ordering::Release);
    }
}
