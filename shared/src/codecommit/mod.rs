//! CodeCommit as a trait in plain types.
//!
//! Shapes and error names follow the CodeCommit API reference (2015-04-13); [`client`]
//! speaks to the service, the testkit has an implementation in memory.

#[cfg(feature = "codecommit")]
pub mod client;
mod git_client;
pub mod git_credential_source;
pub mod git_credentials;
mod retrying;

use async_trait::async_trait;
use bytes::Bytes;
pub(crate) use git_client::git_client;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::git::object::{Commit, TreeListing};
use crate::name::{BlobId, BranchName, CommitId, RepositoryName};

/// The largest file that `GetFile` and `GetBlob` serve, in bytes (6 MiB).
pub const MAX_BLOB_BYTES: u64 = 6 * 1024 * 1024;

/// The most triggers that a repository can have.
pub const MAX_TRIGGERS: usize = 10;

/// The most branches that one trigger can name.
pub const MAX_BRANCHES_PER_TRIGGER: usize = 10;

/// One page of a list, and where the next one starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// What to ask the next page with; `None` on the last one.
    pub next: Option<String>,
}

/// What fires a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TriggerEvent {
    /// Everything.
    All,
    /// A ref moved.
    UpdateReference,
    /// A ref was created.
    CreateReference,
    /// A ref was deleted.
    DeleteReference,
}

/// A repository trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// Its name, unique in the repository.
    pub name: String,
    /// The Lambda function or SNS topic that it calls.
    pub destination_arn: String,
    /// Text that is passed on in each record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_data: Option<String>,
    /// The branches that it watches; empty: all of them, and tags.
    pub branches: Vec<String>,
    /// What fires it.
    pub events: Vec<TriggerEvent>,
}

/// A repository's triggers and the id of this set of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerSet {
    /// Changes with each `PutRepositoryTriggers`.
    pub configuration_id: String,
    /// The triggers.
    pub triggers: Vec<Trigger>,
}

/// What `GetRepository` tells of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its name.
    pub name: RepositoryName,
    /// Its ARN, `arn:aws:codecommit:<region>:<account>:<name>`.
    pub arn: String,
    /// Where git reaches it, `https://git-codecommit.<region>.amazonaws.com/v1/repos/<name>`.
    pub clone_url_http: String,
    /// The branch that `HEAD` names; `None` while the repository is empty.
    pub default_branch: Option<String>,
}

/// Decides when the body of an answer may be read into memory.
///
/// The size of a blob is known only when its answer starts to arrive. An implementation
/// of [`CodeCommit::get_blob`] calls [`admit`](BlobAdmission::admit) with that size, or a little
/// more, before it reads on: at most once in a call, however often it tries.
#[async_trait]
pub trait BlobAdmission: Send + Sync {
    /// Returns once `size_bytes` of answer may be read.
    async fn admit(&self, size_bytes: u64);
}

/// An [`BlobAdmission`] that never waits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

#[async_trait]
impl BlobAdmission for Unlimited {
    async fn admit(&self, _size_bytes: u64) {}
}

/// The operations of CodeCommit that branchline uses.
///
/// Every method is one request. Errors: `NotFound` when the repository, branch, commit,
/// folder or blob is not there; `AccessDenied`, `Throttled`, `Transport` as everywhere.
#[async_trait]
pub trait CodeCommit: Send + Sync {
    /// Names the repositories of the account, a page at a time.
    async fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>>;

    /// Describes one repository.
    async fn get_repository(&self, repository: &RepositoryName) -> Result<Repository>;

    /// Creates an empty repository. Errors: `Conflict` when there is one of that name.
    async fn create_repository(&self, repository: &RepositoryName) -> Result<Repository>;

    /// Sets the branch that `HEAD` names; it must be there.
    async fn update_default_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<()>;

    /// Names the branches, a page at a time.
    async fn list_branches(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<BranchName>>;

    /// Reads the tip of a branch.
    async fn get_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<CommitId>;

    /// Reads a commit.
    async fn get_commit(&self, repository: &RepositoryName, commit: CommitId) -> Result<Commit>;

    /// Lists one level of the tree of `commit`; `path` is empty for the root, and has no
    /// slash at its ends.
    async fn get_folder(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        path: &str,
    ) -> Result<TreeListing>;

    /// Reads a blob. Errors: `FileTooLarge` above [`MAX_BLOB_BYTES`].
    async fn get_blob(
        &self,
        repository: &RepositoryName,
        blob: BlobId,
        admission: &dyn BlobAdmission,
    ) -> Result<Bytes>;

    /// Reads the triggers.
    async fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet>;

    /// Replaces all triggers; returns the id of the new set.
    async fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String>;
}

/// Reads all pages of [`CodeCommit::list_branches`], in the order of their names.
pub async fn all_branches(
    codecommit: &dyn CodeCommit,
    repository: &RepositoryName,
) -> Result<Vec<BranchName>> {
    let mut branches = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let page = codecommit
            .list_branches(repository, next.as_deref())
            .await?;
        branches.extend(page.items);
        next = match page.next {
            // A service that repeats its token would keep us here for ever.
            Some(token) if next.as_deref() != Some(token.as_str()) => Some(token),
            _ => break,
        };
    }
    branches.sort_unstable();
    branches.dedup();
    Ok(branches)
}

/// Reads all pages of [`CodeCommit::list_repositories`], in the order of their names.
pub async fn all_repositories(codecommit: &dyn CodeCommit) -> Result<Vec<RepositoryName>> {
    let mut repositories = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let page = codecommit.list_repositories(next.as_deref()).await?;
        repositories.extend(page.items);
        next = match page.next {
            Some(token) if next.as_deref() != Some(token.as_str()) => Some(token),
            _ => break,
        };
    }
    repositories.sort_unstable();
    repositories.dedup();
    Ok(repositories)
}
