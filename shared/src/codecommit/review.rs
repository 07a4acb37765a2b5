//! The review of a pull request, as far as a pipeline's result goes into it: comments and
//! approval.

use async_trait::async_trait;

use super::Page;
use crate::error::Result;
use crate::name::{BranchName, CommitId, RepositoryName};

/// Maximum number of characters of a comment (CodeCommit user guide, "Quotas").
pub const MAX_COMMENT_CHARS: usize = 10_240;

/// A pull request under review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// Number of the pull request.
    pub pull_request: u64,
    /// Whether it is open.
    pub is_open: bool,
    /// Revision, which changes with the source commit.
    pub revision_id: String,
    /// Repository of both branches.
    pub repository: RepositoryName,
    /// Branch that is to be merged.
    pub source: BranchName,
    /// Tip of the source.
    pub source_commit: CommitId,
    /// Tip of the destination.
    pub destination_commit: CommitId,
}

/// A comment on a pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewComment {
    /// Id of the comment.
    pub id: String,
    /// Token of the request that posted it.
    pub client_request_token: Option<String>,
    /// Text in Markdown; `None` if it was deleted.
    pub content: Option<String>,
}

/// Opinion of the caller about a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApprovalState {
    /// The revision is approved.
    Approve,
    /// An approval is taken back.
    Revoke,
}

/// Operations of CodeCommit on reviews.
#[async_trait]
pub trait Reviews: Send + Sync {
    /// Reads a pull request. Errors: `NotFound` for a missing one.
    async fn get_review(&self, pull_request: u64) -> Result<Review>;

    /// Lists the comments on a pull request, one page from the token `next`.
    async fn list_comments(
        &self,
        pull_request: u64,
        next: Option<&str>,
    ) -> Result<Page<ReviewComment>>;

    /// Posts a comment on the pull request as a whole. One token posts one comment. Errors:
    /// `Conflict` for a token that was used with another content.
    async fn post_comment(
        &self,
        review: &Review,
        client_request_token: &str,
        content: &str,
    ) -> Result<()>;

    /// Replaces the content of a comment of the caller.
    async fn update_comment(&self, comment_id: &str, content: &str) -> Result<()>;

    /// Sets the caller's opinion about the revision of `review`. Errors: `Conflict` for a
    /// revision that is not the newest one, or a pull request that was closed.
    async fn set_approval(&self, review: &Review, state: ApprovalState) -> Result<()>;
}

/// Finds the comment that a token posted.
pub async fn comment_of_token(
    reviews: &dyn Reviews,
    pull_request: u64,
    token: &str,
) -> Result<Option<ReviewComment>> {
    let mut next: Option<String> = None;
    loop {
        let page = reviews.list_comments(pull_request, next.as_deref()).await?;
        let mut comments = page.items.into_iter();
        let found = comments.find(|comment| comment.client_request_token.as_deref() == Some(token));
        if found.is_some() {
            return Ok(found);
        }
        next = match page.next {
            // Ends at a repeated token, because it would be followed forever.
            Some(token) if next.as_deref() != Some(token.as_str()) => Some(token),
            _ => return Ok(None),
        };
    }
}
