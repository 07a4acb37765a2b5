//! Pull requests, their comments and approvals, as CodeCommit keeps them.
//!
//! | module | content |
//! |---|---|
//! | `model` | a pull request as it is stored and answered |
//! | `store` | all of them, in one file |
//! | `requests` | create, read, list, change title, description and status; history |
//! | `merges` | the three ways of merging, and what would conflict |
//! | `approvals` | approval states |
//! | `comments` | comments and replies |
//! | `branch_changes` | what a push does to open pull requests |
//! | `notices` | events of all of these |
//!
//! Approval rules and reactions are not offered.

mod approvals;
mod branch_changes;
mod comments;
mod merges;
mod model;
mod notices;
mod requests;
mod store;

pub(super) use store::PullRequestStore;

use std::sync::Arc;

use super::input::Input;
use super::{CodeCommitService, Repository};
use crate::aws_json::{ApiError, ApiResult};

use model::PullRequest;

/// The operations of this module.
pub(super) const OPERATIONS: [&str; 22] = [
    "CreatePullRequest",
    "DeleteCommentContent",
    "DescribePullRequestEvents",
    "EvaluatePullRequestApprovalRules",
    "GetComment",
    "GetCommentsForPullRequest",
    "GetMergeCommit",
    "GetMergeConflicts",
    "GetMergeOptions",
    "GetPullRequest",
    "GetPullRequestApprovalStates",
    "ListPullRequests",
    "MergePullRequestByFastForward",
    "MergePullRequestBySquash",
    "MergePullRequestByThreeWay",
    "PostCommentForPullRequest",
    "PostCommentReply",
    "UpdateComment",
    "UpdatePullRequestApprovalState",
    "UpdatePullRequestDescription",
    "UpdatePullRequestStatus",
    "UpdatePullRequestTitle",
];

/// Members that every operation on a pull request reads.
const ID: &str = "pullRequestId";

impl CodeCommitService {
    /// Answers an operation on pull requests; `None` if it is not one of them.
    pub(super) async fn call_pull_requests(
        &self,
        operation: &str,
        input: Input<'_>,
        principal_arn: &str,
    ) -> Option<ApiResult> {
        use merges::MergeOption::{FastForward, Squash, ThreeWay};
        let merge = |option| self.merge_pull_request(input, principal_arn, option);
        Some(match operation {
            "CreatePullRequest" => self.create_pull_request(input, principal_arn).await,
            "GetPullRequest" => self.get_pull_request(input),
            "ListPullRequests" => self.list_pull_requests(input),
            "UpdatePullRequestTitle" => self.update_pull_request_title(input),
            "UpdatePullRequestDescription" => self.update_pull_request_description(input),
            "UpdatePullRequestStatus" => self.update_pull_request_status(input, principal_arn),
            "DescribePullRequestEvents" => self.describe_pull_request_events(input),
            "MergePullRequestByFastForward" => merge(FastForward).await,
            "MergePullRequestBySquash" => merge(Squash).await,
            "MergePullRequestByThreeWay" => merge(ThreeWay).await,
            "GetMergeConflicts" => self.get_merge_conflicts(input).await,
            "GetMergeOptions" => self.get_merge_options(input).await,
            "GetMergeCommit" => self.get_merge_commit(input).await,
            "UpdatePullRequestApprovalState" => self.update_approval_state(input, principal_arn),
            "GetPullRequestApprovalStates" => self.get_approval_states(input),
            "EvaluatePullRequestApprovalRules" => self.evaluate_approval_rules(input),
            "PostCommentForPullRequest" => self.post_comment(input, principal_arn).await,
            "PostCommentReply" => self.post_comment_reply(input, principal_arn),
            "UpdateComment" => self.update_comment(input, principal_arn),
            "DeleteCommentContent" => self.delete_comment_content(input, principal_arn),
            "GetComment" => self.get_comment(input),
            "GetCommentsForPullRequest" => self.get_comments(input),
            _ => return None,
        })
    }

    /// Returns the repository of the pull request or comment that an operation names, for the
    /// ARN that its permission is checked against.
    pub fn repository_of(&self, pull_request_or_comment_id: &str) -> Option<String> {
        self.0.pull_requests.read(|pull_requests| {
            let id = pull_request_or_comment_id.parse::<u64>().ok();
            let found = id.and_then(|id| pull_requests.get(&id)).or_else(|| {
                let mut all = pull_requests.values();
                all.find(|found| found.comment(pull_request_or_comment_id).is_some())
            });
            found.map(|found| found.repository.clone())
        })
    }

    /// Reads `pullRequestId`, required and a number.
    fn pull_request_id(input: Input<'_>) -> Result<u64, ApiError> {
        let id = input.required(ID, "PullRequestIdRequiredException")?;
        id.parse().map_err(|_| {
            ApiError::new(
                "InvalidPullRequestIdException",
                "The pull request ID is not valid. It must be the number that CreatePullRequest \
                 returned",
            )
        })
    }

    /// Finds the pull request that `pullRequestId` names.
    fn pull_request(&self, input: Input<'_>) -> Result<PullRequest, ApiError> {
        let id = Self::pull_request_id(input)?;
        let found = self.0.pull_requests.read(|all| all.get(&id).cloned());
        found.ok_or_else(|| no_pull_request(id))
    }

    /// Checks that `repositoryName` is the repository of a pull request.
    fn check_associated(
        &self,
        input: Input<'_>,
        pull_request: &PullRequest,
    ) -> Result<Arc<Repository>, ApiError> {
        let repository = self.named(input)?;
        if repository.metadata().id == pull_request.repository_id {
            return Ok(repository);
        }
        Err(ApiError::new(
            "RepositoryNotAssociatedWithPullRequestException",
            format!(
                "Pull request {} is of repository {}, not of {}",
                pull_request.id, pull_request.repository, repository.name
            ),
        ))
    }
}

fn no_pull_request(id: u64) -> ApiError {
    ApiError::new(
        "PullRequestDoesNotExistException",
        format!("{id} does not exist"),
    )
}

fn already_closed(pull_request: &PullRequest) -> ApiError {
    ApiError::new(
        "PullRequestAlreadyClosedException",
        format!("Pull request {} is closed", pull_request.id),
    )
}
