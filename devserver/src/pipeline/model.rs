//! Pipelines and executions, as stored and as sent.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A pipeline: its declaration as received, and the service's additions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Pipeline {
    /// Declaration (`PipelineDeclaration`), defaults filled in.
    pub(super) declaration: Value,
    /// Seconds since the epoch.
    pub(super) created: f64,
    /// Seconds since the epoch.
    pub(super) updated: f64,
}

/// An action of a pipeline, reduced to the members that the service uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Action<'a> {
    pub(super) name: &'a str,
    pub(super) category: &'a str,
    pub(super) provider: &'a str,
    pub(super) configuration: BTreeMap<&'a str, &'a str>,
}

impl Pipeline {
    pub(super) fn name(&self) -> &str {
        self.text("name")
    }

    pub(super) fn is_v2(&self) -> bool {
        self.text("pipelineType") == "V2"
    }

    pub(super) fn version(&self) -> u64 {
        self.declaration["version"].as_u64().unwrap_or(1)
    }

    pub(super) fn text(&self, member: &str) -> &str {
        self.declaration[member].as_str().unwrap_or_default()
    }

    /// Returns all actions, with the name of their stage.
    pub(super) fn actions(&self) -> impl Iterator<Item = (&str, Action<'_>)> {
        list(&self.declaration["stages"]).flat_map(|stage| {
            let stage_name = stage["name"].as_str().unwrap_or_default();
            list(&stage["actions"]).map(move |action| (stage_name, read_action(action)))
        })
    }

    /// Returns the actions that fetch a source.
    pub(super) fn sources(&self) -> impl Iterator<Item = Action<'_>> {
        self.actions()
            .map(|(_, action)| action)
            .filter(|action| action.category == "Source")
    }

    /// Returns the declared variables: name, and default if there is one.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        list(&self.declaration["variables"]).map(|variable| {
            (
                variable["name"].as_str().unwrap_or_default(),
                variable["defaultValue"].as_str(),
            )
        })
    }

    /// Builds one entry of `ListPipelines`.
    pub(super) fn summary(&self) -> Value {
        json!({
            "name": self.name(),
            "version": self.version(),
            "pipelineType": self.text("pipelineType"),
            "executionMode": self.text("executionMode"),
            "created": self.created,
            "updated": self.updated,
        })
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter()
}

fn read_action(action: &Value) -> Action<'_> {
    let kind = &action["actionTypeId"];
    let text = |value: &'static str| kind[value].as_str().unwrap_or_default();
    Action {
        name: action["name"].as_str().unwrap_or_default(),
        category: text("category"),
        provider: text("provider"),
        configuration: action["configuration"]
            .as_object()
            .map(configuration)
            .unwrap_or_default(),
    }
}

fn configuration(map: &Map<String, Value>) -> BTreeMap<&str, &str> {
    map.iter()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect()
}

/// State of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Running.
    InProgress,
    /// All sources were fetched and read.
    Succeeded,
    /// A source could not be fetched or read.
    Failed,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::InProgress => "InProgress",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// Pinned revision that a source action reads instead of the latest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Override {
    pub(super) action_name: String,
    pub(super) revision_type: String,
    pub(super) revision_value: String,
}

/// Origin and identity of an artifact's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedSource {
    /// The source action.
    pub action: String,
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// The version that was read.
    pub version_id: Option<String>,
    /// Entity tag, without quotes.
    pub etag: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// Number of entries in the zip.
    pub entries: usize,
    /// The object's `codepipeline-artifact-revision-summary`.
    pub revision_summary: Option<String>,
    /// Time of writing, in seconds since the epoch.
    pub last_modified: i64,
}

/// Commit that a CodeCommit source action read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedCommit {
    /// The source action.
    pub action: String,
    /// The repository.
    pub repository: String,
    /// The branch that the action is configured with.
    pub branch: String,
    /// The full id.
    pub commit_id: String,
    /// The message.
    pub message: String,
}

/// Source action that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFailure {
    /// The action.
    pub action: String,
    /// The reason, a sentence.
    pub message: String,
}

/// An execution of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// Id, a UUID.
    pub id: String,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The pipeline's version when it started.
    pub pipeline_version: u64,
    /// The pipeline's mode.
    pub execution_mode: String,
    /// Present state.
    pub status: Status,
    /// Reason of a failure.
    pub status_summary: Option<String>,
    /// Start, in seconds since the epoch.
    pub started: f64,
    /// Last change of the state, in seconds since the epoch.
    pub updated: f64,
    /// ARN of the principal that started it.
    pub principal_arn: String,
    /// Variables, defaults included.
    pub variables: BTreeMap<String, String>,
    /// Artifacts that were fetched so far.
    pub sources: Vec<FetchedSource>,
    /// Commits that were found so far.
    #[serde(default)]
    pub commits: Vec<FetchedCommit>,
    /// The action that failed.
    #[serde(default)]
    pub failure: Option<SourceFailure>,
    pub(super) overrides: Vec<Override>,
    /// `clientRequestToken` and the parameters that were sent with it.
    pub(super) token: Option<(String, Value)>,
}

impl Execution {
    /// Returns the revision that a source action is pinned to.
    pub(super) fn pinned(&self, action: &str, revision_type: &str) -> Option<&str> {
        let mut overrides = self.overrides.iter();
        let found = overrides
            .find(|given| given.action_name == action && given.revision_type == revision_type);
        found.map(|given| given.revision_value.as_str())
    }

    /// Returns the revision that each source action read, with `action` as the member of its name.
    fn revisions(&self, action: &str, with_time: bool) -> Vec<Value> {
        let objects = self.sources.iter().map(|source| {
            prune(json!({
                action: source.action,
                "revisionId": source.revision_id(),
                "revisionSummary": source.revision_summary,
                "created": with_time.then_some(source.last_modified),
                "revisionUrl": source.url(),
            }))
        });
        let commits = self.commits.iter().map(|commit| {
            json!({
                action: commit.action,
                "revisionId": commit.commit_id,
                "revisionSummary": commit.message,
            })
        });
        objects.chain(commits).collect()
    }

    /// Builds `PipelineExecution`.
    pub(super) fn detail(&self) -> Value {
        let variables: Vec<Value> = self
            .variables
            .iter()
            .map(|(name, value)| json!({ "name": name, "resolvedValue": value }))
            .collect();
        let artifacts = self.revisions("name", true);
        prune(json!({
            "pipelineName": self.pipeline,
            "pipelineVersion": self.pipeline_version,
            "pipelineExecutionId": self.id,
            "status": self.status.name(),
            "statusSummary": self.status_summary,
            "artifactRevisions": artifacts,
            "variables": variables,
            "trigger": self.trigger(),
            "executionMode": self.execution_mode,
            "executionType": "STANDARD",
        }))
    }

    /// Builds `PipelineExecutionSummary`.
    pub(super) fn summary(&self) -> Value {
        let revisions = self.revisions("actionName", false);
        prune(json!({
            "pipelineExecutionId": self.id,
            "status": self.status.name(),
            "statusSummary": self.status_summary,
            "startTime": self.started,
            "lastUpdateTime": self.updated,
            "sourceRevisions": revisions,
            "trigger": self.trigger(),
            "executionMode": self.execution_mode,
            "executionType": "STANDARD",
        }))
    }

    pub(super) fn trigger(&self) -> Value {
        json!({
            "triggerType": "StartPipelineExecution",
            "triggerDetail": self.principal_arn,
        })
    }
}

impl FetchedSource {
    fn revision_id(&self) -> &str {
        self.version_id.as_deref().unwrap_or(&self.etag)
    }

    fn url(&self) -> String {
        let Self { bucket, key, .. } = self;
        match &self.version_id {
            Some(version) => format!("s3://{bucket}/{key}?versionId={version}"),
            None => format!("s3://{bucket}/{key}"),
        }
    }
}

/// Removes members that are null, because AWS's protocols do not send them.
pub(super) fn prune(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|_, member| !member.is_null());
    }
    value
}

/// Returns seconds since the epoch, with milliseconds.
pub(super) fn now() -> f64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (now.as_secs_f64() * 1000.0).round() / 1000.0
}
