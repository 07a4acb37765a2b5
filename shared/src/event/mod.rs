//! Events of the functions: CodeCommit trigger records, EventBridge state changes and manual
//! requests, all parsed to [`Request`]s.
//!
//! The types of `aws_lambda_events` are not used, because they lose a reference's `deleted`. The
//! types also serialise, because the development server sends these events.

mod eventbridge;
mod manual;
mod queue;
mod trigger;

pub use eventbridge::{StateChange, StateChangeDetail};
pub use queue::unwrapped;
pub use trigger::{CodeCommitRecord, Record, References, TriggerReference};

use serde_json::Value;

use crate::arn::Origin;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BranchName, CommitId, RefName, RepositoryName};

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

/// One item of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A reference changed.
    RefEvent(RefEvent),
    /// A manual request for a branch.
    Branch {
        /// The repository.
        repository: RepositoryName,
        /// The branch.
        branch: BranchName,
        /// The commit that is expected as the tip.
        commit: Option<CommitId>,
    },
    /// A manual request for a whole repository.
    Repository(RepositoryName),
    /// A scheduled check of everything.
    Schedule {
        /// Whether the answer only says what would be done, and nothing is written.
        plan: bool,
    },
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
        eventbridge::parse(event).map(|request| vec![Ok(request)])
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
             Change`, {\"repository\":\"..\",\"branch\":\"..\"} or {\"schedule\":true}",
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
