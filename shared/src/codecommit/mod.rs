//! CodeCommit, as a trait in plain types.
//!
//! Shapes and error names follow the CodeCommit API reference (2015-04-13). [`client`] calls
//! the service; the testkit has an implementation in memory.

#[cfg(feature = "codecommit")]
pub mod client;
#[cfg(feature = "codecommit")]
mod client_commits;
#[cfg(feature = "codecommit")]
mod client_differences;
#[cfg(feature = "codecommit")]
mod client_error;
#[cfg(feature = "codecommit")]
mod client_fields;
#[cfg(feature = "codecommit")]
mod client_pull_requests;
#[cfg(feature = "codecommit")]
mod client_review;
#[cfg(feature = "codecommit")]
mod client_revisions;
mod difference;
mod git_client;
pub mod git_credential_source;
pub mod git_credentials;
mod passed_over;
mod pull_request;
mod retrying;
mod retrying_reviews;
mod review;

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
pub use difference::{Difference, DifferenceSide, differences_up_to};
pub(crate) use git_client::git_client;
pub use passed_over::PassedOver;
pub use pull_request::{PullRequest, PullRequestTarget};
pub use review::{
    ApprovalState, MAX_COMMENT_CHARS, Review, ReviewComment, Reviews, comment_of_token,
};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::git::escaped_excerpt;
use crate::git::object::{Commit, TreeListing};
use crate::name::{BlobId, BranchName, CommitId, PullRequestId, RepositoryName, TagName};

/// Largest file that `GetFile` and `GetBlob` serve, in bytes (6 MiB).
pub const MAX_BLOB_BYTES: u64 = 6 * 1024 * 1024;

/// Maximum number of triggers of a repository.
pub const MAX_TRIGGERS: usize = 10;

/// Maximum number of branches that one trigger can name.
pub const MAX_BRANCHES_PER_TRIGGER: usize = 10;

/// Maximum number of commits that [`CodeCommit::get_commits`] reads (API reference,
/// `BatchGetCommits`).
pub const MAX_COMMITS_PER_REQUEST: usize = 100;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Items of this page.
    pub items: Vec<T>,
    /// Token of the next page; `None` on the last one.
    pub next: Option<String>,
}

/// Event that fires a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TriggerEvent {
    /// All events.
    All,
    /// A ref moved.
    UpdateReference,
    /// A ref was created.
    CreateReference,
    /// A ref was deleted.
    DeleteReference,
}

/// Trigger of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// Name, unique in the repository.
    pub name: String,
    /// ARN of the Lambda function or SNS topic to call.
    pub destination_arn: String,
    /// Text that each record carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_data: Option<String>,
    /// Watched branches; all branches and tags when empty.
    pub branches: Vec<String>,
    /// Events that fire the trigger.
    pub events: Vec<TriggerEvent>,
}

/// Triggers of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerSet {
    /// Id of the set, which changes with each `PutRepositoryTriggers`.
    pub configuration_id: String,
    /// Triggers of the set.
    pub triggers: Vec<Trigger>,
}

/// Answer of `GetRepository`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Name of the repository.
    pub name: RepositoryName,
    /// ARN, `arn:aws:codecommit:<region>:<account>:<name>`.
    pub arn: String,
    /// URL for git, `https://git-codecommit.<region>.amazonaws.com/v1/repos/<name>`.
    pub clone_url_http: String,
    /// Branch that `HEAD` names; `None` while the repository is empty.
    pub default_branch: Option<String>,
}

/// Decides when the body of an answer is read into memory.
///
/// The size of a blob is known only from the headers of its answer. An implementation of
/// [`CodeCommit::get_blob`] calls [`admit`](BlobAdmission::admit) with that size, or a little
/// more, before it reads the body: at most once in a call, including retries.
#[async_trait]
pub trait BlobAdmission: Send + Sync {
    /// Returns once a body of `size_bytes` may be read.
    async fn admit(&self, size_bytes: u64);
}

/// [`BlobAdmission`] that never waits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unlimited;

#[async_trait]
impl BlobAdmission for Unlimited {
    async fn admit(&self, _size_bytes: u64) {}
}

/// Operations of CodeCommit that branchline uses.
///
/// Every method is one request. Errors: `NotFound` for a missing repository, branch, commit,
/// folder or blob; `AccessDenied`, `Throttled`, `Transport` as everywhere.
#[async_trait]
pub trait CodeCommit: Send + Sync {
    /// Lists the names of the account's repositories, one page from the token `next`.
    async fn list_repositories(&self, next: Option<&str>) -> Result<Page<RepositoryName>>;

    /// Describes one repository.
    async fn get_repository(&self, repository: &RepositoryName) -> Result<Repository>;

    /// Creates an empty repository. Errors: `Conflict` for an existing name.
    async fn create_repository(&self, repository: &RepositoryName) -> Result<Repository>;

    /// Sets the branch that `HEAD` names. Errors: `NotFound` for a missing branch.
    async fn update_default_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<()>;

    /// Lists the names of the branches, one page from the token `next`. A push can make
    /// branches whose names are not valid as a [`BranchName`].
    async fn list_branches(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<String>>;

    /// Reads the tip of a branch.
    async fn get_branch(
        &self,
        repository: &RepositoryName,
        branch: &BranchName,
    ) -> Result<CommitId>;

    /// Reads the commit that a tag names, through an annotated one. Errors: `NotFound` with
    /// [`Error::is_commit_missing`](crate::Error::is_commit_missing) for a missing tag.
    async fn get_tag(&self, repository: &RepositoryName, tag: &TagName) -> Result<CommitId>;

    /// Reads a commit.
    async fn get_commit(&self, repository: &RepositoryName, commit: CommitId) -> Result<Commit>;

    /// Reads at most [`MAX_COMMITS_PER_REQUEST`] commits, in any order; commits that the repository
    /// does not have are left out.
    async fn get_commits(
        &self,
        repository: &RepositoryName,
        commits: &[CommitId],
    ) -> Result<Vec<Commit>>;

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

    /// Compares the trees of two commits, one page from the token `next`.
    async fn get_differences(
        &self,
        repository: &RepositoryName,
        before: CommitId,
        after: CommitId,
        next: Option<&str>,
    ) -> Result<Page<Difference>>;

    /// Finds the best common ancestor of a commit and a branch's tip; `None` for unrelated
    /// histories, and where the service finds none within its limits.
    async fn get_merge_base(
        &self,
        repository: &RepositoryName,
        commit: CommitId,
        branch: &BranchName,
    ) -> Result<Option<CommitId>>;

    /// Describes a pull request. Errors: `NotFound` for a missing one.
    async fn get_pull_request(&self, id: &PullRequestId) -> Result<PullRequest>;

    /// Lists the ids of the open pull requests of a repository, one page from the token `next`.
    async fn list_open_pull_requests(
        &self,
        repository: &RepositoryName,
        next: Option<&str>,
    ) -> Result<Page<PullRequestId>>;

    /// Reads the triggers.
    async fn get_triggers(&self, repository: &RepositoryName) -> Result<TriggerSet>;

    /// Replaces all triggers; returns the id of the new set.
    async fn put_triggers(
        &self,
        repository: &RepositoryName,
        triggers: &[Trigger],
    ) -> Result<String>;
}

/// Branches of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BranchList {
    /// Valid names, sorted.
    pub branches: Vec<BranchName>,
    /// Branches with other names, sorted.
    pub left_out: Vec<LeftOutBranch>,
}

/// Branch that is left out because its name cannot be used, such as `HEAD` or `-x`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftOutBranch {
    /// Name, shortened and escaped.
    pub branch: String,
    /// Rule that the name breaks.
    pub reason: String,
}

impl BranchList {
    /// Validates listed names; logs each that is left out.
    fn new(repository: &RepositoryName, names: Vec<String>) -> Self {
        let mut list = Self::default();
        for name in names {
            match BranchName::new(&name) {
                Ok(branch) => list.branches.push(branch),
                Err(error) => {
                    let left_out = LeftOutBranch {
                        branch: escaped_excerpt(name.as_bytes()),
                        reason: error.to_string(),
                    };
                    tracing::warn!(
                        repository.name = %repository, branch.name = left_out.branch,
                        "a branch is left out: {}", left_out.reason
                    );
                    list.left_out.push(left_out);
                }
            }
        }
        list.branches.sort_unstable();
        list.branches.dedup();
        list.left_out.sort_unstable();
        list.left_out.dedup();
        list
    }
}

/// Reads all pages of [`CodeCommit::list_branches`].
pub async fn all_branches(
    codecommit: &dyn CodeCommit,
    repository: &RepositoryName,
) -> Result<BranchList> {
    let mut names = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let page = codecommit
            .list_branches(repository, next.as_deref())
            .await?;
        names.extend(page.items);
        next = match page.next {
            // Ends at a repeated token, because it would be followed forever.
            Some(token) if next.as_deref() != Some(token.as_str()) => Some(token),
            _ => break,
        };
    }
    Ok(BranchList::new(repository, names))
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

/// Reads all pages of [`CodeCommit::list_open_pull_requests`].
pub async fn all_open_pull_requests(
    codecommit: &dyn CodeCommit,
    repository: &RepositoryName,
) -> Result<BTreeSet<PullRequestId>> {
    let mut ids = BTreeSet::new();
    let mut next: Option<String> = None;
    loop {
        let page = codecommit
            .list_open_pull_requests(repository, next.as_deref())
            .await?;
        ids.extend(page.items);
        next = match page.next {
            Some(token) if next.as_deref() != Some(token.as_str()) => Some(token),
            _ => return Ok(ids),
        };
    }
}
