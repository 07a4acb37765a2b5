//! What the functions are asked: CodeCommit trigger records, EventBridge state changes
//! and manual requests, all read into [`Request`]s.
//!
//! The types are our own because those of `aws_lambda_events` lose a reference's
//! `deleted`. They serialise too: the development server sends what the functions read.

mod eventbridge;
mod manual;
mod trigger;

pub use eventbridge::{StateChange, StateChangeDetail};
pub use trigger::{CodeCommitRecord, Record, References, TriggerReference};

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::name::{BranchName, CommitId, RefName, RepositoryName};

/// The most references that one event may name; CodeCommit takes 4,000 in a push.
pub const MAX_REFERENCES: usize = 10_000;

/// What happened to a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It moved, or it is not said what happened.
    Updated,
    /// It is gone.
    Deleted,
}

/// A reference that changed: where to look, never what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefEvent {
    /// The repository.
    pub repository: RepositoryName,
    /// The reference.
    pub reference: RefName,
    /// The commit that it named when the event was made.
    pub commit: Option<CommitId>,
    /// What happened.
    pub change: Change,
    /// The trigger's `customData`, as it came.
    pub custom_data: Option<String>,
}

/// One thing that a function is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A reference changed.
    RefEvent(RefEvent),
    /// Someone asks for a branch by hand.
    Branch {
        /// The repository.
        repository: RepositoryName,
        /// The branch.
        branch: BranchName,
        /// The commit that is expected at its tip.
        commit: Option<CommitId>,
    },
    /// Someone asks for a whole repository by hand.
    Repository(RepositoryName),
    /// It is time to look at everything.
    Schedule,
    /// A trigger is being tested; there is nothing to do.
    TriggerTest {
        /// The repository.
        repository: RepositoryName,
    },
}

/// Reads an event of any known shape. One item that is not valid does not hide the
/// others: each has a result of its own.
///
/// Errors: `InvalidEvent`, naming the field, when the shape as a whole is not known.
pub fn parse(event: &Value) -> Result<Vec<Result<Request>>> {
    let Some(object) = event.as_object() else {
        return Err(unknown_shape("it is no JSON object"));
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
        format!("the event is not understood: {why}"),
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
