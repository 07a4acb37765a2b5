//! A pull request as it is stored, and as the service answers it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A pull request of one repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PullRequest {
    pub(super) id: u64,
    pub(super) title: String,
    pub(super) description: Option<String>,
    pub(super) is_open: bool,
    pub(super) author_arn: String,
    /// Milliseconds since the epoch.
    pub(super) created_ms: i64,
    /// Milliseconds since the epoch.
    pub(super) activity_ms: i64,
    pub(super) repository: String,
    /// UUID, because a deleted repository's name may be used again.
    pub(super) repository_id: String,
    /// `refs/heads/feature`.
    pub(super) source_reference: String,
    /// `refs/heads/main`.
    pub(super) destination_reference: String,
    pub(super) source_commit: String,
    pub(super) destination_commit: String,
    /// `None` for unrelated histories.
    pub(super) merge_base: Option<String>,
    pub(super) merge: Option<Merge>,
    /// Changes with the source commit.
    pub(super) revision_id: String,
    pub(super) token: Option<Token>,
    pub(super) approvals: Vec<Approval>,
    pub(super) history: Vec<HistoryEntry>,
    pub(super) comments: Vec<Comment>,
}

/// A `clientRequestToken`, and the parameters that were sent with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) principal_arn: String,
    pub(super) parameters: Value,
}

/// A finished merge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Merge {
    pub(super) by_arn: String,
    pub(super) commit: String,
    /// `SQUASH_MERGE`.
    pub(super) option: String,
}

/// State that a user gave to one revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Approval {
    pub(super) revision_id: String,
    pub(super) user_arn: String,
    /// `APPROVE` or `REVOKE`.
    pub(super) state: String,
}

/// An entry of `DescribePullRequestEvents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HistoryEntry {
    /// `PULL_REQUEST_CREATED`.
    pub(super) kind: String,
    pub(super) actor_arn: String,
    /// Milliseconds since the epoch.
    pub(super) at_ms: i64,
    /// Member and content of its metadata.
    pub(super) metadata: (String, Value),
}

/// A comment on a pull request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Comment {
    pub(super) id: String,
    pub(super) author_arn: String,
    /// `None` after `DeleteCommentContent`.
    pub(super) content: Option<String>,
    pub(super) in_reply_to: Option<String>,
    /// Milliseconds since the epoch.
    pub(super) created_ms: i64,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: i64,
    pub(super) token: Option<Token>,
    pub(super) place: Place,
}

/// Place of a comment: the compared commits, and perhaps a line of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) before_commit: String,
    pub(super) after_commit: String,
    pub(super) before_blob: Option<String>,
    pub(super) after_blob: Option<String>,
    /// `Location` as it was sent.
    pub(super) location: Option<Value>,
}

/// Returns seconds since the epoch, with milliseconds.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52 milliseconds")]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// Removes members that are null, because AWS's protocols do not send them.
pub(super) fn prune(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

impl PullRequest {
    pub(super) fn status(&self) -> &'static str {
        if self.is_open { "OPEN" } else { "CLOSED" }
    }

    /// Builds `PullRequest`.
    pub(super) fn json(&self) -> Value {
        let target = prune(json!({
            "repositoryName": self.repository,
            "sourceReference": self.source_reference,
            "destinationReference": self.destination_reference,
            "sourceCommit": self.source_commit,
            "destinationCommit": self.destination_commit,
            "mergeBase": self.merge_base,
            "mergeMetadata": self.merge_json(),
        }));
        prune(json!({
            "pullRequestId": self.id.to_string(),
            "title": self.title,
            "description": self.description,
            "lastActivityDate": seconds(self.activity_ms),
            "creationDate": seconds(self.created_ms),
            "pullRequestStatus": self.status(),
            "authorArn": self.author_arn,
            "pullRequestTargets": [target],
            "clientRequestToken": self.token.as_ref().map(|token| &token.text),
            "revisionId": self.revision_id,
            "approvalRules": [],
        }))
    }

    /// Builds `MergeMetadata`.
    pub(super) fn merge_json(&self) -> Value {
        match &self.merge {
            None => json!({ "isMerged": false }),
            Some(merge) => json!({
                "isMerged": true,
                "mergedBy": merge.by_arn,
                "mergeCommitId": merge.commit,
                "mergeOption": merge.option,
            }),
        }
    }

    pub(super) fn comment(&self, id: &str) -> Option<&Comment> {
        self.comments.iter().find(|comment| comment.id == id)
    }

    /// Adds an entry to the history.
    pub(super) fn record(
        &mut self,
        now_ms: i64,
        kind: &str,
        actor_arn: &str,
        metadata: (&str, Value),
    ) {
        self.activity_ms = now_ms;
        self.history.push(HistoryEntry {
            kind: kind.to_owned(),
            actor_arn: actor_arn.to_owned(),
            at_ms: now_ms,
            metadata: (metadata.0.to_owned(), metadata.1),
        });
    }

    /// Closes the pull request, merged or not.
    pub(super) fn close(&mut self, now_ms: i64, actor_arn: &str, merge: Option<Merge>) {
        self.is_open = false;
        if merge.is_some() {
            self.merge = merge;
            let metadata = json!({
                "repositoryName": self.repository,
                "destinationReference": self.destination_reference,
                "mergeMetadata": self.merge_json(),
            });
            let member = "pullRequestMergedStateChangedEventMetadata";
            self.record(
                now_ms,
                "PULL_REQUEST_MERGE_STATE_CHANGED",
                actor_arn,
                (member, metadata),
            );
        }
        self.record(
            now_ms,
            "PULL_REQUEST_STATUS_CHANGED",
            actor_arn,
            (
                "pullRequestStatusChangedEventMetadata",
                json!({ "pullRequestStatus": "CLOSED" }),
            ),
        );
    }
}

impl HistoryEntry {
    /// Builds `PullRequestEvent`.
    pub(super) fn json(&self, pull_request_id: u64) -> Value {
        let mut json = json!({
            "pullRequestId": pull_request_id.to_string(),
            "eventDate": seconds(self.at_ms),
            "pullRequestEventType": self.kind,
            "actorArn": self.actor_arn,
        });
        json[self.metadata.0.as_str()] = self.metadata.1.clone();
        json
    }
}

impl Comment {
    /// Builds `Comment`.
    pub(super) fn json(&self) -> Value {
        prune(json!({
            "commentId": self.id,
            "content": self.content,
            "inReplyTo": self.in_reply_to,
            "creationDate": seconds(self.created_ms),
            "lastModifiedDate": seconds(self.modified_ms),
            "authorArn": self.author_arn,
            "deleted": self.content.is_none(),
            "clientRequestToken": self.token.as_ref().map(|token| &token.text),
            "callerReactions": [],
            "reactionCounts": {},
        }))
    }
}

impl Place {
    /// Builds the members that say where a comment is.
    pub(super) fn json(&self, pull_request: &PullRequest) -> Value {
        prune(json!({
            "pullRequestId": pull_request.id.to_string(),
            "repositoryName": pull_request.repository,
            "beforeCommitId": self.before_commit,
            "afterCommitId": self.after_commit,
            "beforeBlobId": self.before_blob,
            "afterBlobId": self.after_blob,
            "location": self.location,
        }))
    }
}
