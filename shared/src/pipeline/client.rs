//! [`Pipelines`] over the AWS SDK.

use async_trait::async_trait;
use aws_sdk_codepipeline::Client;
use aws_sdk_codepipeline::types::{
    self as sdk, ActionCategory, PipelineType, PipelineVariable, SourceRevisionOverride,
    SourceRevisionType,
};

use super::{ExecutionStatus, PipelineDeclaration, Pipelines, SourceAction, StartRequest};
use crate::aws::{ApiCall, Aws, SdkFailure, corrupt};
use crate::error::{Error, ErrorKind, Result};
use crate::name::PipelineName;

/// AWS CodePipeline of one account and region.
#[derive(Debug, Clone)]
pub struct SdkPipelines {
    client: Client,
}

impl SdkPipelines {
    /// Makes a client.
    pub fn new(aws: &Aws) -> Self {
        let config = aws_sdk_codepipeline::config::Builder::from(aws.sdk())
            .interceptor(aws.idle_timeout())
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

#[async_trait]
impl Pipelines for SdkPipelines {
    async fn start(&self, request: &StartRequest) -> Result<String> {
        let pipeline = &request.pipeline;
        let call = || ApiCall {
            service: "CodePipeline",
            operation: "StartPipelineExecution",
            permission: "codepipeline:StartPipelineExecution",
            subject: format!("pipeline `{pipeline}`"),
            resource: format!("`arn:aws:codepipeline:<region>:<account>:{pipeline}`"),
        };
        let mut builder = self
            .client
            .start_pipeline_execution()
            .name(pipeline.as_str())
            .client_request_token(&request.client_request_token);
        if let Some(source) = &request.source {
            let pins = [
                (SourceRevisionType::S3ObjectKey, &source.object_key),
                (
                    SourceRevisionType::S3ObjectVersionId,
                    &source.object_version_id,
                ),
                (SourceRevisionType::CommitId, &source.commit_id),
            ];
            for (revision_type, value) in pins {
                if let Some(value) = value {
                    builder = builder.source_revisions(
                        SourceRevisionOverride::builder()
                            .action_name(&source.action_name)
                            .revision_type(revision_type)
                            .revision_value(value)
                            .build()
                            .expect("because name, type and value are set"),
                    );
                }
            }
        }
        for (name, value) in &request.variables {
            builder = builder.variables(
                PipelineVariable::builder()
                    .name(name)
                    .value(value)
                    .build()
                    .expect("because name and value are set"),
            );
        }
        let answer = builder
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &call()))?;
        answer
            .pipeline_execution_id
            .filter(|id| !id.is_empty())
            .ok_or_else(|| corrupt(&call(), "no `pipelineExecutionId`"))
    }

    async fn declaration(&self, pipeline: &PipelineName) -> Result<PipelineDeclaration> {
        let call = || read_call("GetPipeline", "codepipeline:GetPipeline", pipeline);
        let answer = self.client.get_pipeline().name(pipeline.as_str());
        let answer = answer
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &call()))?;
        let declaration = answer.pipeline();
        let declaration = declaration.ok_or_else(|| corrupt(&call(), "no `pipeline`"))?;
        Ok(read_declaration(declaration))
    }

    async fn execution_status(&self, pipeline: &PipelineName, id: &str) -> Result<ExecutionStatus> {
        let permission = "codepipeline:GetPipelineExecution";
        let call = || read_call("GetPipelineExecution", permission, pipeline);
        let answer = self
            .client
            .get_pipeline_execution()
            .pipeline_name(pipeline.as_str())
            .pipeline_execution_id(id)
            .send()
            .await
            .map_err(|error| convert(SdkFailure::of(&error), &call()))?;
        let execution = answer.pipeline_execution();
        let status = execution.and_then(sdk::PipelineExecution::status);
        let status = status.ok_or_else(|| corrupt(&call(), "no `status`"))?;
        let summary = execution.and_then(sdk::PipelineExecution::status_summary);
        Ok(ExecutionStatus {
            status: status.as_str().to_owned(),
            summary: summary.map(str::to_owned),
        })
    }
}

fn read_call(
    operation: &'static str,
    permission: &'static str,
    pipeline: &PipelineName,
) -> ApiCall {
    ApiCall {
        service: "CodePipeline",
        operation,
        permission,
        subject: format!("pipeline `{pipeline}`"),
        resource: format!("`arn:aws:codepipeline:<region>:<account>:{pipeline}`"),
    }
}

fn read_declaration(declaration: &sdk::PipelineDeclaration) -> PipelineDeclaration {
    let actions = declaration
        .stages()
        .iter()
        .flat_map(sdk::StageDeclaration::actions);
    let sources = actions.filter_map(|action| {
        let kind = action.action_type_id()?;
        let configuration = action.configuration().into_iter().flatten();
        (*kind.category() == ActionCategory::Source).then(|| SourceAction {
            name: action.name().to_owned(),
            provider: kind.provider().to_owned(),
            role_arn: action.role_arn().map(str::to_owned),
            configuration: configuration
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        })
    });
    let variables = declaration.variables().iter();
    PipelineDeclaration {
        role_arn: declaration.role_arn().to_owned(),
        is_v2: declaration.pipeline_type() == Some(&PipelineType::V2),
        variables: variables
            .map(|variable| variable.name().to_owned())
            .collect(),
        sources: sources.collect(),
    }
}

/// Converts CodePipeline's errors (API reference, `StartPipelineExecution`).
fn convert(failure: SdkFailure, call: &ApiCall) -> Error {
    let subject = &call.subject;
    match failure.code() {
        "PipelineNotFoundException" => failure
            .into_error(ErrorKind::NotFound, format!("{subject} does not exist"))
            .with_hint("check PIPELINE_NAME, the region and the account"),
        "PipelineExecutionNotFoundException" => failure.into_error(
            ErrorKind::NotFound,
            format!("{subject} has no such execution"),
        ),
        "ConcurrentPipelineExecutionsLimitExceededException" => failure.into_error(
            ErrorKind::Throttled,
            format!("{subject} runs its maximum number of concurrent executions"),
        ),
        "ConflictException" | "ConcurrentModificationException" => failure
            .into_error(ErrorKind::Conflict, format!("{subject} is busy"))
            .with_hint("the next event or schedule starts the pipeline"),
        "ValidationException" => failure
            .into_error(
                ErrorKind::Config,
                format!("{subject} does not accept this start"),
            )
            .with_hint(
                "check the source action's name, that it allows the override of its object key \
                 (`AllowOverrideForS3ObjectKey`), and that variables are declared (type V2)",
            ),
        _ => failure.into_common_error(call),
    }
}
