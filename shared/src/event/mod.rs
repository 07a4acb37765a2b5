//! Events of the functions: CodeCommit trigger records, EventBridge state changes and manual
//! requests, all parsed to [`Request`]s.
//!
//! The types of `aws_lambda_events` are not used, because they lose a reference's `deleted`. The
//! types also serialise, because the development server sends these events.

mod eventbridge;
mod execution;
mod manual;
mod pull_request;
mod queue;
mod trigger;

pub use eventbridge::{StateChange, StateChangeDetail};
pub use execution::ExecutionEvent;
pub use pull_request::{PullRequestStateChange, PullRequestStateChangeDetail};
pub use queue::unwrapped;
pub use trigger::{CodeCommitRecord, Record, References, TriggerReference};

use serde_json::Value;

use crate::arn::Origin;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::PullRequestEvent;
use crate::git::escaped_excerpt;
use crate::name::{BranchName, CommitId, PullRequestId, RefName, RepositoryName, TagName};

/// Maximum number of references in one event; CodeCommit accepts 4,000 in a push.
pub const MAX_REFERENCES: usize = 10_000;

/// Change of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The reference is new.
    Created,
    /// The reference moved, or the event does not contain the change.
    Updated,
    /// The reference was deleted.
    Deleted,
}

/// A changed reference. It may have changed again since, so its state must be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefEvent {
    /// The repository.
    pub repository: RepositoryName,
    /// Account and region of the repository, if the event has them.
    pub origin: Option<Origin>,
    /// The reference.
    pub reference: RefName,
    /// The commit of the reference when the event was made.
    pub commit: Option<CommitId>,
    /// The change.
    pub change: Change,
    /// The trigger's `customData`, unchanged.
    pub custom_data: Option<String>,
    /// Whether lifecycle found the reference without an event of its own, so that it may be older
    /// than the stack.
    pub is_found: bool,
}

/// A changed pull request. It may have changed again since, so its state must be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequestChange {
    /// The repository.
    pub repository: RepositoryName,
    /// Account and region of the repository, if the event has them.
    pub origin: Option<Origin>,
    /// The pull request.
    pub id: PullRequestId,
    /// The change; `None` for one that concerns neither commits nor status.
    pub change: Option<PullRequestEvent>,
}

/// Returns why an event of `theirs` is skipped by a function of `own`, if they differ: a
/// repository of the same name is a different one.
pub fn foreign_reason(theirs: Option<&Origin>, own: Option<&Origin>) -> Option<String> {
    let (theirs, own) = (theirs?, own?);
    (theirs != own).then(|| {
        format!(
            "the event is of account {} in region {}, and this function is in {} in {}",
            escaped_excerpt(theirs.account.as_bytes()),
            escaped_excerpt(theirs.region.as_bytes()),
            own.account,
            own.region
        )
    })
}

/// One item of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A reference changed.
    RefEvent(RefEvent),
    /// A pull request changed.
    PullRequest(PullRequestChange),
    /// A manual request for a branch.
    Branch {
        /// The repository.
        repository: RepositoryName,
        /// The branch.
        branch: BranchName,
        /// The commit that is expected as the tip.
        commit: Option<CommitId>,
        /// Whether what was started before is started once more.
        again: bool,
    },
    /// A manual request for a tag.
    Tag {
        /// The repository.
        repository: RepositoryName,
        /// The tag.
        tag: TagName,
        /// Whether what was started before is started once more.
        again: bool,
    },
    /// A manual request for a commit, which no branch need contain.
    Commit {
        /// The repository.
        repository: RepositoryName,
        /// The commit.
        commit: CommitId,
        /// Whether what was started before is started once more.
        again: bool,
    },
    /// A manual request for a whole repository.
    Repository(RepositoryName),
    /// A scheduled check of everything.
    Schedule {
        /// Whether the answer only says what would be done, and nothing is written.
        plan: bool,
    },
    /// The state of a pipeline's execution changed.
    Execution(ExecutionEvent),
    /// A test of a trigger; there is nothing to do.
    TriggerTest {
        /// The repository.
        repository: RepositoryName,
    },
}

/// Parses an event of any known shape, after [`unwrapped`]; returns a result for each item, so that an invalid item
/// does not hide the others.
///
/// # Errors
/// `InvalidEvent`, naming the field, when the shape as a whole is not known.
pub fn parse(event: &Value) -> Result<Vec<Result<Request>>> {
    let Some(object) = event.as_object() else {
        return Err(unknown_shape("it must be a JSON object"));
    };
    if object.contains_key("Records") {
        trigger::parse(event)
    } else if object.contains_key("detail-type") || object.contains_key("detail") {
        let detail_type = object.get("detail-type").and_then(Value::as_str);
        let request = match detail_type {
            Some(execution::DETAIL_TYPE) => execution::parse(event),
            Some(pull_request::DETAIL_TYPE) => pull_request::parse(event),
            _ => eventbridge::parse(event),
        };
        request.map(|request| vec![Ok(request)])
    } else {
        manual::parse(object).map(|request| vec![Ok(request)])
    }
}

fn unknown_shape(why: &str) -> Error {
    Error::new(
        ErrorKind::InvalidEvent,
        format!("the shape of the event is not known: {why}"),
    )
    .with_hint(
        "send a CodeCommit trigger record, an EventBridge `CodeCommit Repository State \
             Change`, {\"repository\":\"..\",\"branch\":\"..\"}, {\"repository\":\"..\",\"tag\":\"..\"} \
             or {\"schedule\":true}",
    )
}

fn invalid_field(field: &str, why: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::InvalidEvent,
        format!("field `{field}` of the event: {why}"),
    )
}

#[cfg(test)]
mod tests;
