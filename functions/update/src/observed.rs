//! The state of branches as a plan finds it: tip, artifact, pipeline.

use branchline_core::Result;
use branchline_core::name::{
    BranchName, BucketName, CommitId, ObjectKey, PipelineName, RepositoryName,
};
use branchline_core::pipeline::ExecutionStatus;
use branchline_core::storage::{ObjectHead, ObjectStoreExt as _};

use crate::Context;
use crate::artifact::{self, ArtifactIdentity, EXECUTION_TAG, PIPELINE_TAG, S3Location};

/// State of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedBranch {
    /// The repository.
    pub repository: RepositoryName,
    /// The branch, or the name that stands for a tag or pull request.
    pub branch: BranchName,
    /// Name in answers: the branch's, `refs/tags/v1.0`, `pull/12`.
    pub label: String,
    /// Commit of the branch.
    pub tip: CommitId,
    /// Bucket of the artifact.
    pub bucket: BucketName,
    /// Key of the artifact.
    pub key: ObjectKey,
    /// The object at the key, if there is one.
    pub artifact: Option<ObservedArtifact>,
    /// Pipelines that can be started on the artifact.
    pub pipelines: Vec<PipelineName>,
}

/// Object at the key of a branch's artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedArtifact {
    /// Repository and branch that the object was made for; `None` for the object of another
    /// writer.
    pub made_for: Option<(RepositoryName, BranchName)>,
    /// Commit that the object was made from; `None` for an object of another repository or writer.
    pub commit: Option<CommitId>,
    /// Whether commit, branch and settings are those of an artifact that would be made now.
    pub is_current: bool,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Number of files and symbolic links, if it is recorded.
    pub files: Option<u64>,
    /// Version, in a bucket with versions.
    pub version_id: Option<String>,
    /// Time of the write, in seconds since the epoch.
    pub last_modified: i64,
}

/// Execution that was started on an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedExecution {
    /// Name of the pipeline; `None` for an artifact of a version that did not record it.
    pub pipeline: Option<String>,
    /// Id of the execution.
    pub id: String,
    /// State of the execution; `None` if it cannot be read.
    pub state: Option<ExecutionStatus>,
}

impl ObservedArtifact {
    /// Reads the metadata of the object at the key of an artifact.
    pub(crate) fn new(head: &ObjectHead, identity: &ArtifactIdentity) -> Self {
        Self {
            made_for: artifact::branch_of(head),
            commit: identity.commit_of(head),
            is_current: identity.matches(head),
            size_bytes: head.size_bytes,
            files: artifact::files(head),
            version_id: head.version_id.clone().map(String::from),
            last_modified: head.last_modified,
        }
    }
}

impl ObservedBranch {
    /// Makes the state of a branch whose artifact is at `location`.
    pub(crate) fn new(
        (repository, branch, tip): (&RepositoryName, &BranchName, CommitId),
        label: String,
        location: &S3Location,
        artifact: Option<ObservedArtifact>,
        pipelines: Vec<PipelineName>,
    ) -> Self {
        Self {
            repository: repository.clone(),
            branch: branch.clone(),
            label,
            tip,
            bucket: location.bucket.clone(),
            key: location.key.clone(),
            artifact,
            pipelines,
        }
    }
}

/// Reads the execution that was started on the artifact of a branch, from the artifact's tags.
pub(crate) async fn started_execution(
    context: &Context,
    branch: &ObservedBranch,
) -> Result<Option<StartedExecution>> {
    let Some(artifact) = &branch.artifact else {
        return Ok(None);
    };
    let version = artifact.version_id.as_deref();
    let tags = context.store.get_tags(&branch.bucket, &branch.key, version);
    let tags = tags.await?;
    let Some(id) = tags.get(EXECUTION_TAG) else {
        return Ok(None);
    };
    let pipeline = tags.get(PIPELINE_TAG);
    let state = match pipeline.and_then(|name| PipelineName::new(name).ok()) {
        None => None,
        Some(name) => match context.pipelines.execution_status(&name, id).await {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::info!(
                    pipeline.name = %name, execution.id = id,
                    "the execution cannot be read: {}", error.report()
                );
                None
            }
        },
    };
    Ok(Some(StartedExecution {
        pipeline: pipeline.cloned(),
        id: id.clone(),
        state,
    }))
}
