//! Events of pull requests and comments (CodeCommit user guide, "Monitoring CodeCommit events in
//! Amazon EventBridge").

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::CodeCommitService;
use super::model::{Comment, PullRequest};
use crate::event::Event;

/// Change of a pull request, with the additional members of its event.
#[derive(Debug, Clone, Copy)]
pub(super) enum Notice<'a> {
    Created,
    SourceBranchUpdated,
    StatusChanged,
    MergeStatusUpdated,
    ApprovalStateChanged(&'a str),
}

impl Notice<'_> {
    fn event(self) -> &'static str {
        match self {
            Self::Created => "pullRequestCreated",
            Self::SourceBranchUpdated => "pullRequestSourceBranchUpdated",
            Self::StatusChanged => "pullRequestStatusChanged",
            Self::MergeStatusUpdated => "pullRequestMergeStatusUpdated",
            Self::ApprovalStateChanged(_) => "pullRequestApprovalStateChanged",
        }
    }

    fn text(self, pull_request: &PullRequest) -> String {
        let PullRequest { id, title, .. } = pull_request;
        match self {
            Self::Created => format!(
                "The pull request was created with the following information: Pull Request ID as \
                 {id} and title as {title}."
            ),
            Self::SourceBranchUpdated => format!(
                "The user updated the following pull request: {id}. The pull request was updated \
                 with one or more commits to the source branch."
            ),
            Self::StatusChanged => {
                format!("The status of the following pull request was updated to closed: {id}.")
            }
            Self::MergeStatusUpdated => {
                format!(
                    "The merge status of the following pull request was updated to merged: {id}."
                )
            }
            Self::ApprovalStateChanged(state) => format!(
                "A user has changed their approval state for the pull request {id}. State change: \
                 {state}."
            ),
        }
    }
}

impl CodeCommitService {
    /// Puts `CodeCommit Pull Request State Change`.
    pub(super) fn notify(&self, pull_request: &PullRequest, principal_arn: &str, notice: Notice) {
        let repository = &pull_request.repository;
        let status = if pull_request.is_open {
            "Open"
        } else {
            "Closed"
        };
        let is_merged = if pull_request.merge.is_some() {
            "True"
        } else {
            "False"
        };
        let text = notice.text(pull_request);
        let body = format!(
            "A pull request event occurred in the following AWS CodeCommit repository: \
             {repository}. User: {principal_arn}. {text} For more information, go to the AWS \
             CodeCommit console {}",
            self.console_url(pull_request)
        );
        let mut detail = json!({
            "author": pull_request.author_arn,
            "callerUserArn": principal_arn,
            "creationDate": date(pull_request.created_ms),
            "destinationCommit": pull_request.destination_commit,
            "destinationReference": pull_request.destination_reference,
            "event": notice.event(),
            "isMerged": is_merged,
            "lastModifiedDate": date(pull_request.activity_ms),
            "notificationBody": body,
            "pullRequestId": pull_request.id.to_string(),
            "pullRequestStatus": status,
            "repositoryNames": [repository],
            "revisionId": pull_request.revision_id,
            "sourceCommit": pull_request.source_commit,
            "sourceReference": pull_request.source_reference,
            "title": pull_request.title,
        });
        if let Some(description) = &pull_request.description {
            detail["description"] = description.clone().into();
        }
        if let Some(merge) = &pull_request.merge {
            detail["mergeOption"] = merge.option.clone().into();
        }
        if let Notice::ApprovalStateChanged(state) = notice {
            detail["approvalStatus"] = state.into();
        }
        tracing::info!(
            repository.name = repository,
            "pull request {} of `{repository}`: {}",
            pull_request.id,
            notice.event()
        );
        self.put_event("CodeCommit Pull Request State Change", repository, detail);
    }

    /// Puts `CodeCommit Comment on Pull Request`; `event` is `commentOnPullRequestCreated` or the
    /// like.
    pub(super) fn notify_comment(
        &self,
        pull_request: &PullRequest,
        comment: &Comment,
        principal_arn: &str,
        event: &str,
    ) {
        let repository = &pull_request.repository;
        let body = format!(
            "A comment event occurred in the following AWS CodeCommit repository: {repository}. \
             The user {principal_arn} made a comment or changed it. The comment was made on the \
             following Pull Request: {}. For more information, go to the AWS CodeCommit console \
             {}#{}",
            pull_request.id,
            self.console_url(pull_request),
            comment.id
        );
        let mut detail = json!({
            "beforeCommitId": comment.place.before_commit,
            "afterCommitId": comment.place.after_commit,
            "repositoryId": pull_request.repository_id,
            "repositoryName": repository,
            "notificationBody": body,
            "commentId": comment.id,
            "event": event,
            "callerUserArn": principal_arn,
            "pullRequestId": pull_request.id.to_string(),
        });
        if let Some(replied) = &comment.in_reply_to {
            detail["inReplyTo"] = replied.clone().into();
        }
        self.put_event("CodeCommit Comment on Pull Request", repository, detail);
    }

    fn put_event(&self, detail_type: &str, repository: &str, detail: Value) {
        self.events().put(Event {
            source: "aws.codecommit".to_owned(),
            detail_type: detail_type.to_owned(),
            resources: vec![self.0.account.repository_arn(repository)],
            detail,
        });
    }

    fn console_url(&self, pull_request: &PullRequest) -> String {
        let region = &self.0.account.region;
        format!(
            "https://{region}.console.aws.amazon.com/codesuite/codecommit/repositories/{}\
             /pull-requests/{}?region={region}",
            pull_request.repository, pull_request.id
        )
    }
}

/// Writes a time as these events do, `Wed Nov 06 19:10:58 UTC 2019`.
fn date(milliseconds: i64) -> String {
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or_default();
    time.strftime("%a %b %d %H:%M:%S UTC %Y").to_string()
}
