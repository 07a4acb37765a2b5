//! Tasks from events, and the response.

use branchline_core::event::{self, Change, Request};
use branchline_core::name::{BranchName, BucketName, CommitId, RepositoryName};
use branchline_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;

use crate::config::KeyTemplate;

/// Work derived from an event.
#[derive(Debug, Clone, PartialEq)]
pub enum UpdateTask {
    /// One branch.
    Branch(BranchTask),
    /// All branches that the settings cover.
    Schedule,
    /// Nothing, for the reason in the response.
    Skip(BranchAnswer),
}

/// One branch that may need a new artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchTask {
    /// The repository.
    pub repository: RepositoryName,
    /// The branch.
    pub branch: BranchName,
    /// The commit that the event names as the tip.
    pub commit: Option<CommitId>,
    /// Settings from the trigger's `customData`.
    pub overrides: Overrides,
    /// The cause of the update.
    pub requester: Requester,
}

/// Cause of the update of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requester {
    /// An event: the branch may be missing by now.
    ByEvent,
    /// A manual request: a missing branch is an error.
    ByHand,
    /// The schedule, which does not read custom data: an execution of any pipeline on the tip
    /// counts as started.
    BySchedule,
}

/// Settings that a trigger's `customData` replaces for its events.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overrides {
    /// Replaces `ARTIFACT_BUCKET`.
    pub bucket: Option<BucketName>,
    /// Replaces `ARTIFACT_KEY`.
    pub key: Option<KeyTemplate>,
    /// Replaces `PIPELINE_NAME`.
    pub pipeline: Option<KeyTemplate>,
}

impl Overrides {
    /// Reads `bucket`, `key` and `pipeline_name` from a JSON object. Other members are ignored,
    /// and so is text that is not a JSON object.
    pub fn read(custom_data: Option<&str>) -> Result<Self> {
        let Some(Ok(Value::Object(object))) = custom_data.map(serde_json::from_str) else {
            return Ok(Self::default());
        };
        Ok(Self {
            bucket: member(&object, "bucket", BucketName::new)?,
            key: member(&object, "key", KeyTemplate::object_key)?,
            pipeline: member(&object, "pipeline_name", KeyTemplate::parse_pipeline_name)?,
        })
    }
}

fn member<T>(
    object: &serde_json::Map<String, Value>,
    name: &str,
    read: impl FnOnce(&str) -> Result<T>,
) -> Result<Option<T>> {
    let invalid = |why: String| {
        Error::new(
            ErrorKind::InvalidEvent,
            format!("field `customData.{name}` of the event: {why}"),
        )
        .with_hint("correct the trigger's custom data")
    };
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => read(text)
            .map(Some)
            .map_err(|error| invalid(error.to_string())),
        Some(_) => Err(invalid("it must be a string".to_owned())),
    }
}

/// Converts an event to tasks, with a result for each item.
pub(crate) fn tasks(event: &Value) -> Result<Vec<Result<UpdateTask>>> {
    let requests = event::parse(event)?;
    Ok(requests
        .into_iter()
        .filter_map(|request| request.and_then(task).transpose())
        .collect())
}

fn task(request: Request) -> Result<Option<UpdateTask>> {
    Ok(Some(match request {
        Request::TriggerTest { repository } => {
            tracing::info!(repository.name = %repository, "received the test event of a trigger");
            return Ok(None);
        }
        Request::Schedule => UpdateTask::Schedule,
        Request::Repository(_) => {
            return Err(Error::new(
                ErrorKind::InvalidEvent,
                "field `branch` of the event: it is missing",
            )
            .with_hint("name a branch, or send {\"schedule\":true} for all of them"));
        }
        Request::Branch {
            repository,
            branch,
            commit,
        } => UpdateTask::Branch(BranchTask {
            repository,
            branch,
            commit,
            overrides: Overrides::default(),
            requester: Requester::ByHand,
        }),
        Request::RefEvent(change) => {
            let skip = |reason: &str| {
                let short = change.reference.as_str().strip_prefix("refs/heads/");
                UpdateTask::Skip(BranchAnswer {
                    repository: change.repository.clone(),
                    branch: short.unwrap_or(change.reference.as_str()).to_owned(),
                    commit: change.commit,
                    outcome: Outcome::Skipped,
                    reason: Some(reason.to_owned()),
                    artifact: None,
                    execution_id: None,
                })
            };
            match change.reference.branch() {
                _ if change.reference.is_tag() => skip("tags are not archived"),
                None => skip("only branches are archived"),
                Some(_) if change.change == Change::Deleted => skip("the branch was deleted"),
                Some(branch) => UpdateTask::Branch(BranchTask {
                    branch,
                    commit: change.commit,
                    overrides: Overrides::read(change.custom_data.as_deref())?,
                    repository: change.repository,
                    requester: Requester::ByEvent,
                }),
            }
        }
    }))
}

/// Response of the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// One result for each branch.
    pub results: Vec<BranchAnswer>,
}

/// Result of one branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BranchAnswer {
    /// The repository.
    pub repository: RepositoryName,
    /// The branch's short name; the full name of a ref that is not a branch.
    pub branch: String,
    /// The commit that was handled, if known.
    pub commit: Option<CommitId>,
    /// The action on the branch.
    pub outcome: Outcome,
    /// The reason why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The artifact, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactAnswer>,
    /// The execution that was started on the artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
}

/// Action on a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A pipeline execution was started on the artifact.
    Started,
    /// An artifact was uploaded; no pipeline is configured.
    Uploaded,
    /// The artifact was current, and its execution was started before.
    Unchanged,
    /// The tip has moved to a newer commit.
    Superseded,
    /// There was nothing to do, for the `reason`.
    Skipped,
    /// The branch is missing, and its artifact was marked deleted.
    Deleted,
}

/// An artifact in a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArtifactAnswer {
    /// The name of the bucket.
    pub bucket: String,
    /// The key in the bucket.
    pub key: String,
    /// The object's version; null in an unversioned bucket.
    pub version_id: Option<String>,
    /// The object's `ETag`, with its quotes.
    pub etag: String,
    /// The size of the zip.
    pub size_bytes: u64,
    /// Number of files and symbolic links; null if not recorded.
    pub files: Option<u64>,
}
