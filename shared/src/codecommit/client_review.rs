//! [`Reviews`] over the AWS SDK.

use async_trait::async_trait;
use aws_sdk_codecommit::error::SdkError;
use aws_sdk_codecommit::types::{ApprovalState as SdkApprovalState, Comment, PullRequest};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::client::SdkCodeCommit;
use super::client_fields::{parse, required};
use super::client_pull_requests::is_open;
use super::{ApprovalState, Page, Review, ReviewComment, Reviews};
use crate::aws::{ApiCall, SdkFailure};
use crate::error::{Error, ErrorKind, Result};
use crate::git::escaped_excerpt;
use crate::name::{BranchName, CommitId, RepositoryName};

fn call(operation: &'static str, permission: &'static str, subject: String) -> ApiCall {
    ApiCall {
        service: "CodeCommit",
        operation,
        permission,
        subject,
        resource: "the repository of the pull request".to_owned(),
    }
}

/// Converts the errors of operations on pull requests and comments.
fn convert<E>(error: &SdkError<E, HttpResponse>, call: &ApiCall) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let failure = SdkFailure::of(error);
    let subject = &call.subject;
    match failure.code() {
        "PullRequestDoesNotExistException" | "CommentDoesNotExistException" => failure
            .into_error(ErrorKind::NotFound, format!("{subject} does not exist"))
            .with_hint("check its number, the region and the account"),
        "IdempotencyParameterMismatchException"
        | "RevisionNotCurrentException"
        | "PullRequestAlreadyClosedException"
        | "CommentDeletedException" => failure.into_error(
            ErrorKind::Conflict,
            format!("{subject} was changed in the meantime"),
        ),
        "CommentNotCreatedByCallerException" => failure
            .into_error(
                ErrorKind::AccessDenied,
                format!("{subject} belongs to another author"),
            )
            .with_hint("delete the comment; the next result posts a new one"),
        "PullRequestCannotBeApprovedByAuthorException" => failure
            .into_error(
                ErrorKind::Config,
                format!("{subject} was created by the role that is to approve it"),
            )
            .with_hint(
                "set PULL_REQUEST_APPROVAL to false, or create pull requests by another role",
            ),
        _ => super::client_error::convert(error, call),
    }
}

#[async_trait]
impl Reviews for SdkCodeCommit {
    async fn get_review(&self, pull_request: u64) -> Result<Review> {
        let call = || {
            let subject = format!("pull request {pull_request}");
            call("GetPullRequest", "codecommit:GetPullRequest", subject)
        };
        let answer = self
            .client()
            .get_pull_request()
            .pull_request_id(pull_request.to_string())
            .send()
            .await
            .map_err(|error| convert(&error, &call()))?;
        let found = required(&call, "pullRequest", answer.pull_request)?;
        review(&call, pull_request, found)
    }

    async fn list_comments(
        &self,
        pull_request: u64,
        next: Option<&str>,
    ) -> Result<Page<ReviewComment>> {
        let call = || {
            call(
                "GetCommentsForPullRequest",
                "codecommit:GetCommentsForPullRequest",
                format!("the comments on pull request {pull_request}"),
            )
        };
        let answer = self
            .client()
            .get_comments_for_pull_request()
            .pull_request_id(pull_request.to_string())
            .set_next_token(next.map(str::to_owned))
            .send()
            .await
            .map_err(|error| convert(&error, &call()))?;
        let groups = answer.comments_for_pull_request_data.unwrap_or_default();
        let comments = groups
            .into_iter()
            .flat_map(|group| group.comments.unwrap_or_default());
        let items: Result<Vec<_>> = comments.map(|one| comment(&call, one)).collect();
        Ok(Page {
            items: items?,
            next: answer.next_token.filter(|token| !token.is_empty()),
        })
    }

    async fn post_comment(
        &self,
        review: &Review,
        client_request_token: &str,
        content: &str,
    ) -> Result<()> {
        let call = || {
            call(
                "PostCommentForPullRequest",
                "codecommit:PostCommentForPullRequest",
                format!("the comment on pull request {}", review.pull_request),
            )
        };
        let answer = self
            .client()
            .post_comment_for_pull_request()
            .pull_request_id(review.pull_request.to_string())
            .repository_name(review.repository.as_str())
            .before_commit_id(review.destination_commit.to_string())
            .after_commit_id(review.source_commit.to_string())
            .client_request_token(client_request_token)
            .content(content)
            .send()
            .await;
        answer.map(drop).map_err(|error| convert(&error, &call()))
    }

    async fn update_comment(&self, comment_id: &str, content: &str) -> Result<()> {
        let call = || {
            let id = escaped_excerpt(comment_id.as_bytes());
            let subject = format!("comment `{id}`");
            call("UpdateComment", "codecommit:UpdateComment", subject)
        };
        let request = self.client().update_comment().comment_id(comment_id);
        let answer = request.content(content).send().await;
        answer.map(drop).map_err(|error| convert(&error, &call()))
    }

    async fn set_approval(&self, review: &Review, state: ApprovalState) -> Result<()> {
        let call = || {
            call(
                "UpdatePullRequestApprovalState",
                "codecommit:UpdatePullRequestApprovalState",
                format!("pull request {}", review.pull_request),
            )
        };
        let state = match state {
            ApprovalState::Approve => SdkApprovalState::Approve,
            ApprovalState::Revoke => SdkApprovalState::Revoke,
        };
        let answer = self
            .client()
            .update_pull_request_approval_state()
            .pull_request_id(review.pull_request.to_string())
            .revision_id(&review.revision_id)
            .approval_state(state)
            .send()
            .await;
        answer.map(drop).map_err(|error| convert(&error, &call()))
    }
}

fn review(call: &impl Fn() -> ApiCall, pull_request: u64, found: PullRequest) -> Result<Review> {
    let is_open = is_open(call, found.pull_request_status)?;
    // A pull request has one target.
    let target = found
        .pull_request_targets
        .unwrap_or_default()
        .into_iter()
        .next();
    let target = required(call, "pullRequestTargets", target)?;
    let branch = |name: &str| BranchName::new(name.strip_prefix("refs/heads/").unwrap_or(name));
    Ok(Review {
        pull_request,
        is_open,
        revision_id: required(call, "revisionId", found.revision_id)?,
        repository: parse(
            call,
            "repositoryName",
            target.repository_name,
            RepositoryName::new,
        )?,
        source: parse(call, "sourceReference", target.source_reference, branch)?,
        source_commit: parse(call, "sourceCommit", target.source_commit, CommitId::new)?,
        destination_commit: parse(
            call,
            "destinationCommit",
            target.destination_commit,
            CommitId::new,
        )?,
    })
}

fn comment(call: &impl Fn() -> ApiCall, found: Comment) -> Result<ReviewComment> {
    Ok(ReviewComment {
        id: required(call, "commentId", found.comment_id)?,
        client_request_token: found.client_request_token.filter(|token| !token.is_empty()),
        content: found.content.filter(|_| !found.deleted),
    })
}
