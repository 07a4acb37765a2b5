//! [`CodeCommit`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited and tried again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{BlobAdmission, CodeCommit, Page, Repository, Trigger, TriggerSet};
use crate::error::Result;
use crate::git::object::{Commit, TreeListing};
use crate::name::{BlobId, BranchName, CommitId, RepositoryName};
use crate::retry::{Permit, Retrying};

#[async_trait]
impl<C: CodeCommit> CodeCommit for Retrying<C> {
    async fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>> {
        self.pace.run(|| self.inner.list_repositories(next)).await
    }

    async fn get_repository(&self, repository: &RepositoryName) -> Result<Repository> {
        self.pace
            .run(|| self.inner.get_repository(repository))
            .await
    }

    // After a lost answer it says that the repository exists, which its caller must expect
    // of a race anyhow.
    async fn create_repository(&self, repository: &RepositoryName) -> Result<Repository> {
        self.pace
            .run(|| self.inner.create_repository(repository))
            .await
    }

    async fn update_default_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<()> {
        self.pace
            .run(|| self.inner.update_default_branch(repository, branch))
            .await
    }

    async fn list_branches(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<BranchName>> {
        self.pace
            .run(|| self.inner.list_branches(repository, next))
            .await
    }

    async fn get_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<CommitId> {
        self.pace
            .run(|| self.inner.get_branch(repository, branch))
            .await
    }

    async fn get_commit(&self, repository: &RepositoryName, commit: CommitId) -> Result<Commit> {
        self.pace
            .run(|| self.inner.get_commit(repository, commit))
            .await
    }

    async fn get_folder(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        path: &str,
    ) -> Result<TreeListing> {
        self.pace
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
        self.pace
            .run_with_permit(|permit| async move {
                let admission = Yielding {
                    inner: admission,
                    permit: &permit,
                    admitted,
                };
                self.inner.get_blob(repository, blob, &admission).await
            })
            .await
    }

    async fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet> {
        self.pace.run(|| self.inner.get_triggers(repository)).await
    }

    // Made once: it replaces whatever is there, so that its caller must read what that is
    // before trying again.
    async fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String> {
        self.pace
            .run_once(|| self.inner.put_triggers(repository, triggers))
            .await
    }
}

/// Gives the place in flight back while an answer waits to be admitted.
///
/// Otherwise answers that wait could hold all places, while the one whose reading would
/// let them in cannot get one.
struct Yielding<'a> {
    inner: &'a dyn BlobAdmission,
    permit: &'a Arc<Permit>,
    // What was admitted stays so when the answer is cut and asked for again.
    admitted: &'a AtomicBool,
}

#[async_trait]
impl BlobAdmission for Yielding<'_> {
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
