//! [`Pipelines`] over the AWS SDK.

use async_trait::async_trait;
use aws_sdk_codepipeline::Client;
use aws_sdk_codepipeline::types::{PipelineVariable, SourceRevisionOverride, SourceRevisionType};

use super::{Pipelines, StartRequest};
use crate::aws::{ApiCall, Aws, SdkFailure, corrupt};
use crate::error::{Error, ErrorKind, Result};

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
}

/// Converts CodePipeline's errors (API reference, `StartPipelineExecution`).
fn convert(failure: SdkFailure, call: &ApiCall) -> Error {
    let subject = &call.subject;
    match failure.code() {
        "PipelineNotFoundException" => failure
            .into_error(ErrorKind::NotFound, format!("{subject} does not exist"))
            .with_hint("check PIPELINE_NAME, the region and the account"),
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
