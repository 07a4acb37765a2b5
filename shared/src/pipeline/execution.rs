//! Executions that were started, as a trait in plain types.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::error::Result;
use crate::name::PipelineName;

/// State of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionState {
    /// Stages are left to run, or it is being stopped.
    Running,
    /// All stages succeeded.
    Succeeded,
    /// A stage failed.
    Failed,
    /// Someone stopped it.
    Stopped,
    /// A newer execution overtook it, or it was cancelled before it began.
    Superseded,
}

/// An execution of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineExecution {
    /// State when it was read.
    pub state: ExecutionState,
    /// Variables, with the values that were used.
    pub variables: BTreeMap<String, String>,
    /// Ids of the revisions that its sources read: versions of objects, or commits.
    pub revisions: Vec<String>,
    /// Reason of the state, in words of the service.
    pub summary: Option<String>,
}

/// An action that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAction {
    /// Stage of the action.
    pub stage: String,
    /// Name of the action.
    pub action: String,
    /// Reason in words of the service or of the action's provider.
    pub message: Option<String>,
    /// Page of the action's provider about this run, such as that of a build.
    pub url: Option<String>,
}

/// Operations of CodePipeline on executions.
#[async_trait]
pub trait Executions: Send + Sync {
    /// Reads an execution. Errors: `NotFound` for a missing pipeline or execution.
    async fn get_execution(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<PipelineExecution>;

    /// Finds the action that made an execution fail; `None` if none did.
    async fn failed_action(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<Option<FailedAction>>;
}
