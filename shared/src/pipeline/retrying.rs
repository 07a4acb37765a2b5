//! [`Pipelines`] and [`Executions`] under a [`RetryPolicy`](crate::retry::RetryPolicy): limited
//! and retried.

use async_trait::async_trait;

use super::{
    ExecutionStatus, Executions, FailedAction, PipelineDeclaration, PipelineExecution, Pipelines,
    StartRequest,
};
use crate::error::Result;
use crate::name::PipelineName;
use crate::retry::Retrying;

#[async_trait]
impl<P: Pipelines> Pipelines for Retrying<P> {
    // The request's token prevents a second execution on a retry.
    async fn start(&self, request: &StartRequest) -> Result<String> {
        self.policy.run(|| self.inner.start(request)).await
    }

    async fn declaration(&self, pipeline: &PipelineName) -> Result<PipelineDeclaration> {
        self.policy.run(|| self.inner.declaration(pipeline)).await
    }

    async fn execution_status(&self, pipeline: &PipelineName, id: &str) -> Result<ExecutionStatus> {
        self.policy
            .run(|| self.inner.execution_status(pipeline, id))
            .await
    }
}

#[async_trait]
impl<E: Executions> Executions for Retrying<E> {
    async fn get_execution(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<PipelineExecution> {
        self.policy
            .run(|| self.inner.get_execution(pipeline, execution_id))
            .await
    }

    async fn failed_action(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<Option<FailedAction>> {
        self.policy
            .run(|| self.inner.failed_action(pipeline, execution_id))
            .await
    }
}
