//! The tasks of an event, and the answer.

use branchline_core::arn::ArnParts;
use branchline_core::codecommit::LeftOutBranch;
use branchline_core::event::{self, Request};
use branchline_core::function::FunctionArn;
use branchline_core::git::escaped_excerpt;
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::trigger::TriggerMode;
use branchline_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;

/// Repositories to reconcile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// One repository.
    Repository(RepositoryName),
    /// All repositories that the settings select.
    Schedule,
}

/// Reads the tasks of an event; an invalid record does not hide the others.
///
/// # Errors
/// `Config` for an event from another region than `function`'s, because a repository of that
/// name in this region is a different one; `InvalidEvent`, naming the field.
pub(crate) fn tasks(event: &Value, function: &FunctionArn) -> Result<Vec<Result<Task>>> {
    let mut all = Vec::new();
    let events = event::unwrapped(event);
    let is_single = events.len() == 1;
    for event in events {
        match event.and_then(|event| tasks_of(&event, function)) {
            Err(error) if is_single => return Err(error),
            Err(error) => all.push(Err(error)),
            Ok(tasks) => all.extend(tasks),
        }
    }
    Ok(all)
}

fn tasks_of(event: &Value, function: &FunctionArn) -> Result<Vec<Result<Task>>> {
    let check = |arn: &str| check_region(arn, function);
    let mut event = event.clone();
    let mut tasks = Vec::new();
    if let Some(records) = event.get_mut("Records").and_then(Value::as_array_mut) {
        let arn = |record: &Value| Some(record.get("eventSourceARN")?.as_str()?.to_owned());
        records.retain(|record| match arn(record).map(|arn| check(&arn)) {
            Some(Err(error)) => {
                tasks.push(Err(error));
                false
            }
            _ => true,
        });
        if records.is_empty() && !tasks.is_empty() {
            return Ok(tasks);
        }
    } else if let Some(resources) = event.get("resources").and_then(Value::as_array) {
        resources
            .iter()
            .filter_map(Value::as_str)
            .try_for_each(check)?;
    }
    let requests = event::parse(&event)?;
    tasks.extend(
        requests
            .into_iter()
            .filter_map(|request| request.map(task).transpose()),
    );
    Ok(tasks)
}

fn task(request: Request) -> Option<Task> {
    Some(match request {
        Request::TriggerTest { repository } => {
            tracing::info!(repository.name = %repository, "received the trigger's test event");
            return None;
        }
        Request::Schedule => Task::Schedule,
        Request::Repository(repository) | Request::Branch { repository, .. } => {
            Task::Repository(repository)
        }
        Request::RefEvent(change) => Task::Repository(change.repository),
    })
}

/// Rejects a CodeCommit ARN of another region than the function's. Other ARNs are left to the
/// event parser.
fn check_region(arn: &str, function: &FunctionArn) -> Result<()> {
    match ArnParts::split(arn) {
        Some(parts) if parts.service == "codecommit" && parts.region != function.region() => {}
        _ => return Ok(()),
    }
    let shown = escaped_excerpt(arn.as_bytes());
    Err(Error::new(
        ErrorKind::Config,
        format!("repository `{shown}` is not in the region of `UPDATE_FUNCTION_ARN`, `{function}`"),
    )
    .with_hint("a trigger calls only its own region: deploy branchline in each"))
}

/// Answer to an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// One entry for each repository.
    pub repositories: Vec<RepositoryAnswer>,
}

/// Result of reconciling one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryAnswer {
    /// Name of the repository.
    pub repository: RepositoryName,
    /// Division of the branches among triggers; null if the repository is missing.
    pub mode: Option<TriggerMode>,
    /// Branches that are covered by a trigger now and were not before.
    pub created: Vec<BranchName>,
    /// Branches that had a trigger and need none: deleted, or no longer selected.
    pub removed: Vec<String>,
    /// Number of branches that were covered before and are now.
    pub kept: usize,
    /// Number of foreign triggers.
    pub foreign: usize,
    /// Branches for which update was invoked.
    pub invoked: Vec<BranchName>,
    /// Branches that get no trigger because their names cannot be used.
    pub skipped: Vec<LeftOutBranch>,
    /// Reason why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RepositoryAnswer {
    pub(crate) fn skipped(repository: &RepositoryName, reason: &str) -> Self {
        Self {
            repository: repository.clone(),
            mode: None,
            created: Vec::new(),
            removed: Vec::new(),
            kept: 0,
            foreign: 0,
            invoked: Vec::new(),
            skipped: Vec::new(),
            reason: Some(reason.to_owned()),
        }
    }
}
