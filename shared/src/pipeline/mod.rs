//! CodePipeline, as a trait in plain types.

mod check;
#[cfg(feature = "codepipeline")]
pub mod client;
#[cfg(feature = "codepipeline")]
mod client_execution;
mod declaration;
mod execution;
mod retrying;
mod revision_summary;

use async_trait::async_trait;
pub use check::{IntendedKey, IntendedStart, PipelineFinding, PipelineProblem, check_pipeline};
pub use declaration::{ExecutionStatus, PipelineDeclaration, SourceAction};
pub use execution::{ExecutionState, Executions, FailedAction, PipelineExecution};
pub use revision_summary::{REVISION_SUMMARY, revision_summary};

use crate::error::Result;
use crate::name::PipelineName;

/// Revision that a source action reads instead of the newest one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceRevision {
    /// Name of the source action.
    pub action_name: String,
    /// Key of the object (`S3_OBJECT_KEY`); the action needs `AllowOverrideForS3ObjectKey`.
    pub object_key: Option<String>,
    /// Version of the object (`S3_OBJECT_VERSION_ID`).
    pub object_version_id: Option<String>,
    /// Commit of a CodeCommit source (`COMMIT_ID`).
    pub commit_id: Option<String>,
}

/// Execution to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRequest {
    /// Pipeline to execute.
    pub pipeline: PipelineName,
    /// Idempotency token, 1 to 128 of `[a-zA-Z0-9-]`: one token starts one execution.
    pub client_request_token: String,
    /// Revision to read; the newest one when `None`.
    pub source: Option<SourceRevision>,
    /// Pipeline variables, at most 50 (pipelines of type V2).
    pub variables: Vec<(String, String)>,
}

/// Operations of CodePipeline that branchline uses.
#[async_trait]
pub trait Pipelines: Send + Sync {
    /// Starts an execution and returns its id. Errors: `NotFound` for a missing pipeline,
    /// `Throttled` when too many executions run, `Conflict` when the pipeline is busy.
    async fn start(&self, request: &StartRequest) -> Result<String>;

    /// Reads the declaration of a pipeline. Errors: `NotFound` for a missing pipeline.
    async fn declaration(&self, pipeline: &PipelineName) -> Result<PipelineDeclaration>;

    /// Reads the state of an execution. Errors: `NotFound` for a missing pipeline or execution.
    async fn execution_status(&self, pipeline: &PipelineName, id: &str) -> Result<ExecutionStatus>;
}
