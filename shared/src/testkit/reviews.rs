//! [`Reviews`] and [`Executions`] in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::call_log::CallLog;
use crate::codecommit::{ApprovalState, MAX_COMMENT_CHARS, Page, Review, ReviewComment, Reviews};
use crate::error::{Error, ErrorKind, Result};
use crate::name::PipelineName;
use crate::pipeline::{Executions, FailedAction, PipelineExecution};

/// Comments on a page, fewer than AWS has.
const PAGE: usize = 2;

/// Reviews of pull requests, in memory.
#[derive(Debug, Default)]
pub struct MemoryReviews {
    state: Mutex<BTreeMap<u64, Reviewed>>,
    traffic: CallLog,
}

#[derive(Debug)]
struct Reviewed {
    review: Review,
    comments: Vec<ReviewComment>,
    approval: Option<ApprovalState>,
}

impl MemoryReviews {
    /// Makes a service without pull requests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the log of calls, which has latency, throttling and hooks.
    pub fn traffic(&self) -> &CallLog {
        &self.traffic
    }

    /// Creates or changes a pull request; a new revision has no approval.
    pub fn set(&self, review: Review) {
        let mut state = self.lock();
        if let Some(found) = state.get_mut(&review.pull_request) {
            if found.review.revision_id != review.revision_id {
                found.approval = None;
            }
            found.review = review;
            return;
        }
        let reviewed = Reviewed {
            review,
            comments: Vec::new(),
            approval: None,
        };
        state.insert(reviewed.review.pull_request, reviewed);
    }

    /// Adds a comment of someone else.
    pub fn add_comment(&self, pull_request: u64, content: &str) {
        if let Some(found) = self.lock().get_mut(&pull_request) {
            let id = format!("comment-{}", found.comments.len());
            found.comments.push(ReviewComment {
                id,
                client_request_token: None,
                content: Some(content.to_owned()),
            });
        }
    }

    /// Deletes the content of the comments that tokens posted.
    pub fn delete_comments(&self, pull_request: u64) {
        if let Some(found) = self.lock().get_mut(&pull_request) {
            let comments = found.comments.iter_mut();
            for comment in comments.filter(|one| one.client_request_token.is_some()) {
                comment.content = None;
            }
        }
    }

    /// Returns the comments on a pull request.
    pub fn comments(&self, pull_request: u64) -> Vec<ReviewComment> {
        let state = self.lock();
        let found = state.get(&pull_request);
        found
            .map(|found| found.comments.clone())
            .unwrap_or_default()
    }

    /// Returns the caller's opinion about the newest revision.
    pub fn approval(&self, pull_request: u64) -> Option<ApprovalState> {
        self.lock().get(&pull_request)?.approval
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Reviewed>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(kind: ErrorKind, code: &str, message: String) -> Error {
    Error::new(kind, message).with_aws(Some(code), None)
}

fn missing(pull_request: u64) -> Error {
    refused(
        ErrorKind::NotFound,
        "PullRequestDoesNotExistException",
        format!("pull request {pull_request} does not exist"),
    )
}

#[async_trait]
impl Reviews for MemoryReviews {
    async fn get_review(&self, pull_request: u64) -> Result<Review> {
        let _call = self.traffic.enter("get_review").await?;
        let state = self.lock();
        let found = state.get(&pull_request);
        found
            .map(|found| found.review.clone())
            .ok_or_else(|| missing(pull_request))
    }

    async fn list_comments(
        &self,
        pull_request: u64,
        next: Option<&str>,
    ) -> Result<Page<ReviewComment>> {
        let _call = self.traffic.enter("list_comments").await?;
        let state = self.lock();
        let found = state.get(&pull_request);
        let comments = &found.ok_or_else(|| missing(pull_request))?.comments;
        let start: usize = next.map_or(Ok(0), str::parse).map_err(|_| {
            let message = "the token is not valid".to_owned();
            refused(
                ErrorKind::Config,
                "InvalidContinuationTokenException",
                message,
            )
        })?;
        let end = start.saturating_add(PAGE).min(comments.len());
        Ok(Page {
            items: comments.get(start..end).unwrap_or_default().to_vec(),
            next: (end < comments.len()).then(|| end.to_string()),
        })
    }

    async fn post_comment(
        &self,
        review: &Review,
        client_request_token: &str,
        content: &str,
    ) -> Result<()> {
        let _call = self.traffic.enter("post_comment").await?;
        check_content(content)?;
        let mut state = self.lock();
        let found = state.get_mut(&review.pull_request);
        let found = found.ok_or_else(|| missing(review.pull_request))?;
        let mut comments = found.comments.iter();
        let token = Some(client_request_token);
        match comments.find(|one| one.client_request_token.as_deref() == token) {
            Some(earlier) if earlier.content.as_deref() == Some(content) => return Ok(()),
            Some(_) => {
                return Err(refused(
                    ErrorKind::Conflict,
                    "IdempotencyParameterMismatchException",
                    format!("the token `{client_request_token}` was used before"),
                ));
            }
            None => {}
        }
        found.comments.push(ReviewComment {
            id: format!("comment-{}", found.comments.len()),
            client_request_token: token.map(str::to_owned),
            content: Some(content.to_owned()),
        });
        Ok(())
    }

    async fn update_comment(&self, comment_id: &str, content: &str) -> Result<()> {
        let _call = self.traffic.enter("update_comment").await?;
        check_content(content)?;
        let mut state = self.lock();
        let mut comments = state.values_mut().flat_map(|found| &mut found.comments);
        let comment = comments.find(|comment| comment.id == comment_id);
        let comment = comment.ok_or_else(|| {
            let message = format!("comment `{comment_id}` does not exist");
            refused(ErrorKind::NotFound, "CommentDoesNotExistException", message)
        })?;
        comment.content = Some(content.to_owned());
        Ok(())
    }

    async fn set_approval(&self, review: &Review, state: ApprovalState) -> Result<()> {
        let _call = self.traffic.enter("set_approval").await?;
        let mut pull_requests = self.lock();
        let found = pull_requests.get_mut(&review.pull_request);
        let found = found.ok_or_else(|| missing(review.pull_request))?;
        if found.review.revision_id != review.revision_id {
            return Err(refused(
                ErrorKind::Conflict,
                "RevisionNotCurrentException",
                format!("revision `{}` is not the newest one", review.revision_id),
            ));
        }
        found.approval = Some(state);
        Ok(())
    }
}

fn check_content(content: &str) -> Result<()> {
    if (1..=MAX_COMMENT_CHARS).contains(&content.chars().count()) {
        return Ok(());
    }
    Err(refused(
        ErrorKind::Config,
        "CommentContentSizeLimitExceededException",
        "the comment is empty or too long".to_owned(),
    ))
}

/// An execution, and its failed action.
type Ended = (PipelineExecution, Option<FailedAction>);

/// Executions of pipelines, in memory.
#[derive(Debug, Default)]
pub struct MemoryExecutions {
    state: Mutex<BTreeMap<(PipelineName, String), Ended>>,
    traffic: CallLog,
}

impl MemoryExecutions {
    /// Makes a service without executions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates or changes an execution.
    pub fn set(
        &self,
        pipeline: &PipelineName,
        id: &str,
        execution: PipelineExecution,
        failed: Option<FailedAction>,
    ) {
        let key = (pipeline.clone(), id.to_owned());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.insert(key, (execution, failed));
    }

    fn find(&self, pipeline: &PipelineName, id: &str) -> Result<Ended> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let found = state.get(&(pipeline.clone(), id.to_owned()));
        found.cloned().ok_or_else(|| {
            refused(
                ErrorKind::NotFound,
                "PipelineExecutionNotFoundException",
                format!("pipeline `{pipeline}` has no execution `{id}`"),
            )
        })
    }
}

#[async_trait]
impl Executions for MemoryExecutions {
    async fn get_execution(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<PipelineExecution> {
        let _call = self.traffic.enter("get_execution").await?;
        self.find(pipeline, execution_id).map(|(found, _)| found)
    }

    async fn failed_action(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<Option<FailedAction>> {
        let _call = self.traffic.enter("failed_action").await?;
        self.find(pipeline, execution_id).map(|(_, failed)| failed)
    }
}
