//! What the function is asked and what it answers.

use branchline_core::arn::ArnParts;
use branchline_core::event::{self, Request};
use branchline_core::function::FunctionArn;
use branchline_core::name::{BranchName, RepositoryName};
use branchline_core::trigger::TriggerMode;
use branchline_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// One repository.
    Repository(RepositoryName),
    /// Every repository that the settings cover.
    Schedule,
}

/// Reads an event into tasks; one bad item does not hide the others.
///
/// An event from another region than `function`'s is refused (`Config`): a repository of
/// the same name here is another one.
pub(crate) fn tasks(event: &Value, function: &FunctionArn) -> Result<Vec<Result<Task>>> {
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
            tracing::info!(repository.name = %repository, "the trigger's test arrived");
            return None;
        }
        Request::Schedule => Task::Schedule,
        Request::Repository(repository) | Request::Branch { repository, .. } => {
            Task::Repository(repository)
        }
        Request::RefEvent(change) => Task::Repository(change.repository),
    })
}

/// Refuses a CodeCommit ARN of another region than the function's. What is no such ARN is
/// judged by whoever reads the event.
fn check_region(arn: &str, function: &FunctionArn) -> Result<()> {
    match ArnParts::split(arn) {
        Some(parts) if parts.service == "codecommit" && parts.region != function.region() => {}
        _ => return Ok(()),
    }
    let shown: String = arn.chars().take(200).flat_map(char::escape_debug).collect();
    Err(Error::new(
        ErrorKind::Config,
        format!(
            "repository `{shown}` lies in another region than `UPDATE_FUNCTION_ARN`, `{function}`"
        ),
    )
    .with_hint("a trigger calls only its own region: deploy branchline in each"))
}

/// What the function answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// One for each repository that was looked at.
    pub repositories: Vec<RepositoryAnswer>,
}

/// What became of one repository's triggers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepositoryAnswer {
    /// The repository.
    pub repository: RepositoryName,
    /// How its branches are divided among triggers; null when it is gone.
    pub mode: Option<TriggerMode>,
    /// Branches that pushes are now seen of, and were not before.
    pub created: Vec<BranchName>,
    /// Branches that had a trigger and need none: deleted, or no longer meant.
    pub removed: Vec<String>,
    /// How many branches pushes were seen of before and are now.
    pub kept: usize,
    /// How many triggers are not branchline's.
    pub foreign: usize,
    /// Branches for which update was invoked.
    pub invoked: Vec<BranchName>,
    /// Why nothing was done.
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
            reason: Some(reason.to_owned()),
        }
    }
}
