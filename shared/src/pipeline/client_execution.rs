//! [`Executions`] over the AWS SDK.

use async_trait::async_trait;
use aws_sdk_codepipeline::types::{
    ActionExecutionDetail, ActionExecutionFilter, ActionExecutionStatus, PipelineExecutionStatus,
};

use super::client::SdkPipelines;
use super::{ExecutionState, Executions, FailedAction, PipelineExecution};
use crate::aws::{ApiCall, SdkFailure, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::name::PipelineName;

/// Maximum number of pages of actions that are read to find the failed one.
const MAX_PAGES: usize = 10;

fn call(
    operation: &'static str,
    permission: &'static str,
    pipeline: &PipelineName,
    execution_id: &str,
) -> ApiCall {
    ApiCall {
        service: "CodePipeline",
        operation,
        permission,
        subject: format!("execution `{execution_id}` of pipeline `{pipeline}`"),
        resource: format!("`arn:aws:codepipeline:<region>:<account>:{pipeline}`"),
    }
}

fn convert(failure: SdkFailure, call: &ApiCall) -> Error {
    match failure.code() {
        "PipelineNotFoundException" | "PipelineExecutionNotFoundException" => failure
            .into_error(
                ErrorKind::NotFound,
                format!("{} does not exist", call.subject),
            )
            .with_hint("check the pipeline, the region and the account"),
        _ => failure.into_common_error(call),
    }
}

#[async_trait]
impl Executions for SdkPipelines {
    async fn get_execution(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<PipelineExecution> {
        let call = || {
            call(
                "GetPipelineExecution",
                "codepipeline:GetPipelineExecution",
                pipeline,
                execution_id,
            )
        };
        let answer = self
            .client()
            .get_pipeline_execution()
            .pipeline_name(pipeline.as_str())
            .pipeline_execution_id(execution_id)
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &call()))?;
        let found = answer
            .pipeline_execution
            .ok_or_else(|| corrupt(&call(), "no `pipelineExecution`"))?;
        let variables = found.variables.unwrap_or_default().into_iter();
        let revisions = found.artifact_revisions.unwrap_or_default().into_iter();
        Ok(PipelineExecution {
            state: state(found.status.as_ref()),
            variables: variables
                .filter_map(|variable| Some((variable.name?, variable.resolved_value?)))
                .collect(),
            revisions: revisions.filter_map(|one| one.revision_id).collect(),
            summary: found.status_summary.filter(|text| !text.is_empty()),
        })
    }

    async fn failed_action(
        &self,
        pipeline: &PipelineName,
        execution_id: &str,
    ) -> Result<Option<FailedAction>> {
        let call = || {
            call(
                "ListActionExecutions",
                "codepipeline:ListActionExecutions",
                pipeline,
                execution_id,
            )
        };
        let filter = ActionExecutionFilter::builder()
            .pipeline_execution_id(execution_id)
            .build();
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let answer = self
                .client()
                .list_action_executions()
                .pipeline_name(pipeline.as_str())
                .filter(filter.clone())
                .set_next_token(next)
                .send()
                .await
                .map_err(|error| convert(SdkFailure::of(&error), &call()))?;
            let details = answer.action_execution_details.unwrap_or_default();
            let mut failed = details
                .into_iter()
                .filter(|one| one.status == Some(ActionExecutionStatus::Failed));
            // The newest action is the first.
            if let Some(found) = failed.next() {
                return Ok(Some(failed_action(found)));
            }
            next = answer.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                break;
            }
        }
        Ok(None)
    }
}

fn state(status: Option<&PipelineExecutionStatus>) -> ExecutionState {
    match status {
        Some(PipelineExecutionStatus::Succeeded) => ExecutionState::Succeeded,
        Some(PipelineExecutionStatus::Failed) => ExecutionState::Failed,
        Some(PipelineExecutionStatus::Stopped) => ExecutionState::Stopped,
        Some(PipelineExecutionStatus::Superseded | PipelineExecutionStatus::Cancelled) => {
            ExecutionState::Superseded
        }
        // InProgress, Stopping, and states that may be added.
        _ => ExecutionState::Running,
    }
}

fn failed_action(found: ActionExecutionDetail) -> FailedAction {
    let result = found.output.and_then(|output| output.execution_result);
    let (mut message, mut url) = (None, None);
    if let Some(result) = result {
        url = result.external_execution_url;
        let details = result.error_details.and_then(|details| details.message);
        message = details.or(result.external_execution_summary);
    }
    let is_filled = |text: &String| !text.is_empty();
    FailedAction {
        stage: found.stage_name.unwrap_or_default(),
        action: found.action_name.unwrap_or_default(),
        message: message.filter(is_filled),
        url: url.filter(is_filled),
    }
}
