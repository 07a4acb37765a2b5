//! CodePipeline as a trait in plain types.

#[cfg(feature = "codepipeline")]
pub mod client;
mod retrying;
mod revision_summary;

use async_trait::async_trait;
pub use revision_summary::{REVISION_SUMMARY, revision_summary};

use crate::error::Result;
use crate::name::PipelineName;

/// What a source action is to read, instead of what it would find by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceRevision {
    /// The source action's name.
    pub action_name: String,
    /// The object's key (`S3_OBJECT_KEY`); the action needs `AllowOverrideForS3ObjectKey`.
    pub object_key: Option<String>,
    /// The object's version (`S3_OBJECT_VERSION_ID`).
    pub object_version_id: Option<String>,
}

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRequest {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The same token starts an execution only once: 1 to 128 of `[a-zA-Z0-9-]`.
    pub client_request_token: String,
    /// What the source action is to read; `None`: what it finds.
    pub source: Option<SourceRevision>,
    /// Pipeline variables, at most 50 (pipelines of type V2).
    pub variables: Vec<(String, String)>,
}

/// The operations of CodePipeline that branchline uses.
#[async_trait]
pub trait Pipelines: Send + Sync {
    /// Starts an execution and returns its id. Errors: `NotFound` for a pipeline that is
    /// not there, `Throttled` when too many executions run, `Conflict` when it is busy.
    async fn start(&self, request: &StartRequest) -> Result<String>;
}
