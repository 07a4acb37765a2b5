//! What the function is asked and what it answers.

use branchline_core::event::{self, Change, Request};
use branchline_core::name::{BranchName, BucketName, CommitId, RepositoryName};
use branchline_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;

use crate::config::KeyTemplate;

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum UpdateTask {
    /// One branch.
    Branch(BranchTask),
    /// Everything that the settings cover.
    Schedule,
    /// Nothing, for the reason in the answer.
    Skip(BranchAnswer),
}

/// One branch that may need a new artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchTask {
    /// The repository.
    pub repository: RepositoryName,
    /// The branch.
    pub branch: BranchName,
    /// The commit that the event saw at the tip.
    pub commit: Option<CommitId>,
    /// What the trigger's `customData` sets otherwise.
    pub overrides: Overrides,
    /// Who asks.
    pub asked: Requester,
}

/// Who asks for a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requester {
    /// An event: the branch may be gone by now.
    ByEvent,
    /// A person, who named the branch: that it is missing is an error.
    ByHand,
    /// The schedule, which knows no trigger's custom data: whichever pipeline was started
    /// on the tip, it was started.
    BySchedule,
}

/// What a trigger's `customData` sets for its events.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overrides {
    /// Instead of `ARTIFACT_BUCKET`.
    pub bucket: Option<BucketName>,
    /// Instead of `ARTIFACT_KEY`.
    pub key: Option<KeyTemplate>,
    /// Instead of `PIPELINE_NAME`.
    pub pipeline: Option<KeyTemplate>,
}

impl Overrides {
    /// Reads `bucket`, `key` and `pipeline_name` of a JSON object; any other text sets
    /// nothing, and neither do other members.
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

/// Reads an event into tasks; one bad item does not hide the others.
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
            tracing::info!(repository.name = %repository, "the trigger's test arrived");
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
            asked: Requester::ByHand,
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
                    asked: Requester::ByEvent,
                }),
            }
        }
    }))
}

/// What the function answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// One for each branch that was looked at.
    pub results: Vec<BranchAnswer>,
}

/// What became of one branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BranchAnswer {
    /// The repository.
    pub repository: RepositoryName,
    /// The branch's short name; the full name of a ref that is no branch.
    pub branch: String,
    /// The commit that was looked at, when it is known.
    pub commit: Option<CommitId>,
    /// What was done.
    pub outcome: Outcome,
    /// Why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The artifact, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactAnswer>,
    /// The execution that was started on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
}

/// What was done about a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A pipeline execution was started on the artifact.
    Started,
    /// An artifact was uploaded, and there is no pipeline to start.
    Uploaded,
    /// The artifact is the tip already, and its execution was started already.
    Unchanged,
    /// The tip is another commit by now.
    Superseded,
    /// There was nothing to do, for the `reason`.
    Skipped,
    /// The branch is gone, and its artifact was marked deleted.
    Deleted,
}

/// An artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArtifactAnswer {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its version; null where the bucket is not versioned.
    pub version_id: Option<String>,
    /// Its entity tag.
    pub etag: String,
    /// Its size.
    pub size_bytes: u64,
    /// How many files and symbolic links it holds; null where that was not recorded.
    pub files: Option<u64>,
}
