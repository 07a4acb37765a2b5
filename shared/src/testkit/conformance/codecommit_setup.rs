//! The setup of the cases of CodeCommit.

use async_trait::async_trait;

use crate::codecommit::CodeCommit;
use crate::name::{CommitId, RepositoryName};
use crate::testkit::Entry;

/// A service under test, and its repositories.
#[async_trait]
pub trait CodeCommitSetup: Send + Sync {
    /// Returns the service under test.
    fn codecommit(&self) -> &dyn CodeCommit;

    /// Creates an empty repository.
    async fn repository(&self) -> RepositoryName;

    /// Commits changes on top of a branch, which is created if missing.
    async fn commit(
        &self,
        repository: &RepositoryName,
        branch: &str,
        changes: &[(&str, Entry)],
    ) -> CommitId;

    /// Deletes a branch other than the default one.
    async fn delete_branch(&self, repository: &RepositoryName, branch: &str);

    /// Returns the ARN of a Lambda function that triggers may call.
    fn function_arn(&self) -> String;

    /// Returns the cases that the service is known to fail.
    fn skipped(&self) -> &[&str] {
        &[]
    }
}
