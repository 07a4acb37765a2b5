//! Tasks from events, and the response.

use std::collections::BTreeMap;

use branchline_core::answer;
use branchline_core::arn::Origin;
use branchline_core::event::{self, Change, PullRequestChange, RefEvent, Request};
use branchline_core::name::{BranchName, BucketName, CommitId, PipelineName, RepositoryName};
use branchline_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;

use crate::config::{Config, CustomData};
use crate::key_template::KeyTemplate;
use crate::ref_kind::RefKind;

/// An execution that ended, as an event names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedExecution {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The execution's id.
    pub id: String,
}

/// Work derived from an event.
#[derive(Debug, Clone, PartialEq)]
pub enum UpdateTask {
    /// One branch.
    Branch(BranchTask),
    /// All branches that the settings cover.
    Schedule {
        /// Whether the answer only says what would be done.
        plan: bool,
    },
    /// All branches of one repository that the settings cover.
    Repository(RepositoryName),
    /// The result of an execution.
    Result(EndedExecution),
    /// Nothing, for the reason in the response.
    Skip(BranchAnswer),
}

/// One branch that may need a new artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchTask {
    /// The repository.
    pub repository: RepositoryName,
    /// The branch, or the name that stands for a tag or commit.
    pub branch: BranchName,
    /// The kind of what the name stands for.
    pub kind: RefKind,
    /// Whether what was started before is started once more.
    pub again: bool,
    /// The commit that the event names as the tip.
    pub commit: Option<CommitId>,
    /// Settings from the trigger's `customData`.
    pub overrides: Overrides,
    /// The cause of the update.
    pub requester: Requester,
}

impl BranchTask {
    fn by_hand(
        repository: RepositoryName,
        branch: BranchName,
        kind: RefKind,
        commit: Option<CommitId>,
    ) -> Self {
        Self {
            repository,
            branch,
            kind,
            again: false,
            commit,
            overrides: Overrides::default(),
            requester: Requester::ByHand,
        }
    }

    /// Returns the name in answers.
    pub(crate) fn label(&self) -> String {
        self.kind.label(&self.branch)
    }
}

/// Cause of the update of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requester {
    /// An event: the branch may be missing by now.
    ByEvent,
    /// A manual request: a missing branch is an error.
    ByHand,
    /// lifecycle, which found the branch without an event: it may be older than the stack.
    ByLifecycle,
    /// The schedule: an execution of any pipeline on the tip counts as started, because triggers
    /// may have been changed since.
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

impl Overrides {
    /// Returns what `CUSTOM_DATA` allows of them in triggers of `repository`.
    ///
    /// # Errors
    /// `InvalidEvent` if custom data choose a bucket, a pipeline, or a key outside of the
    /// repository's folder, and the setting is `own`.
    pub(crate) fn allowed(self, setting: CustomData, repository: &RepositoryName) -> Result<Self> {
        match setting {
            CustomData::Trust => return Ok(self),
            CustomData::Ignore => return Ok(Self::default()),
            CustomData::Own => {}
        }
        let refused = if self.bucket.is_some() {
            "bucket"
        } else if self.pipeline.is_some() {
            "pipeline_name"
        } else if self
            .key
            .as_ref()
            .is_some_and(|key| !key.is_below(repository))
        {
            "key"
        } else {
            return Ok(self);
        };
        Err(Error::new(
            ErrorKind::InvalidEvent,
            format!(
                "field `customData.{refused}` of the event: `CUSTOM_DATA` is `own`, which allows \
                 triggers of this repository only keys below `{repository}/`"
            ),
        )
        .with_hint(
            "correct the trigger's custom data, or set `CUSTOM_DATA` to `trust` if everyone who may \
             set a trigger may write any artifact and start any pipeline",
        ))
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

/// Converts an event to tasks, with a result for each item. Items of another account or region
/// than `origin` are skipped, because a repository of the same name is a different one.
///
/// # Errors
/// `InvalidEvent` if the event as a whole cannot be read.
pub(crate) fn tasks(
    event: &Value,
    config: &Config,
    origin: Option<&Origin>,
) -> Result<Vec<Result<UpdateTask>>> {
    let mut tasks = Vec::new();
    let events = event::unwrapped(event);
    let is_single = events.len() == 1;
    for event in events {
        match event.and_then(|event| event::parse(&event)) {
            Err(error) if is_single => return Err(error),
            Err(error) => tasks.push(Err(error)),
            Ok(requests) => tasks.extend(requests.into_iter().filter_map(|request| {
                request
                    .and_then(|request| task(request, config, origin))
                    .transpose()
            })),
        }
    }
    Ok(tasks)
}

fn task(request: Request, config: &Config, origin: Option<&Origin>) -> Result<Option<UpdateTask>> {
    Ok(Some(match request {
        Request::TriggerTest { repository } => {
            tracing::info!(repository.name = %repository, "received the test event of a trigger");
            return Ok(None);
        }
        Request::Schedule { plan } => UpdateTask::Schedule { plan },
        Request::Execution(event) => {
            if let (Some(theirs), Some(own)) = (&event.origin, origin)
                && theirs != own
            {
                tracing::info!(
                    pipeline.name = %event.pipeline,
                    "passed over an event of a pipeline in another account or region"
                );
                return Ok(None);
            }
            UpdateTask::Result(EndedExecution {
                pipeline: event.pipeline,
                id: event.execution_id,
            })
        }
        Request::Repository(repository) => UpdateTask::Repository(repository),
        Request::Branch {
            repository,
            branch,
            commit,
            again,
        } => UpdateTask::Branch(BranchTask {
            again,
            ..BranchTask::by_hand(repository, branch, RefKind::Branch, commit)
        }),
        Request::Tag {
            repository,
            tag,
            again,
        } => {
            let kind = RefKind::Tag(tag);
            UpdateTask::Branch(BranchTask {
                again,
                ..BranchTask::by_hand(repository, kind.placeholder_branch()?, kind, None)
            })
        }
        Request::Commit {
            repository,
            commit,
            again,
        } => {
            let kind = RefKind::Commit(commit);
            UpdateTask::Branch(BranchTask {
                again,
                ..BranchTask::by_hand(repository, kind.placeholder_branch()?, kind, Some(commit))
            })
        }
        Request::PullRequest(change) => pull_request_task(change, config, origin)?,
        Request::RefEvent(change) => ref_event_task(change, config, origin)?,
    }))
}

/// Returns the work for an event about a branch or a tag.
fn ref_event_task(
    change: RefEvent,
    config: &Config,
    origin: Option<&Origin>,
) -> Result<UpdateTask> {
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
            executions: Vec::new(),
        })
    };
    if let Some(why) = event::foreign_reason(change.origin.as_ref(), origin) {
        return Ok(skip(&why));
    }
    Ok(match change.reference.branch() {
        _ if change.reference.is_tag() => match change.reference.tag() {
            _ if config.triggers.is_none() => {
                skip("tags are archived where `TRIGGERS` has a filter of tags")
            }
            None => skip("the tag's name cannot be used"),
            Some(_) if change.change == Change::Deleted => skip("the tag was deleted"),
            Some(tag) => {
                let kind = RefKind::Tag(tag);
                UpdateTask::Branch(BranchTask {
                    branch: kind.placeholder_branch()?,
                    kind,
                    again: false,
                    // An event may name the object of an annotated tag.
                    commit: None,
                    overrides: Overrides::read(change.custom_data.as_deref())?
                        .allowed(config.custom_data, &change.repository)?,
                    repository: change.repository,
                    requester: Requester::ByEvent,
                })
            }
        },
        None if change.reference.as_str().starts_with("refs/heads/") => {
            skip("the branch's name cannot be used")
        }
        None => skip("only branches are archived"),
        Some(_) if change.change == Change::Deleted => skip("the branch was deleted"),
        Some(branch) => UpdateTask::Branch(BranchTask {
            branch,
            kind: RefKind::Branch,
            again: false,
            commit: change.commit,
            overrides: Overrides::read(change.custom_data.as_deref())?
                .allowed(config.custom_data, &change.repository)?,
            repository: change.repository,
            requester: if change.is_found {
                Requester::ByLifecycle
            } else {
                Requester::ByEvent
            },
        }),
    })
}

fn pull_request_task(
    change: PullRequestChange,
    config: &Config,
    origin: Option<&Origin>,
) -> Result<UpdateTask> {
    let skip = |reason: String| {
        UpdateTask::Skip(BranchAnswer {
            repository: change.repository.clone(),
            branch: format!("pull/{}", change.id),
            commit: None,
            outcome: Outcome::Skipped,
            reason: Some(reason),
            artifact: None,
            execution_id: None,
            executions: Vec::new(),
        })
    };
    if let Some(why) = event::foreign_reason(change.origin.as_ref(), origin) {
        return Ok(skip(why));
    }
    let Some(event) = change.change else {
        return Ok(skip(
            "the event changes neither commits nor status".to_owned(),
        ));
    };
    if config.triggers.is_none() {
        let why = "pull requests are archived where `TRIGGERS` has filters of them";
        return Ok(skip(why.to_owned()));
    }
    let kind = RefKind::PullRequest {
        id: change.id,
        event,
    };
    Ok(UpdateTask::Branch(BranchTask {
        branch: kind.placeholder_branch()?,
        kind,
        again: false,
        commit: None,
        overrides: Overrides::default(),
        repository: change.repository,
        requester: Requester::ByEvent,
    }))
}

/// Response of the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// True if the results are what a run would do, and nothing was written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub plan: bool,
    /// Number of branches by outcome; of a schedule, and where results are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<BTreeMap<Outcome, usize>>,
    /// Number of repositories that only a pattern selects and that the role may not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<usize>,
    /// Problems of pipelines with their remedies; of a plan.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// One result for each branch, at most [`answer::MAX_ITEMS`]; of a schedule those with changes
    /// first.
    pub results: Vec<BranchAnswer>,
}

impl Answer {
    /// Makes the answer of an event, with counts if not all results fit.
    pub(crate) fn of_event(results: Vec<BranchAnswer>) -> Self {
        let counts = counts(&results);
        let total = results.len();
        let results = answer::bounded(results, |result| result.outcome);
        Self {
            plan: false,
            counts: (results.len() < total).then_some(counts),
            passed_over: None,
            warnings: Vec::new(),
            results,
        }
    }

    /// Makes the answer of a schedule.
    pub(crate) fn of_schedule(mut results: Vec<BranchAnswer>, passed_over: usize) -> Self {
        results.sort_by_key(|result| result.outcome);
        Self {
            plan: false,
            counts: Some(counts(&results)),
            passed_over: (passed_over > 0).then_some(passed_over),
            warnings: Vec::new(),
            results: answer::bounded(results, |result| result.outcome),
        }
    }
}

fn counts(results: &[BranchAnswer]) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for result in results {
        *counts.entry(result.outcome).or_insert(0) += 1;
    }
    counts
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
    /// The reason why less was done than usual, or what is left to be cleaned up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The artifact, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactAnswer>,
    /// The execution that was started on the artifact; the newest of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// The executions that were started now, where filters choose the pipelines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub executions: Vec<ExecutionAnswer>,
}

/// An execution in a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecutionAnswer {
    /// The name of the pipeline.
    pub pipeline: String,
    /// The id of the execution; missing in a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
}

/// Action on a branch. The order is that of a schedule's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A pipeline execution was started on the artifact.
    Started,
    /// An artifact was uploaded; no pipeline is configured.
    Uploaded,
    /// The branch is missing, and its artifact was marked deleted.
    Deleted,
    /// The result of an execution was brought to its pull request.
    Reported,
    /// There was nothing to do, for the `reason`.
    Skipped,
    /// The tip has moved to a newer commit.
    Superseded,
    /// The artifact was current, and its execution was started before.
    Unchanged,
}

impl Outcome {
    /// Returns the name, as in the response.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Uploaded => "uploaded",
            Self::Deleted => "deleted",
            Self::Reported => "reported",
            Self::Skipped => "skipped",
            Self::Superseded => "superseded",
            Self::Unchanged => "unchanged",
        }
    }
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
